"""The transport against the two protocols: what their official suites expect of a server, and tests of our own."""
