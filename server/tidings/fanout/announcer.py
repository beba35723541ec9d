"""Writes changes of presence and profiles: to each connection once per round, to some of them per turn of the loop.

A connection gets only changes of rooms that it is in at the time of writing, and never those of its own user. The
changes that arrive in one step of the event loop are one round. Rounds are written in the order of arrival.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidings.fanout.connection import Batch, Connection
from tidings.fanout.live_room import LiveRoom

logger = logging.getLogger("tidings.presence")

CONNECTIONS_PER_TURN = 64
"""Connections that are written to in one turn of the event loop; each may get hundreds of changes."""


@dataclass(frozen=True, slots=True)
class UserChange:
    """A change of one user, whom others see."""

    user_key: int
    username: str
    events: Sequence[tuple[str, dict[str, Any]]]
    """`presence`, `profile` or both."""
    hidden_from: frozenset[int]
    """Users who must not know."""


class _Round:
    """Changes by room and user. Each is encoded once, for all connections."""

    def __init__(self) -> None:
        self.rooms: dict[int, dict[int, UserChange]] = {}
        self.hides = False
        """Whether any change is hidden from anybody."""
        self._encoded: dict[int, tuple[UserChange, Batch]] = {}

    def hide(self, viewer_key: int, username: str) -> None:
        """Hide the changes of a user from a viewer."""
        for changes in self.rooms.values():
            for user_key, change in changes.items():
                if change.username == username:
                    changes[user_key] = replace(change, hidden_from=change.hidden_from | {viewer_key})
                    self.hides = True

    def batch(self, connection: Connection) -> Batch | None:
        """The changes for a connection; None if there are none."""
        selected: dict[int, UserChange] = {}
        for room_key, changes in self.rooms.items():
            if room_key in connection.rooms and room_key not in connection.unannounced_rooms:
                selected.update(changes)
        viewer = connection.principal.user_key
        selected.pop(viewer, None)
        if self.hides:
            selected = {key: change for key, change in selected.items() if viewer not in change.hidden_from}
        if not selected:
            return None
        return Batch.joined([self._encode(change) for change in selected.values()], transient=True)

    def _encode(self, change: UserChange) -> Batch:
        cached = self._encoded.get(change.user_key)
        if cached is None or cached[0] is not change:
            cached = self._encoded[change.user_key] = change, Batch(change.events, transient=True)
        return cached[1]


class Announcer:
    def __init__(self, live_rooms: Mapping[int, LiveRoom]) -> None:
        """`live_rooms` are the hub's, by key."""
        self._rooms = live_rooms
        self._rounds: deque[_Round] = deque()
        """The first one is being written if `_unwritten` is not empty."""
        self._collecting: _Round | None = None
        """The round of this step of the event loop."""
        self._unwritten: dict[Connection, None] = {}
        """Connections that the first round is still to be written to."""
        self._all_written: asyncio.Future[None] | None = None

    def collect(self, room_key: int, changes: Sequence[UserChange]) -> None:
        """Members of a room have come online, gone offline, or changed their profile."""
        if room_key not in self._rooms:
            return
        if self._collecting is None:
            self._collecting = _Round()
            asyncio.get_running_loop().call_soon(self._end_round)
        collected = self._collecting
        collected.rooms.setdefault(room_key, {}).update((change.user_key, change) for change in changes)
        collected.hides = collected.hides or any(change.hidden_from for change in changes)

    def write_now(self, connection: Connection) -> None:
        """Write the waiting changes to a connection that is about to leave a room: they happened before it leaves."""
        waiting = list(self._rounds)
        if waiting and self._unwritten and connection not in self._unwritten:
            del waiting[0]  # already written to it
        self._unwritten.pop(connection, None)
        for changes in [*waiting, *([self._collecting] if self._collecting is not None else [])]:
            self._write(changes, connection)

    def hide(self, viewer_key: int, username: str) -> None:
        """Take the waiting changes of a user from those for a viewer, who must not get them any more."""
        for changes in [*self._rounds, *([self._collecting] if self._collecting is not None else [])]:
            changes.hide(viewer_key, username)

    async def written(self) -> None:
        """Wait until everything collected has been written."""
        while self._collecting is not None or self._rounds:
            if self._all_written is None:
                self._all_written = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_written)

    def _end_round(self) -> None:
        assert self._collecting is not None
        self._rounds.append(self._collecting)
        self._collecting = None
        if len(self._rounds) == 1:
            self._begin()

    def _begin(self) -> None:
        for room_key in self._rounds[0].rooms:
            live_room = self._rooms.get(room_key)
            if live_room is not None:
                self._unwritten.update(dict.fromkeys(live_room.attached))
        self._write_some()

    def _write_some(self) -> None:
        for _ in range(min(CONNECTIONS_PER_TURN, len(self._unwritten))):
            connection, _ = self._unwritten.popitem()
            self._write(self._rounds[0], connection)
        loop = asyncio.get_running_loop()
        if self._unwritten:
            loop.call_soon(self._write_some)
            return
        self._rounds.popleft()
        if self._rounds:
            loop.call_soon(self._begin)
        elif self._all_written is not None:
            self._all_written.set_result(None)
            self._all_written = None

    def _write(self, changes: _Round, connection: Connection) -> None:
        if connection.has_ended():
            return
        try:
            batch = changes.batch(connection)
            if batch is not None:
                connection.link.write(batch)
        except Exception:
            logger.exception("presence could not be written to a connection")  # the other connections still get it
