"""The search index follows the logs: a consumer with a cursor of its own in every room.

Sending does not wait for it. What holds:

* a committed message is found a moment later; a deleted message, or the content before an edit, is never found
  (`tidings_db.queries.search.find` checks that);
* a step is one transaction with the cursors that it moves: after a crash it has happened or it has not, and in both
  cases the next one continues from there;
* several nodes may follow the same logs: a node skips a room whose cursor is locked or has moved;
* it gives way to senders: steps are small, and the longer a step takes, the longer it rests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from sqlalchemy.engine import Connection as Transaction

from tidings.supervision import Loop
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import consumers, search

logger = logging.getLogger("tidings.search")

DELAY_S = 0.25
"""The wait after a commit; entries that are committed meanwhile are indexed in the same step. A search ends it."""
CHECK_S = 15.0
"""The interval at which all rooms are compared with the cursors: other nodes commit without notice here."""
PURGE_S = 60.0
"""The shortest interval between purges of deleted words."""
REST = 2.0
"""The rest after a step, as a multiple of the time that it took, its wait for the writer included."""
SETTLE_S = 0.25
"""The longest that a search waits for messages that were sent just before it."""
FAR_S = 5.0
"""If a room has been behind for this long, the rest is half as long."""
_STEP_ENTRIES = 100
_STEP_BYTES = 32 * 1024
_LONGEST_STEP = 8
"""While entries remain after a step, the next one is twice as large, up to this factor: it costs less per entry."""
_STEP_ROOMS = 64
_MERGE_PAGES = 16
_PURGE_REST = 20.0
"""Purging takes at most one part in this many of the time."""
_PAGE = 1000
_RETRY_S = 1.0


class Indexer:
    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: returns seconds; times steps, and how long a room is behind."""
        self._db = database
        self._clock = clock
        self._behind: dict[int, float] = {}
        """Rooms that may have entries after the cursor, in the order in which they are indexed, and since when."""
        self._indexing: dict[int, float] = {}
        """Rooms of the step under way, until it is committed, and since when they are behind."""
        self._next_check = 0.0
        self._dialect = database.url.get_backend_name()
        self._in_parts = search.is_in_parts(self._dialect)
        self._next_purge = 0.0 if self._in_parts else math.inf
        self._step_size = 1
        self._merging = False
        """Whether parts of the index are to be merged."""
        self._purging = 0
        """The end of the part of the list of removals that is being purged; 0: no purge is under way."""
        self._purge_took = 0.0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._hurry = asyncio.Event()
        """Set when somebody waits for the index, or when it is closed."""
        self._done = asyncio.Event()
        """Set, and then replaced, after each piece of work."""
        self.loop = Loop("tidings.search", self._run)

    async def start(self) -> None:
        self.loop.start()

    async def stop(self) -> None:
        """Finish the step under way; the next start continues after it."""
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        await self.loop.ended()

    def appended(self, room_keys: Iterable[int]) -> None:
        """Note rooms with new entries. Called for every batch of the journal, so it must be cheap."""
        self._add(room_keys, self._clock())
        self._wake.set()

    @property
    def rooms_behind(self) -> int:
        """Rooms with entries that are not in the index yet."""
        return len(self._behind.keys() | self._indexing.keys())

    @property
    def lag(self) -> float:
        """Seconds for which the room that lags longest has been behind its log."""
        since = min((*self._behind.values(), *self._indexing.values()), default=None)
        return 0.0 if since is None else self._clock() - since

    def _add(self, room_keys: Iterable[int], since: float) -> None:
        for key in room_keys:
            self._behind.setdefault(key, since)

    async def settle(self) -> None:
        """Wait for up to `SETTLE_S` until the index is up to date, so that users find what they have just sent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self._behind or self._indexing:
                    self._hurry.set()
                    await self._done.wait()

    async def caught_up(self) -> None:
        """Wait until every committed entry is indexed and every deleted word is purged."""
        while await self._db.read(_is_behind):
            done = self._done
            self._next_check = 0.0
            self._next_purge = min(self._next_purge, self._clock())
            self._hurry.set()
            self._wake.set()
            await done.wait()

    async def _run(self) -> None:
        while not self._closing.is_set():
            began = self._clock()
            try:
                await self._work()
                rest = REST * (self._clock() - began) / (1 if self.lag < FAR_S else 2)
            except StoreUnavailable as error:
                logger.warning("the search index cannot be updated: %s", error)
                rest = _RETRY_S
            except Exception:
                logger.exception("the search index cannot be updated")
                rest = _RETRY_S
            self._signal_done()
            await self._pause(rest)
            if not self._behind and not self._merging and not self._closing.is_set():
                self._wake.clear()
                await self._wait(self._wake, min(self._next_check, self._next_purge) - self._clock())
                await self._wait(self._hurry, DELAY_S)
            if not self._closing.is_set():
                self._hurry.clear()

    def _signal_done(self) -> None:
        self._done.set()
        self._done = asyncio.Event()

    async def _pause(self, seconds: float) -> None:
        await self._wait(self._closing, seconds)

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)

    async def _work(self) -> None:
        """Do the next piece of each kind of work that is due."""
        if self._clock() >= self._next_check:
            await self._check()
        if self._behind:
            await self._step(list(islice(self._behind, _STEP_ROOMS)))
            self._signal_done()
            self._merging = self._in_parts
        elif not self._merging and self._clock() >= self._next_purge:
            await self._begin_purge()
        if self._merging:
            await self._merge()

    async def _check(self) -> None:
        """Compare the heads of all rooms with the cursors."""
        self._next_check = self._clock() + CHECK_S
        after = 0
        while behind := await self._db.read(
            lambda conn, after=after: consumers.behind(conn, search.CONSUMER, after, _PAGE)  # type: ignore[misc]
        ):
            self._add(behind, self._clock())
            after = behind[-1]

    async def _step(self, room_keys: Sequence[int]) -> None:
        now = self._clock()
        # Taken out before the read: a later commit adds them again.
        since = self._indexing = {key: self._behind.pop(key, now) for key in room_keys}
        try:
            unfinished = await self._index(room_keys)
        except StoreUnavailable:
            self._put_back(since)
            raise
        except Exception:
            if len(room_keys) > 1:  # one bad room must not hold up the others
                self._put_back(since)
                for key in room_keys:
                    await self._step([key])
            else:
                logger.exception("room %d cannot be indexed now", room_keys[0])
        else:
            self._put_back({key: began for key, began in since.items() if key in unfinished})
        finally:
            self._indexing = {}

    async def _index(self, room_keys: Sequence[int]) -> set[int]:
        """Index the next entries of some rooms; returns the rooms that have more."""
        entries, size = self._step_size * _STEP_ENTRIES, self._step_size * _STEP_BYTES
        step = await self._db.read(lambda conn: search.read_step(conn, room_keys, entries, size))
        moved = set()
        if step.moves:
            encoded = await asyncio.to_thread(search.encode_step, step, self._dialect)
            moved = await self._db.write(lambda conn: search.write_step(conn, encoded), Write.LAZY)
        self._step_size = min(_LONGEST_STEP, 2 * self._step_size) if step.unread else 1
        return set(step.unread) | (step.moves.keys() - moved)

    def _put_back(self, since: Mapping[int, float]) -> None:
        """Queue rooms again that a step has not brought up to date."""
        for key, began in since.items():
            self._behind[key] = min(began, self._behind.get(key, began))

    async def _merge(self) -> None:
        began = self._clock()
        self._merging = await self._db.write(lambda conn: search.merge(conn, _MERGE_PAGES), Write.LAZY)
        if upto := self._purging:
            self._purge_took += self._clock() - began
            if not self._merging:
                await self._db.write(lambda conn: search.purged(conn, upto), Write.LAZY)
                self._next_purge = self._clock() + max(PURGE_S, _PURGE_REST * self._purge_took)
                self._purging, self._purge_took = 0, 0.0

    async def _begin_purge(self) -> None:
        upto = await self._db.read(search.to_purge)
        if upto:
            await self._db.write(lambda conn: search.merge(conn, _MERGE_PAGES, whole=True), Write.LAZY)
            self._purging, self._merging = upto, True
        self._next_purge = self._clock() + PURGE_S


def _is_behind(conn: Transaction) -> bool:
    return bool(consumers.behind(conn, search.CONSUMER, 0, 1) or search.to_purge(conn))
