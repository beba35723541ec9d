"""The table of this node's connections, by user and by room.

Every call is within one step of the event loop, except repairs, which read the database. `live_room.py` states the
guarantees for the connections of a room.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, Protocol

from tidings.contract.errors import CloseReason
from tidings.fanout.announcer import Announcer
from tidings.fanout.cluster import Cluster
from tidings.fanout.connection import Connection
from tidings.fanout.live_room import LiveRoom
from tidings.fanout.member_events import MemberEvents
from tidings.fanout.presence import PRESENCE_S, PresenceTracker
from tidings.fanout.publisher import Publisher
from tidings.fanout.receipt_order import ReceiptOrder
from tidings.fanout.repair import Repairs
from tidings.fanout.streams import Streams
from tidings.fanout.typing import TYPING_S, Typists
from tidings.log import views
from tidings.log.cursors import RECEIPT_MEMBERS, Cursors
from tidings.log.notices import Personal, Transient
from tidings.log.views import EncodedEntry, RoomName
from tidings.supervision import Loop
from tidings.transport.timers import GetTimers
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import rooms
from tidings_db.queries.rows import EntryRow, RoomRow

HEAD_CHECK_S = 15.0
"""The interval at which the heads of all rooms are compared with the database."""
CONNECTIONS_PER_DEVICE = 16
CONNECTIONS_PER_USER = 64


class ConnectionObserver(Protocol):
    """Notified of every connection: once when it has been registered, and once when it has ended.

    And of entries of this node that were written to connections here: `seconds` after the time of the last one.
    """

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def delivered(self, entries: Sequence[EntryRow | EncodedEntry]) -> None: ...


class Hub:
    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        publisher: Publisher,
        cursors: Cursors,
        observer: ConnectionObserver,
        *,
        head_check_s: float = HEAD_CHECK_S,
        presence_s: float = PRESENCE_S,
        typing_s: float = TYPING_S,
        timers: GetTimers = asyncio.get_running_loop,
    ) -> None:
        """`timers`: those of expiring tokens, and of typing."""
        self._db = database
        self._publisher = publisher
        self._cursors = cursors
        self._observer = observer
        self._head_check_s = head_check_s
        self._timers = timers
        self.online_users = cluster.online
        self.live_rooms: dict[int, LiveRoom] = {}
        """Rooms with a connection here, by key."""
        self._keys: dict[str, int] = {}
        """room_id -> key of the live rooms."""
        self._users: dict[int, set[Connection]] = {}
        self.head_check = Loop("tidings.head_check", self._check_heads_forever)
        self.announcer = Announcer(self.live_rooms)
        self.member_events = MemberEvents(self.live_rooms, cluster)
        self.repairs = Repairs(
            database, self.live_rooms, self.removed, self.member_events, cluster, observer.delivered
        )
        self.presence = PresenceTracker(
            database, self.live_rooms, self.announcer, cluster.online, presence_s=presence_s
        )
        self.typists = Typists(publisher, typing_s=typing_s, timers=timers)
        self.receipts = ReceiptOrder()
        self.streams = Streams(database, cluster, self.live_rooms)
        self.when_moved: Callable[[int, int], None] = lambda room_key, user_key: None
        """Called when a membership takes effect or ends here, with the room and the user."""

    def start(self) -> None:
        self.head_check.start()

    async def stop(self) -> None:
        self.head_check.cancel()
        self.repairs.stop()
        self.streams.stop()

    # -- connections ---------------------------------------------------------------------------------------------

    @property
    def connections(self) -> list[Connection]:
        return [connection for group in self._users.values() for connection in group]

    @property
    def users(self) -> int:
        """How many users have a connection here."""
        return len(self._users)

    @property
    def user_keys(self) -> list[int]:
        """The users who have a connection here."""
        return list(self._users)

    def connections_of(self, user_key: int) -> list[Connection]:
        """A user's connections here."""
        return list(self._users.get(user_key, ()))

    def add(self, connection: Connection) -> None:
        """Register a connection with its user: from here on it gets notices of memberships and withdrawn sessions.

        Earlier ones are missing: read the user's memberships afterwards.
        """
        user_key = connection.principal.user_key
        group = self._users.get(user_key)
        if group is None:
            group = self._users[user_key] = set()
            self.online_users.put(user_key, True)
        group.add(connection)
        self._observer.opened(connection)
        self.expire_at(connection)
        same_device = [member for member in group if member.device == connection.device]
        # A device with too many connections replaces its own; the second limit is for one that changes its name.
        crowd = same_device if len(same_device) > CONNECTIONS_PER_DEVICE else group
        excess = len(crowd) - (CONNECTIONS_PER_DEVICE if crowd is same_device else CONNECTIONS_PER_USER)
        if excess > 0:
            # All of the excess, although some of it is closing already: until a connection has ended, it counts.
            for oldest in nsmallest(excess, crowd, key=lambda candidate: candidate.opened_at):
                oldest.link.close(CloseReason.REPLACED)

    def devices_of(self, user_key: int) -> frozenset[int]:
        """The keys of a user's devices that are connected here."""
        return frozenset(connection.device_key for connection in self._users.get(user_key, ()))

    def has_device(self, device_key: int) -> bool:
        """Whether a device is connected here."""
        return any(connection.device_key == device_key for connection in self.connections)

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended. Idempotent."""
        connection.closed = True
        self.typists.end_all(connection)
        while connection.when_closed:
            connection.when_closed.pop()(connection)
        if connection.expiry is not None:
            connection.expiry.cancel()
            connection.expiry = None
        if connection.replay is not None:
            connection.replay.cancel()
            # The task's traceback references the connection and a page: only the garbage collector would free them.
            connection.replay = None
        user_key = connection.principal.user_key
        group = self._users.get(user_key)
        last = group is not None and group == {connection}
        if last:
            self.presence.disconnecting(connection)
        for room_key in connection.rooms:
            self._detach(connection, room_key)
        connection.forget_all()
        if group is None or connection not in group:
            return
        group.discard(connection)
        self._observer.closed(connection)
        if last:
            del self._users[user_key]
            self.online_users.put(user_key, False)

    def sessions_of(self, user_key: int) -> set[int]:
        """The sessions by which a user is connected here."""
        return {connection.principal.session_key for connection in self._users.get(user_key, ())}

    def expire_at(self, connection: Connection) -> None:
        """Close the connection when its token expires. Call it again after a new token."""
        if connection.expiry is not None:
            connection.expiry.cancel()
            connection.expiry = None
        if connection.has_ended():
            return
        delay = max(0.0, connection.principal.expires_at / 1000 - time.time())
        timers = self._timers()
        connection.expiry = timers.call_at(
            timers.time() + delay, lambda: connection.link.close(CloseReason.TOKEN_EXPIRED)
        )

    # -- rooms ---------------------------------------------------------------------------------------------------

    def attach(
        self, connection: Connection, room: RoomRow, position: int, *, live: bool = True, announce: bool = False
    ) -> bool:
        """Put a connection into a room, at `position`; True if it is live, False if it has to catch up.

        With `live=False` it gets no entries before `go_live`. It gets the changes of members after this row, but with
        `live=False` or `announce`, those after the row in `emit_added`. For a connection that has ended, nothing
        happens and the result is True: callers need not check.
        """
        if connection.has_ended():
            return True
        live_room = self.live_rooms.get(room.key)
        if live_room is None:
            live_room = self.live_rooms[room.key] = LiveRoom(room)
            self._keys[room.room_id] = room.key
            self.streams.room_opened(live_room)
            self.suspect([room.key])  # its head may have moved since it was read
        live_room.attach(connection, position, room.removals)
        self.repairs.expect_head(live_room, room.last_seq)
        if live and not announce:
            self.member_events.entered(connection, room)
        return live and live_room.go_live(connection)

    def is_outdated(self, room: RoomRow) -> bool:
        """Whether a member of the room, as of this row, may have been removed since: read the membership again."""
        live_room = self.live_rooms.get(room.key)
        return live_room is not None and live_room.is_fenced and room.removals < live_room.removals

    def key(self, room_id: str) -> int | None:
        """The key of a room with a connection here; None for any other room."""
        return self._keys.get(room_id)

    def name(self, room_key: int) -> RoomName:
        """The name of a room with a connection here."""
        return self.live_rooms[room_key].name

    def head(self, room_key: int) -> int:
        """seq of the last entry published here, of a room with a connection here."""
        return self.live_rooms[room_key].head

    def go_live(self, connection: Connection, room_key: int) -> bool:
        """Join the live set if the position allows it; False: there is more to read first."""
        return self.live_rooms[room_key].go_live(connection)

    def begin_events(self, connection: Connection, room: RoomRow) -> bool:
        """Begin to send a connection the events of a room that it is in: as `go_live`.

        It gets the changes of members after this row.
        """
        self.member_events.entered(connection, room)
        return self.go_live(connection, room.key)

    def detach(self, connection: Connection, room_key: int) -> None:
        """Take a connection out of a room."""
        connection.forget(room_key)
        self._detach(connection, room_key)

    def _detach(self, connection: Connection, room_key: int) -> None:
        live_room = self.live_rooms.get(room_key)
        if live_room is None or connection not in live_room.attached:
            return
        live_room.detach(connection)
        if not live_room.attached:
            if live_room.repairing is not None:
                live_room.repairing.cancel()
            del self.live_rooms[room_key], self._keys[live_room.name.room_id]
            self.streams.room_closed(room_key)

    def online_in(self, room_key: int) -> int:
        """How many of a room's members are online; those on other nodes as of the last `count_online`."""
        live_room = self.live_rooms.get(room_key)
        here = 0 if live_room is None else len(live_room.users)
        return here + self.online_users.members_elsewhere(room_key)

    async def count_online(self, shown: Iterable[RoomRow]) -> None:
        """Bring `online_in` of rooms up to date. Takes half a second at most; never raises."""
        await self.online_users.count_members(shown)

    def users_in(self, room_key: int) -> list[int]:
        """The members of a room who are connected here."""
        live_room = self.live_rooms.get(room_key)
        return [] if live_room is None else list(live_room.users)

    def online_seen(self, snapshot: rooms.Snapshot, user_key: int) -> int:
        """`online_in` as a user may see it: in a direct conversation, a user who has blocked them is not online."""
        if not snapshot.blocked:
            return self.online_in(snapshot.room.key)
        live_room = self.live_rooms.get(snapshot.room.key)
        is_here = live_room is not None and user_key in live_room.users
        return int(is_here or self.online_users.is_elsewhere(user_key))

    def notify(self, user_key: int, event: str, payload: dict[str, Any]) -> None:
        """Send an event to all devices of a user, on any node; at most once."""
        self._publisher.publish(Personal(user_key, event, payload))

    def publish_transient(self, room_key: int, event: str, payload: dict[str, Any]) -> None:
        """Send an event to the members of a room who are connected, on any node; at most once."""
        self._publisher.publish(Transient(room_key, event, payload))

    def confirm(self, connection: Connection, positions: Mapping[int, int]) -> None:
        """Move the cursors of the connection's device: it has received these rooms up to these seqs."""
        shown = {
            key
            for key in positions
            if (live_room := self.live_rooms.get(key)) is not None and live_room.members <= RECEIPT_MEMBERS
        }
        removals = {
            key: live_room.attached[connection]
            for key in positions
            if (live_room := self.live_rooms.get(key)) is not None and connection in live_room.attached
        }
        self._cursors.advance(connection.principal.user_key, connection.device_key, positions, shown, removals)

    # -- memberships ---------------------------------------------------------------------------------------------

    def removed(self, connection: Connection, reason: str, room_key: int) -> None:
        """Take a connection out of a room that its user is no longer in, and send `room_removed`."""
        self.announcer.write_now(connection)
        room_id = self.live_rooms[room_key].name.room_id
        self.typists.end(connection, room_key)
        self.detach(connection, room_key)
        self.when_moved(room_key, connection.principal.user_key)
        connection.emit("room_removed", {"room_id": room_id, "reason": reason})

    def emit_added(self, connection: Connection, snapshot: rooms.Snapshot) -> None:
        user_key = connection.principal.user_key
        view = views.room(snapshot, user_key, self.online_seen(snapshot, user_key))
        connection.emit("room_added", {"room": view.model_dump(mode="json")})
        self.member_events.entered(connection, snapshot.room)

    # -- repair --------------------------------------------------------------------------------------------------

    def log_went_back(self) -> None:
        """The log is an earlier one now: close all connections, and forget the heads of all rooms."""
        self.receipts.clear()
        for connection in self.connections:
            connection.link.close(CloseReason.SHUTDOWN)
            self.remove(connection)

    def suspect(self, room_keys: Iterable[int]) -> None:
        """See `Fanout.suspect`."""
        self.repairs.suspect(room_keys)

    async def _check_heads_forever(self) -> None:
        while True:
            await asyncio.sleep(self._head_check_s)
            await self._check_heads(list(self.live_rooms))

    async def _check_heads(self, room_keys: Sequence[int]) -> None:
        """Compare rooms with the database, unless it cannot be reached."""
        try:
            await self.repairs.compare_heads(room_keys)
        except StoreUnavailable:
            return
