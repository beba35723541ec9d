"""Whether messages can be written now: the answer of `GET /health/ready`, and a bound on its cost.

It answers within `PATIENCE_S`, even if the store does not. Frequent requests get the last known answer, so anonymous
requests take neither the writer nor the disk from senders.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tidings.log.journal import Journal, cannot_write
from tidings.supervision import Loop, spawn
from tidings_db.engine import Database, StoreUnavailable

logger = logging.getLogger("tidings.health")

PATIENCE_S = 1.5
"""A probe of the store that takes longer counts as failed until it ends."""
REUSE_S = 1.0
"""The result of a probe, or of any write, is reused for this long."""
LONGEST_WAIT_S = 3.0
"""Messages count as unwritable if a change has been waiting for longer, or if one was refused because of the store
within this time and none was written since. A probe may succeed meanwhile: it takes no lock on a room."""
SILENT = "the store does not answer"


class ClusterHealth(Protocol):
    """The part of `tidings.fanout.cluster.Cluster` that matters here."""

    @property
    def leaving(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    def is_behind(self) -> bool: ...


class Health:
    def __init__(
        self,
        database: Database,
        journal: Journal,
        loops: Sequence[Loop],
        cluster: ClusterHealth,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            loops: the node is not ready while any of them is down.
            clock: returns seconds.
        """
        self._db = database
        self._journal = journal
        self._loops = loops
        self._cluster = cluster
        self._clock = clock
        self._probing: asyncio.Task[None] | None = None
        self._began = 0.0
        """When the last probe began."""
        self._failed = ""
        """Why the last probe failed; empty if it succeeded."""
        self._failed_at = 0.0
        self.ready = True
        """The last answer of `trouble`."""

    def degraded(self) -> str:
        """The fault with which this node can serve nevertheless; empty if everything works."""
        return "Redis is away" if self._cluster.trouble else ""

    async def trouble(self) -> str:
        """Why this node should get no traffic now; empty if it can serve."""
        trouble = await self._trouble()
        self.ready = not trouble
        return trouble

    async def _trouble(self) -> str:
        if self._cluster.leaving:
            return "the server is shutting down"
        for loop in self._loops:
            if loop.down:
                return f"{loop.name} has stopped"
        if self._cluster.is_behind():
            return "the changes of other nodes cannot be read"
        if self._journal.age > LONGEST_WAIT_S:
            return "changes wait too long to be written"
        if refused := self._journal.refused_within(LONGEST_WAIT_S):
            return refused
        if self._db.wrote_within(REUSE_S):
            return ""
        if self._failed and self._clock() - self._failed_at < REUSE_S:
            return self._failed
        return await self._probe()

    async def _probe(self) -> str:
        """Probe the store. Concurrent callers share one probe."""
        if self._probing is None or self._probing.done():
            self._probing = spawn(self._try(), "health probe")
            self._began = self._clock()
        remaining = self._began + PATIENCE_S - self._clock()
        if remaining > 0:
            await asyncio.wait([self._probing], timeout=remaining)
        return self._failed if self._probing.done() else SILENT

    async def _try(self) -> None:
        try:
            await self._db.probe()
        except StoreUnavailable as error:
            logger.warning("messages cannot be written: %s", error)
            self._failed = cannot_write(error.reason)
        except Exception:
            logger.exception("the store cannot be probed")
            self._failed = "the store cannot be probed"
        else:
            self._failed = ""
        self._failed_at = self._clock()
