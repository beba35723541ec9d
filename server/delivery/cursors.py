"""Cursors, written behind: they move in memory and go to the database with the journal's batches.

A cursor write that is lost (a crash) costs a repeat, never a loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection as Transaction

from db.queries import progress, users
from server.delivery.connection import Connection

RECEIPT_MEMBERS = 50
"""Receipts go to conversations and rooms of up to so many members."""


@dataclass(slots=True)
class Moved:
    """What is to be written."""

    cursors: dict[tuple[int, int], int] = field(default_factory=dict)
    """(device, room) -> seq"""
    receipts: set[tuple[int, int]] = field(default_factory=set)
    """(room, user) whose other members are told"""
    ended: dict[tuple[int, int], int] = field(default_factory=dict)
    """(user, device) -> when its last connection ended"""

    def __bool__(self) -> bool:
        return bool(self.cursors or self.ended)


class Cursors:
    def __init__(self, members_of: Callable[[int], int | None]) -> None:
        """`members_of` tells how many members a room has, if that is known here."""
        self._members_of = members_of
        self._moved = Moved()
        self._in_flight = Moved()

    def advance(self, connection: Connection, positions: Mapping[int, int]) -> None:
        """The connection's device has received these rooms up to these seqs."""
        user_key = connection.principal.user_key
        for room_key, seq in positions.items():
            at = (connection.device_key, room_key)
            if seq > self._moved.cursors.get(at, -1):
                self._moved.cursors[at] = seq
                if (self._members_of(room_key) or RECEIPT_MEMBERS + 1) <= RECEIPT_MEMBERS:
                    self._moved.receipts.add((room_key, user_key))

    def ended(self, connection: Connection) -> None:
        """A connection of the device has ended, now."""
        self._moved.ended[connection.principal.user_key, connection.device_key] = time.time_ns() // 1_000_000

    def known(self, device_key: int, room_key: int) -> int:
        """The cursor as far as it is not in the database yet; -1 if it is, or there is none."""
        at = (device_key, room_key)
        return max(self._moved.cursors.get(at, -1), self._in_flight.cursors.get(at, -1))

    def unwritten(self, device_key: int) -> dict[int, int]:
        """The cursors of a device that are not in the database yet, by room. Ask before reading those that are."""
        found: dict[int, int] = {}
        for moved in (self._in_flight, self._moved):
            for (device, room_key), seq in moved.cursors.items():
                if device == device_key:
                    found[room_key] = max(seq, found.get(room_key, -1))
        return found

    def __bool__(self) -> bool:
        return bool(self._moved)

    def take(self) -> Moved:
        """What is to be written now. Give it back with `written` or `failed`."""
        self._in_flight, self._moved = self._moved, Moved()
        return self._in_flight

    def written(self) -> None:
        self._in_flight = Moved()

    def failed(self) -> None:
        """Keep for the next time what could not be written."""
        kept, self._in_flight = self._in_flight, Moved()
        for at, seq in kept.cursors.items():
            self._moved.cursors[at] = max(seq, self._moved.cursors.get(at, -1))
        self._moved.receipts |= kept.receipts
        self._moved.ended = kept.ended | self._moved.ended


def save(conn: Transaction, moved: Moved) -> None:
    """Write what has moved."""
    if moved.cursors:
        progress.save_cursors(conn, moved.cursors)
    for (user_key, device_key), when in sorted(moved.ended.items()):
        users.touch(conn, user_key, device_key or None, when)
