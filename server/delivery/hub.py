"""Live fan-out: the connections of this node, by room and by user.

Everything here happens within one step of the event loop, except a repair, which reads from the database what a lost
notice left out. What holds for the connections of a room is in `live.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from db.engine import Database, StoreUnavailable
from db.queries import log, rooms
from db.queries.rows import RoomRow
from server.contract.errors import CloseReason
from server.delivery import views
from server.delivery.broker import (
    Appended,
    Broker,
    Change,
    Joined,
    Left,
    Notice,
    Personal,
    PresenceChanged,
    RoomChannel,
    Transient,
    UserChannel,
    Withdrawn,
)
from server.delivery.connection import Connection
from server.delivery.frames import Batch, RoomName, room_name
from server.delivery.live import LiveRoom

logger = logging.getLogger("tidings.hub")

HEAD_CHECK_S = 15.0
"""The heads of all rooms are compared with the database so often."""
CONNECTIONS_PER_DEVICE = 16
PRESENCE_MEMBERS = 200
"""Presence goes to conversations and rooms of up to so many members."""
REPAIR_PAGE = 500
REPAIR_BYTES = 256 * 1024
"""A repair reads and writes so much at once, and then waits for the connections that keep up."""
REPAIR_PATIENCE_S = 1.0
"""Not longer, though: who does not read must not hold up the others."""


class Hub:
    def __init__(self, database: Database, broker: Broker, *, head_check_s: float = HEAD_CHECK_S) -> None:
        self._db = database
        self._broker = broker
        self._head_check_s = head_check_s
        self._rooms: dict[int, LiveRoom] = {}
        self._keys: dict[str, int] = {}
        """room_id -> key, of the rooms in `_rooms`."""
        self._fresh: list[int] = []
        """Rooms whose head may have moved between being read and the first subscription to their channel."""
        self._users: dict[int, set[Connection]] = {}
        self._checker: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.catch_up: Callable[[Connection, int], None] = lambda connection, room_key: None
        """Called for a connection that joins a room behind its head; set by the catch-up."""
        self.left: Callable[[Connection, int], object] = lambda connection, room_key: None
        """Called for a connection whose user is no longer in a room."""
        self.entered: Callable[[Connection, int], None] = lambda connection, room_key: None
        """Called for a connection whose user has become a member of a room meanwhile."""
        self.went: Callable[[Connection, Sequence[int]], None] = lambda connection, room_keys: None
        """Called for the last connection of a user, with the rooms that it was in, when it has ended."""
        self._presence: dict[Connection, dict[int, Change]] = {}
        self.opened: Callable[[Connection], None] = lambda connection: None
        self.ended: Callable[[Connection], None] = lambda connection: None
        """Called once for each connection, when it has been registered, and when it is gone; for who keeps count."""

    async def start(self) -> None:
        await self._broker.start(self.receive)
        self._checker = asyncio.create_task(self._check_heads_forever())

    async def stop(self) -> None:
        if self._checker is not None:
            self._checker.cancel()
        for live_room in self._rooms.values():
            if live_room.repairing is not None:
                live_room.repairing.cancel()
        await self._broker.stop()

    # -- connections ---------------------------------------------------------------------------------------------

    @property
    def connections(self) -> list[Connection]:
        return [connection for group in self._users.values() for connection in group]

    @property
    def users(self) -> int:
        """How many users have a connection here."""
        return len(self._users)

    @property
    def live_rooms(self) -> int:
        """How many rooms have a connection here."""
        return len(self._rooms)

    def add(self, connection: Connection) -> None:
        """Register a connection with its user: from here on it hears of memberships and withdrawn sessions."""
        user_key = connection.principal.user_key
        group = self._users.get(user_key)
        if group is None:
            group = self._users[user_key] = set()
            self._broker.subscribe(UserChannel(user_key))
            self._broker.online(user_key, True)
        group.add(connection)
        self.opened(connection)
        self.expire_at(connection)
        same_device = [other for other in group if other.device == connection.device]
        if len(same_device) > CONNECTIONS_PER_DEVICE:
            oldest = min(same_device, key=lambda other: other.opened_at)
            oldest.link.close(CloseReason.REPLACED)

    def remove(self, connection: Connection) -> None:
        """The connection has ended. Idempotent."""
        connection.closed = True
        while connection.when_closed:
            connection.when_closed.pop()(connection)
        if connection.expiry is not None:
            connection.expiry.cancel()
        if connection.replay is not None:
            connection.replay.cancel()
        was_in = list(connection.rooms)
        user_key = connection.principal.user_key
        group = self._users.get(user_key)
        last = group is not None and group == {connection}
        if last:
            self.went(connection, was_in)
        for room_key in was_in:
            self.detach(connection, room_key)
        if group is None or connection not in group:
            return
        group.discard(connection)
        self.ended(connection)
        if last:
            del self._users[user_key]
            self._broker.unsubscribe(UserChannel(user_key))
            self._broker.online(user_key, False)

    def expire_at(self, connection: Connection) -> None:
        """Close the connection when its token expires; call again after a fresh one."""
        if connection.expiry is not None:
            connection.expiry.cancel()
        delay = max(0.0, connection.principal.expires_at / 1000 - time.time())
        connection.expiry = asyncio.get_running_loop().call_later(
            delay, lambda: connection.link.close(CloseReason.TOKEN_EXPIRED)
        )

    # -- rooms ---------------------------------------------------------------------------------------------------

    def attach(self, connection: Connection, room: RoomRow, position: int, *, live: bool = True) -> bool:
        """Let a connection have a room from `position` on; True if it is live, False if it has to catch up.

        With `live=False` it gets no entries before `go_live`.
        """
        live_room = self._rooms.get(room.key)
        if live_room is None:
            live_room = self._rooms[room.key] = LiveRoom(room_name(room), room.last_seq, room.members)
            self._keys[room.room_id] = room.key
            self._broker.subscribe(RoomChannel(room.key))
            if not self._fresh:
                asyncio.get_running_loop().call_soon(self._suspect_fresh)
            self._fresh.append(room.key)
        live_room.attach(connection, position)
        return live and live_room.go_live(connection)

    def key(self, room_id: str) -> int | None:
        """The key of a room that some connection here is attached to."""
        return self._keys.get(room_id)

    def name(self, room_key: int) -> RoomName:
        """Of a room that a connection is attached to."""
        return self._rooms[room_key].name

    def head(self, room_key: int) -> int:
        """seq of the last entry published here, of a room that a connection is attached to."""
        return self._rooms[room_key].head

    def go_live(self, connection: Connection, room_key: int) -> bool:
        """Join the live set if the position allows it; False: there is more to read first."""
        return self._rooms[room_key].go_live(connection)

    def detach(self, connection: Connection, room_key: int) -> None:
        """The connection gets nothing more of the room."""
        connection.forget(room_key)
        live_room = self._rooms.get(room_key)
        if live_room is None or connection not in live_room.attached:
            return
        live_room.detach(connection)
        if not live_room.attached:
            if live_room.repairing is not None:
                live_room.repairing.cancel()
            del self._rooms[room_key], self._keys[live_room.name.room_id]
            self._broker.unsubscribe(RoomChannel(room_key))

    def online_in(self, room_key: int) -> int:
        """How many of a room's members are online."""
        live_room = self._rooms.get(room_key)
        return 0 if live_room is None else len(live_room.users)

    def online_seen(self, snapshot: rooms.Snapshot, user_key: int) -> int:
        """The same as one user may know it: in a direct conversation, who has blocked them is never online."""
        if not snapshot.blocked:
            return self.online_in(snapshot.room.key)
        live_room = self._rooms.get(snapshot.room.key)
        return int(live_room is not None and user_key in live_room.users)

    def tell(self, user_key: int, event: str, payload: dict[str, Any]) -> None:
        """Tell all devices of a user, on any node; at most once."""
        self._broker.publish(UserChannel(user_key), Personal(user_key, event, payload))

    def shows_presence(self, room_key: int) -> bool:
        """Whether members are told who of them is online: in conversations, and rooms that are not too large."""
        live_room = self._rooms.get(room_key)
        return live_room is not None and (live_room.name.topic_name is None or live_room.members <= PRESENCE_MEMBERS)

    def members_of(self, room_key: int) -> int | None:
        """How many members a room has; None if nobody of it is connected here."""
        live_room = self._rooms.get(room_key)
        return None if live_room is None else live_room.members

    async def online(self, user_keys: Iterable[int] | None = None) -> set[int]:
        """Which users (of these, or of all) are online, on any node."""
        return await self._broker.who_is_online(user_keys)

    # -- notices -------------------------------------------------------------------------------------------------

    def receive(self, notice: Notice) -> None:
        """Take a notice from the broker."""
        match notice:
            case Appended():
                self._appended(notice)
            case Transient():
                self._transient(notice)
            case Joined() | Left():
                for connection in list(self._users.get(notice.user_key, ())):
                    if connection.deferred is not None:
                        connection.deferred.append(notice)
                    else:
                        self.apply(connection, notice)
            case PresenceChanged():
                self._presence_changed(notice)
            case Personal():
                batch = Batch([(notice.event, notice.payload)])
                for connection in self._users.get(notice.user_key, ()):
                    connection.link.write(batch)
            case Withdrawn():
                for connection in list(self._users.get(notice.user_key, ())):
                    if notice.session_key in (None, connection.principal.session_key):
                        connection.link.close(notice.reason)

    def apply(self, connection: Connection, notice: Joined | Left) -> None:
        """A membership of the connection's user has begun or ended."""
        if isinstance(notice, Left):
            self._tell_presence()  # what was collected in this step, while they were in the room
            self.left(connection, notice.room_key)
            self.detach(connection, notice.room_key)
            connection.emit("room_removed", {"room_id": notice.room_id, "reason": notice.reason})
            return
        room = notice.snapshot.room
        if room.key in connection.rooms or not connection.wants(room.room_id):
            return
        live = self.attach(connection, room, room.last_seq)
        self.tell_added(connection, notice)
        connection.sent(room.key, room.last_seq)
        if not live:
            self.catch_up(connection, room.key)
        self.entered(connection, room.key)

    def tell_added(self, connection: Connection, notice: Joined) -> None:
        view = views.room(notice.snapshot, notice.user_key, self.online_seen(notice.snapshot, notice.user_key))
        connection.emit("room_added", {"room": view.model_dump(mode="json")})

    def _transient(self, notice: Transient) -> None:
        live_room = self._rooms.get(notice.room_key)
        if live_room is None:
            return
        if notice.members is not None:
            live_room.members = notice.members
        if notice.up_to_members is not None and live_room.members > notice.up_to_members:
            return
        batch = Batch([(notice.event, notice.payload)], transient=True)
        for connection in live_room.attached:
            if connection.id != notice.except_connection and notice.room_key not in connection.untold:
                connection.link.write(batch)

    def _presence_changed(self, notice: PresenceChanged) -> None:
        """Collect what the rooms say in this step of the event loop: who shares several is told once."""
        live_room = self._rooms.get(notice.room_key)
        if live_room is None:
            return
        if not self._presence:
            asyncio.get_running_loop().call_soon(self._tell_presence)
        for connection in live_room.attached:
            if notice.room_key in connection.untold:
                continue
            viewer = connection.principal.user_key
            changes = {
                change.user_key: change
                for change in notice.changes
                if change.user_key != viewer and viewer not in change.hidden_from
            }
            if changes:
                self._presence.setdefault(connection, {}).update(changes)

    def _tell_presence(self) -> None:
        presence, self._presence = self._presence, {}
        batches: dict[tuple[int, ...], Batch] = {}
        for connection, changes in presence.items():
            batch = batches.get(same := tuple(sorted(changes)))
            if batch is None:
                told = [("presence", changes[user_key].payload) for user_key in same]
                batch = batches[same] = Batch(told, transient=True)
            connection.link.write(batch)

    def _appended(self, notice: Appended) -> None:
        live_room = self._rooms.get(notice.room_key)
        if live_room is None:
            return
        live_room.members = notice.members
        live_room.seen = max(live_room.seen, notice.entries[-1].seq)
        if live_room.repairing is None:
            new = [entry for entry in notice.entries if entry.seq > live_room.head]
            if new and new[0].seq == live_room.head + 1:
                live_room.deliver(new, partial(self.detach, room_key=notice.room_key))
        self._repair_if_needed(live_room)

    # -- repair --------------------------------------------------------------------------------------------------

    def _suspect_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        self.suspect(fresh)

    def suspect(self, room_keys: Iterable[int]) -> None:
        """Something may have been committed to these rooms that was not published: look soon."""
        known = [key for key in room_keys if key in self._rooms]
        if known:
            task = asyncio.create_task(self._check_heads(known))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _repair_if_needed(self, live_room: LiveRoom) -> None:
        if live_room.head < live_room.seen and live_room.repairing is None:
            live_room.repairing = asyncio.create_task(self._repair(live_room))

    async def _repair(self, live_room: LiveRoom) -> None:
        key = live_room.name.key
        try:
            while live_room.head < live_room.seen:
                missed = await self._db.read(
                    partial(log.after, room_key=key, seq=live_room.head, limit=REPAIR_PAGE, max_bytes=REPAIR_BYTES)
                )
                if not missed:
                    live_room.seen = live_room.head
                elif missed[0].seq > live_room.head + 1:
                    live_room.skip(missed[0].seq - 1)
                live_room.deliver(missed, partial(self.detach, room_key=key))
                if live_room.head < live_room.seen and live_room.live:
                    draining = [asyncio.ensure_future(connection.link.drain()) for connection in live_room.live]
                    _, late = await asyncio.wait(draining, timeout=REPAIR_PATIENCE_S)
                    for task in late:
                        task.cancel()
        except StoreUnavailable:
            logger.warning("room %s: cannot read what was missed; will look again", live_room.name.room_id)
        finally:
            live_room.repairing = None

    async def _check_heads_forever(self) -> None:
        while True:
            await asyncio.sleep(self._head_check_s)
            await self._check_heads(list(self._rooms))

    async def _check_heads(self, room_keys: Sequence[int]) -> None:
        """Compare with the database: finds what a lost notice hid."""
        try:
            heads = await self._db.read(lambda conn: rooms.heads(conn, room_keys))
        except StoreUnavailable:
            return
        for key, head in heads.items():
            live_room = self._rooms.get(key)
            if live_room is not None:
                live_room.seen = max(live_room.seen, head)
                self._repair_if_needed(live_room)
