"""The journal: one writer per node, many changes per commit.

Changes queue up while a commit is under way; the next transaction takes all of them. What holds:

* a change is answered and published after its commit; an append is answered first, then published;
* changes take effect in the order in which they were handed over, and a room's entries are published in seq order;
* a bad change fails alone: if a batch cannot be written, each of its changes is tried by itself. A cursor that cannot
  be written is logged and dropped, and fails no change;
* a room that another transaction has locked holds up its own changes only: they wait for `HELD_S` at most;
* while the store is away, changes are tried ever more rarely, and answered `unavailable`;
* once handed over, a change is made even if its caller goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from tidings.contract.errors import ActionError, ErrorCode
from tidings.log.commit import Outcome, make_writer
from tidings.log.cursors import Cursors, Moved
from tidings.log.held_changes import HeldChanges, Queued
from tidings.log.messages import AppendMessage
from tidings.log.notices import Appended, Fanout, Notice
from tidings.log.quotas import Quotas
from tidings.log.transaction import Operation
from tidings.supervision import Loop
from tidings_db.engine import Database, Locked, StoreUnavailable, Write

logger = logging.getLogger("tidings.journal")
T = TypeVar("T")

MAX_BATCH = 1000
MAX_BATCH_BYTES = 512 * 1024
"""The entries of one batch must fit into the queue of a connection that keeps up."""
MAX_BATCH_NAMES = 8000
"""Names that one batch looks up for the mentions in its messages; each takes some µs."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
BURST = 8
BURST_ITERATIONS = 3
"""After a batch of at least `BURST` changes, the next one waits so many iterations of the event loop.

Meanwhile, what its senders have sent by then is read, dispatched and queued, one iteration each. Otherwise a burst
that was once split stays split: each part is acknowledged, and continued, while the other is written. That was
measured to cost a quarter of the processor time of a message.
"""
CURSOR_INTERVAL_S = 1.0
"""The interval at which cursors are written if no batch includes them."""
FLUSH_S = 1.0
"""The longest wait for cursors to be written. The store may be away."""
PAUSE_S = 0.05
"""The pause after the store has failed; doubled at each further failure."""
LONGEST_PAUSE_S = 1.0
RETRY_HELD_S = 0.05
"""The wait before changes to locked rooms are tried again."""
HELD_S = 10.0
"""A change that has waited this long for its room is answered `unavailable`."""


class NotWritten(Exception):
    """Nothing of a batch was written, because of an error (its cause) of a change or of a cursor."""


class CommitObserver(Protocol):
    def committed(self, changes: int, seconds: float) -> None:
        """A transaction was committed. `changes` is 0 if it wrote only cursors."""


class Follower(Protocol):
    def appended(self, room_keys: Iterable[int]) -> None:
        """Entries were appended to some rooms, and published."""


