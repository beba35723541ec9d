"""Catch-up: what a device missed, room by room in seq order, joining the live stream without gap or repeat.

A connection reads entries after its position in pages and writes them as the transport drains. In the step of the
event loop in which its position equals the hub's head, it joins the room's live set. Until then the hub writes
nothing of that room to it, so no lock is needed. What it holds in memory is bounded in bytes, however much was
missed, and however large: a page as read, and what the transport has not taken yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database, StoreUnavailable
from db.queries import log, progress, rooms, users
from db.queries.log import Span
from db.queries.progress import MemberRoom, Standpoint
from db.queries.rows import chunked
from db.together import Together
from server.contract.errors import CloseReason
from server.contract.models import timestamp
from server.delivery.broker import Joined
from server.delivery.connection import Connection
from server.delivery.cursors import Cursors
from server.delivery.frames import Batch, Chunk, Codec, RoomName, chunks
from server.delivery.hub import Hub
from server.delivery.presence import Presence
from server.delivery.views import receipt

logger = logging.getLogger("tidings.catchup")

PAGE = 1000
"""Entries read at once, at most."""
FIRST_PAGE = 100
PAGE_BYTES = 512 * 1024
"""Bytes read at once: no entry more, when there are so many."""
WRITE_BYTES = 128 * 1024
"""Bytes written before the transport is waited for."""
TELL = 50
"""Rooms that a device is told of at once."""


class Page(NamedTuple):
    covered: list[Span]
    """The spans that were asked for, as far as they were read"""
    chunks: list[Chunk]

    @property
    def entries(self) -> int:
        return sum(len(chunk.messages) for chunk in self.chunks)


def read_page(
    conn: Transaction,
    user_key: int,
    wanted: list[Span],
    names: Mapping[int, RoomName],
    codec: Codec,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """A page of what a user missed, encoded. On SQLite that is done where it is read: the event loop is free.

    It ends with the entry with which it is `max_bytes` long, or more.
    """
    with log.missed(conn, user_key, wanted) as rows:
        found, more = chunks(codec, names, rows, user_key, chunk_bytes=WRITE_BYTES, max_bytes=max_bytes)
    return Page(log.read_up_to(wanted, found[-1].room_key, found[-1].last) if more else wanted, found)


class CatchUp:
    def __init__(self, database: Database, hub: Hub, cursors: Cursors, presence: Presence) -> None:
        self._db = database
        self._hub = hub
        self._cursors = cursors
        self._presence = presence
        self._arrivals = Together(database, _arrivals)
        self._tasks: set[asyncio.Task[None]] = set()
        self.replayed = 0
        """Entries sent so far to connections that were behind."""
        hub.catch_up = self._catch_up_with

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def start(self, connection: Connection, brought: Mapping[str, int]) -> None:
        """Begin the replay of a connection that was just accepted; `brought` are the client's own cursors."""
        connection.replay = self._spawn(connection, partial(self._arrive, connection, brought))

    async def enter(self, connection: Connection, room_id: str, *, since: int | None = None) -> bool:
        """Let a connection that is about some rooms only have one more; False: its user is not in it.

        It gets what its device missed of the room, or, with `since` (ms since the epoch), all that was said from then
        on; then what is said live. Nothing of it has been written when this returns. Not for two rooms at once.
        """
        assert connection.only is not None, "it has all of them"
        if connection.replay is not None:
            await asyncio.wait([connection.replay])
        connection.only.add(room_id)
        connection.deferred = []  # who is removed while this reads, is removed after it
        user_key, device_key, found = connection.principal.user_key, connection.device_key, None
        try:
            found = await self._db.read(lambda conn: _standing_in(conn, user_key, device_key, room_id, since))
        finally:
            notices, connection.deferred = connection.deferred, None
            if found is not None and not connection.has_ended():
                self._attach(connection, *found)
            for notice in notices or ():
                self._hub.apply(connection, notice)
        return found is not None and found[0].room.key in connection.rooms

    def _attach(self, connection: Connection, mine: MemberRoom, position: int | None) -> None:
        """Begin with a room, after a position or else where the device is."""
        room, joined_seq, cursor = mine
        if room.key in connection.rooms:
            return
        if position is None:
            confirmed_here = min(self._cursors.known(connection.device_key, room.key), room.last_seq)
            position = max(confirmed_here, joined_seq if cursor is None else cursor)
        position = min(max(position, room.first_seq - 1), room.last_seq)
        live = self._hub.attach(connection, room, position)
        connection.sent(room.key, position)
        if not live:
            self._catch_up_with(connection, room.key)

    def leave(self, connection: Connection, room_id: str) -> None:
        """Let a connection that is about some rooms only have nothing more of this one."""
        assert connection.only is not None, "it has all of them"
        connection.only.discard(room_id)
        key = self._hub.key(room_id)
        if key in connection.rooms:
            self._hub.detach(connection, key)

    def _spawn(self, connection: Connection, work: Callable[[], Awaitable[int | None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(connection, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, connection: Connection, work: Callable[[], Awaitable[int | None]]) -> None:
        """A replay that fails must not leave a connection that looks alive and has a gap."""
        try:
            await work()
        except Exception as error:
            known = isinstance(error, StoreUnavailable)
            logger.error("a replay failed: %s", error, exc_info=None if known else error)
            connection.link.close(CloseReason.SHUTDOWN)  # it comes back and gets everything then

    def _catch_up_with(self, connection: Connection, room_key: int) -> None:
        self._spawn(connection, partial(self._replay, connection, [room_key]))

    async def _arrive(self, connection: Connection, brought: Mapping[str, int]) -> None:
        hub, device_key = self._hub, connection.device_key
        user_key, since = connection.principal.user_key, connection.seen_at
        good, (mine, gone) = await self._arrivals.read((connection.principal.session_key, user_key, device_key))
        if connection.has_ended():
            return
        if not good:  # withdrawn between the token's being read and the connection's being registered
            connection.link.close(CloseReason.TOKEN_REVOKED)
            return
        reset: dict[int, tuple[str, int]] = {}
        confirmed: dict[int, int] = {}
        behind: list[int] = []
        unheard: list[int] = []
        for room, joined_seq, cursor in mine:
            if not connection.wants(room.room_id):
                continue
            # What was confirmed since the rows were read may be past them; it is no sign of another log.
            confirmed_here = min(self._cursors.known(device_key, room.key), room.last_seq)
            known = max(confirmed_here, -1 if cursor is None else cursor)
            before_oldest = room.first_seq - 1
            if known < 0:
                known = max(joined_seq, before_oldest)
                if room.room_id not in brought:
                    unheard.append(room.key)
                    connection.untold.add(room.key)
                    hub.attach(connection, room, known, live=False)
                    continue
            position = brought.get(room.room_id, known)
            if position > room.last_seq or position < before_oldest:
                position = min(max(position, before_oldest), room.last_seq)
                reset[room.key] = room.room_id, position
            elif room.room_id in brought:
                confirmed[room.key] = position
            if not hub.attach(connection, room, position):
                behind.append(room.key)
        if connection.entered is not None:
            connection.entered()
        for notice in connection.deferred or ():
            hub.apply(connection, notice)
        connection.deferred = None
        self._presence.came(connection)
        self._cursors.advance(connection, confirmed)
        mine_ids = {room.room_id for room, _, _ in mine}
        # The same answer for a room that was left and for one that never was: an id tells a stranger nothing.
        lost = dict.fromkeys([room_id for _, room_id in gone] + sorted(brought.keys() - mine_ids))
        # One that the user has come back to since the rows were read is not lost.
        removed = (room_id for room_id in lost if hub.key(room_id) not in connection.rooms)
        await self._emit(connection, (("room_removed", {"room_id": one, "reason": "gone"}) for one in removed))
        behind += await self._tell_added(connection, unheard)
        if reset or gone:
            mended = {key: position for key, (_, position) in reset.items()}
            await self._mend_cursors(device_key, mended, [key for key, _ in gone if key not in connection.rooms])
        replayed = await self._replay(connection, behind)
        # Read now, when the connection hears of what moves from here on.
        read = []
        if since is not None:
            read = await self._db.read(partial(progress.receipts_since, user_key=user_key, since=since))
        await self._emit(connection, (("receipt", receipt(row)) for row in read))
        connection.emit(
            "ready",
            {
                "username": connection.principal.username,
                "device": connection.device,
                "replayed": replayed,
                "reset": sorted(room_id for room_id, _ in reset.values()),
                "token_expires_at": timestamp(connection.principal.expires_at),
            },
        )

    async def _emit(self, connection: Connection, found: Iterable[tuple[str, Any]]) -> None:
        """Send events to this connection alone, as its transport drains."""
        for chunk in chunked(found):
            if connection.has_ended():
                return
            connection.link.write(Batch(list(chunk)))
            await connection.link.drain()

    async def _tell_added(self, connection: Connection, room_keys: Sequence[int]) -> list[int]:
        """Tell a device of the rooms that its user joined while it was away; returns those with more to read."""
        user_key = connection.principal.user_key
        behind: list[int] = []
        for chunk in chunked(room_keys, TELL):
            found = await self._db.read(partial(rooms.snapshots, user_key=user_key, keys=chunk))
            for key in chunk:
                if connection.has_ended():
                    return []
                if key not in connection.untold:  # left meanwhile, or come back and been told
                    continue
                connection.untold.discard(key)
                self._hub.tell_added(connection, Joined(user_key, found[key]))
                # So that the device has a cursor, also of a room without entries.
                connection.sent(key, connection.rooms[key])
                if not self._hub.go_live(connection, key):
                    behind.append(key)
                await connection.link.drain()
        return behind

    async def _mend_cursors(self, device_key: int, reset: Mapping[int, int], gone: Sequence[int]) -> None:
        def mend(conn: Transaction) -> None:
            if reset:
                progress.reset_cursors(conn, device_key, reset)
            progress.forget_cursors(conn, device_key, gone)

        try:
            await self._db.write(mend)
        except StoreUnavailable:
            logger.warning("cursors of device %s could not be mended; the client is told again", device_key)

    async def _replay(self, connection: Connection, behind: Sequence[int]) -> int:
        """Send what the rooms hold after the connection's positions until it is live in each; returns how many."""
        replayed = 0
        waiting = dict.fromkeys(behind)
        limit = FIRST_PAGE
        user_key = connection.principal.user_key
        while waiting and not connection.has_ended():
            wanted = self._next_page(connection, waiting, limit)
            if not wanted:
                break
            names = {span.room_key: self._hub.name(span.room_key) for span in wanted}
            page = await self._db.read(
                partial(read_page, user_key=user_key, wanted=wanted, names=names, codec=connection.link.codec)
            )
            # Large entries fill a page soon: ask for about as many as fit.
            limit = min(PAGE, 2 * limit) if page.covered == wanted else min(PAGE, max(8, 2 * page.entries))
            found: dict[int, list[Chunk]] = {}
            for chunk in page.chunks:
                found.setdefault(chunk.room_key, []).append(chunk)
            for span in page.covered:
                sent = await self._write(connection, found.get(span.room_key, []))
                replayed += sent
                if connection.has_ended():
                    return replayed
                # Nothing, where there should be something: the user has been removed, or another replay has gone on.
                done = not sent and span.upto > span.after
                if done and await self._out_of_reach(connection, span.room_key):
                    connection.link.close(CloseReason.SHUTDOWN)  # it comes back, and finds the room in `reset`
                    return replayed
                if done or span.room_key not in connection.rooms or self._hub.go_live(connection, span.room_key):
                    del waiting[span.room_key]
            await connection.link.drain()
        return replayed

    async def _out_of_reach(self, connection: Connection, room_key: int) -> bool:
        """Whether retention has taken, just now, what the connection was to get next."""
        room = await self._db.read(partial(rooms.by_key, key=room_key))
        position = connection.rooms.get(room_key)
        return room is not None and position is not None and position < room.first_seq - 1

    async def _write(self, connection: Connection, found: Sequence[Chunk]) -> int:
        """Write what follows on the connection's position in the room, as the transport drains; returns how many."""
        written = 0
        for chunk in found:
            # Asked again after each wait: the user may have been removed, or have left and come back.
            if connection.has_ended() or connection.rooms.get(chunk.room_key) != chunk.first - 1:
                break
            connection.link.write(Batch.encoded(connection.link.codec, chunk.messages))
            connection.sent(chunk.room_key, chunk.last)
            written += len(chunk.messages)
            self.replayed += len(chunk.messages)
            if chunk.size >= WRITE_BYTES:
                await connection.link.drain()
        return written

    def _next_page(self, connection: Connection, waiting: dict[int, None], limit: int) -> list[Span]:
        """As many rooms as fit a page, each up to the head it has now."""
        wanted: list[Span] = []
        room_left = limit
        for key in list(waiting):
            position = connection.rooms.get(key)
            if position is None:
                del waiting[key]
                continue
            upto = max(position, min(self._hub.head(key), position + room_left))
            wanted.append(Span(key, position, upto))
            room_left -= upto - position
            if room_left <= 0:
                break
        return wanted


def _standing_in(
    conn: Transaction, user_key: int, device_key: int, room_id: str, since: int | None
) -> tuple[MemberRoom, int | None] | None:
    """Where a device is in one of its user's rooms, and the seq before what was said `since`; None: not in it."""
    ((mine, _),) = progress.standpoints(conn, [(user_key, device_key)])
    for one in mine:
        if one.room.room_id == room_id:
            return one, None if since is None else log.last_before(conn, one.room.key, since)
    return None


def _arrivals(conn: Transaction, asked: Sequence[tuple[int, int, int]]) -> list[tuple[bool, Standpoint]]:
    """For each (session, user, device): whether the session is still good, and where the device is."""
    good = users.still_good(conn, [session_key for session_key, _, _ in asked])
    standpoints = progress.standpoints(conn, [(user_key, device_key) for _, user_key, device_key in asked])
    return [(one[0] in good, standpoint) for one, standpoint in zip(asked, standpoints, strict=True)]
