"""The registry of nodes, on PostgreSQL. A node is live until its lease ends. All times are by PostgreSQL's clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS, on_postgresql
from tidings_db.models import instances, node_leases

KEPT_MS = 600_000
"""How long a node that ended without removing its row is listed after its lease."""

RENEW = f"""
WITH clock AS MATERIALIZED (SELECT {NOW_MS} AS now),
renewed AS (
    INSERT INTO node (id, name, version, started_at, lease_until, url, leaving)
    SELECT $1, $2, $3, now, now + $4, $5, $6 FROM clock
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, leaving = excluded.leaving
), forgotten AS (
    DELETE FROM node USING clock WHERE id <> $1 AND lease_until < now - {KEPT_MS}
), others AS (
    SELECT json_object_agg(id, json_build_array(name, url))::text AS nodes,
        json_agg(id) FILTER (WHERE leaving)::text AS leaving
    FROM node, clock WHERE id <> $1 AND lease_until > now
)
SELECT others.nodes, others.leaving, instance.key_fingerprint, instance.public_since, clock.now
FROM clock CROSS JOIN others LEFT JOIN instance ON true"""
_OTHERS = f"SELECT id, name, url FROM node WHERE id <> $1 AND lease_until > {NOW_MS}"
_PREFIX_TAKEN = "SELECT 1 FROM node WHERE id <> $1 AND left(id, $2) = left($1, $2)"
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


class Lease(NamedTuple):
    id: str
    name: str
    version: str
    ms: int
    """It lasts for this long after each renewal."""
    url: str | None
    """Where other nodes reach the node over HTTP."""


class OtherNode(NamedTuple):
    name: str
    url: str | None


class Cluster(NamedTuple):
    """The answer to a renewal of a lease."""

    others: Mapping[str, OtherNode]
    """The other live nodes, by id."""
    leaving: frozenset[str]
    """The ids of those that are about to stop."""
    key_fingerprint: str | None
    """Of the signing key of the node that started last. None: none has started yet."""
    public_since: int | None
    """When the first node started of those that have been live without a break."""
    now: int


def enter(conn: Connection, lease: Lease, fingerprints: Sequence[str]) -> Cluster | None:
    """Begin the lease of a node that starts. Returns None if it does not have the signing key of the others.

    Args:
        fingerprints: of the node's signing keys. That of the first is recorded.
    """
    # Nodes that start at the same time wait for each other here.
    recorded = conn.execute(select(instances.c.key_fingerprint).with_for_update()).scalar_one()
    if recorded is not None and recorded not in fingerprints:
        return None
    renewed = renew(conn, lease, leaving=False)
    since = renewed.public_since
    if not renewed.others or since is None:
        since = renewed.now
    conn.execute(update(instances).values(key_fingerprint=fingerprints[0], public_since=since))
    return renewed._replace(key_fingerprint=fingerprints[0], public_since=since)


def renew(conn: Connection, lease: Lease, *, leaving: bool) -> Cluster:
    """Extend the lease of a node. Deletes the rows of nodes that ended `KEPT_MS` ago."""
    (row,) = on_postgresql(conn, RENEW, *lease, leaving)
    return cluster(row)


def cluster(row: Sequence[Any]) -> Cluster:
    """From the row of `RENEW`."""
    found, leaving_ids, fingerprint, since, now = row
    others = {node_id: OtherNode(*node) for node_id, node in orjson.loads(found or "{}").items()}
    return Cluster(others, frozenset(orjson.loads(leaving_ids or "[]")), fingerprint, since, now)


def others(conn: Connection, node_id: str) -> dict[str, OtherNode]:
    """The live nodes except one, by id."""
    return {other_id: OtherNode(name, url) for other_id, name, url in on_postgresql(conn, _OTHERS, node_id)}


def is_prefix_taken(conn: Connection, node_id: str, characters: int) -> bool:
    """Whether the id of a listed node begins with the same characters."""
    return bool(on_postgresql(conn, _PREFIX_TAKEN, node_id, characters))


def remove(conn: Connection, node_id: str) -> None:
    conn.execute(delete(node_leases).where(node_leases.c.id == node_id))


def listed(conn: Connection) -> list[NodeRow]:
    """The nodes in the registry, by name."""
    return [NodeRow(*row) for row in on_postgresql(conn, _LIST)]


def has_key(conn: Connection, fingerprints: Collection[str]) -> bool:
    """Whether one of the keys is the signing key of the nodes. True before the first node has started."""
    recorded = conn.execute(select(instances.c.key_fingerprint)).scalar()
    return recorded is None or recorded in fingerprints


def set_key(conn: Connection, fingerprint: str) -> None:
    conn.execute(update(instances).values(key_fingerprint=fingerprint))
