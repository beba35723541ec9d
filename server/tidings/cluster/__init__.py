"""The other nodes on one PostgreSQL database.

`fanout/cluster.py` is the interface; `postgresql.py` puts the parts together.
"""
