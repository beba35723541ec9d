"""The registry of nodes, on PostgreSQL. A node is live until its lease ends. All times are by PostgreSQL's clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import delete
from sqlalchemy.engine import Connection

from db.connections import NOW_MS, on_postgresql
from db.models import node_leases

KEPT_MS = 600_000
"""How long a node that ended without removing its row is listed after its lease."""

_RENEW = f"""
WITH clock AS MATERIALIZED (SELECT {NOW_MS} AS now),
renewed AS (
    INSERT INTO node (id, name, version, started_at, lease_until, leaving)
    SELECT $1, $2, $3, now, now + $4, $5 FROM clock
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, leaving = excluded.leaving
), forgotten AS (
    DELETE FROM node USING clock WHERE id <> $1 AND lease_until < now - {KEPT_MS}
)
SELECT id, name FROM node, clock WHERE id <> $1 AND lease_until > now"""
_LIST = (
    f"SELECT id, name, version, started_at, lease_until, leaving, lease_until > {NOW_MS} FROM node ORDER BY name, id"
)


class NodeRow(NamedTuple):
    id: str
    name: str
    version: str
    started_at: int
    lease_until: int
    leaving: bool
    """Whether it is about to stop; it closes its connections."""
    live: bool
    """Whether it holds its lease."""


def renew(
    conn: Connection, node_id: str, name: str, version: str, lease_ms: int, *, leaving: bool
) -> Mapping[str, str]:
    """Begin or extend the lease of a node: it lasts for `lease_ms` from now.

    Returns the names of the other live nodes by their ids. Deletes the rows of nodes that ended `KEPT_MS` ago.
    """
    return dict(on_postgresql(conn, _RENEW, node_id, name, version, lease_ms, leaving))


def remove(conn: Connection, node_id: str) -> None:
    conn.execute(delete(node_leases).where(node_leases.c.id == node_id))


def listed(conn: Connection) -> list[NodeRow]:
    """The nodes in the registry, by name."""
    return [NodeRow(*row) for row in on_postgresql(conn, _LIST)]
