"""Counters and gauges for `/metrics`, log lines, and what keeps the process small."""
