"""The fan-out: live connections, what is written to them, and what they missed."""