class Journal:
    def __init__(
        self,
        database: Database,
        fanout: Fanout,
        cursors: Cursors,
        followers: Sequence[Follower],
        observer: CommitObserver,
        quotas: Quotas,
    ) -> None:
        """`followers`: those that follow the logs of all rooms."""
        self._db = database
        self._writer = make_writer(database, quotas)
        self.latest_entries = self._writer.latest_entries
        self._fanout = fanout
        self._cursors = cursors
        self._followers = followers
        self._observer = observer
        self._queue: deque[Queued] = deque()
        self._held = HeldChanges()
        self._retry_held_at = 0.0
        """When held changes are tried again, by the loop's clock."""
        self._retried = 0
        """How many changes at the front of the queue were held before; 0 or less: none."""
        self._cursors_at = 0.0
        """The earliest time of the next write of cursors, after one of them had to wait for a lock."""
        self._queued_bytes = 0
        """Bytes of the queued changes."""
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._pause_s = 0.0
        """The pause before the next batch, after the store has failed."""
        self._writing_since: float | None = None
        """When the oldest change that is being written was handed over; None: nothing is being written."""
        self._refused = -math.inf, ""
        """When changes were last refused, and the error text; cleared by the next change that is written."""
        self._wrote_at = -math.inf
        """When a change was last written."""
        self._more_moved = False
        """Whether cursors are to be written with the next transaction, without waiting for the interval."""
        self.transactions = 0
        """How many were written."""
        self.loop = Loop("tidings.journal", self._run)
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._tick()
        self.loop.start()

    async def stop(self) -> None:
        """Refuse new changes; write the queued ones and the cursors.

        If the store is away, queued changes are answered `unavailable` and the cursors are lost, which costs repeats.
        """
        self._closing.set()
        if self._ticker is not None:
            self._ticker.cancel()
        self._wake.set()
        try:
            await self.loop.ended()
        finally:
            self._refuse_all()

    @property
    def age(self) -> float:
        """For how long the oldest change has been waiting to be written, in seconds."""
        since = self._queue[0][2] if self._writing_since is None and self._queue else self._writing_since
        oldest = math.inf if since is None else since
        if self._held.oldest > self._wrote_at:  # changes to other rooms were not written either
            oldest = min(oldest, self._held.oldest)
        return 0.0 if oldest == math.inf else asyncio.get_running_loop().time() - oldest

    def refused_within(self, seconds: float) -> str:
        """Why a change was refused within the last `seconds`; empty if none was, or if one was written since."""
        at, reason = self._refused
        return reason if asyncio.get_running_loop().time() - at < seconds else ""

    @property
    def waiting(self) -> int:
        """Changes that wait to be written."""
        return len(self._queue) + self._held.changes

    @property
    def held(self) -> int:
        """How many rooms have changes that wait because another transaction has locked the room."""
        return len(self._held)

    @property
    def waiting_bytes(self) -> int:
        return self._queued_bytes + self._held.bytes

    def hand_over(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue a change; its place in the order is taken now. The future gives its result, or `ActionError`.

        Raises `unavailable` when the node is closing, or the queue is full.
        """
        if self._closing.is_set():
            raise ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down")
        if self._queued_bytes + self._held.bytes > MAX_QUEUED_BYTES:
            raise ActionError(ErrorCode.UNAVAILABLE, "too much is waiting to be written")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append((operation, future, loop.time()))
        self._queued_bytes += operation.size
        self._wake.set()
        return future

    async def write(self, operation: Operation[T]) -> T:
        """Make a change and wait until it is durable."""
        return await asyncio.shield(self.hand_over(operation))

    def write_cursors_soon(self) -> None:
        """If other nodes may be about to read the cursors, write them with the next transaction, which begins now."""
        if self._cursors and self._fanout.is_shared:
            self._more_moved = True
            self._wake.set()

    async def flush_cursors(self) -> None:
        """Write the cursors that have moved so far, and wait for it, but no longer than `FLUSH_S`. As above."""
        if self._fanout.is_shared:
            written = self._cursors.all_written()
            self.write_cursors_soon()
            await asyncio.wait([written], timeout=FLUSH_S)

    def _tick(self) -> None:
        """Wake the writer if cursors are waiting."""
        if self._cursors:
            self._wake.set()
        self._ticker = asyncio.get_running_loop().call_later(CURSOR_INTERVAL_S, self._tick)

    async def _run(self) -> None:
        burst = False
        while not (self._closing.is_set() and not self._queue and not self._cursors and not self._held):
            if not self._queue and not self._more_moved:
                await self._wait()
            if self._pause_s:  # the store has failed
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._pause_s)
            if self._held and asyncio.get_running_loop().time() >= self._retry_held_at:
                self._release_held()
            are_retried = self._retried > 0
            if burst:
                for _ in range(BURST_ITERATIONS):
                    await asyncio.sleep(0)
            batch = self._next_batch()
            burst = len(batch) >= BURST
            try:
                self._writing_since = batch[0][2] if batch else asyncio.get_running_loop().time()
                written = await self._write_batch(batch, wait=not are_retried)
            except BaseException:
                self._cursors.failed()
                self._refuse(batch)
                raise
            finally:
                self._writing_since = None
            if written:
                self._pause_s = 0.0
            elif self._closing.is_set():
                self._refuse_all()
                return
            else:
                self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s or PAUSE_S)

    async def _wait(self) -> None:
        """Until there is something to write, or to try again."""
        self._wake.clear()
        if self._held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._retry_held_at):
                    await self._wake.wait()
        elif not self._closing.is_set():
            await self._wake.wait()

    def _refuse(self, changes: Iterable[Queued], reason: str = "") -> None:
        """Answer changes that will not be written with `unavailable`."""
        for _, future, _ in changes:
            if not future.done():
                _fail(future, ActionError(ErrorCode.UNAVAILABLE, cannot_write(reason)))

    def _refuse_all(self) -> None:
        self._refuse(self._queue)
        self._queue.clear()
        self._refuse(self._held.release()[1])

    def _next_batch(self) -> list[Queued]:
        batch: list[Queued] = []
        size = names = 0
        while self._queue and len(batch) < MAX_BATCH:
            queued = self._queue[0]
            operation_size = queued[0].size
            if not self._held.hold_behind_others(queued):
                size += operation_size
                names += queued[0].names
                if batch and (size > MAX_BATCH_BYTES or names > MAX_BATCH_NAMES):
                    break
                batch.append(queued)
            self._queue.popleft()
            self._queued_bytes -= operation_size
            self._retried -= 1
        return batch

    def _hold(self, batch: Sequence[Queued], rooms: Collection[int]) -> list[Queued]:
        """Hold the changes to locked rooms, and try them again after a while; returns the remaining ones."""
        self._retry_held_at = asyncio.get_running_loop().time() + RETRY_HELD_S
        return self._held.hold(batch, rooms)

    def _release_held(self) -> None:
        """Put held changes in front of the queue, to be tried again; refuse those that have waited for too long."""
        now = asyncio.get_running_loop().time()
        retried, late = self._held.release(now - HELD_S)
        if late:
            self._refused = now, cannot_write()
            self._refuse(late)
        self._queue.extendleft(reversed(retried))
        self._queued_bytes += sum(operation.size for operation, _, _ in retried)
        self._retried = len(retried)

    async def _write_batch(self, batch: Sequence[Queued], *, wait: bool) -> bool:
        """Write and answer a batch, with the cursors that have moved. False: the store is away.

        Changes to locked rooms are held. `wait`: False if the batch begins with changes that were held: they have
        waited, and no cursors are written.
        """
        if self._db.full:
            await self._write_changes([queued for queued in batch if queued[0].vital], None, Write.VITAL)
            batch = [queued for queued in batch if not queued[0].vital]
        loop = asyncio.get_running_loop()
        moved = None
        self._more_moved = False
        if wait and self._cursors and loop.time() >= self._cursors_at:
            moved = self._cursors.take()
            self._more_moved = bool(self._cursors)
        # A single message, and nothing else queued: take the shortest way to the acknowledgement.
        is_brief = moved is None and len(batch) == 1 and isinstance(batch[0][0], AppendMessage) and not self._queue
        how = Write.BRIEF if is_brief else Write.NORMAL
        try:
            written = await self._write_changes(batch, moved, how, wait)
            if moved is not None:
                (self._cursors.written if written else self._cursors.failed)()
            return written
        except Locked as error:
            self._cursors.failed()
            if not error.rooms and self._cursors:  # a cursor waits for a row
                self._cursors_at = loop.time() + CURSOR_INTERVAL_S
                self._more_moved = False
            else:
                batch = self._hold(batch, error.rooms)
        while batch:
            try:
                return await self._write_changes(batch, None, Write.NORMAL)
            except Locked as error:
                if not error.rooms and not any(operation.lock_keys for operation, _, _ in batch):
                    self._refuse(batch)
                    break
                batch = self._hold(batch, error.rooms)
        if self._closing.is_set():
            self._refuse(self._held.release()[1])
        return True

    async def _write_changes(
        self, batch: Sequence[Queued], moved: Moved | None, how: Write, wait: bool = True
    ) -> bool:
        """Write and answer changes, together or else one by one, with cursors. False: the store is away.

        Raises `Locked`, with nothing answered.
        """
        if not batch and moved is None:
            return True
        try:
            return await self._write_together(batch, moved, how, wait)
        except NotWritten:
            if moved is not None:
                # The cursors are a likelier cause than the changes, which were checked.
                written = await self._write_changes(batch, None, how)
                if written:
                    await self._write_cursors(moved)
                return written
        written = True
        for queued in batch:
            try:
                if not self._held.hold_behind_others(queued):
                    written &= await self._write_together([queued], None, how)
            except Locked:
                self._refuse(self._hold([queued], ()))
            except NotWritten as failure:
                logger.error("a change could not be written", exc_info=failure.__cause__)
                self._answer([queued], [(False, failure.__cause__)])
        return written

    async def _write_together(
        self, batch: Sequence[Queued], moved: Moved | None, how: Write, wait: bool = True
    ) -> bool:
        """Write and answer a batch in one transaction. False: the store is away, and the batch was refused.

        Raises `Locked` or `NotWritten`, with nothing answered.
        """
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        operations = [operation for operation, _, _ in batch]
        try:
            outcomes, notices = await self._writer.write(operations, moved, how, wait)
        except Locked:
            raise
        except StoreUnavailable as error:
            if batch:
                logger.error("cannot write: %s", error)
                # If the connection was lost during COMMIT, the batch may have been written.
                self._fanout.suspect({key for operation in operations for key in operation.room_keys})
                self._refused = loop.time(), cannot_write(error.reason)
                self._refuse(batch, error.reason)
            return False
        except Exception as error:
            raise NotWritten from error
        self.transactions += 1
        self._observer.committed(len(batch), time.perf_counter() - started)
        if batch:
            self._refused = -math.inf, ""
            self._wrote_at = loop.time()
        self._answer(batch, outcomes)
        # The futures have just scheduled the callbacks that acknowledge; publish after them.
        loop.call_soon(self._publish, notices)
        return True

    def _answer(self, batch: Sequence[Queued], outcomes: Sequence[Outcome]) -> None:
        for (operation, future, _), (succeeded, result) in zip(batch, outcomes, strict=True):
            if not succeeded and isinstance(result, ActionError) and result.code is ErrorCode.TOKEN_REVOKED:
                self._fanout.suspect_session(operation.actor.user_key, operation.actor.session_key)
            if future.cancelled():
                continue
            if succeeded:
                future.set_result(result)
            else:
                _fail(future, result)

    async def _write_cursors(self, moved: Moved) -> None:
        """Write cursors, at least one of which cannot be written: drop that one, keep the others."""
        try:
            _, notices = await self._writer.write((), moved, Write.NORMAL, wait=True)
        except StoreUnavailable:
            self._cursors.put_back(moved)
        except Exception:
            halves = moved.halves()
            if not halves:
                logger.exception("a cursor cannot be written, and is dropped: %s", moved)
            for half in halves:
                await self._write_cursors(half)
        else:
            asyncio.get_running_loop().call_soon(self._publish, notices)

    def _publish(self, notices: Sequence[Notice]) -> None:
        self._fanout.publish(*notices)
        appended = {notice.room_key for notice in notices if isinstance(notice, Appended)}
        for follower in self._followers:
            follower.appended(appended)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    future.set_exception(error)
    future.exception()  # mark it as retrieved: its caller may be gone


def cannot_write(reason: str = "") -> str:
    """The text of the error `unavailable`; `reason` may be empty."""
    return f"the store cannot be written to now{reason and ': '}{reason}"
