"""The search index follows the logs: a consumer with a cursor of its own in every room.

Sending does not wait for it. What holds:

* what is committed is found a moment later; what was deleted, or what it said before it was edited, never is
  (`db.queries.search.find` sees to that);
* a step is one transaction with the cursors that it moves: after a crash it has happened or it has not, and in both
  cases the next one continues from there;
* several nodes may follow the same logs: who finds a cursor moved or locked leaves that room to the other;
* it gives way: steps are small and do not wait for the disk, and the longer one takes, the longer it rests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable, Sequence
from itertools import islice

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database, StoreUnavailable
from db.queries import consumers, search

logger = logging.getLogger("tidings.search")

DELAY_S = 0.05
"""After a commit; what is committed meanwhile is indexed with it."""
CHECK_S = 15.0
"""All rooms are compared with the cursors so often: other nodes commit without a word here."""
PURGE_S = 60.0
"""Words of what was deleted or edited are purged so often at most (SQLite)."""
REST = 2.0
"""After a step it rests so many times as long as the step took, its wait for the writer included."""
SETTLE_S = 0.25
"""Who searches waits so long, at most, for what was sent just now."""
_STEP_ENTRIES = 100
_STEP_BYTES = 32 * 1024
_STEP_ROOMS = 64
_MERGE_PAGES = 16
_PURGE_REST = 20.0
"""Purging takes no more than one part in so many of the time."""
_PAGE = 1000
_RETRY_S = 1.0


class Indexer:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._behind: dict[int, None] = {}
        """Rooms that may have entries after the cursor, in the order in which they will be looked at."""
        self._next_check = 0.0
        self._next_purge = 0.0 if database.is_sqlite else math.inf
        self._stepping = False
        self._merging = False
        """Whether parts of the index are to be merged (SQLite)."""
        self._purging = 0
        """How far the list of removals is being purged; 0: it is not."""
        self._purge_took = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._done = asyncio.Event()
        """Set, and made anew, whenever something was done."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="search index")

    async def stop(self) -> None:
        """Finish the step under way; the rest is done when the server starts again."""
        self._closing.set()
        self._wake.set()
        if self._task is not None:
            await self._task

    def appended(self, room_keys: Iterable[int]) -> None:
        """Rooms have new entries. Costs next to nothing: it is called for every batch of the journal."""
        self._behind.update(dict.fromkeys(room_keys))
        self._wake.set()

    async def settle(self) -> None:
        """Wait for what is about to be indexed, but not long: who looks for what they have just sent finds it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self._behind or self._stepping:
                    await self._done.wait()

    async def caught_up(self) -> None:
        """Wait until everything that is committed is indexed, and nothing is left to be purged."""
        while await self._db.read(_is_behind):
            done = self._done
            self._next_check = 0.0
            self._next_purge = min(self._next_purge, time.monotonic())
            self._wake.set()
            await done.wait()

    async def _run(self) -> None:
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                await self._do()
                rest = REST * (time.monotonic() - began)
            except StoreUnavailable as error:
                logger.warning("the search index cannot be brought forward: %s", error)
                rest = _RETRY_S
            except Exception:
                logger.exception("the search index cannot be brought forward")
                rest = _RETRY_S
            self._tell()
            await self._pause(rest)
            if not self._behind and not self._merging and not self._closing.is_set():
                self._wake.clear()
                await self._wait(self._wake, min(self._next_check, self._next_purge) - time.monotonic())
                await self._pause(DELAY_S)

    def _tell(self) -> None:
        self._done.set()
        self._done = asyncio.Event()

    async def _pause(self, seconds: float) -> None:
        await self._wait(self._closing, seconds)

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)

    async def _do(self) -> None:
        """One small thing after the other."""
        if time.monotonic() >= self._next_check:
            await self._check()
        if self._behind:
            self._stepping = True
            try:
                await self._step(list(islice(self._behind, _STEP_ROOMS)))
            finally:
                self._stepping = False
            self._tell()
            self._merging = self._db.is_sqlite
        elif not self._merging and time.monotonic() >= self._next_purge:
            await self._begin_purge()
        if self._merging:
            await self._merge()

    async def _check(self) -> None:
        """Compare the heads of all rooms with the cursors."""
        self._next_check = time.monotonic() + CHECK_S
        after = 0
        while found := await self._db.read(
            lambda conn, after=after: consumers.behind(conn, search.CONSUMER, after, _PAGE)  # type: ignore[misc]
        ):
            self._behind.update(dict.fromkeys(found))
            after = found[-1]

    async def _step(self, room_keys: Sequence[int]) -> None:
        for key in room_keys:  # before they are read: what is committed after it puts them back
            self._behind.pop(key, None)
        try:
            step = await self._db.read(lambda conn: search.read_step(conn, room_keys, _STEP_ENTRIES, _STEP_BYTES))
            moved = set()
            if step.moves:
                moved = await self._db.write(lambda conn: search.write_step(conn, step), lazy=True)
        except StoreUnavailable:
            self._behind.update(dict.fromkeys(room_keys))
            raise
        except Exception:
            if len(room_keys) > 1:  # what is wrong with one room does not hold up the others
                for key in room_keys:
                    await self._step([key])
            else:
                logger.exception("room %d cannot be indexed now", room_keys[0])
            return
        self._behind.update(dict.fromkeys(step.unread | (step.moves.keys() - moved)))

    async def _merge(self) -> None:
        began = time.monotonic()
        self._merging = await self._db.write(lambda conn: search.merge(conn, _MERGE_PAGES), lazy=True)
        if upto := self._purging:
            self._purge_took += time.monotonic() - began
            if not self._merging:
                await self._db.write(lambda conn: search.purged(conn, upto), lazy=True)
                self._next_purge = time.monotonic() + max(PURGE_S, _PURGE_REST * self._purge_took)
                self._purging, self._purge_took = 0, 0.0

    async def _begin_purge(self) -> None:
        upto = await self._db.read(search.to_purge)
        if upto:
            await self._db.write(lambda conn: search.merge(conn, _MERGE_PAGES, whole=True), lazy=True)
            self._purging, self._merging = upto, True
        self._next_purge = time.monotonic() + PURGE_S


def _is_behind(conn: Transaction) -> bool:
    return bool(consumers.behind(conn, search.CONSUMER, 0, 1) or search.to_purge(conn))
