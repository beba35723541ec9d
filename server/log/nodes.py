"""The registry of the nodes on one PostgreSQL database. SQLite serves one node: there it is alone.

A node holds a lease of `LEASE_S`, and renews it every second. For the others it has ended when its lease has, or when
it has removed its row. A node without a lease may still run: frozen, or cut off from the database. It is live again
when it renews its lease. Leases are by PostgreSQL's clock, so the clocks of the nodes do not matter.

All nodes accept each other's tokens: a node starts only if it has the key that the node that started last signs with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from db.engine import Database, StoreUnavailable
from db.queries import nodes
from db.queries.nodes import Cluster, Lease
from server.log.retention import now_ms
from server.supervision import Periodic

LEASE_S = 5.0
RENEWALS = 5
"""How often a lease is renewed before it would end."""
LEAVE_S = 1.0
"""The longest that stopping waits for the database to announce it."""

logger = logging.getLogger("tidings.nodes")


class ForeignKey(Exception):
    """A node does not have the key that the others sign with."""


class NodeRegistry(Periodic):
    """`others` are the ids of the other live nodes, as of the last renewal."""

    def __init__(
        self,
        database: Database,
        node_id: str,
        name: str,
        version: str,
        *,
        lease_s: float = LEASE_S,
        on_ended: Callable[[frozenset[str]], object] = lambda ids: None,
    ) -> None:
        """
        Args:
            node_id: of this process.
            name: for people; several nodes may have the same.
            on_ended: called with the ids of nodes that were live and are not any more. They may become live again.
        """
        super().__init__(lease_s / RENEWALS, logger, "the lease of this node could not be renewed")
        self.others: frozenset[str] = frozenset()
        self.public_since = now_ms()
        """When the first node started of those that have been live without a break. In ms since the epoch, by the
        clock of the messages: PostgreSQL's, or on SQLite that of the node."""
        self._db = database
        self._lease = Lease(node_id, name, version, round(lease_s * 1000))
        self._on_ended = on_ended
        self._names: Mapping[str, str] = {}
        """The names of `others`, by id."""
        self._fingerprints: Sequence[str] = ()
        self._has_key = True
        self._leaving = False

    def live_nodes(self) -> frozenset[str]:
        """The ids of the live nodes, this one included."""
        return self.others | {self._lease.id}

    async def enter(self, fingerprints: Sequence[str]) -> None:
        """Enter the registry, and renew the lease from now on. Raises `StoreUnavailable` or `ForeignKey`.

        Args:
            fingerprints: of the keys whose tokens this node accepts. It signs with the first.
        """
        if self._db.is_sqlite:
            return
        self._fingerprints = fingerprints
        cluster = await self._db.write(lambda conn: nodes.enter(conn, self._lease, fingerprints))
        if cluster is None:
            raise ForeignKey
        self._apply(cluster)
        await self.start()

    async def leave(self) -> None:
        """Announce that this node is about to stop. Waits for the database for `LEAVE_S` at most."""
        self._leaving = True
        if not self._db.is_sqlite:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._round()

    async def stop(self) -> None:
        """Leave the registry."""
        await super().stop()
        if not self._db.is_sqlite:
            with suppress(StoreUnavailable):
                await self._db.write(lambda conn: nodes.remove(conn, self._lease.id), lazy=True)

    async def _round(self) -> None:
        self._apply(
            await self._db.write(lambda conn: nodes.renew(conn, self._lease, leaving=self._leaving), lazy=True)
        )

    def _apply(self, cluster: Cluster) -> None:
        before, self._names, self.others = self._names, cluster.others, frozenset(cluster.others)
        if cluster.public_since is not None:
            self.public_since = cluster.public_since
        has_key = cluster.key_fingerprint is None or cluster.key_fingerprint in self._fingerprints
        if self._has_key and not has_key:
            logger.error("another server signs tokens with a key that this one does not have, and refuses")
        self._has_key = has_key
        for name in [name for node_id, name in cluster.others.items() if node_id not in before]:
            logger.info("the node %s is live", name)
        ended = frozenset(before) - self.others
        for name in [before[node_id] for node_id in ended]:
            logger.info("the node %s has ended", name)
        if ended:
            self._on_ended(ended)
