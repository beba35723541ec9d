"""Who is typing: transient, and it ends by itself."""

from __future__ import annotations

import asyncio

from server.delivery.broker import Broker, RoomChannel, Transient
from server.delivery.connection import Connection

TYPING_S = 6.0
"""Typing ends by itself after so long."""


class Typists:
    def __init__(self, broker: Broker, *, typing_s: float = TYPING_S) -> None:
        self._broker = broker
        self._typing_s = typing_s
        self._until: dict[Connection, dict[int, tuple[str, asyncio.TimerHandle]]] = {}

    def stop(self) -> None:
        for connection in list(self._until):
            for _, timer in self._until.pop(connection).values():
                timer.cancel()

    def set(self, connection: Connection, room_key: int, room_id: str, typing: bool) -> None:
        """Tell the room's other connections; without a word for `typing_s` it ends."""
        rooms = self._until.setdefault(connection, {})
        before = rooms.pop(room_key, None)
        if before is not None:
            before[1].cancel()
        if typing:
            timer = asyncio.get_running_loop().call_later(
                self._typing_s, self.set, connection, room_key, room_id, False
            )
            rooms[room_key] = (room_id, timer)
        if not rooms:
            del self._until[connection]
        if typing or before is not None:
            payload = {"room_id": room_id, "username": connection.principal.username, "typing": typing}
            self._broker.publish(
                RoomChannel(room_key), Transient(room_key, "typing", payload, except_connection=connection.id)
            )

    def ended(self, connection: Connection) -> None:
        """The connection is gone, and with it its typing."""
        for room_key, (room_id, _) in list(self._until.get(connection, {}).items()):
            self.set(connection, room_key, room_id, False)
