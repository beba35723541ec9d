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
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database, StoreUnavailable
from db.queries import epochs, log, progress, rooms, users
from db.queries.log import Span
from db.queries.progress import MemberRoom, ReceiptRow, Standpoint
from db.queries.rows import chunked
from db.read_batcher import ReadBatcher
from server.contract.errors import CloseReason
from server.contract.models import timestamp
from server.fanout.connection import Batch, Connection
from server.fanout.hub import Hub
from server.fanout.pages import FIRST_PAGE, PAGE, WRITE_BYTES, Chunk, PageRequest, Pages
from server.log.cursors import Cursors
from server.log.notices import Joined, Left
from server.log.views import receipt
from server.supervision import spawn

logger = logging.getLogger("tidings.catchup")

ADDED_ROOMS = 50
"""`room_added` events that are read and written together."""


class CatchUp:
    def __init__(self, database: Database, hub: Hub, cursors: Cursors, epoch: Callable[[], int]) -> None:
        """`epoch`: the present epoch of the log."""
        self._db = database
        self._epoch = epoch
        self._hub = hub
        self._cursors = cursors
        self._arrivals = ReadBatcher(database, _arrivals)
        self._receipts = ReadBatcher(database, progress.receipts_since)
        self._pages = Pages(database)
        self._tasks: set[asyncio.Task[None]] = set()
        self.replayed = 0
        """Entries sent so far to connections that were behind."""

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def start(
        self, connection: Connection, brought: Mapping[str, int], entered: Callable[[], None] = lambda: None
    ) -> None:
        """Begin the replay of a connection that was just accepted; `brought` are the client's own cursors.

        `entered` is called when the connection is in its rooms, before anything of them is written.
        """
        connection.replay = self._spawn(connection, partial(self._arrive, connection, brought, entered))

    async def enter(self, connection: Connection, room_id: str, *, since: int | None = None) -> bool:
        """Deliver one more room to a connection that shows only some; False: its user is not a member.

        It gets what its device missed of the room, or, with `since` (ms since the epoch), all messages from then
        on; then the live events. Nothing of it has been written when this returns. Not reentrant.
        """
        assert connection.only is not None, "it has all of them"
        if connection.replay is not None:
            await asyncio.wait([connection.replay])
        if connection.has_ended():
            return False
        connection.only.add(room_id)
        connection.deferred = []  # a removal during the read is applied after it
        user_key, device_key, found = connection.principal.user_key, connection.device_key, None
        written: Mapping[int, int] = {}
        try:
            with self._cursors.watched(device_key) as written:
                found = await self._db.read(lambda conn: _standing_in(conn, user_key, device_key, room_id, since))
        finally:
            notices, connection.deferred = connection.deferred, None
            if found is not None and not connection.has_ended() and connection.wants(room_id):
                self._attach(connection, *found, written)
            for notice in notices or ():
                self._apply(connection, notice)
        return found is not None and found[0].room.key in connection.rooms

    def _attach(
        self, connection: Connection, mine: MemberRoom, position: int | None, written: Mapping[int, int]
    ) -> None:
        """Put the connection into a room, at a position or else at the device's cursor.

        `written`: cursors of the device that were written while `mine` was read.
        """
        room, joined_seq, cursor = mine
        if room.key in connection.rooms:
            return
        if position is None:
            confirmed_here = max(self._cursors.known(connection.device_key, room.key), written.get(room.key, -1))
            position = max(min(confirmed_here, room.last_seq), joined_seq if cursor is None else cursor)
        position = min(max(position, room.first_seq - 1), room.last_seq)
        live = self._hub.attach(connection, room, position)
        connection.sent(room.key, position)
        if not live:
            self._catch_up_with(connection, room.key)

    def leave(self, connection: Connection, room_id: str) -> None:
        """Stop delivering a room to a connection that shows only some."""
        assert connection.only is not None, "it has all of them"
        connection.only.discard(room_id)
        key = self._hub.key(room_id)
        if key in connection.rooms:
            self._hub.detach(connection, key)

    def change_membership(self, connection: Connection, notice: Joined | Left) -> None:
        """A membership of the connection's user has begun or ended. Applied after the reads that are under way."""
        if connection.deferred is not None:
            connection.deferred.append(notice)
        else:
            self._apply(connection, notice)

    def _apply(self, connection: Connection, notice: Joined | Left) -> None:
        hub = self._hub
        if connection.has_ended():
            return
        if isinstance(notice, Left):
            # Otherwise the room's log was sooner, or the connection never was in it.
            if notice.room_key in connection.rooms:
                hub.removed(connection, notice.reason, notice.room_key)
            return
        room = notice.snapshot.room
        position = connection.rooms.get(room.key)
        if position is not None:
            if position < room.last_seq and connection.deferred is None:
                # It is in the room from an earlier membership, whose end was lost. It comes back and gets everything.
                connection.link.close(CloseReason.SHUTDOWN)
            return
        if not connection.wants(room.room_id):
            return
        live = hub.attach(connection, room, room.last_seq)
        hub.emit_added(connection, notice)
        connection.sent(room.key, room.last_seq)
        if not live:
            self._catch_up_with(connection, room.key)
        hub.presence.entered(connection, room.key)

    def _spawn(self, connection: Connection, work: Callable[[], Awaitable[int | None]]) -> asyncio.Task[None]:
        task = spawn(self._guard(connection, work), "replay")
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
            connection.link.close(CloseReason.SHUTDOWN)  # it comes back and gets everything

    def _catch_up_with(self, connection: Connection, room_key: int) -> None:
        self._spawn(connection, partial(self._replay, connection, [room_key]))

    async def _arrive(self, connection: Connection, brought: Mapping[str, int], entered: Callable[[], None]) -> None:
        hub, device_key = self._hub, connection.device_key
        user_key, since = connection.principal.user_key, connection.seen_at
        epoch, learned = self._epoch(), connection.epoch or 0
        # A connection that shows only some rooms has no `ready` to learn it from.
        is_behind = epoch > learned and connection.only is None
        heads: Mapping[int, int] = {}
        if is_behind:
            heads = await self._db.read(partial(epochs.heads_since, user_key=user_key, epoch=learned))
        with self._cursors.watched(device_key) as written:
            good, (mine, gone) = await self._arrivals.read((connection.principal.session_key, user_key, device_key))
        if connection.has_ended():
            return
        if not good:  # withdrawn between the token's being read and the connection's being registered
            if not connection.ending_session:
                connection.link.close(CloseReason.TOKEN_REVOKED)
            return
        reset: dict[int, tuple[str, int]] = {}
        confirmed: dict[int, int] = {}
        behind: list[int] = []
        unannounced: list[int] = []
        for room, joined_seq, cursor in mine:
            if not connection.wants(room.room_id):
                continue
            # A position confirmed since the rows were read may be beyond them; that does not mean another log.
            confirmed_here = max(self._cursors.known(device_key, room.key), written.get(room.key, -1))
            confirmed_here = min(confirmed_here, room.last_seq)
            known = max(confirmed_here, -1 if cursor is None else cursor)
            before_oldest = room.first_seq - 1
            if known < 0:
                known = max(joined_seq, before_oldest)
                if room.room_id not in brought:
                    unannounced.append(room.key)
                    connection.unannounced_rooms.add(room.key)
                    hub.attach(connection, room, known, live=False)
                    continue
            position = brought.get(room.room_id, known)
            head = heads.get(room.key)
            if head is not None and head < position and room.room_id in brought:
                # What it has after the head was lost, and other entries have these seqs now.
                position = max(head, before_oldest)
                reset[room.key] = room.room_id, position
            elif head is not None and room.room_id not in brought and connection.epoch is not None:
                reset[room.key] = room.room_id, min(max(position, before_oldest), room.last_seq)
            elif position > room.last_seq or position < before_oldest:
                position = min(max(position, before_oldest), room.last_seq)
                reset[room.key] = room.room_id, position
            elif room.room_id in brought:
                confirmed[room.key] = position
            if not hub.attach(connection, room, position):
                behind.append(room.key)
        entered()
        for notice in connection.deferred or ():
            self._apply(connection, notice)
        connection.deferred = None
        hub.presence.came(connection)
        hub.confirm(connection, confirmed)
        mine_ids = {room.room_id for room, _, _ in mine}
        # The same answer for a room that was left and for one that never existed: an id tells a stranger nothing.
        lost = dict.fromkeys([room_id for _, room_id in gone] + sorted(brought.keys() - mine_ids))
        # A room that the user has joined again since the rows were read is not lost.
        removed = (room_id for room_id in lost if hub.key(room_id) not in connection.rooms)
        await self._emit(connection, (("room_removed", {"room_id": one, "reason": "gone"}) for one in removed))
        behind += await self._emit_added(connection, unannounced)
        if reset or gone:
            corrected = {key: position for key, (_, position) in reset.items()}
            await self._correct_cursors(
                device_key, corrected, [key for key, _ in gone if key not in connection.rooms]
            )
        replayed = await self._replay(connection, behind)
        # Read only now: the connection gets every receipt that is published from here on.
        read: Sequence[ReceiptRow] = ()
        if since is not None:
            read = await self._receipts.read((user_key, since))
        await self._emit(connection, (("receipt", receipt(row)) for row in read))
        # Before `ready`: a client that leaves as soon as it is ready has answered, and gets none of it again.
        connection.confirm()
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
        if is_behind:
            connection.epoch_written(epoch)

    async def _emit(self, connection: Connection, found: Iterable[tuple[str, Any]]) -> None:
        """Send events to this connection alone, as its transport drains."""
        for chunk in chunked(found):
            if connection.has_ended():
                return
            connection.link.write(Batch(list(chunk)))
            await connection.link.drain()
            await asyncio.sleep(0)

    async def _emit_added(self, connection: Connection, room_keys: Sequence[int]) -> list[int]:
        """Emit the rooms that the user joined while the device was offline; returns those with more to read."""
        user_key = connection.principal.user_key
        behind: list[int] = []
        for chunk in chunked(room_keys, ADDED_ROOMS):
            found = await self._db.read(partial(rooms.snapshots, user_key=user_key, keys=chunk))
            for key in chunk:
                if connection.has_ended():
                    return []
                if key not in connection.unannounced_rooms:  # left meanwhile, or joined again and got `room_added`
                    continue
                connection.unannounced_rooms.discard(key)
                self._hub.emit_added(connection, Joined(user_key, found[key]))
                # So that the device has a cursor, also of a room without entries.
                connection.sent(key, connection.rooms[key])
                if not self._hub.go_live(connection, key):
                    behind.append(key)
                await connection.link.drain()
        return behind

    async def _correct_cursors(self, device_key: int, reset: Mapping[int, int], gone: Sequence[int]) -> None:
        def mend(conn: Transaction) -> None:
            if reset:
                progress.reset_cursors(conn, device_key, reset)
            progress.forget_cursors(conn, device_key, gone)

        try:
            await self._db.write(mend)
        except StoreUnavailable:
            logger.warning("cursors of device %s could not be corrected; the next connect tries again", device_key)

    async def _replay(self, connection: Connection, behind: Sequence[int]) -> int:
        """Write the entries after the connection's positions until it is live in each room; returns how many."""
        replayed = 0
        waiting = dict.fromkeys(behind)
        limit = FIRST_PAGE
        user_key = connection.principal.user_key
        while waiting and not connection.has_ended():
            wanted = self._next_page(connection, waiting, limit)
            if not wanted:
                break
            names = {span.room_key: self._hub.name(span.room_key) for span in wanted}
            page = await self._pages.read(PageRequest(user_key, wanted, names, connection.link.codec))
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
                # No entries where there should be some: the user was removed, or another replay has continued.
                done = not sent and span.upto > span.after
                if done and await self._out_of_reach(connection, span.room_key):
                    connection.link.close(CloseReason.SHUTDOWN)  # it comes back, and finds the room in `reset`
                    return replayed
                if done or span.room_key not in connection.rooms or self._hub.go_live(connection, span.room_key):
                    del waiting[span.room_key]
            await connection.link.drain()
        return replayed

    async def _out_of_reach(self, connection: Connection, room_key: int) -> bool:
        """Whether retention has just removed the entries that the connection was to get next."""
        room = await self._db.read(partial(rooms.by_key, key=room_key))
        position = connection.rooms.get(room_key)
        return room is not None and position is not None and position < room.first_seq - 1

    async def _write(self, connection: Connection, found: Sequence[Chunk]) -> int:
        """Write the chunks that follow the position, as the transport drains; returns how many entries."""
        written = 0
        for chunk in found:
            # Checked again after each wait: the user may have been removed, or have left and come back.
            if connection.has_ended() or connection.rooms.get(chunk.room_key) != chunk.first - 1:
                break
            connection.write_entries(chunk.batch, chunk.room_key, chunk.last)
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
    """A device's position in one of its user's rooms, and the seq before the messages `since`; None: not a member."""
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
