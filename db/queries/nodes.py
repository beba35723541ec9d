"""The registry of nodes, on PostgreSQL. A node is live until its lease ends. All times are by PostgreSQL's clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from db.connections import NOW_MS, on_postgresql
from db.models import instances, node_leases

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
), others AS (
    SELECT json_object_agg(id, name)::text AS names FROM node, clock WHERE id <> $1 AND lease_until > now
)
SELECT others.names, instance.key_fingerprint, instance.public_since, clock.now
FROM clock CROSS JOIN others LEFT JOIN instance ON true"""
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


class Cluster(NamedTuple):
    """What a node reads when it renews its lease."""

    others: Mapping[str, str]
    """The names of the other live nodes, by id."""
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
    cluster = renew(conn, lease, leaving=False)
    since = cluster.public_since
    if not cluster.others or since is None:
        since = cluster.now
    conn.execute(update(instances).values(key_fingerprint=fingerprints[0], public_since=since))
    return cluster._replace(key_fingerprint=fingerprints[0], public_since=since)


def renew(conn: Connection, lease: Lease, *, leaving: bool) -> Cluster:
    """Extend the lease of a node. Deletes the rows of nodes that ended `KEPT_MS` ago."""
    ((names, fingerprint, since, now),) = on_postgresql(conn, _RENEW, *lease, leaving)
    return Cluster(orjson.loads(names or "{}"), fingerprint, since, now)


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
