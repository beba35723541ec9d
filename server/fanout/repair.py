"""Repairs: reads the entries whose notices were lost from the database, and delivers them.

A failed attempt is repeated: a room does not stay behind its log because the store was away for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from db.engine import Database, StoreUnavailable
from db.queries import log, rooms
from server.fanout.connection import Connection
from server.fanout.live_room import LiveRoom
from server.supervision import spawn

logger = logging.getLogger("tidings.repair")

REPAIR_PAGE = 500
REPAIR_BYTES = 256 * 1024
"""A repair waits for the connections to drain after each of these."""
REPAIR_PATIENCE_S = 1.0
"""The longest such wait: a connection that does not read must not delay the others."""
RETRY_S = 1.0
"""The pause before another attempt after a failure."""


class Repairs:
    def __init__(
        self,
        database: Database,
        live_rooms: Mapping[int, LiveRoom],
        removed: Callable[[Connection, str, int], None],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        """`live_rooms` are the hub's, by key. `removed`: as of `LiveRoom.deliver`."""
        self._db = database
        self._rooms = live_rooms
        self._removed = removed
        self._retry_s = retry_s
        self._suspected: set[int] = set()
        self._checking: asyncio.Task[None] | None = None

    def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        for live_room in self._rooms.values():
            if live_room.repairing is not None:
                live_room.repairing.cancel()

    async def settled(self) -> None:
        """Wait until the heads of all suspected rooms are known."""
        while self._checking is not None:
            await asyncio.wait([self._checking])

    def suspect(self, room_keys: Iterable[int]) -> None:
        """As `Fanout.suspect`."""
        self._suspected.update(key for key in room_keys if key in self._rooms)
        if self._suspected and self._checking is None:
            self._checking = spawn(self._check_suspected(), "check of suspected rooms")

    async def _check_suspected(self) -> None:
        try:
            while self._suspected:
                suspected, self._suspected = self._suspected, set()
                try:
                    await self.compare_heads(list(suspected))
                except Exception as error:
                    if not isinstance(error, StoreUnavailable):
                        logger.exception("the heads of rooms could not be compared; it is tried again")
                    self._suspected |= suspected & self._rooms.keys()
                    await asyncio.sleep(self._retry_s)
        finally:
            self._checking = None

    async def compare_heads(self, room_keys: Sequence[int]) -> None:
        """Compare rooms with the database, and repair those that lack entries. Raises as `Database.read`."""
        heads = await self._db.read(lambda conn: rooms.heads(conn, room_keys))
        for key, head in heads.items():
            live_room = self._rooms.get(key)
            if live_room is not None:
                live_room.known_head = max(live_room.known_head, head)
                if live_room.head < live_room.known_head:
                    self.repair(live_room)

    def repair(self, live_room: LiveRoom) -> None:
        """Start to read the entries that the room lacks, unless that is under way."""
        if live_room.repairing is None:
            live_room.repairing = spawn(self._repair(live_room), "repair of a room")

    async def _repair(self, live_room: LiveRoom) -> None:
        """Read and deliver the entries from the room's head up to `known_head`."""
        room_id = live_room.name.room_id
        try:
            while live_room.head < live_room.known_head:
                try:
                    await self._repair_page(live_room)
                except StoreUnavailable:
                    logger.warning("room %s: missed entries cannot be read; it is tried again", room_id)
                    await asyncio.sleep(self._retry_s)
                except Exception:
                    logger.exception("room %s: missed entries cannot be delivered; it is tried again", room_id)
                    await asyncio.sleep(self._retry_s)
        finally:
            live_room.repairing = None

    async def _repair_page(self, live_room: LiveRoom) -> None:
        key = live_room.name.key
        missed = await self._db.read(
            partial(log.after, room_key=key, seq=live_room.head, limit=REPAIR_PAGE, max_bytes=REPAIR_BYTES)
        )
        if not missed:
            live_room.known_head = live_room.head
            return
        if missed[0].seq > live_room.head + 1:
            live_room.skip(missed[0].seq - 1)
        live_room.deliver(missed, self._removed)
        if live_room.head < live_room.known_head and live_room.live:
            draining = [asyncio.ensure_future(connection.link.drain()) for connection in live_room.live]
            _, late = await asyncio.wait(draining, timeout=REPAIR_PATIENCE_S)
            for task in late:
                task.cancel()
