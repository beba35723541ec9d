"""Claims to rooms that do not exist yet, so that no two nodes create the same one."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.engine import Connection

from tidings_db.connections import on_postgresql


def claim(conn: Connection, names: Collection[str], *, wait: bool = False) -> bool:
    """Claim names of topics and pairs of users (`direct_key`), until the end of the transaction.

    Returns False if another transaction has claimed one of them; with `wait`, waits for it. On SQLite there is
    nothing to do: it has one writer.
    """
    if conn.dialect.name == "sqlite":
        return True
    lock = "pg_advisory_xact_lock(key) IS NOT NULL" if wait else "pg_try_advisory_xact_lock(key)"
    # In one order on all nodes: one of them gets all.
    keys = "SELECT DISTINCT hashtextextended(name, 0) AS key FROM unnest($1::text[]) AS name ORDER BY key"
    (row,) = on_postgresql(conn, f"SELECT bool_and({lock}) FROM ({keys}) AS sorted", list(names))
    return bool(row[0])
