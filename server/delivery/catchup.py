"""Catch-up: what a device missed, room by room in seq order, joining the live stream without gap or repeat.

A connection reads entries after its position in pages and writes them as the transport drains. In the step of the
event loop in which its position equals the hub's head, it joins the room's live set. Until then the hub writes
nothing of that room to it, so no lock is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database, StoreUnavailable
from db.queries import log, rooms
from db.queries.log import Span
from db.queries.rows import EntryRow, RoomRow
from server.contract.errors import CloseReason
from server.contract.models import timestamp
from server.delivery.broker import Joined
from server.delivery.connection import Connection
from server.delivery.cursors import Cursors
from server.delivery.frames import Batch, events
from server.delivery.hub import Hub
from server.delivery.views import receipt

logger = logging.getLogger("tidings.catchup")

PAGE = 500
"""Entries read and written at once; also how far a replay may be ahead of its transport."""


class CatchUp:
    def __init__(self, database: Database, hub: Hub, cursors: Cursors) -> None:
        self._db = database
        self._hub = hub
        self._cursors = cursors
        self._tasks: set[asyncio.Task[None]] = set()
        hub.catch_up = self._catch_up_with

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def start(self, connection: Connection, brought: Mapping[str, int]) -> None:
        """Begin the replay of a connection that was just accepted; `brought` are the client's own cursors."""
        connection.replay = self._spawn(connection, self._arrive(connection, brought))

    def _spawn(self, connection: Connection, work: Coroutine[None, None, int | None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(connection, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, connection: Connection, work: Coroutine[None, None, int | None]) -> None:
        """A replay that fails must not leave a connection that looks alive and has a gap."""
        try:
            await work
        except Exception as error:
            known = isinstance(error, StoreUnavailable)
            logger.error("a replay failed: %s", error, exc_info=None if known else error)
            connection.link.close(CloseReason.SHUTDOWN)  # it comes back and gets everything then

    def _catch_up_with(self, connection: Connection, room_key: int) -> None:
        self._spawn(connection, self._replay(connection, [room_key]))

    async def _arrive(self, connection: Connection, brought: Mapping[str, int]) -> None:
        hub, device_key = self._hub, connection.device_key
        user_key, since = connection.principal.user_key, connection.seen_at
        mine, gone, read = await self._db.read(
            lambda conn: (
                rooms.of_device(conn, user_key, device_key),
                rooms.no_longer_in(conn, user_key, device_key),
                [] if since is None else log.receipts_since(conn, user_key, since),
            )
        )
        if connection.has_ended():
            return
        reset: dict[int, RoomRow] = {}
        confirmed: dict[int, int] = {}
        behind: list[int] = []
        unheard: list[int] = []
        for room, joined_seq, cursor in mine:
            known = max(self._cursors.known(device_key, room.key), -1 if cursor is None else cursor)
            if known < 0 and room.room_id in brought:
                known = joined_seq
            elif known < 0:
                unheard.append(room.key)
                known = joined_seq
            position = brought.get(room.room_id, known)
            if position > room.last_seq:
                reset[room.key], position = room, room.last_seq
            elif room.room_id in brought:
                confirmed[room.key] = position
            if not hub.attach(connection, room, position):
                behind.append(room.key)
        for notice in connection.deferred or ():
            hub.apply(connection, notice)
        connection.deferred = None
        self._cursors.advance(connection, confirmed)
        mine_ids = {room.room_id for room, _, _ in mine}
        # The same answer for a room that was left and for one that never was: an id tells a stranger nothing.
        for room_id in dict.fromkeys([room_id for _, room_id in gone] + sorted(brought.keys() - mine_ids)):
            connection.emit("room_removed", {"room_id": room_id, "reason": "gone"})
        if unheard:
            await self._tell_added(connection, unheard)
        if reset or gone:
            await self._mend_cursors(device_key, reset, [key for key, _ in gone])
        replayed = await self._replay(connection, behind)
        for row in read:
            connection.emit("receipt", receipt(row))
        connection.emit(
            "ready",
            {
                "username": connection.principal.username,
                "device": connection.device,
                "replayed": replayed,
                "reset": sorted(room.room_id for room in reset.values()),
                "token_expires_at": timestamp(connection.principal.expires_at),
            },
        )

    async def _tell_added(self, connection: Connection, room_keys: Sequence[int]) -> None:
        """Tell a device of the rooms that its user joined while it was away."""
        user_key = connection.principal.user_key
        found = await self._db.read(lambda conn: rooms.snapshots(conn, user_key, room_keys))
        for key, snapshot in found.items():
            if key in connection.rooms:
                self._hub.tell_added(connection, Joined(user_key, snapshot))
                # So that the device has a cursor, also of a room without entries.
                connection.sent(key, connection.rooms[key])

    async def _mend_cursors(self, device_key: int, reset: Mapping[int, RoomRow], gone: Sequence[int]) -> None:
        def mend(conn: Transaction) -> None:
            if reset:
                log.reset_cursors(conn, device_key, {key: room.last_seq for key, room in reset.items()})
            rooms.forget_cursors(conn, device_key, gone)

        try:
            await self._db.write(mend)
        except StoreUnavailable:
            logger.warning("cursors of device %s could not be mended; the client is told again", device_key)

    async def _replay(self, connection: Connection, behind: Sequence[int]) -> int:
        """Send what the rooms hold after the connection's positions until it is live in each; returns how many."""
        replayed = 0
        waiting = list(behind)
        while waiting and not connection.has_ended():
            wanted = self._next_page(connection, waiting)
            user_key = connection.principal.user_key
            found: dict[int, list[EntryRow]] = {}
            for entry in await self._db.read(partial(log.spans, user_key=user_key, wanted=wanted)):
                found.setdefault(entry.room_key, []).append(entry)
            for span in wanted:
                page = found.get(span.room_key, [])
                if connection.has_ended():
                    break
                # Asked again after each wait: the user may have been removed, or have left and come back.
                if page and connection.rooms.get(span.room_key) == page[0].seq - 1:
                    name = self._hub.name(span.room_key)
                    connection.link.write(Batch(events(name, page, user_key)))
                    connection.sent(span.room_key, page[-1].seq)
                    replayed += len(page)
                elif span.upto > span.after:
                    waiting.remove(span.room_key)
                    continue
                if span.room_key not in connection.rooms or self._hub.go_live(connection, span.room_key):
                    waiting.remove(span.room_key)
            await connection.link.drain()
        return replayed

    def _next_page(self, connection: Connection, waiting: list[int]) -> list[Span]:
        """As many rooms as fit a page, each up to the head it has now."""
        wanted: list[Span] = []
        room_left = PAGE
        for key in list(waiting):
            position = connection.rooms.get(key)
            if position is None:
                waiting.remove(key)
                continue
            upto = min(self._hub.head(key), position + room_left)
            wanted.append(Span(key, position, upto))
            room_left -= upto - position
            if room_left <= 0:
                break
        return wanted
