"""A room's live connections on this node, and how its entries are written to them.

What holds, for every connection: it is in `live` only while its position equals `head`, so whatever is published next
is the next thing it gets: no gap, no repeat. Nothing here waits: each call is within one step of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from db.queries.rows import EntryRow
from server.contract.errors import CloseReason
from server.contract.events import MemberChange
from server.fanout.connection import Batch, Connection
from server.log.views import RoomName, event, events, said_by

PRESENCE_MEMBERS = 200
"""Presence goes to conversations and rooms of up to so many members."""
NO_VIEWS: Final[Mapping[int, dict[str, Any]]] = {}
_REMOVALS = (MemberChange.LEFT, MemberChange.KICKED, MemberChange.BANNED)


class LiveRoom:
    """A room that connections of this node are in."""

    __slots__ = ("ahead", "attached", "head", "live", "members", "name", "repairing", "seen", "users")

    def __init__(self, name: RoomName, head: int, members: int) -> None:
        self.name = name
        self.head = head
        """seq of the last entry that was published to `live`."""
        self.seen = head
        """The highest known seq; if it is above `head`, the room needs a repair."""
        self.members = members
        self.attached: set[Connection] = set()
        self.live: set[Connection] = set()
        self.ahead: dict[Connection, int] = {}
        """Connections that are ahead of `head`: they have read a commit that is not published yet."""
        self.users: dict[int, int] = {}
        """Users with a connection here -> number of connections."""
        self.repairing: asyncio.Task[None] | None = None

    @property
    def shows_presence(self) -> bool:
        """Whether members learn which of them are online: in conversations, and in rooms that are not too large."""
        return self.name.topic_name is None or self.members <= PRESENCE_MEMBERS

    def attach(self, connection: Connection, position: int) -> None:
        """The connection has the room up to `position`. It gets no entries before `go_live`."""
        if connection not in self.attached:
            self.attached.add(connection)
            user_key = connection.principal.user_key
            self.users[user_key] = self.users.get(user_key, 0) + 1
        connection.rooms[self.name.key] = position

    def go_live(self, connection: Connection) -> bool:
        """Join the live set if the position allows it; False: there is more to read first."""
        position = connection.rooms[self.name.key]
        if position == self.head:
            self.live.add(connection)
        elif position > self.head:
            self.ahead[connection] = position
        else:
            return False
        return True

    def detach(self, connection: Connection) -> None:
        """An attached connection gets nothing more."""
        self.attached.discard(connection)
        self.live.discard(connection)
        self.ahead.pop(connection, None)
        user_key = connection.principal.user_key
        self.users[user_key] -= 1
        if not self.users[user_key]:
            del self.users[user_key]

    def deliver(
        self,
        entries: Sequence[EntryRow],
        removed: Callable[[Connection, str, int], None],
        views: Mapping[int, dict[str, Any]] = NO_VIEWS,
    ) -> None:
        """Write consecutive entries from `head + 1` on to every live connection, once per connection.

        A removal applies at its position: the removed member still gets earlier entries, and nothing after it, also
        if the notice of it (`Left`) was lost. `removed` is called for their connections, with how the membership
        ended and in which room, and detaches them. A connection that is past the removal already belongs to a later
        membership. `views`: as of `Appended`.
        """
        try:
            start = 0
            for at, entry in enumerate(entries):
                if entry.kind == "member":
                    body = orjson.loads(entry.body or "{}")
                    if body.get("change") in _REMOVALS:
                        self._write(entries[start:at], views)
                        start = at
                        for connection in list(self.attached):
                            is_theirs = connection.principal.username == body["username"]
                            if is_theirs and connection.rooms[self.name.key] < entry.seq:
                                removed(connection, body["change"], self.name.key)
            self._write(entries[start:], views)
        except Exception:
            self._close_lagging()
            raise

    def _close_lagging(self) -> None:
        """A delivery has failed: close the connections that it did not reach; the next one would leave a gap."""
        for connection in list(self.live):
            if connection.rooms.get(self.name.key) != self.head:
                self.live.discard(connection)
                connection.link.close(CloseReason.SHUTDOWN)  # they come back and get everything

    def _write(self, entries: Sequence[EntryRow], views: Mapping[int, dict[str, Any]]) -> None:
        if not entries:
            return
        head = self.head = entries[-1].seq
        room_key = self.name.key
        batch = Batch([event(self.name, entry, view=views.get(entry.seq)) for entry in entries])
        # `client_id` goes to its sender only.
        own: dict[int, dict[int, tuple[str, Any]]] = {}
        for at, entry in enumerate(entries):
            said = said_by(entry)
            if said.client_id is not None and said.sender_key in self.users:
                own.setdefault(said.sender_key, {})[at] = event(
                    self.name, entry, to_sender=True, view=views.get(entry.seq)
                )
        batches = {user_key: batch.but(events_of) for user_key, events_of in own.items()}
        for connection in self.live:
            connection.write_entries(batches.get(connection.principal.user_key, batch), room_key, head)
        if self.ahead:
            self._overtaken(entries)

    def _overtaken(self, entries: Sequence[EntryRow]) -> None:
        """Let connections join that had read further than the published head."""
        for connection, position in list(self.ahead.items()):
            if position <= self.head:
                del self.ahead[connection]
                rest = [entry for entry in entries if entry.seq > position]
                if rest:
                    batch = Batch(events(self.name, rest, connection.principal.user_key))
                    connection.write_entries(batch, self.name.key, self.head)
                self.live.add(connection)

    def skip(self, to: int) -> None:
        """Retention has removed missed entries: connections without them are closed, and find the room in `reset`."""
        behind = [connection for connection, position in self.ahead.items() if position < to]
        for connection in [*self.live, *behind]:
            connection.link.close(CloseReason.SHUTDOWN)
            self.live.discard(connection)
            self.ahead.pop(connection, None)
        self.head = to
