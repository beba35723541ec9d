"""A room's live connections on this node, and how its entries are written to them.

What holds, for every connection: it is in `live` only while its position equals `head`, so whatever is published next
is the next thing it gets: no gap, no repeat. Nothing here waits: each call is within one step of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from db.queries.rows import EntryRow
from server.contract.errors import CloseReason
from server.contract.events import MemberChange
from server.delivery.connection import Connection
from server.delivery.frames import Batch, RoomName, event, events, said_by

_REMOVALS = (MemberChange.LEFT, MemberChange.KICKED, MemberChange.BANNED)


class LiveRoom:
    """A room that connections of this node are in."""

    __slots__ = ("ahead", "attached", "head", "live", "members", "name", "repairing", "seen", "users")

    def __init__(self, name: RoomName, head: int, members: int) -> None:
        self.name = name
        self.head = head
        """seq of the last entry that was published to `live`."""
        self.seen = head
        """Highest seq heard of; above `head` there is something to repair."""
        self.members = members
        self.attached: set[Connection] = set()
        self.live: set[Connection] = set()
        self.ahead: dict[Connection, int] = {}
        """Connections that are ahead of `head`: they read a commit whose publication is still to come."""
        self.users: dict[int, int] = {}
        """Users with a connection here -> number of connections."""
        self.repairing: asyncio.Task[None] | None = None

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

    def deliver(self, entries: Sequence[EntryRow], removed: Callable[[Connection], None]) -> None:
        """Write consecutive entries from `head + 1` on to every live connection, once per connection.

        A removal in between takes effect at its place: who is removed gets what stands before it. `removed` is called
        for their connections, and detaches them.
        """
        start = 0
        for at, entry in enumerate(entries):
            if entry.kind == "member":
                body = orjson.loads(entry.body or "{}")
                if body.get("change") in _REMOVALS:
                    self._write(entries[start:at])
                    start = at
                    for connection in list(self.attached):
                        if connection.principal.username == body["username"]:
                            removed(connection)
        self._write(entries[start:])

    def _write(self, entries: Sequence[EntryRow]) -> None:
        if not entries:
            return
        head = self.head = entries[-1].seq
        room_key = self.name.key
        batch = Batch([event(self.name, entry) for entry in entries])
        # `client_id` goes to its sender only.
        own: dict[int, dict[int, tuple[str, Any]]] = {}
        for at, entry in enumerate(entries):
            said = said_by(entry)
            if said.client_id is not None and said.sender_key in self.users:
                own.setdefault(said.sender_key, {})[at] = event(self.name, entry, to_sender=True)
        batches = {user_key: batch.but(events_of) for user_key, events_of in own.items()}
        for connection in self.live:
            connection.link.write(batches.get(connection.principal.user_key, batch))
            connection.sent(room_key, head)
        if self.ahead:
            self._overtaken(entries)

    def _overtaken(self, entries: Sequence[EntryRow]) -> None:
        """Let connections join that had read further than was published."""
        for connection, position in list(self.ahead.items()):
            if position <= self.head:
                del self.ahead[connection]
                rest = [entry for entry in entries if entry.seq > position]
                if rest:
                    connection.link.write(Batch(events(self.name, rest, connection.principal.user_key)))
                    connection.sent(self.name.key, self.head)
                self.live.add(connection)

    def skip(self, to: int) -> None:
        """Retention has taken what was missed: who does not have it comes back, and finds the room in `reset`."""
        behind = [connection for connection, position in self.ahead.items() if position < to]
        for connection in [*self.live, *behind]:
            connection.link.close(CloseReason.SHUTDOWN)
            self.live.discard(connection)
            self.ahead.pop(connection, None)
        self.head = to
