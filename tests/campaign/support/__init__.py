"""The parts of campaigns: servers as processes, raw clients from many addresses, and a table of promises.

Nothing here imports the server: a campaign observes it over the wire and through the operating system.
"""
