"""The wire contract as pydantic models: every action, event and error. No I/O, no other import of ours."""
