"""Writes changes of presence: to each connection once per round, to some connections per turn of the event loop.

A connection gets only changes of rooms that it is in at the time of writing, and never those of its own user. The
changes that arrive in one step of the event loop are one round. Rounds are written in the order of arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

from server.fanout.connection import Batch, Connection
from server.fanout.live_room import LiveRoom
from server.log.notices import PresenceChanged, UserPresence

logger = logging.getLogger("tidings.presence")

EACH_TURN = 64
"""Connections that are written to in one turn of the event loop; each may get hundreds of changes."""


class _Round:
    """Changes by room and user. Each is encoded once, for all connections."""

    def __init__(self) -> None:
        self.rooms: dict[int, dict[int, UserPresence]] = {}
        self.hides = False
        """Whether any change is hidden from anybody."""
        self._encoded: dict[int, tuple[UserPresence, Batch]] = {}

    def batch(self, connection: Connection) -> Batch | None:
        """The changes for a connection; None if there are none."""
        found: dict[int, UserPresence] = {}
        for room_key, changes in self.rooms.items():
            if room_key in connection.rooms and room_key not in connection.unannounced_rooms:
                found.update(changes)
        viewer = connection.principal.user_key
        found.pop(viewer, None)
        if self.hides:
            found = {key: change for key, change in found.items() if viewer not in change.hidden_from}
        return Batch.joined([self._of(change) for change in found.values()], transient=True) if found else None

    def _of(self, change: UserPresence) -> Batch:
        known = self._encoded.get(change.user_key)
        if known is None or known[0] is not change:
            known = self._encoded[change.user_key] = change, Batch([("presence", change.payload)], transient=True)
        return known[1]


class Announcer:
    def __init__(self, live_rooms: Mapping[int, LiveRoom]) -> None:
        """`live_rooms` are the hub's, by key."""
        self._rooms = live_rooms
        self._rounds: deque[_Round] = deque()
        """The first one is being written if `_left` is not empty."""
        self._collecting: _Round | None = None
        """The round of this step of the event loop."""
        self._left: dict[Connection, None] = {}
        """Connections that the first round is still to be written to."""
        self._done: asyncio.Future[None] | None = None

    def collect(self, notice: PresenceChanged) -> None:
        if notice.room_key not in self._rooms:
            return
        if self._collecting is None:
            self._collecting = _Round()
            asyncio.get_running_loop().call_soon(self._collected)
        collected = self._collecting
        collected.rooms.setdefault(notice.room_key, {}).update((change.user_key, change) for change in notice.changes)
        collected.hides = collected.hides or any(change.hidden_from for change in notice.changes)

    def write_now(self, connection: Connection) -> None:
        """Write what waits for a connection that is about to leave a room: it happened before it leaves."""
        waiting = list(self._rounds)
        if waiting and self._left and connection not in self._left:
            del waiting[0]  # it has that already
        self._left.pop(connection, None)
        for one in [*waiting, *([self._collecting] if self._collecting is not None else [])]:
            self._write(one, connection)

    async def written(self) -> None:
        """Wait until everything collected has been written."""
        while self._collecting is not None or self._rounds:
            if self._done is None:
                self._done = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._done)

    def _collected(self) -> None:
        assert self._collecting is not None
        self._rounds.append(self._collecting)
        self._collecting = None
        if len(self._rounds) == 1:
            self._begin()

    def _begin(self) -> None:
        for room_key in self._rounds[0].rooms:
            live_room = self._rooms.get(room_key)
            if live_room is not None:
                self._left.update(dict.fromkeys(live_room.attached))
        self._go_on()

    def _go_on(self) -> None:
        for _ in range(min(EACH_TURN, len(self._left))):
            connection, _ = self._left.popitem()
            self._write(self._rounds[0], connection)
        loop = asyncio.get_running_loop()
        if self._left:
            loop.call_soon(self._go_on)
            return
        self._rounds.popleft()
        if self._rounds:
            loop.call_soon(self._begin)
        elif self._done is not None:
            self._done.set_result(None)
            self._done = None

    def _write(self, changes: _Round, connection: Connection) -> None:
        if connection.has_ended():
            return
        try:
            batch = changes.batch(connection)
            if batch is not None:
                connection.link.write(batch)
        except Exception:
            logger.exception("presence could not be written to a connection")  # the others still get it
