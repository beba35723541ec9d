"""The load generator: a process of its own that opens the connections, sends, and counts what arrives."""
