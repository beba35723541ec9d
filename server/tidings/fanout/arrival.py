"""The positions of a device in the rooms of its user at a connect: from its cursors, the server's, and the logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidings_db.queries.progress import ArrivalState, MemberRoom
from tidings_db.queries.rows import RoomRow

ROOMS_PER_STEP = 250
"""Rooms that an arriving connection enters in one step of the event loop."""


class Arrival:
    """The rooms and entries that an arriving connection has to be sent.

    `enter` is called for each room, again if it is entered again.
    """

    def __init__(self, client_cursors: Mapping[str, int], heads: Mapping[int, int], *, is_known: bool) -> None:
        """`client_cursors`: room_id -> seq. `heads`: of `epochs.heads_since`. `is_known`: the device is not new."""
        self._client_cursors = client_cursors
        self._heads = heads
        self._is_known = is_known
        self.member_rooms: Sequence[MemberRoom] = ()
        self.former_rooms: Sequence[tuple[int, str]] = ()
        """See `ArrivalState`."""
        self.entered: dict[int, RoomRow] = {}
        """Rooms that the client knows, by key."""
        self.entered_ids: set[str] = set()
        """Ids of all rooms that the connection has entered, those included that it is no longer in."""
        self.unannounced: dict[int, None] = {}
        """Rooms that the client does not know, by key."""
        self.reset: dict[int, tuple[str, int]] = {}
        """Rooms whose log does not continue at the device's cursor: key -> (room_id, position)"""

    def read(self, arrival_state: ArrivalState) -> None:
        """The memberships have been read; the last read counts."""
        self.member_rooms, self.former_rooms = arrival_state

    def enter(self, member_room: MemberRoom, confirmed_here: int) -> tuple[int, bool]:
        """The device's position in a room, and whether the client has confirmed it.

        `confirmed_here`: the device's cursor if this node has not written it yet, else -1.
        """
        room, joined_seq, cursor, _ = member_room
        self.entered_ids.add(room.room_id)
        for earlier in (self.entered, self.unannounced, self.reset):
            earlier.pop(room.key, None)
        confirmed_here = min(confirmed_here, room.last_seq)
        server_cursor = confirmed_here if cursor is None or cursor < confirmed_here else cursor
        client_cursor = self._client_cursors.get(room.room_id)
        if server_cursor < joined_seq:  # none, or one of an earlier membership
            server_cursor = max(joined_seq, room.first_seq - 1)
            if client_cursor is None:
                self.unannounced[room.key] = None
                return server_cursor, False
        self.entered[room.key] = room
        if client_cursor is None:
            position = _position(room, server_cursor)
            # A known device may hold lost entries after the server's cursor.
            is_reset = position != server_cursor or (room.key in self._heads and self._is_known)
        else:
            known = min(client_cursor, self._heads.get(room.key, client_cursor)) if self._heads else client_cursor
            position = _position(room, known)
            is_reset = position != client_cursor
        if is_reset:
            self.reset[room.key] = room.room_id, position
        return position, client_cursor is not None and not is_reset


def _position(room: RoomRow, cursor: int) -> int:
    """The position in the room's log that is closest to a cursor."""
    return min(max(cursor, room.first_seq - 1), room.last_seq)
