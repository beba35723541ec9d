"""Typed queries: plain functions of a SQLAlchemy connection, to be run by `Database.read` or `Database.write`."""
