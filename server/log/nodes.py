"""The registry of the nodes on one PostgreSQL database. SQLite serves one node: there it is alone.

A node holds a lease of `LEASE_S`, and renews it every second. For the others it has ended when its lease has, or when
it has removed its row. A node without a lease may still run: frozen, or cut off from the database. It is live again
when it renews its lease. Leases are by PostgreSQL's clock, so the clocks of the nodes do not matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from db.engine import Database, StoreUnavailable
from db.queries import nodes
from server.supervision import Periodic

LEASE_S = 5.0
RENEWALS = 5
"""How often a lease is renewed before it would end."""
LEAVE_S = 1.0
"""The longest that stopping waits for the database to announce it."""

logger = logging.getLogger("tidings.nodes")


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
        self._db = database
        self._id = node_id
        self._name = name
        self._version = version
        self._lease_ms = round(lease_s * 1000)
        self._on_ended = on_ended
        self._names: Mapping[str, str] = {}
        """The names of `others`, by id."""
        self._leaving = False

    def live_nodes(self) -> frozenset[str]:
        """The ids of the live nodes, this one included."""
        return self.others | {self._id}

    async def start(self) -> None:
        """Enter the registry. Raises `StoreUnavailable`."""
        if not self._db.is_sqlite:
            await self._round()
            await super().start()

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
                await self._db.write(lambda conn: nodes.remove(conn, self._id), lazy=True)

    async def _round(self) -> None:
        names = await self._db.write(
            lambda conn: nodes.renew(
                conn, self._id, self._name, self._version, self._lease_ms, leaving=self._leaving
            ),
            lazy=True,
        )
        before, self._names, self.others = self._names, names, frozenset(names)
        for name in [name for node_id, name in names.items() if node_id not in before]:
            logger.info("the node %s is live", name)
        ended = frozenset(before) - self.others
        for name in [before[node_id] for node_id in ended]:
            logger.info("the node %s has ended", name)
        if ended:
            self._on_ended(ended)
