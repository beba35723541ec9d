"""A server that expects changes in the feed to be kept for a second only.

Python imports this module at the start of a process that has this folder on its path.
"""

from tidings.cluster import feed

feed.RESYNC_S = 1.0
