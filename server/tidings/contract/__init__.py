"""The wire contract as pydantic models: every action, event and error. No I/O; imports nothing else of the server."""
