"""The others: who of them is there, who is typing, and how far they have come. Of the moment, in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from client_demo.rooms import further
from server.contract.events import TypingNow
from server.contract.models import Member, Message, Receipt

TYPING_LASTS: Final = 6.0
_SHOW_PRESENCE: Final = 5
"""Of how many others the status bar shows who is there."""


class People:
    def __init__(self, me: str) -> None:
        self.names: set[str] = set()
        """Of whom something was seen."""
        self._me = me
        self._members: dict[str, list[str]] = {}
        self._online: dict[str, bool] = {}
        self._typing: dict[tuple[str, str], float] = {}
        """(room_id, username) -> until when, by the monotonic clock"""
        self._receipts: dict[str, dict[str, Receipt]] = {}
        self._last_sent: dict[str, int] = {}

    def are_in(self, room_id: str, members: Iterable[Member]) -> None:
        """Take the members of a room, and who of them is online."""
        found = list(members)
        self._members[room_id] = [who.username for who in found if who.username != self._me]
        self._online |= {who.username: who.online for who in found}
        self.names.update(self._members[room_id])

    def left(self, room_id: str, username: str) -> None:
        self._receipts.get(room_id, {}).pop(username, None)

    def is_online(self, username: str, online: bool) -> None:
        self._online[username] = online

    def types(self, typing: TypingNow) -> None:
        until = time.monotonic() + TYPING_LASTS if typing.typing else 0.0
        self._typing[typing.room_id, typing.username] = until

    def nobody_types(self) -> None:
        self._typing.clear()

    def said(self, message: Message) -> None:
        """Whoever has said something types no more."""
        self._typing.pop((message.room_id, message.sender), None)
        if message.sender == self._me:
            self._last_sent[message.room_id] = message.seq
        else:
            self.names.add(message.sender)

    def got(self, receipt: Receipt) -> None:
        """How far somebody has received and read a room."""
        marks = self._receipts.setdefault(receipt.room_id, {})
        marks[receipt.username] = further(marks.get(receipt.username), receipt)

    def seen(self, room_id: str, *, there: bool) -> list[tuple[str, str]]:
        """What the status bar says of them, as styles and texts; `there`: also who is there."""
        now = time.monotonic()
        typists = [who for (room, who), until in self._typing.items() if room == room_id and until > now]
        parts = self._who_is_there(room_id) if there else []
        if typists:
            parts.append(("", f"  {', '.join(typists)} {'is' if len(typists) == 1 else 'are'} typing…"))
        elif how_far := self._how_far(room_id):
            parts.append(("class:bar.quiet", f"  {how_far}"))
        return parts

    def _who_is_there(self, room_id: str) -> list[tuple[str, str]]:
        others = self._members.get(room_id, [])
        there = [who for who in others if self._online.get(who)]
        if len(others) > _SHOW_PRESENCE:
            return [("", f"  {len(there)} of {len(others)} others are there")]
        return [
            ("class:bar.good" if who in there else "class:bar.quiet", f"  {'●' if who in there else '○'} {who}")
            for who in others
        ]

    def _how_far(self, room_id: str) -> str:
        """Who has got, and who has read, our last message in a room."""
        seq = self._last_sent.get(room_id)
        receipts = self._receipts.get(room_id, {}).values()
        others = [r for r in receipts if r.username != self._me]
        if seq is None:
            return ""
        read = [r.username for r in others if r.read_seq >= seq]
        arrived = [r.username for r in others if r.delivered_seq >= seq]
        return f"✓✓ read by {', '.join(read)}" if read else f"✓ reached {', '.join(arrived)}" if arrived else ""
