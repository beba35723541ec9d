"""Typed queries: plain functions of a SQLAlchemy connection, run by `Database.read` or `Database.write`."""
