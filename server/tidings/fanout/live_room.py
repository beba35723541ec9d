"""A room's live connections on this node, and how its entries are written to them.

What holds, for every connection: it is in `live` only while its position equals `head`, so the next
published entry is the next one it gets: no gap, no repeat. Each call is within one step of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from tidings.contract.errors import CloseReason
from tidings.contract.events import MemberChange
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.held_parts import HeldParts
from tidings.fanout.streams import Streams
from tidings.log.notices import Appended
from tidings.log.views import EncodedEntry, event, events, message_of, room_name
from tidings_db.queries.rows import EntryRow, RoomRow

PRESENCE_MEMBERS = 200
"""In topics, presence goes to the members only up to this many."""
NO_VIEWS: Final[Mapping[int, dict[str, Any]]] = {}
NO_REMOVALS: Final[frozenset[int]] = frozenset()
NOTHING_HELD: Final = HeldParts()
"""Shared by the rooms that hold nothing, which is most of them. Always empty: see `LiveRoom.hold`."""
_REMOVALS = (MemberChange.LEFT, MemberChange.KICKED, MemberChange.BANNED)


class LiveRoom:
    """A room that connections of this node are in."""

    __slots__ = (
        "_ahead",
        "_changes_known",
        "attached",
        "changes",
        "changes_expected",
        "head",
        "held",
        "is_fenced",
        "known_head",
        "live",
        "members",
        "name",
        "observed",
        "removals",
        "removals_ahead",
        "repairing",
        "streams",
        "users",
    )

    def __init__(self, room: RoomRow) -> None:
        self.name = room_name(room)
        self.is_fenced = self.name.topic_name is not None and not self.name.is_private
        """Whether entries wait until the removals before them are known: the log of a public topic lacks them."""
        self.head = room.last_seq
        """seq of the last entry that was published to `live`."""
        self.known_head = room.last_seq
        """The highest known seq; if it is above `head`, the room needs a repair."""
        self.members = room.members
        self.removals = room.removals
        """How many removals from the room `attached` reflects: the first ones that were committed."""
        self.removals_ahead = NO_REMOVALS
        """Removals that `attached` reflects beyond the first `removals`."""
        self.changes = room.changes
        """The number of the last change of members that was sent (`member_events.py`)."""
        self.changes_expected = 0
        """The highest number of a change that is known to be committed."""
        self._changes_known: dict[Connection, int] | None = None
        """Connections whose snapshot is ahead of `changes` -> the number of the last change that it shows."""
        self.held = NOTHING_HELD
        """Entries that were published here, and wait for earlier entries or removals."""
        self.observed = 0
        """A head that was read from the database and may not be published here yet; 0: none."""
        self.attached: dict[Connection, int] = {}
        """Connections -> how many removals are known not to concern them, because they came before."""
        self.live: set[Connection] = set()
        self._ahead: dict[Connection, int] | None = None
        """Connections whose position is beyond `head`: they have read a commit that is not published yet."""
        self.users: dict[int, int] = {}
        """Users with a connection here -> number of connections."""
        self.repairing: asyncio.Task[None] | None = None
        self.streams: Streams | None = None
        """None: no message of the room is streaming."""

    @property
    def shows_presence(self) -> bool:
        """Whether members learn who is online: in conversations, and in topics that are not too large."""
        return self.name.topic_name is None or self.members <= PRESENCE_MEMBERS

    def attach(self, connection: Connection, position: int, removals: int) -> None:
        """Put a connection into the room, at `position`. It gets no entries before `go_live`.

        `removals`: of the snapshot in which its user is a member.
        """
        if connection not in self.attached:
            self.attached[connection] = removals
            user_key = connection.principal.user_key
            self.users[user_key] = self.users.get(user_key, 0) + 1
        connection.rooms[self.name.key] = position

    def go_live(self, connection: Connection) -> bool:
        """Join the live set if the position allows it; False: there is more to read first."""
        position = connection.rooms[self.name.key]
        if position == self.head:
            self.live.add(connection)
        elif position > self.head:
            if self._ahead is None:
                self._ahead = {}
            self._ahead[connection] = position
        else:
            return False
        return True

    def changes_shown(self, connection: Connection) -> int:
        """The number of the last change of members that a connection's snapshot shows, if it is ahead; else 0."""
        return 0 if self._changes_known is None else self._changes_known.get(connection, 0)

    def set_snapshot_change(self, connection: Connection, number: int) -> None:
        """The connection's snapshot shows the changes of members up to this one; 0: it is not ahead."""
        if number:
            if self._changes_known is None:
                self._changes_known = {}
            self._changes_known[connection] = number
        elif self._changes_known is not None:
            self._changes_known.pop(connection, None)

    def hold(self, part: Appended) -> None:
        """Keep published entries that wait for earlier ones."""
        if self.held is NOTHING_HELD:
            self.held = HeldParts()
        self.held.put(part)

    def count_removal(self, number: int) -> None:
        """The connections of the user concerned have been taken out. `number`: that of the removal in the room."""
        if number > self.removals:
            self.removals_ahead |= {number}
            self.count_removals_up_to(self.removals)

    def count_removals_up_to(self, number: int) -> None:
        """The connections of all users have been taken out that the first removals concern."""
        self.removals = max(self.removals, number)
        while self.removals + 1 in self.removals_ahead:
            self.removals += 1
        if self.removals_ahead:
            self.removals_ahead = frozenset(ahead for ahead in self.removals_ahead if ahead > self.removals)

    def detach(self, connection: Connection) -> None:
        """Take an attached connection out of the room."""
        del self.attached[connection]
        self.live.discard(connection)
        if self._ahead is not None:
            self._ahead.pop(connection, None)
        self.set_snapshot_change(connection, 0)
        user_key = connection.principal.user_key
        self.users[user_key] -= 1
        if not self.users[user_key]:
            del self.users[user_key]

    def deliver(
        self,
        entries: Sequence[EntryRow | EncodedEntry],
        removed: Callable[[Connection, str, int], None],
        views: Mapping[int, dict[str, Any]] = NO_VIEWS,
    ) -> None:
        """Write consecutive entries from `head + 1` on to every live connection, once per connection.

        A removal applies at its position: the removed member gets earlier entries and no later ones, even if the
        notice `Left` was lost. `removed` is called with each of their connections, the change, and the room, and
        detaches the connection. A connection whose position is past the removal belongs to a later membership.
        `views`: as of `Appended`.
        """
        try:
            start = 0
            for index, entry in enumerate(entries):
                if entry.kind == "member":
                    body = orjson.loads(entry.body or "{}")
                    if body.get("change") in _REMOVALS:
                        self._write(entries[start:index], views)
                        start = index
                        for connection in list(self.attached):
                            is_removed = connection.principal.username == body["username"]
                            if is_removed and connection.rooms[self.name.key] < entry.seq:
                                removed(connection, body["change"], self.name.key)
            self._write(entries[start:], views)
        except Exception:
            self._close_lagging()
            raise

    def _close_lagging(self) -> None:
        """Close the connections that a failed delivery did not reach: the next delivery would leave a gap."""
        for connection in list(self.live):
            if connection.rooms.get(self.name.key) != self.head:
                self.live.discard(connection)
                connection.link.close(CloseReason.SHUTDOWN)  # the client reconnects and gets everything

    def _write(self, entries: Sequence[EntryRow | EncodedEntry], views: Mapping[int, dict[str, Any]]) -> None:
        if not entries:
            return
        head = self.head = entries[-1].seq
        room_key = self.name.key
        batch = Batch([event(self.name, entry, view=views.get(entry.seq)) for entry in entries])
        # `client_id` goes to its sender only.
        own: dict[int, dict[int, tuple[str, Any]]] = {}
        for index, entry in enumerate(entries):
            message = message_of(entry)
            if message.client_id is not None and message.sender_key in self.users:
                own.setdefault(message.sender_key, {})[index] = event(
                    self.name, entry, to_sender=True, view=views.get(entry.seq)
                )
        batches = {user_key: batch.replaced(events_of) for user_key, events_of in own.items()}
        for connection in self.live:
            connection.write_entries(batches.get(connection.principal.user_key, batch), room_key, head)
        if self._ahead:
            self._admit_overtaken(self._ahead, entries)
        if self.streams is not None:
            self.streams.entries_written(self, entries)

    def _admit_overtaken(self, ahead: dict[Connection, int], entries: Sequence[EntryRow | EncodedEntry]) -> None:
        """Make connections live whose position the published head has reached."""
        for connection, position in list(ahead.items()):
            if position <= self.head:
                del ahead[connection]
                missing = [entry for entry in entries if entry.seq > position]
                if missing:
                    batch = Batch(events(self.name, missing, connection.principal.user_key))
                    connection.write_entries(batch, self.name.key, self.head)
                self.live.add(connection)

    def skip(self, to: int) -> None:
        """Move the head past missed entries that retention has removed.

        Connections without them are closed; their clients reconnect and find the room in `reset`.
        """
        ahead = self._ahead or {}
        behind = [connection for connection, position in ahead.items() if position < to]
        for connection in [*self.live, *behind]:
            connection.link.close(CloseReason.SHUTDOWN)
            self.live.discard(connection)
            ahead.pop(connection, None)
        self.head = to
