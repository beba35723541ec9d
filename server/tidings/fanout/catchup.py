"""Catch-up: what a device missed, room by room in seq order, joining the live stream without gap or repeat.

A connection reads entries after its position in pages and writes them as the transport drains. In the step of the
event loop in which its position equals the hub's head, it joins the room's live set. Until then the hub writes
nothing of that room to it, so no lock is needed. Its memory is bounded in bytes, whatever was
missed: one page, and what the transport has not written yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.errors import CloseReason
from tidings.contract.models import timestamp
from tidings.fanout.arrival import ROOMS_PER_STEP, Arrival
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.hub import Hub
from tidings.fanout.pages import FIRST_PAGE, PAGE, WRITE_BYTES, Chunk, PageRequest, Pages
from tidings.log.cursors import Cursors
from tidings.log.notices import Joined, Left
from tidings.log.views import receipt
from tidings.supervision import spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import epochs, log, progress, rooms, users
from tidings_db.queries.log import Span
from tidings_db.queries.progress import ArrivalState, MemberRoom, ReceiptRow
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import chunked
from tidings_db.read_batcher import ReadBatcher

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
        self, connection: Connection, client_cursors: Mapping[str, int], entered: Callable[[], None] = lambda: None
    ) -> None:
        """Begin the replay of a connection that was just accepted.

        `client_cursors`: room_id -> seq, as the client sent them. `entered` is called when the connection is in its
        rooms, before any of their events is written.
        """
        connection.replay = self._spawn(connection, partial(self._arrive, connection, client_cursors, entered))

    async def enter(self, connection: Connection, room_id: str, *, since: int | None = None) -> bool:
        """Deliver one more room to a connection that shows only some; False: its user is not a member.

        The connection gets the entries that its device missed, or with `since` (ms since the epoch) all messages from
        then on; then the live events. None of them is written before this returns. Not reentrant.
        """
        assert connection.only is not None, "the connection shows all rooms"
        if connection.replay is not None:
            await asyncio.wait([connection.replay])
        if connection.has_ended():
            return False
        connection.only.add(room_id)
        connection.deferred = []  # a removal during the read is applied after it
        user_key, device_key = connection.principal.user_key, connection.device_key
        place: tuple[MemberRoom, int | None] | None = None
        written: Mapping[int, int] = {}
        try:
            with self._cursors.watched(device_key) as written:
                while True:
                    place = await self._db.read(lambda conn: _place_in(conn, user_key, device_key, room_id, since))
                    if place is None or not self._hub.is_outdated(place[0].room):
                        break
        finally:
            notices, connection.deferred = connection.deferred, None
            if place is not None and not connection.has_ended() and connection.shows(room_id):
                self._attach(connection, *place, written)
            for notice in notices or ():
                self._apply(connection, notice)
        return place is not None and place[0].room.key in connection.rooms

    def _attach(
        self, connection: Connection, member_room: MemberRoom, position: int | None, written: Mapping[int, int]
    ) -> None:
        """Put the connection into a room, at a position or else at the device's cursor.

        `written`: cursors of the device that were written while `member_room` was read.
        """
        room, joined_seq, cursor, joined_removals = member_room
        if room.key in connection.rooms:
            return
        if position is None:
            known_here = self._cursors.known(connection.device_key, room.key, joined_removals)
            confirmed_here = max(known_here, written.get(room.key, -1))
            position = max(min(confirmed_here, room.last_seq), joined_seq, -1 if cursor is None else cursor)
        position = min(max(position, room.first_seq - 1), room.last_seq)
        live = self._hub.attach(connection, room, position)
        connection.sent(room.key, position)
        if not live:
            self._catch_up_with(connection, room.key)

    def leave(self, connection: Connection, room_id: str) -> None:
        """Stop delivering a room to a connection that shows only some."""
        assert connection.only is not None, "the connection shows all rooms"
        connection.only.discard(room_id)
        key = self._hub.key(room_id)
        if key in connection.rooms:
            self._hub.detach(connection, key)

    def change_membership(self, connection: Connection, notice: Joined | Left) -> None:
        """Apply the begin or end of a membership of the connection's user, after the reads under way."""
        if connection.deferred is None:
            self._apply(connection, notice)
            return
        if isinstance(notice, Left):
            self._apply(connection, notice)  # a connection that enters a room may be in this one already
        connection.deferred.append(notice)

    def _apply(self, connection: Connection, notice: Joined | Left) -> None:
        hub = self._hub
        if connection.has_ended():
            return
        if isinstance(notice, Left):
            # Otherwise an entry of the room's log has removed it already, or the connection never was in the room, or
            # it is there by a later membership.
            if notice.room_key in connection.rooms:
                known = hub.live_rooms[notice.room_key].attached[connection]
                if known < notice.removals:
                    hub.removed(connection, notice.reason, notice.room_key)
            return
        room = notice.snapshot.room
        if hub.is_outdated(room):
            return  # the user may have been removed since; the change that says so is on its way
        position = connection.rooms.get(room.key)
        if position is not None:
            if position < room.last_seq and connection.deferred is None:
                # An earlier membership, whose end was lost. The client reconnects and gets everything.
                connection.link.close(CloseReason.SHUTDOWN)
            return
        self.add(connection, notice.snapshot, room.last_seq)

    def add(self, connection: Connection, snapshot: Snapshot, position: int) -> None:
        """Put a connection into a room that its user has joined, at `position`, and send `room_added`."""
        hub, room = self._hub, snapshot.room
        if not connection.shows(room.room_id):
            return
        position = min(max(position, room.first_seq - 1), room.last_seq)
        live = hub.attach(connection, room, position, announce=True)
        hub.emit_added(connection, snapshot)
        connection.sent(room.key, position)
        if not live:
            self._catch_up_with(connection, room.key)
        hub.presence.joined(connection, room.key)

    def _spawn(self, connection: Connection, work: Callable[[], Awaitable[int | None]]) -> asyncio.Task[None]:
        task = spawn(self._guard(connection, work), "replay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, connection: Connection, work: Callable[[], Awaitable[int | None]]) -> None:
        """Close the connection if its replay fails: it would look alive and have a gap."""
        try:
            await work()
        except Exception as error:
            expected = isinstance(error, StoreUnavailable)
            logger.error("a replay failed: %s", error, exc_info=None if expected else error)
            connection.link.close(CloseReason.SHUTDOWN)  # the client reconnects and gets everything

    def _catch_up_with(self, connection: Connection, room_key: int) -> None:
        self._spawn(connection, partial(self._replay, connection, [room_key]))

    async def _arrive(
        self, connection: Connection, client_cursors: Mapping[str, int], entered: Callable[[], None]
    ) -> None:
        hub, device_key = self._hub, connection.device_key
        user_key, since = connection.principal.user_key, connection.seen_at
        epoch, learned = self._epoch(), max(connection.epoch or 0, self._cursors.epoch_learned(device_key))
        # A connection that shows only some rooms has no `ready` to learn it from.
        is_behind = epoch > learned and connection.only is None
        heads: Mapping[int, int] = {}
        if is_behind:
            heads = await self._db.read(partial(epochs.heads_since, user_key=user_key, epoch=learned))
        arrival = Arrival(client_cursors, heads, is_known=connection.epoch is not None)
        if not await self._enter_all(connection, arrival):
            return
        entered()
        connection.unannounced_rooms.difference_update(arrival.entered)
        behind = [
            key
            for key, room in arrival.entered.items()
            if key in connection.rooms and not hub.begin_events(connection, room)
        ]
        for notice in connection.deferred or ():
            self._apply(connection, notice)
        connection.deferred = None
        hub.presence.connected(connection)
        await asyncio.sleep(0)
        member_room_ids = {room.room_id for room, *_ in arrival.member_rooms}
        # The same answer for a room that was left and for one that never existed: an id tells a stranger nothing.
        candidates = dict.fromkeys(
            [room_id for _, room_id in arrival.former_rooms] + sorted(client_cursors.keys() - member_room_ids)
        )
        # Without the rooms that the user has joined again since the rows were read.
        removed = (
            room_id
            for room_id in candidates
            if room_id not in arrival.entered_ids and hub.key(room_id) not in connection.rooms
        )
        await self._emit(
            connection, (("room_removed", {"room_id": room_id, "reason": "gone"}) for room_id in removed)
        )
        behind += await self._emit_added(connection, list(arrival.unannounced))
        if arrival.reset or arrival.former_rooms:
            corrected = {key: position for key, (_, position) in arrival.reset.items()}
            await self._correct_cursors(
                device_key, corrected, [key for key, _ in arrival.former_rooms if key not in connection.rooms]
            )
        replayed = await self._replay(connection, behind)
        # Entries that were committed before this connect may not be published here yet.
        heads_read = {room.key: room.last_seq for room, *_ in arrival.member_rooms if room.key in connection.rooms}
        await hub.repairs.wait_until_published(heads_read)
        # Read only now: the connection gets every receipt that is published from here on.
        own_receipts: Sequence[ReceiptRow] = ()
        if since is not None:
            own_receipts = await self._receipts.read((user_key, since))
        await self._emit(connection, (("receipt", hub.receipts.newest(receipt(row))) for row in own_receipts))
        # Before `ready`: a client that disconnects on `ready` has then confirmed the replay.
        connection.confirm()
        connection.emit(
            "ready",
            {
                "username": connection.principal.username,
                "device": connection.device,
                "replayed": replayed,
                "reset": sorted(room_id for room_id, _ in arrival.reset.values()),
                "token_expires_at": timestamp(connection.principal.expires_at),
                "display_name": connection.principal.display_name,
            },
        )
        if is_behind and connection.epoch is None and not client_cursors:
            self._cursors.learned(device_key, epoch)  # a new device without cursors holds nothing that was lost
        elif is_behind:
            connection.epoch_written(epoch)
            connection.confirm()  # else its next connect within a heartbeat would be told `reset` again
        await hub.streams.show(connection)

    async def _enter_all(self, connection: Connection, arrival: Arrival) -> bool:
        """Put an arriving connection into its user's rooms, some per step of the event loop.

        It gets no events of them yet. Removals take effect in the rooms that it is in, like those of any connection;
        in the others, they are among the deferred ones. Returns False if the connection has ended or is closed.
        """
        principal, device_key = connection.principal, connection.device_key
        with self._cursors.watched(device_key) as written:
            while True:
                session_is_valid, arrival_state = await self._arrivals.read(
                    (principal.session_key, principal.user_key, device_key)
                )
                if connection.has_ended():
                    return False
                if not session_is_valid:  # withdrawn between the check of the token and the registration
                    if not connection.ending_session:
                        connection.link.close(CloseReason.TOKEN_REVOKED)
                    return False
                arrival.read(arrival_state)
                is_complete = True
                for chunk in chunked(arrival_state.member_rooms, ROOMS_PER_STEP):
                    is_complete = self._enter_some(connection, arrival, chunk, written) and is_complete
                    await asyncio.sleep(0)
                    if connection.has_ended():
                        return False
                if is_complete:
                    return True

    def _enter_some(
        self, connection: Connection, arrival: Arrival, chunk: Sequence[MemberRoom], written: Mapping[int, int]
    ) -> bool:
        """Put an arriving connection into some rooms; False: the memberships of some have to be read again."""
        hub, device_key = self._hub, connection.device_key
        is_complete = True
        confirmed: dict[int, int] = {}
        for member_room in chunk:
            room = member_room.room
            if room.key in connection.rooms or not connection.shows(room.room_id):
                continue
            if hub.is_outdated(room):
                is_complete = False
                continue
            # A position confirmed since the rows were read may be beyond them, although the log is the same.
            confirmed_here = self._cursors.known(device_key, room.key, member_room.joined_removals)
            if written:
                confirmed_here = max(confirmed_here, written.get(room.key, -1))
            position, is_confirmed = arrival.enter(member_room, confirmed_here)
            if is_confirmed:
                confirmed[room.key] = position
            connection.unannounced_rooms.add(room.key)
            hub.attach(connection, room, position, live=False)
        hub.confirm(connection, confirmed)
        return is_complete

    async def _emit(self, connection: Connection, events: Iterable[tuple[str, Any]]) -> None:
        """Send events to this connection alone, as its transport drains."""
        for chunk in chunked(events):
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
            snapshots = await self._db.read(partial(rooms.snapshots, user_key=user_key, keys=chunk))
            for key in chunk:
                if connection.has_ended():
                    return []
                if key not in connection.unannounced_rooms:  # left meanwhile, or joined again and got `room_added`
                    continue
                connection.unannounced_rooms.discard(key)
                self._hub.emit_added(connection, snapshots[key])
                # The device needs a cursor even for a room without entries.
                connection.sent(key, connection.rooms[key])
                if not self._hub.go_live(connection, key):
                    behind.append(key)
                await connection.link.drain()
        return behind

    async def _correct_cursors(self, device_key: int, reset: Mapping[int, int], former: Sequence[int]) -> None:
        def correct(conn: Transaction) -> None:
            if reset:
                progress.reset_cursors(conn, device_key, reset)
            progress.forget_cursors(conn, device_key, former)

        try:
            await self._db.write(correct)
        except StoreUnavailable:
            logger.warning("cursors of device %s could not be corrected; the next connect tries again", device_key)

    async def _replay(self, connection: Connection, behind: Sequence[int]) -> int:
        """Write the entries after the connection's positions until it is live in each room; returns how many."""
        replayed = 0
        waiting = dict.fromkeys(behind)
        limit = FIRST_PAGE
        user_key = connection.principal.user_key
        while waiting and not connection.has_ended():
            spans = self._next_page(connection, waiting, limit)
            if not spans:
                break
            names = {span.room_key: self._hub.name(span.room_key) for span in spans}
            page = await self._pages.read(PageRequest(user_key, spans, names, connection.link.codec))
            # Large entries fill a page soon: ask for about as many as fit.
            limit = min(PAGE, 2 * limit) if page.covered == spans else min(PAGE, max(8, 2 * page.entries))
            chunks: dict[int, list[Chunk]] = {}
            for chunk in page.chunks:
                chunks.setdefault(chunk.room_key, []).append(chunk)
            for span in page.covered:
                sent = await self._write(connection, chunks.get(span.room_key, []))
                replayed += sent
                if connection.has_ended():
                    return replayed
                # Expected entries are missing: the user was removed, or another replay has continued.
                stale = not sent and span.upto > span.after
                if stale and await self._out_of_reach(connection, span.room_key):
                    connection.link.close(
                        CloseReason.SHUTDOWN
                    )  # the client reconnects, and finds the room in `reset`
                    return replayed
                if stale or span.room_key not in connection.rooms or self._hub.go_live(connection, span.room_key):
                    del waiting[span.room_key]
            await connection.link.drain()
        return replayed

    async def _out_of_reach(self, connection: Connection, room_key: int) -> bool:
        """Whether retention has removed the next entries of the connection."""
        room = await self._db.read(partial(rooms.by_key, key=room_key))
        position = connection.rooms.get(room_key)
        return room is not None and position is not None and position < room.first_seq - 1

    async def _write(self, connection: Connection, chunks: Sequence[Chunk]) -> int:
        """Write the chunks that follow the position, as the transport drains; returns how many entries."""
        written = 0
        for chunk in chunks:
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
        """The spans of the next page: as many rooms as fit, each up to its current head."""
        spans: list[Span] = []
        remaining = limit
        for key in list(waiting):
            position = connection.rooms.get(key)
            if position is None:
                del waiting[key]
                continue
            upto = max(position, min(self._hub.head(key), position + remaining))
            spans.append(Span(key, position, upto))
            remaining -= upto - position
            if remaining <= 0:
                break
        return spans


def _place_in(
    conn: Transaction, user_key: int, device_key: int, room_id: str, since: int | None
) -> tuple[MemberRoom, int | None] | None:
    """The room with the device's cursor, and the seq before the messages `since`; None: the user is not a member."""
    ((member_rooms, _),) = progress.arrival_states(conn, [(user_key, device_key)])
    for member_room in member_rooms:
        if member_room.room.room_id == room_id:
            return member_room, None if since is None else log.last_before(conn, member_room.room.key, since)
    return None


def _arrivals(conn: Transaction, requests: Sequence[tuple[int, int, int]]) -> list[tuple[bool, ArrivalState]]:
    """For each (session, user, device): whether the session is valid, and the rooms and cursors of the device."""
    valid = users.valid_sessions(conn, [session_key for session_key, _, _ in requests])
    arrival_states = progress.arrival_states(conn, [(user_key, device_key) for _, user_key, device_key in requests])
    return [
        (request[0] in valid, arrival_state) for request, arrival_state in zip(requests, arrival_states, strict=True)
    ]
