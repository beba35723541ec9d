"""The transport against the two protocols: a server for their official suites, and the project's own tests."""
