"""Login attempts of all nodes, on PostgreSQL: counters per key and window. All times are by its clock, in ms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete
from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS, on_postgresql
from tidings_db.models import login_attempts

_LOAD = f"""
WITH clock AS MATERIALIZED (SELECT {NOW_MS} AS now)
SELECT now, a.key, a.began_at, a.count
FROM clock CROSS JOIN unnest($1::text[], $2::bigint[]) AS asked (key, span)
LEFT JOIN login_attempt a ON a.key = asked.key AND a.began_at > now - span"""
# In one order, so that two transactions do not wait for each other.
_LOCK = """
SELECT pg_advisory_xact_lock('login_attempt'::regclass::oid::int, number)
FROM (SELECT DISTINCT hashtext(key) AS number FROM unnest($1::text[]) AS key ORDER BY number) AS numbers"""
_ADD = """
INSERT INTO login_attempt AS a (key, began_at, count) SELECT key, began_at, 1
FROM unnest($1::text[], $2::bigint[]) AS added (key, began_at)
ON CONFLICT (key, began_at) DO UPDATE SET count = a.count + 1"""
_SUBTRACT = f"""
WITH clock AS MATERIALIZED (SELECT {NOW_MS} AS now)
UPDATE login_attempt a SET count = a.count - 1
FROM clock CROSS JOIN unnest($1::text[], $2::bigint[]) AS undone (key, period)
WHERE a.key = undone.key AND a.began_at = now - now % period AND a.count > 0"""


def lock(conn: Connection, keys: Sequence[str]) -> None:
    """Wait for other transactions that have locked one of the keys, until the end of this one."""
    on_postgresql(conn, _LOCK, keys)


def load(conn: Connection, spans: Mapping[str, int]) -> tuple[int, dict[tuple[str, int], int]]:
    """The present time, and the counters: by key and the start of the window.

    Args:
        spans: how far back the counters of each key are needed (ms).
    """
    rows = on_postgresql(conn, _LOAD, list(spans), list(spans.values()))
    return rows[0][0], {(key, began_at): count for _, key, began_at, count in rows if key is not None}


def add(conn: Connection, counted: Sequence[tuple[str, int]]) -> None:
    """Count one more for each key, in the window that begins at the time."""
    on_postgresql(conn, _ADD, [key for key, _ in counted], [began_at for _, began_at in counted])


def subtract(conn: Connection, periods: Mapping[str, int]) -> None:
    """Count one less for each key in its present window, whose length (ms) is given."""
    on_postgresql(conn, _SUBTRACT, list(periods), list(periods.values()))


def drop(conn: Connection, before: int) -> None:
    """Delete the windows that began before a time (ms)."""
    conn.execute(delete(login_attempts).where(login_attempts.c.began_at < before))
