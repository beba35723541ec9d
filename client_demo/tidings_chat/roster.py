"""The other users: who is online, who is typing, and how far they have received and read. In memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from tidings.contract.events import TypingNow
from tidings.contract.models import Member, Message, Receipt
from tidings_chat.i18n import n, t
from tidings_chat.rooms import merged

TYPING_LASTS: Final = 6.0
_SHOW_PRESENCE: Final = 5
"""Up to this many others, the status bar shows each by name."""


class Roster:
    def __init__(self, me: str) -> None:
        self.names: set[str] = set()
        """Every username that was seen, for completion."""
        self._me = me
        self._members: dict[str, list[str]] = {}
        self._online: dict[str, bool] = {}
        self._typing: dict[tuple[str, str], float] = {}
        """(room_id, username) -> the monotonic time at which the notice expires"""
        self._receipts: dict[str, dict[str, Receipt]] = {}
        self._last_sent: dict[str, int] = {}

    def set_members(self, room_id: str, members: Iterable[Member]) -> None:
        """Store the members of a room, and which of them are online."""
        members = list(members)
        self._members[room_id] = [member.username for member in members if member.username != self._me]
        self._online |= {member.username: member.online for member in members}
        self.names.update(self._members[room_id])

    def remove_receipt(self, room_id: str, username: str) -> None:
        self._receipts.get(room_id, {}).pop(username, None)

    def set_online(self, username: str, online: bool) -> None:
        self._online[username] = online

    def set_typing(self, typing: TypingNow) -> None:
        until = time.monotonic() + TYPING_LASTS if typing.typing else 0.0
        self._typing[typing.room_id, typing.username] = until

    def clear_typing(self) -> None:
        self._typing.clear()

    def sent(self, message: Message) -> None:
        """The sender of a message has stopped typing."""
        self._typing.pop((message.room_id, message.sender), None)
        self.show_last(message)
        if message.sender != self._me:
            self.names.add(message.sender)

    def show_last(self, message: Message) -> None:
        """Show the receipts of the last message of a room, if it is the user's own."""
        if message.sender == self._me:
            self._last_sent[message.room_id] = message.seq

    def set_receipt(self, receipt: Receipt) -> None:
        """Store how far a user has received and read a room."""
        marks = self._receipts.setdefault(receipt.room_id, {})
        marks[receipt.username] = merged(marks.get(receipt.username), receipt)

    def status(self, room_id: str, *, online: bool) -> list[tuple[str, str]]:
        """Styles and texts for the status bar. Presence is unknown unless this client is `online`."""
        now = time.monotonic()
        typing = [name for (room, name), until in self._typing.items() if room == room_id and until > now]
        parts = self._presence(room_id) if online else []
        if typing:
            parts.append(
                ("", f"  {n('{users} is typing…', '{users} are typing…', len(typing), users=', '.join(typing))}")
            )
        elif receipts := self._receipts_of_last_sent(room_id):
            parts.append(("class:bar.quiet", f"  {receipts}"))
        return parts

    def _presence(self, room_id: str) -> list[tuple[str, str]]:
        others = self._members.get(room_id, [])
        online = [name for name in others if self._online.get(name)]
        if len(others) > _SHOW_PRESENCE:
            return [("", "  " + t("{online} of {all} others online", online=len(online), all=len(others)))]
        return [
            ("class:bar.good" if name in online else "class:bar.quiet", f"  {'●' if name in online else '○'} {name}")
            for name in others
        ]

    def _receipts_of_last_sent(self, room_id: str) -> str:
        """The members who have received, and those who have read, the user's last message in a room."""
        seq = self._last_sent.get(room_id)
        receipts = self._receipts.get(room_id, {}).values()
        by_others = [r for r in receipts if r.username != self._me]
        if seq is None:
            return ""
        read = [r.username for r in by_others if r.read_seq >= seq]
        arrived = [r.username for r in by_others if r.delivered_seq >= seq]
        if read:
            return t("✓✓ read by {users}", users=", ".join(read))
        return t("✓ reached {users}", users=", ".join(arrived)) if arrived else ""
