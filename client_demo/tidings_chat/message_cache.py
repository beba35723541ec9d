"""The messages that were shown or that a command refers to, in their current state. The server has all of them."""

from __future__ import annotations

from typing import Final

from tidings.contract.events import MessageChanged
from tidings.contract.models import Message

_CAPACITY: Final = 1000
"""Messages per room; older ones can be loaded again."""


class MessageCache:
    def __init__(self) -> None:
        self._rooms: dict[str, dict[int, Message]] = {}

    def add(self, message: Message) -> Message:
        """Store a message of an event or of a page of history, and return its newest state.

        An answer may be older than an event that arrived before it, so a deletion, a later edit or an end is kept.
        """
        room = self._rooms.setdefault(message.room_id, {})
        stored = room.get(message.seq)
        if stored is not None:
            has_ended = stored.state != "streaming" == message.state
            if stored.deleted or has_ended or (stored.edited_at or "") > (message.edited_at or ""):
                return stored
        room[message.seq] = message
        if len(room) > _CAPACITY:
            del room[min(room)]
        return message

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

    def last(self, room_id: str, sender: str | None = None) -> Message | None:
        """The newest message of a room, or of one sender in it, that is not deleted."""
        remaining = (m for m in self._rooms.get(room_id, {}).values() if not m.deleted and sender in (None, m.sender))
        return max(remaining, key=lambda m: m.seq, default=None)

    def forget(self, room_id: str) -> None:
        self._rooms.pop(room_id, None)
