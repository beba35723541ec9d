"""The journal: one writer per node, many changes per commit.

Changes queue up while a commit is under way; the next transaction takes all of them. What holds:

* a change is answered and published after its commit; an append is answered first, then published;
* changes take effect in the order in which they were handed over, and a room's entries are published in seq order;
* a bad change fails alone: if a batch cannot be written, each of its changes is tried by itself;
* once handed over, a change is not interrupted by whoever waits for it going away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from db.engine import Database, StoreUnavailable
from db.queries import log, members, progress, rooms
from server.contract.errors import ActionError, ErrorCode
from server.delivery.broker import Appended, Broker, Channel, Notice, RoomChannel, Transient
from server.delivery.cursors import RECEIPT_MEMBERS, Cursors, Moved, save
from server.delivery.hub import Hub
from server.delivery.operations import Edit, Operation, RoomLog, Send, Work
from server.delivery.views import receipt

logger = logging.getLogger("tidings.journal")
T = TypeVar("T")

MAX_BATCH = 1000
MAX_BATCH_BYTES = 512 * 1024
"""What one batch publishes to a room has to fit into the queue of a connection that keeps up."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
CURSOR_INTERVAL_S = 1.0
"""Cursors that no batch takes along are written so often."""

Outcome = tuple[bool, Any]
"""(succeeded, result or exception) of one operation."""


