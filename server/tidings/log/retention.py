"""Retention: removes entries that are too old, and private rooms without members.

It works in small steps, each a transaction of its own, so that nobody waits long for the store, and waits for no room
that is locked. What holds:

* a room's log is cut at its beginning only, and `room.first_seq` moves in the same transaction;
* unread counts stay right: they are differences of running counts, and the room knows how many messages it has lost;
* a device whose cursor is before the first remaining entry finds the room in `ready.reset`; a connection that is
  replaying the room at that moment is closed, and finds the same when it comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.models import RoomKind
from tidings.supervision import Periodic
from tidings_db.engine import Database, Locked, Locks
from tidings_db.queries import retention, rooms
from tidings_db.queries.rows import RoomRow

logger = logging.getLogger("tidings.retention")

RETENTION_S = 600.0
"""The interval at which old entries are removed."""
STEP = 100
"""The most entries that one transaction removes: it holds up what is sent to the room."""
LOCKED_S = 0.05
"""The pause before another attempt at a room that is locked on PostgreSQL."""
ATTEMPTS = 20
"""A room that is locked each time is left to the next round."""
ROOMS = 1000
"""Rooms that one query covers."""
DAY_MS = 24 * 3600 * 1000
AWAY_DAYS = 30
"""A device that has been offline for longer gets no `room_removed` for rooms that were removed."""


class Retention(Periodic):
    def __init__(self, database: Database, days: Mapping[RoomKind, int], interval_s: float = RETENTION_S) -> None:
        """`days`: for how many days the entries of each kind of room are kept; 0: for ever."""
        super().__init__(interval_s, logger, "old entries could not be removed")
        self._db = database
        self._days = {kind: count for kind, count in days.items() if count}
        self._abandoned: set[int] = set()
        """Private rooms without members in the last round."""

    async def _round(self) -> None:
        await self.run_once(now_ms())

    async def run_once(self, now: int) -> None:
        """Remove everything that is too old at `now`, ms since the epoch."""
        abandoned_before, self._abandoned = self._abandoned, set()
        newest = await self._db.read(retention.newest_room)
        for after in range(0, newest, ROOMS):
            upto = after + ROOMS
            for kind, days in self._days.items():
                before = now - days * DAY_MS
                expired = partial(retention.outlived, kind=kind, before=before, after=after, upto=upto)
                for key in await self._db.read(expired):
                    await self._steps(key, partial(_trim, before=before))
            for key in await self._db.read(partial(retention.abandoned, after=after, upto=upto)):
                self._abandoned.add(key)
                await self._steps(key, _empty)
                # Not in the first round: cursors are written behind, and the room must still exist for them.
                if key in abandoned_before:
                    await self._steps(key, partial(_drop, unseen_since=now - AWAY_DAYS * DAY_MS))

    async def _steps(self, room_key: int, step: Callable[..., bool]) -> None:
        """Run a step in a room until it returns False: nothing is left. Others write between two steps."""
        attempts = 0
        while not self._stopping.is_set() and attempts < ATTEMPTS:
            try:
                if not await self._db.write(partial(step, room_key=room_key), locks=Locks([room_key], wait=False)):
                    break
                attempts = 0
            except Locked:
                attempts += 1
                await asyncio.sleep(LOCKED_S)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _trim(conn: Transaction, room_key: int, before: int) -> bool:
    room = rooms.lock(conn, [room_key]).get(room_key)
    return room is not None and retention.trim(conn, room, before, STEP) == STEP


def _lock_abandoned(conn: Transaction, room_key: int) -> RoomRow | None:
    """Lock a room; None if it has a member again."""
    room = rooms.lock(conn, [room_key]).get(room_key)
    return room if room is not None and room.is_private and not room.members else None


def _empty(conn: Transaction, room_key: int) -> bool:
    room = _lock_abandoned(conn, room_key)
    if room is None:
        return False
    retention.close(conn, room_key)
    return retention.trim(conn, room, None, STEP) == STEP


def _drop(conn: Transaction, room_key: int, unseen_since: int) -> bool:
    room = _lock_abandoned(conn, room_key)
    return room is not None and retention.drop(conn, room, unseen_since, STEP)
