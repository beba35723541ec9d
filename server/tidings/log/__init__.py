"""The log: what is written and kept, and in which order."""