class Journal:
    def __init__(self, database: Database, broker: Broker, hub: Hub, cursors: Cursors) -> None:
        self._db = database
        self._broker = broker
        self._hub = hub
        self._cursors = cursors
        self._queue: deque[tuple[Operation[Any], asyncio.Future[Any]]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self.committed: Callable[[int, float], None] = lambda changes, seconds: None
        """Called after each commit with the number of its changes, and its time; for who keeps count."""
        self._ticker: asyncio.TimerHandle | None = None
        self.appended: Callable[[Iterable[int]], None] = lambda room_keys: None
        """Called with the rooms that have new entries, after their publication; for who follows the logs."""

    async def start(self) -> None:
        self._tick()
        self._writer = asyncio.create_task(self._run(), name="journal")

    async def stop(self) -> None:
        """Refuse new changes, write what is queued, and the cursors."""
        self._closing = True
        if self._ticker is not None:
            self._ticker.cancel()
        self._wake.set()
        if self._writer is not None:
            await self._writer

    @property
    def alive(self) -> bool:
        return self._writer is not None and not self._writer.done()

    @property
    def waiting(self) -> int:
        """Changes that wait for the next commit."""
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        return self._queued_bytes

    def hand_over(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue a change; its place in the order is taken now. The future gives its result, or `ActionError`.

        Raises `unavailable` when the node is closing, or the queue is full.
        """
        if self._closing:
            raise ActionError(ErrorCode.UNAVAILABLE, "the server is shutting down")
        if self._queued_bytes > MAX_QUEUED_BYTES:
            raise ActionError(ErrorCode.UNAVAILABLE, "too much is waiting to be written")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self._queued_bytes += operation.size
        self._wake.set()
        return future

    async def write(self, operation: Operation[T]) -> T:
        """Make a change and wait until it is durable."""
        return await asyncio.shield(self.hand_over(operation))

    def _tick(self) -> None:
        """Have cursors written that no batch has taken along."""
        if self._cursors:
            self._wake.set()
        self._ticker = asyncio.get_running_loop().call_later(CURSOR_INTERVAL_S, self._tick)

    async def _run(self) -> None:
        while not (self._closing and not self._queue and not self._cursors):
            if not self._queue:
                self._wake.clear()
                if not self._closing:
                    await self._wake.wait()
            batch = self._next_batch()
            # Nobody to wait for, and nobody who waits: then the way to the acknowledgement may be the shortest.
            brief = len(batch) == 1 and not self._queue and isinstance(batch[0][0], Send)
            written = await self._write_batch(batch, brief=brief)
            if not written and not batch and self._closing:
                break  # cursors may be lost: it costs a repeat

    def _next_batch(self) -> list[tuple[Operation[Any], asyncio.Future[Any]]]:
        batch: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH:
            size += self._queue[0][0].size
            if batch and size > MAX_BATCH_BYTES:
                break
            self._queued_bytes -= self._queue[0][0].size
            batch.append(self._queue.popleft())
        return batch

    async def _write_batch(
        self, batch: Sequence[tuple[Operation[Any], asyncio.Future[Any]]], *, brief: bool = False
    ) -> bool:
        operations = [operation for operation, _ in batch]
        moved = self._cursors.take()
        started = time.perf_counter()
        try:
            outcomes, notices = await self._db.write(
                lambda conn: commit(conn, operations, moved), brief=brief and not moved
            )
        except StoreUnavailable as error:
            self._cursors.failed()
            if batch:
                logger.error("cannot write: %s", error)
            # A connection lost during COMMIT leaves it open whether the batch is in.
            self._hub.suspect({key for operation in operations if (key := operation.room_key) is not None})
            unavailable = ActionError(ErrorCode.UNAVAILABLE, "the store cannot be written to now")
            outcomes, notices = [(False, unavailable)] * len(batch), []
        except Exception as error:
            self._cursors.failed()
            if len(batch) <= 1:
                logger.exception("a change could not be written")
                outcomes, notices = [(False, error)] * len(batch), []
                if not batch:
                    self._cursors.take()
                    self._cursors.written()
            else:
                for one in batch:
                    await self._write_batch([one])
                return True
        else:
            self._cursors.written()
            self.committed(len(batch), time.perf_counter() - started)
        for (_, future), (succeeded, result) in zip(batch, outcomes, strict=True):
            if future.cancelled():
                continue
            if succeeded:
                future.set_result(result)
            else:
                future.set_exception(result)
                future.exception()  # whoever asked may be gone
        # Whoever waits for an answer is woken by the callbacks scheduled just now; publish after them.
        asyncio.get_running_loop().call_soon(self._publish, notices)
        return bool(outcomes) or not batch

    def _publish(self, notices: Sequence[tuple[Channel, Notice]]) -> None:
        for channel, notice in notices:
            try:
                self._broker.publish(channel, notice)
            except Exception:
                logger.exception("a notice could not be delivered")
        self.appended({notice.room_key for _, notice in notices if isinstance(notice, Appended)})


def commit(
    conn: Connection, operations: Sequence[Operation[Any]], moved: Moved
) -> tuple[list[Outcome], list[tuple[Channel, Notice]]]:
    """The journal's transaction: apply the operations in order; returns their outcomes and what to publish."""
    work = Work(conn, now=time.time_ns() // 1_000_000)
    _load(work, operations)
    if moved:
        save(conn, moved)  # before a new membership ends the cursors of an earlier one
    outcomes: list[Outcome] = []
    for operation in operations:
        try:
            outcomes.append((True, operation.apply(work)))
        except ActionError as error:
            outcomes.append((False, error))
    notices = work.finish()
    for row in progress.receipts(conn, sorted(moved.receipts)) if moved.receipts else ():
        if row.members <= RECEIPT_MEMBERS:
            notices.append((RoomChannel(row.room_key), Transient(row.room_key, "receipt", receipt(row))))
    return outcomes, notices


def _load(work: Work, operations: Sequence[Operation[Any]]) -> None:
    """Lock the rooms in key order, then read in bulk what the operations will look at."""
    keys = {key for operation in operations if (key := operation.room_key) is not None}
    if not keys:
        return
    work.rooms = {key: RoomLog(row) for key, row in rooms.lock(work.conn, list(keys)).items()}
    pairs = {
        (key, user)
        for operation in operations
        if (key := operation.room_key) is not None
        for user in operation.users()
    }
    work.standings = members.standings(work.conn, list(pairs), work.now)
    sends = [operation for operation in operations if isinstance(operation, Send)]
    written: list[Send | Edit] = [*sends, *(one for one in operations if isinstance(one, Edit))]
    named = {
        (one.room_key, name) for one in written if one.mentions and one.room_key is not None for name in one.mentions
    }
    if named:
        work.named = members.by_name(work.conn, list(named))
    claims = {
        (send.room_key, send.actor.user_key, send.client_id)
        for send in sends
        if send.client_id is not None and send.room_key is not None
    }
    if claims:
        work.sent = log.sent(work.conn, list(claims))
    replies = {
        (send.room_key, send.reply_to) for send in sends if send.reply_to is not None and send.room_key is not None
    }
    if replies:
        work.known_messages = log.known_messages(work.conn, list(replies))
