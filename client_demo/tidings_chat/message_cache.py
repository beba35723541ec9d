"""The messages as they were shown last, for the commands that refer to them and to show what has changed."""

from __future__ import annotations

from typing import Final

from tidings.contract.events import MessageChanged
from tidings.contract.models import Message
from tidings_chat.attachments import numbers
from tidings_client.timeline import newest

_CAPACITY: Final = 1000
"""Messages per room; older ones can be loaded again."""


class MessageCache:
    def __init__(self) -> None:
        self._rooms: dict[str, dict[int, Message]] = {}

    def add(self, message: Message) -> Message:
        """Store a message of an event or of a page of history, and return its newest state."""
        room = self._rooms.setdefault(message.room_id, {})
        room[message.seq] = newest(room.get(message.seq), message)
        if len(room) > _CAPACITY:
            del room[min(room)]
        return room.get(message.seq, message)

    def change(self, event: MessageChanged) -> Message | None:
        """Store a message as an edit, a deletion or a reaction left it; return its former state, if known."""
        room = self._rooms.setdefault(event.room_id, {})
        before = room.get(event.message.seq)
        room[event.message.seq] = event.message
        return before

    def get(self, room_id: str, seq: int) -> Message | None:
        return self._rooms.get(room_id, {}).get(seq)

    def find(self, room_id: str, message_id: str) -> Message | None:
        return next((m for m in self._rooms.get(room_id, {}).values() if m.id == message_id), None)

    def files(self, room_id: str) -> list[str]:
        """The numbers of all files of a room, the newest message first."""
        room = self._rooms.get(room_id, {})
        return [number for seq in sorted(room, reverse=True) for number in numbers(room[seq])]

    def last(self, room_id: str, sender: str | None = None) -> Message | None:
        """The newest message of a room, or of one sender in it, that is not deleted."""
        remaining = (m for m in self._rooms.get(room_id, {}).values() if not m.deleted and sender in (None, m.sender))
        return max(remaining, key=lambda m: m.seq, default=None)

    def forget(self, room_id: str) -> None:
        self._rooms.pop(room_id, None)
