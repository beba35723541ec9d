"""Retention: removes entries that are too old, and private rooms without members.

It works in small steps, each a transaction of its own, so that nobody waits long for the store. What holds:

* a room's log is cut at its beginning only, and `room.first_seq` moves in the same transaction;
* unread counts stay right: they are differences of running counts, and the room knows how many messages it has lost;
* a device whose cursor is before the first remaining entry finds the room in `ready.reset`; a connection that is
  replaying the room at that moment is closed, and finds the same when it comes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database
from db.queries import retention, rooms
from db.queries.rows import RoomRow
from server.contract.models import RoomKind
from server.supervision import Periodic

logger = logging.getLogger("tidings.retention")

RETENTION_S = 600.0
"""The interval at which old entries are removed."""
STEP = 500
"""Entries that one transaction removes, at most."""
ROOMS = 1000
"""Rooms that are looked at in one go."""
DAY_MS = 24 * 3600 * 1000
AWAY_DAYS = 30
"""A device that has been offline for longer gets no `room_removed` for rooms that were removed."""


class Retention(Periodic):
    def __init__(self, database: Database, days: Mapping[RoomKind, int], interval_s: float = RETENTION_S) -> None:
        """`days` that the entries of a kind of room are kept; 0: for ever."""
        super().__init__(interval_s, logger, "old entries could not be removed")
        self._db = database
        self._days = {kind: kept for kind, kept in days.items() if kept}
        self._nobodys: set[int] = set()
        """Rooms that were nobody's the last time."""

    async def _round(self) -> None:
        await self.run_once(now_ms())

    async def run_once(self, now: int) -> None:
        """Remove everything that is too old at `now`, ms since the epoch."""
        before_that, self._nobodys = self._nobodys, set()
        newest = await self._db.read(retention.newest_room)
        for after in range(0, newest, ROOMS):
            upto = after + ROOMS
            for kind, days in self._days.items():
                before = now - days * DAY_MS
                outlived = partial(retention.outlived, kind=kind, before=before, after=after, upto=upto)
                for key in await self._db.read(outlived):
                    await self._steps(partial(_trim, room_key=key, before=before))
            for key in await self._db.read(partial(retention.nobodys, after=after, upto=upto)):
                self._nobodys.add(key)
                await self._steps(partial(_empty, room_key=key))
                # Not in the first round: a cursor that has moved is written a little later, and must find its room.
                if key in before_that:
                    await self._steps(partial(_drop, room_key=key, unseen_since=now - AWAY_DAYS * DAY_MS))

    async def _steps(self, step: partial[bool]) -> None:
        """Run a step until it returns that nothing is left. Other changes are written between two steps."""
        while not self._stopping.is_set() and await self._db.write(step):
            pass


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _trim(conn: Transaction, room_key: int, before: int) -> bool:
    room = rooms.lock(conn, [room_key]).get(room_key)
    return room is not None and retention.trim(conn, room, before, STEP) == STEP


def _nobodys(conn: Transaction, room_key: int) -> RoomRow | None:
    """Lock a room; None if somebody has come to it."""
    room = rooms.lock(conn, [room_key]).get(room_key)
    return room if room is not None and room.is_private and not room.members else None


def _empty(conn: Transaction, room_key: int) -> bool:
    room = _nobodys(conn, room_key)
    if room is None:
        return False
    retention.close(conn, room_key)
    return retention.trim(conn, room, None, STEP) == STEP


def _drop(conn: Transaction, room_key: int, unseen_since: int) -> bool:
    room = _nobodys(conn, room_key)
    return room is not None and retention.drop(conn, room, unseen_since, STEP)
