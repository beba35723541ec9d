"""The rooms that the user is in, and how people call them."""

from __future__ import annotations

from typing import Any

from client_demo.outbox import Ask
from server.contract.models import Room, RoomKind
from server.contract.models import Rooms as Page


class Rooms:
    def __init__(self) -> None:
        self._by_id: dict[str, Room] = {}

    def __iter__(self) -> Any:
        return iter(self._by_id.values())

    async def load(self, ask: Ask) -> None:
        """Ask for all of them, by pages."""
        self._by_id = {room.room_id: room for room in await all_rooms(ask, member=True)}

    def add(self, room: Room) -> None:
        self._by_id[room.room_id] = room

    def remove(self, room_id: str) -> None:
        self._by_id.pop(room_id, None)

    def get(self, room_id: str) -> Room | None:
        return self._by_id.get(room_id)

    def find(self, name: str) -> Room | None:
        """By room_id, topic name, or the other's username; as the user typed it."""
        folded = name.strip().casefold()
        for room in self._by_id.values():
            if room.room_id == name or folded in {n.casefold() for n in (room.topic_name, room.title) if n}:
                return room
        return None

    def title(self, room_id: str) -> str:
        room = self._by_id.get(room_id)
        return title(room) if room else "?"


def title(room: Room) -> str:
    """`#topic`, `@user`, or a group's title."""
    if room.topic_name is not None:
        return f"#{room.topic_name}"
    if room.kind is RoomKind.DIRECT:
        return f"@{room.title or '?'}"
    return room.title or "a group"


async def all_rooms(ask: Ask, **only: Any) -> list[Room]:
    """`get_rooms`, all pages."""
    rooms: list[Room] = []
    after: str | None = None
    while True:
        data = await ask("get_rooms", {**only, "limit": 500, **({"after": after} if after else {})})
        page = Page.model_validate(data, extra="ignore")
        rooms += page.rooms
        after = page.next
        if after is None:
            return rooms
