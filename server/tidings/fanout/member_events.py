"""Sends the `member` events of public topics: each change once, in order, to the connections whose snapshot lacks it.

The log of a public topic does not contain who comes and goes. The changes are numbered instead, under the lock of the
room's row, and every node learns of all of them: of its own after the commit, of the others' by the feed. A
connection enters a room with a snapshot, and gets the changes after the snapshot's number. Clients count the events,
so an answer with a number of members waits until its changes have been sent (`sent`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from tidings.contract.errors import CloseReason
from tidings.contract.events import MemberChange
from tidings.fanout.cluster import Cluster
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.live_room import LiveRoom
from tidings_db.queries.feed import MembershipChange
from tidings_db.queries.rows import RoomRow

MEMBER_EVENTS_UP_TO = 200
"""Public topics send `member` events only up to this many members; beyond, only to a member whose role changes."""
GAP_S = 1.0
"""How long a missing change may take after a later one."""
SENT_S = 2 * GAP_S
"""The longest that an answer waits."""
KEPT_S = 60.0
"""Longer than any read of a snapshot takes."""
KEPT = 256
"""Changes that are kept of a room."""


class MemberEvents:
    def __init__(self, live_rooms: Mapping[int, LiveRoom], cluster: Cluster) -> None:
        """`live_rooms` are the hub's, by key."""
        self._rooms = live_rooms
        self._cluster = cluster
        self._kept: dict[int, tuple[float, dict[int, MembershipChange]]] = {}
        """Room -> when its last change came, and its last changes by number; in the order of these times."""
        self._progress = asyncio.Event()
        """Set when changes are sent, and replaced then."""

    def note(self, change: MembershipChange) -> None:
        """Learn of a change, and send what is next. Repeats have no effect."""
        now = asyncio.get_running_loop().time()
        _, kept = self._kept.pop(change.room, (now, {}))
        self._kept[change.room] = now, kept
        kept[change.number] = change
        if len(kept) > KEPT:
            del kept[min(kept)]
        while (oldest := next(iter(self._kept.items())))[1][0] < now - KEPT_S:
            del self._kept[oldest[0]]
        live_room = self._rooms.get(change.room)
        if live_room is not None and live_room.is_fenced:
            self._advance(live_room)
            self.expect(live_room, change.number)

    def entered(self, connection: Connection, room: RoomRow) -> None:
        """The client knows the room as of this row, or asks for a newer one: send it the changes after the row."""
        live_room = self._rooms.get(room.key)
        if live_room is None or (room.changes == live_room.changes and room.key not in self._kept):
            return
        if not live_room.is_fenced or connection not in live_room.attached:
            return
        if room.changes > live_room.changes:
            live_room.set_snapshot_change(connection, room.changes)
        kept = self._kept_of(live_room)
        for number in range(room.changes + 1, live_room.changes + 1):
            if number not in kept:
                connection.link.close(CloseReason.SHUTDOWN)  # the client reconnects and gets everything
                return
            self._write(live_room, kept[number], [connection])
        self._advance(live_room)

    def expect(self, live_room: LiveRoom, number: int) -> None:
        """A change with this number was committed. If it is not known soon, changes were missed."""
        if number > max(live_room.changes, live_room.changes_expected):
            live_room.changes_expected = number
            self._cluster.wake()
            asyncio.get_running_loop().call_later(GAP_S, self._give_up, live_room, number)

    async def wait_until_sent(self, rooms: Iterable[RoomRow]) -> None:
        """Wait until the connections here have got the changes that these rows show; two seconds at most."""
        ahead = [room for room in rooms if self._is_ahead(room)]
        if not ahead:
            return
        self._cluster.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(SENT_S):
                while any(map(self._is_ahead, ahead)):
                    await self._progress.wait()

    def _is_ahead(self, room: RoomRow) -> bool:
        live_room = self._rooms.get(room.key)
        if live_room is None or not live_room.is_fenced or room.members > MEMBER_EVENTS_UP_TO:
            return False
        return room.changes > live_room.changes

    def _kept_of(self, live_room: LiveRoom) -> Mapping[int, MembershipChange]:
        return self._kept.get(live_room.name.key, (0.0, {}))[1]

    def _advance(self, live_room: LiveRoom) -> None:
        """Send the changes that are known without a gap."""
        kept = self._kept_of(live_room)
        before = live_room.changes
        while (change := kept.get(live_room.changes + 1)) is not None:
            live_room.changes = change.number
            live_room.members = change.members
            self._write(live_room, change, live_room.attached)
        if live_room.changes > before:
            self._progressed()

    def _progressed(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    def _write(self, live_room: LiveRoom, change: MembershipChange, connections: Collection[Connection]) -> None:
        body = {"username": change.username, "change": change.change, "role": change.role}
        batch = Batch([("member", {"room_id": live_room.name.room_id, "seq": None, **body})])
        is_small = change.members <= MEMBER_EVENTS_UP_TO
        for connection in list(connections):
            if live_room.changes_shown(connection) >= change.number:
                continue
            live_room.set_snapshot_change(connection, 0)
            is_concerned = change.change == MemberChange.ROLE and change.user == connection.principal.user_key
            if (is_small or is_concerned) and change.room not in connection.unannounced_rooms:
                connection.link.write(batch)

    def _give_up(self, live_room: LiveRoom, number: int) -> None:
        """If changes are still missing, they were missed here: the clients read the members again."""
        if live_room is not self._rooms.get(live_room.name.key) or live_room.changes >= number:
            return
        if self._cluster.silence_s >= GAP_S:  # it has not been learned since
            asyncio.get_running_loop().call_later(GAP_S, self._give_up, live_room, number)
            return
        live_room.changes = number
        for connection in list(live_room.attached):
            if live_room.changes_shown(connection) < number and live_room.members <= MEMBER_EVENTS_UP_TO:
                connection.link.close(CloseReason.SHUTDOWN)  # the client reconnects and gets everything
        self._progressed()
        self._advance(live_room)
