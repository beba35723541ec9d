"""The messages that the user has seen or can point at, in their present state. In memory: the server has them all."""

from __future__ import annotations

from typing import Final

from server.contract.events import MessageChanged
from server.contract.models import Message

_KEPT: Final = 1000
"""Messages of a room; older ones can be asked for."""


class Log:
    def __init__(self) -> None:
        self._rooms: dict[str, dict[int, Message]] = {}

    def add(self, message: Message) -> Message:
        """Take a message as an event, or a page of history, has it; returns its newest state.

        An answer may be older than an event that came before it: what is deleted or edited later here stays so.
        """
        room = self._rooms.setdefault(message.room_id, {})
        held = room.get(message.seq)
        if held is not None and (held.deleted or (held.edited_at or "") > (message.edited_at or "")):
            return held
        room[message.seq] = message
        if len(room) > _KEPT:
            del room[min(room)]
        return message

    def change(self, event: MessageChanged) -> Message | None:
        """Take what an edit, a deletion or a reaction made of a message; returns what it was, if that is known."""
        room = self._rooms.setdefault(event.room_id, {})
        before = room.get(event.message.seq)
        room[event.message.seq] = event.message
        return before

    def get(self, room_id: str, seq: int) -> Message | None:
        return self._rooms.get(room_id, {}).get(seq)

    def find(self, room_id: str, message_id: str) -> Message | None:
        return next((m for m in self._rooms.get(room_id, {}).values() if m.id == message_id), None)

    def last(self, room_id: str, sender: str | None = None) -> Message | None:
        """The newest message of a room that stands, or of one sender in it."""
        standing = (m for m in self._rooms.get(room_id, {}).values() if not m.deleted and sender in (None, m.sender))
        return max(standing, key=lambda m: m.seq, default=None)

    def forget(self, room_id: str) -> None:
        self._rooms.pop(room_id, None)
