"""Delivers the outbox: the events that applications publish by SQL, in transactions of their own (PostgreSQL).

What holds:

* an event is delivered after the commit, and never if the transaction is rolled back;
* the events of a room are in the order of the commits, those of one transaction in the order of its calls
  (`tidings_db.outbox_functions`);
* each is delivered once: it is deleted in the transaction that appends it to the log, whatever happens to this node;
* several nodes may deliver concurrently: the lock of the room lets one of them see the rows that the other has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError
from tidings.log.journal import Journal
from tidings.log.messages import AppendEvent
from tidings.log.transaction import Operation, Work
from tidings.supervision import Loop
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import log, outbox
from tidings_db.queries.outbox import OutboxRow
from tidings_db.queries.rows import text_bytes

logger = logging.getLogger("tidings.outbox")

POLL_S = 1.0
"""The interval at which a node looks for rows if nothing wakes it."""
STEP_ROWS = 200
STEP_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class DeliverRows(Operation[int]):
    """Move rows of one room to its log. The result is how many were dropped."""

    rows: Sequence[OutboxRow]

    @property
    def size(self) -> int:
        return sum(512 + text_bytes(row.data) for row in self.rows)

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        rows = outbox.take(work.conn, self.rows)
        room = work.rooms.get(self.room_key)
        if room is None or (room.row.is_private and not room.row.members):
            return len(rows)
        work.save()  # what this batch has appended may have the same `client_id`
        sender = self.actor.user_key
        work.sent |= log.sent(
            work.conn, [(self.room_key, sender, row.client_id) for row in rows if row.client_id is not None]
        )
        dropped = 0
        for row in rows:
            try:
                AppendEvent(self.actor, self.room_key, row.event, row.client_id, None, row.data).apply(work)
            except ActionError:
                dropped += 1
        return dropped


class Outbox:
    def __init__(self, database: Database, journal: Journal, sender: Callable[[], Awaitable[Principal]]) -> None:
        """`sender`: returns the account that sends the events; called before the first one."""
        self._db = database
        self._journal = journal
        self._find_sender = sender
        self._sender: Principal | None = None
        self._delivering: set[int] = set()
        """Rooms whose first rows the journal is writing."""
        self._wake = asyncio.Event()
        self._closing = False
        self.loop = Loop("tidings.outbox", self._run)

    async def start(self) -> None:
        self.loop.start()

    async def stop(self) -> None:
        self._closing = True
        self._wake.set()
        await self.loop.ended()

    def wake(self) -> None:
        """Look for rows now."""
        self._wake.set()

    async def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            with contextlib.suppress(StoreUnavailable, ActionError):
                await self._deliver()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _deliver(self) -> None:
        """Hand over the first rows of each room to the journal."""
        rows: dict[int, list[OutboxRow]] = defaultdict(list)
        for row in await self._db.read(lambda conn: outbox.first(conn, self._delivering, STEP_ROWS, STEP_BYTES)):
            rows[row.room_key].append(row)
        if rows and self._sender is None:
            self._sender = await self._find_sender()
        for room_key, of_room in rows.items():
            assert self._sender is not None
            delivered = self._journal.hand_over(DeliverRows(self._sender, room_key, of_room))
            self._delivering.add(room_key)
            delivered.add_done_callback(lambda future, room_key=room_key: self._delivered(room_key, future))  # type: ignore[misc]

    def _delivered(self, room_key: int, future: asyncio.Future[int]) -> None:
        self._delivering.discard(room_key)
        error = future.exception()
        if error is not None and not isinstance(error, ActionError):
            logger.error("events of an outbox cannot be delivered now", exc_info=error)
            return
        self._wake.set()  # there may be more; after a failure of the store, the journal pauses
        if error is None and (dropped := future.result()):
            logger.warning("%d events of an outbox are dropped: the room was deleted, or refuses them", dropped)
