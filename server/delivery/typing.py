"""Who is typing: transient, and it ends by itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.delivery.broker import Broker, RoomChannel, Transient
from server.delivery.connection import Connection

TYPING_S = 6.0
"""Typing ends by itself after so long."""
TOLD_AGAIN_S = 1.0
"""Who goes on typing is told of again after so long, and not before: some clients show it from second to second."""


@dataclass(slots=True)
class _Typing:
    room_id: str
    told_at: float
    timer: asyncio.TimerHandle


class Typists:
    def __init__(self, broker: Broker, *, typing_s: float = TYPING_S) -> None:
        self._broker = broker
        self._typing_s = typing_s
        self._typing: dict[Connection, dict[int, _Typing]] = {}

    def stop(self) -> None:
        for rooms in self._typing.values():
            for typing in rooms.values():
                typing.timer.cancel()
        self._typing.clear()

    def goes_on(self, connection: Connection, room_key: int) -> bool:
        """Whether the room was told just now that this connection is typing; then it only lasts longer."""
        typing = self._typing.get(connection, {}).get(room_key)
        loop = asyncio.get_running_loop()
        if typing is None or loop.time() - typing.told_at >= TOLD_AGAIN_S:
            return False
        typing.timer.cancel()
        typing.timer = loop.call_later(self._typing_s, self.end, connection, room_key)
        return True

    def begin(self, connection: Connection, room_key: int, room_id: str) -> None:
        """Tell the room's other connections; without a word for `typing_s` it ends."""
        loop = asyncio.get_running_loop()
        rooms = self._typing.setdefault(connection, {})
        before = rooms.get(room_key)
        if before is not None:
            before.timer.cancel()
        timer = loop.call_later(self._typing_s, self.end, connection, room_key)
        rooms[room_key] = _Typing(room_id, loop.time(), timer)
        self._tell(connection, room_key, room_id, True)

    def end(self, connection: Connection, room_key: int) -> bool:
        """The connection no longer types there, or is no longer in the room; False if it did not."""
        rooms = self._typing.get(connection, {})
        typing = rooms.pop(room_key, None)
        if typing is None:
            return False
        typing.timer.cancel()
        if not rooms:
            del self._typing[connection]
        self._tell(connection, room_key, typing.room_id, False)
        return True

    def ended(self, connection: Connection) -> None:
        """The connection is gone, and with it its typing."""
        for room_key in list(self._typing.get(connection, {})):
            self.end(connection, room_key)

    def _tell(self, connection: Connection, room_key: int, room_id: str, typing: bool) -> None:
        payload = {"room_id": room_id, "username": connection.principal.username, "typing": typing}
        self._broker.publish(
            RoomChannel(room_key), Transient(room_key, "typing", payload, except_connection=connection.id)
        )
