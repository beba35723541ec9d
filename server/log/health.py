"""Whether messages can be written now: the answer of `GET /health/ready`, and a bound on its cost.

It answers within `PATIENCE_S`, even if the store does not. Frequent requests get the last known answer, so anonymous
requests take neither the writer nor the disk from senders.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from db.engine import Database, StoreUnavailable
from server.log.journal import Journal, cannot_write
from server.supervision import Loop, spawn

logger = logging.getLogger("tidings.health")

PATIENCE_S = 1.5
"""A probe of the store that takes longer has failed, until it ends."""
KEPT_S = 1.0
"""The last answer of the store counts for so long: that of a probe, or that of anybody's write."""
LONGEST_WAIT_S = 3.0
"""A change that has been waiting for longer means that messages cannot be written. So do changes that were refused
because of the store, for as long, unless others were written since: a probe may succeed where they cannot, for it
takes no lock on a room."""
SILENT = "the store does not answer"


class Health:
    def __init__(
        self,
        database: Database,
        journal: Journal,
        loops: Sequence[Loop],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loops`: without any one of them a guarantee is broken. `clock`: seconds; ages the store's answers."""
        self._db = database
        self._journal = journal
        self._loops = loops
        self._clock = clock
        self._probing: asyncio.Task[None] | None = None
        self._began = 0.0
        """When the last probe began."""
        self._failed = ""
        """Why the last probe has failed; empty: it has not."""
        self._failed_at = 0.0

    async def trouble(self) -> str:
        """Why this node should get no traffic now; empty if it can serve."""
        for loop in self._loops:
            if loop.down:
                return f"{loop.name} has stopped"
        if self._journal.age > LONGEST_WAIT_S:
            return "changes wait too long to be written"
        if refused := self._journal.refused_within(LONGEST_WAIT_S):
            return refused
        if self._db.wrote_within(KEPT_S):
            return ""
        if self._failed and self._clock() - self._failed_at < KEPT_S:
            return self._failed
        return await self._probe()

    async def _probe(self) -> str:
        """One at a time, however many ask."""
        if self._probing is None or self._probing.done():
            self._probing = spawn(self._try(), "health probe")
            self._began = self._clock()
        left = self._began + PATIENCE_S - self._clock()
        if left > 0:
            await asyncio.wait([self._probing], timeout=left)
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
