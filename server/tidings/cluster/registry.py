"""The registry of the nodes on one PostgreSQL database. SQLite serves one node: there it is alone.

A node holds a lease of `LEASE_S`, and renews it every second. For the others it has ended when its lease has, or when
it has removed its row. A node without a lease may still run: frozen, or cut off from the database. It is live again
when it renews its lease. Leases are by PostgreSQL's clock, so the clocks of the nodes do not matter.

All nodes accept each other's tokens: a node starts only if it has the key that the node that started last signs with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tidings.log.retention import now_ms
from tidings.supervision import Periodic, spawn
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import nodes
from tidings_db.queries.nodes import Cluster, Lease, OtherNode

LEASE_S = 5.0
RENEWALS = 5
"""How often a lease is renewed before it would end."""
LEAVE_S = 1.0
"""The longest that stopping waits for the database to announce it."""
PREFIX = 4
"""Characters of an id that name a live node. Drawn at random: with 1,000 nodes, two share them with
probability 1/30, and the second one does not start."""
LOOK_UP_S = 0.05
"""The least time between two reads of the registry for prefixes that are unknown here."""
LOOK_UP_WAIT_S = 0.09
"""The longest that one such read is waited for."""

logger = logging.getLogger("tidings.nodes")


class ForeignKey(Exception):
    """A node does not have the key that the others sign with."""


class PrefixTaken(Exception):
    """The id of another node begins with the same characters."""


class NodeRegistry(Periodic):
    """`others` are the ids of the other live nodes, `staying` too, as of the last renewal."""

    def __init__(
        self,
        database: Database,
        node_id: str,
        name: str,
        version: str,
        *,
        url: str = "",
        lease_s: float = LEASE_S,
        run: Callable[..., Awaitable[Sequence[Any]]],
    ) -> None:
        """
        Args:
            node_id: of this process.
            name: for people; several nodes may have the same.
            url: where other nodes reach this one over HTTP; empty: nowhere.
            run: `Feed.run`, so that renewals wait for no connection of the pool: slow queries may use all of them for
                longer than a lease.
        """
        super().__init__(lease_s / RENEWALS, logger, "the lease of this node could not be renewed")
        self.others: frozenset[str] = frozenset()
        self.staying: frozenset[str] = frozenset()
        """The `others` that are not about to stop."""
        self.leaving = False
        """Whether this node is about to stop."""
        self.public_since = now_ms()
        """When the first node started of those that have been live without a break. In ms since the epoch, by
        PostgreSQL's clock."""
        self._db = database
        self._lease = Lease(node_id, name, version, round(lease_s * 1000), url or None)
        self._run_statement = run
        self._nodes: Mapping[str, OtherNode] = {}
        """`others`, by id."""
        self._owners: dict[str, tuple[str, str]] = {}
        """Id and URL of the other nodes, by the first `PREFIX` characters of the id."""
        self._look_up: asyncio.Task[None] | None = None
        """A read of the registry that has not begun yet."""
        self._looked_up_at = 0.0
        self._clock_offset_ms = 0
        """PostgreSQL's clock minus this process' monotonic clock."""
        self._fingerprints: Sequence[str] = ()
        self._has_key = True

    def clock_ms(self) -> int:
        """The time in ms since the epoch by PostgreSQL's clock, as of the last renewal."""
        return _monotonic_ms() + self._clock_offset_ms

    async def owner(self, prefix: str) -> tuple[str, str] | None:
        """Id and URL ("" if it has none) of the other node whose id begins with `PREFIX` characters.

        A node that has just started is found in the registry. Many unknown prefixes share a read of it.
        """
        owner = self._owners.get(prefix)
        if owner is None and not self._lease.id.startswith(prefix):
            if self._look_up is None:
                self._look_up = spawn(self._find_new_nodes(), "a look at the registry of nodes")
            await asyncio.wait((self._look_up,), timeout=LOOK_UP_WAIT_S)
            owner = self._owners.get(prefix)
        return owner

    async def _find_new_nodes(self) -> None:
        await asyncio.sleep(self._looked_up_at + LOOK_UP_S - time.monotonic())
        self._looked_up_at, self._look_up = time.monotonic(), None
        with suppress(StoreUnavailable):
            found = await self._db.read(lambda conn: nodes.others(conn, self._lease.id))
            self._owners |= _by_prefix(found)

    async def enter(self, fingerprints: Sequence[str]) -> None:
        """Enter the registry, and renew the lease from now on.

        Raises `StoreUnavailable`, `ForeignKey` or `PrefixTaken`.

        Args:
            fingerprints: of the keys whose tokens this node accepts. It signs with the first.
        """
        self._fingerprints = fingerprints
        cluster = await self._db.write(lambda conn: nodes.enter(conn, self._lease, fingerprints))
        if cluster is None:
            raise ForeignKey
        if await self._db.read(lambda conn: nodes.is_prefix_taken(conn, self._lease.id, PREFIX)):
            await self._db.write(lambda conn: nodes.remove(conn, self._lease.id), Write.LAZY)
            raise PrefixTaken
        self._apply(cluster)
        await self.start()

    async def leave(self) -> None:
        """Announce that this node is about to stop. Waits for the database for `LEAVE_S` at most."""
        self.leaving = True
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._round()

    async def stop(self) -> None:
        """Leave the registry."""
        await super().stop()
        with suppress(StoreUnavailable):
            await self._db.write(lambda conn: nodes.remove(conn, self._lease.id), Write.LAZY)

    async def _round(self) -> None:
        (row,) = await self._run_statement(nodes.RENEW, *self._lease, self.leaving)
        self._apply(nodes.cluster(row))

    def _apply(self, cluster: Cluster) -> None:
        before, self._nodes, self.others = self._nodes, cluster.others, frozenset(cluster.others)
        self.staying = self.others - cluster.leaving
        self._owners = _by_prefix(cluster.others)
        self._clock_offset_ms = cluster.now - _monotonic_ms()
        if cluster.public_since is not None:
            self.public_since = cluster.public_since
        has_key = cluster.key_fingerprint is None or cluster.key_fingerprint in self._fingerprints
        if self._has_key and not has_key:
            logger.error("another server signs tokens with a key that this one does not have, and refuses")
        self._has_key = has_key
        for node in [node for node_id, node in cluster.others.items() if node_id not in before]:
            logger.info("the node %s is live", node.name)
        for node in [node for node_id, node in before.items() if node_id not in self.others]:
            logger.info("the node %s has ended", node.name)


def _by_prefix(others: Mapping[str, OtherNode]) -> dict[str, tuple[str, str]]:
    return {node_id[:PREFIX]: (node_id, node.url or "") for node_id, node in others.items()}


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
