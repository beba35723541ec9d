"""Typing indicators: transient, and each ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tidings.fanout.connection import Connection
from tidings.fanout.publisher import Publisher
from tidings.log.notices import Transient
from tidings.transport.timers import GetTimers

TYPING_S = 6.0
"""Typing ends by itself after this long."""
REPEAT_S = 1.0
"""Continued typing is published again after this long, not before: some clients show it for a second only."""


@dataclass(slots=True)
class _Typing:
    room_id: str
    published_at: float
    timer: asyncio.TimerHandle


class Typists:
    def __init__(
        self, publisher: Publisher, *, typing_s: float = TYPING_S, timers: GetTimers = asyncio.get_running_loop
    ) -> None:
        self._publisher = publisher
        self._timers = timers
        self._typing_s = typing_s
        self._typing: dict[Connection, dict[int, _Typing]] = {}
        self._own: set[str] = set()
        """Ids of the connections in `_typing`."""
        self._elsewhere: dict[tuple[str | None, int], asyncio.TimerHandle] = {}
        """(connection of another node, room) -> the end of its typing, if that node does not publish it."""

    def stop(self) -> None:
        for rooms in self._typing.values():
            for typing in rooms.values():
                typing.timer.cancel()
        for timer in self._elsewhere.values():
            timer.cancel()
        self._typing.clear()
        self._elsewhere.clear()

    def extend(self, connection: Connection, room_key: int) -> bool:
        """Extend the connection's typing if it was published just now; False: call `begin`."""
        typing = self._typing.get(connection, {}).get(room_key)
        if typing is None or self._timers().time() - typing.published_at >= REPEAT_S:
            return False
        typing.timer.cancel()
        typing.timer = self._end_later(connection, room_key)
        return True

    def begin(self, connection: Connection, room_key: int, room_id: str) -> None:
        """Publish that the connection is typing, and end it after `typing_s`. Nothing if the connection has ended."""
        if connection.has_ended():
            return
        rooms = self._typing.setdefault(connection, {})
        self._own.add(connection.id)
        earlier = rooms.get(room_key)
        if earlier is not None:
            earlier.timer.cancel()
        rooms[room_key] = _Typing(room_id, self._timers().time(), self._end_later(connection, room_key))
        self._publish(connection, room_key, room_id, True)

    def end(self, connection: Connection, room_key: int) -> bool:
        """End the connection's typing in a room; False if it was not typing there."""
        rooms = self._typing.get(connection, {})
        typing = rooms.pop(room_key, None)
        if typing is None:
            return False
        typing.timer.cancel()
        if not rooms:
            del self._typing[connection]
            self._own.discard(connection.id)
        self._publish(connection, room_key, typing.room_id, False)
        return True

    def end_all(self, connection: Connection) -> None:
        """End all typing of a connection that has ended."""
        for room_key in list(self._typing.get(connection, {})):
            self.end(connection, room_key)

    def received(self, notice: Transient, deliver: Callable[[Transient], None]) -> None:
        """Follow the typing of a connection of another node, and end it here if that node does not: it may be gone.

        `deliver` gets the end, to be treated like a notice of that node.
        """
        if notice.event != "typing" or notice.except_connection in self._own:
            return
        key = notice.except_connection, notice.room_key
        timer = self._elsewhere.pop(key, None)
        if timer is not None:
            timer.cancel()
        if notice.payload["typing"]:
            ended = replace(notice, payload={**notice.payload, "typing": False})
            timers = self._timers()
            # The other node extends it without a notice for up to `REPEAT_S`.
            end_at = timers.time() + self._typing_s + REPEAT_S
            self._elsewhere[key] = timers.call_at(end_at, partial(self._end_elsewhere, ended, deliver))

    def _end_elsewhere(self, ended: Transient, deliver: Callable[[Transient], None]) -> None:
        self._elsewhere.pop((ended.except_connection, ended.room_key), None)
        deliver(ended)

    def _end_later(self, connection: Connection, room_key: int) -> asyncio.TimerHandle:
        timers = self._timers()
        return timers.call_at(timers.time() + self._typing_s, partial(self.end, connection, room_key))

    def _publish(self, connection: Connection, room_key: int, room_id: str, typing: bool) -> None:
        payload = {"room_id": room_id, "username": connection.principal.username, "typing": typing}
        self._publisher.publish(Transient(room_key, "typing", payload, except_connection=connection.id))
