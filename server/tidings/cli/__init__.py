"""The `tidings` command: serving, the commands of an operator, and the start and stop of the process."""
