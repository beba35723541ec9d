"""Cached rows of rooms and memberships, which the one-statement commit compares with what is there; never trusted."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TypeVar

from tidings.log.transaction import Work
from tidings_db.queries.journal import Loaded, Needed, Pair
from tidings_db.queries.members import MemberStanding
from tidings_db.queries.rows import RoomRow

K = TypeVar("K")
V = TypeVar("V")

KEPT = 4096
"""Rooms, and standings."""
DOUBT_S = 5.0
"""After a wrong guess about a room, the next ones are probably wrong for this long."""


class ExpectedRows:
    """The rows as the last transactions of this node left them.

    Another node may have changed them since, or the transaction was rolled back.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, RoomRow] = {}
        self._standings: dict[Pair, MemberStanding] = {}
        self._mistaken: dict[int, float] = {}
        """Rooms with a wrong guess, and when it was made, by the monotonic clock."""
        self._clock: float | None = None
        """PostgreSQL's clock minus the monotonic clock of this process, in seconds; late by the way to here."""

    def note_clock(self, now: int) -> None:
        """Note the time that PostgreSQL has just answered, in ms since the epoch."""
        self._clock = now / 1000 - time.monotonic()

    def note(self, work: Work) -> None:
        """Note the rooms and standings that a transaction read or changed."""
        _keep(self._rooms, ((key, room.row) for key, room in work.rooms.items()))
        _keep(self._standings, work.standings.items())

    def note_mistaken(self, rooms: Iterable[int]) -> None:
        """Note that the guess about one of these rooms was wrong: others change it, too."""
        now = time.monotonic()
        _keep(self._mistaken, ((key, now) for key in rooms))

    def was_mistaken(self, rooms: Iterable[int]) -> bool:
        """Whether a guess about one of these rooms was wrong within the last `DOUBT_S`."""
        if not self._mistaken:
            return False
        since = time.monotonic() - DOUBT_S
        return any(self._mistaken.get(key, since) > since for key in rooms)

    def guess(self, needed: Needed) -> Loaded | None:
        """The rows that a batch probably reads; None if one of the rooms or standings is unknown, or the time.

        Nothing was sent before, every message exists that is replied to, and no session was withdrawn.
        """
        if self._clock is None:
            return None
        now = math.ceil((self._clock + time.monotonic()) * 1000)
        try:
            rooms = {key: self._rooms[key] for key in needed.rooms}
            standings = {pair: self._standings[pair] for pair in needed.pairs}
        except KeyError:
            return None
        return Loaded(now, rooms, standings, {}, set(needed.replies), set())


def _keep(kept: dict[K, V], rows: Iterable[tuple[K, V]]) -> None:
    """Put rows at the end, and drop the oldest ones over `KEPT`."""
    for key, row in rows:
        kept.pop(key, None)
        kept[key] = row
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
