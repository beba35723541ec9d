"""Cursors, written behind: they move in memory and go to the database with the journal's batches.

A cursor write that is lost (a crash) costs a repeat, never a loss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sqlalchemy.engine import Connection as Transaction

from tidings_db.queries import progress, users

MAX_CURSORS_PER_WRITE = 500
"""Cursors and ends of connections that one transaction writes, at most: messages wait for it."""
RECEIPT_MEMBERS = 50
"""Receipts go to rooms of up to this many members."""

ALL_REMOVALS: Final = 2**62
ANY_MEMBERSHIP: Final[Mapping[int, int]] = {}


@dataclass(slots=True)
class Moved:
    """Cursors that have moved, and connections that have ended, since the last write."""

    cursors: dict[tuple[int, int], int] = field(default_factory=dict)
    """(device, room) -> seq"""
    removals: dict[tuple[int, int], int] = field(default_factory=dict)
    """The same keys -> the number of removals from the room by which the user's membership is known."""
    receipts: dict[tuple[int, int], int] = field(default_factory=dict)
    """The cursors that the room's other members get a receipt for: (device, room) -> user"""
    ended: dict[tuple[int, int], int] = field(default_factory=dict)
    """(user, device) -> when its last connection ended"""
    epochs: dict[int, int] = field(default_factory=dict)
    """device -> the log epoch that it has learned of"""

    def __bool__(self) -> bool:
        return bool(self.cursors or self.ended or self.epochs)

    def split(self, count: int) -> Moved:
        """Take out up to `count`, the oldest first."""
        cursors = dict(islice(self.cursors.items(), count))
        ended = dict(islice(self.ended.items(), count - len(cursors)))
        for key in cursors:
            del self.cursors[key]
        for key in ended:
            del self.ended[key]
        epochs = dict(islice(self.epochs.items(), count - len(cursors) - len(ended)))
        for device_key in epochs:
            del self.epochs[device_key]
        receipts = {key: self.receipts.pop(key) for key in cursors if key in self.receipts}
        removals = {key: self.removals.pop(key) for key in cursors}
        return Moved(cursors, removals, receipts, ended, epochs)

    def __len__(self) -> int:
        return len(self.cursors) + len(self.ended) + len(self.epochs)

    def halves(self) -> tuple[Moved, ...]:
        """Split into two parts; empty for a single cursor or a single connection's end."""
        if len(self) < 2:
            return ()
        rest = Moved(
            dict(self.cursors), dict(self.removals), dict(self.receipts), dict(self.ended), dict(self.epochs)
        )
        return rest.split(len(self) // 2), rest


class Cursors:
    def __init__(self) -> None:
        self._moved = Moved()
        self._in_flight = Moved()
        self._watches: dict[int, list[dict[int, int]]] = {}
        """By device: see `watched`."""
        self._waiting: list[tuple[dict[tuple[int, int], int], asyncio.Future[None]]] = []
        """The callers of `all_written`, each with the cursors that are not in the database yet."""

    def advance(
        self,
        user_key: int,
        device_key: int,
        positions: Mapping[int, int],
        shown: Container[int] = (),
        removals: Mapping[int, int] = ANY_MEMBERSHIP,
    ) -> None:
        """A device of the user has received these rooms up to these seqs. Members of `shown` rooms get receipts.

        `removals`: by room, how many of its removals are known to have come before the membership, or not to concern
        it. The cursor is not that of a later membership.
        """
        for room_key, seq in positions.items():
            key, known = (device_key, room_key), removals.get(room_key, ALL_REMOVALS)
            if (known, seq) > (self._moved.removals.get(key, -1), self._moved.cursors.get(key, -1)):
                self._moved.cursors[key] = max(seq, self._moved.cursors.get(key, -1))
                self._moved.removals[key] = known
                if room_key in shown:
                    self._moved.receipts[key] = user_key

    def ended(self, user_key: int, device_key: int) -> None:
        """A connection of a device of the user has ended, now."""
        self._moved.ended[user_key, device_key] = time.time_ns() // 1_000_000

    def learned(self, device_key: int, epoch: int) -> None:
        """A device has received `ready`, which names what the log of earlier epochs has lost."""
        self._moved.epochs[device_key] = epoch

    def epoch_learned(self, device_key: int) -> int:
        """The log epoch that a device has learned of if it is not in the database yet, else 0."""
        return max(moved.epochs.get(device_key, 0) for moved in (self._moved, self._in_flight))

    def known(self, device_key: int, room_key: int, joined_removals: int = 0) -> int:
        """The cursor if it is not in the database yet, else -1.

        `joined_removals`: how many memberships of the room had ended when that of the user began.
        """
        key = (device_key, room_key)
        position = -1
        for moved in (self._moved, self._in_flight):
            seq = moved.cursors.get(key, -1)
            if seq > position and moved.removals[key] >= joined_removals:
                position = seq
        return position

    @contextmanager
    def watched(self, device_key: int) -> Iterator[dict[int, int]]:
        """The cursors of a device that are written within the block, by room: a read within it may miss them."""
        written: dict[int, int] = {}
        self._watches.setdefault(device_key, []).append(written)
        try:
            yield written
        finally:
            watches = self._watches[device_key]
            watches[:] = [watch for watch in watches if watch is not written]
            if not watches:
                del self._watches[device_key]

    def unwritten(self, device_key: int) -> dict[int, int]:
        """The cursors of a device that are not in the database yet, by room. Call it before reading the others."""
        positions: dict[int, int] = {}
        for moved in (self._in_flight, self._moved):
            for (device, room_key), seq in moved.cursors.items():
                if device == device_key:
                    positions[room_key] = max(seq, positions.get(room_key, -1))
        return positions

    def all_written(self) -> asyncio.Future[None]:
        """A future that is done when all cursors that have moved so far are in the database."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        positions = self._in_flight.cursors | self._moved.cursors
        if positions:
            self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]
            self._waiting.append((positions, future))
        else:
            future.set_result(None)
        return future

    def __bool__(self) -> bool:
        return bool(self._moved)

    def take(self) -> Moved:
        """Take up to `MAX_CURSORS_PER_WRITE` to write now. Call `written` or `failed` afterwards."""
        if len(self._moved) <= MAX_CURSORS_PER_WRITE:
            self._in_flight, self._moved = self._moved, Moved()
        else:
            self._in_flight = self._moved.split(MAX_CURSORS_PER_WRITE)
        return self._in_flight

    def written(self) -> None:
        if self._watches:
            for (device_key, room_key), seq in self._in_flight.cursors.items():
                for written in self._watches.get(device_key, ()):
                    written[room_key] = max(seq, written.get(room_key, -1))
        written_cursors, self._in_flight = self._in_flight.cursors, Moved()
        for positions, future in self._waiting:
            for key in written_cursors.keys() & positions.keys():
                if written_cursors[key] >= positions[key]:
                    del positions[key]
            if not positions and not future.done():
                future.set_result(None)

    def failed(self) -> None:
        """The write failed: keep its cursors for the next one."""
        moved, self._in_flight = self._in_flight, Moved()
        self.put_back(moved)

    def put_back(self, moved: Moved) -> None:
        """Keep cursors for the next write, unless newer ones are waiting."""
        for key, seq in moved.cursors.items():
            self._moved.cursors[key] = max(seq, self._moved.cursors.get(key, -1))
            self._moved.removals[key] = max(moved.removals[key], self._moved.removals.get(key, -1))
        self._moved.receipts |= moved.receipts
        self._moved.ended = moved.ended | self._moved.ended
        self._moved.epochs = moved.epochs | self._moved.epochs


def save(conn: Transaction, moved: Moved) -> None:
    """Write the cursors and the ends of connections."""
    if moved.cursors:
        progress.save_cursors(conn, moved.cursors, moved.removals)
    if moved.ended:
        users.touch_all(conn, moved.ended)
    if moved.epochs:
        users.note_epochs(conn, moved.epochs)
