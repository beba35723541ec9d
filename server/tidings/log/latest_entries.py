"""The entries that a node has committed lately: PostgreSQL may have lost them when another server took over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

from tidings.log.notices import Appended, Notice
from tidings_db.queries.epochs import WrittenEntry
from tidings_db.queries.rows import EntryRow

KEPT_S = 60.0
"""How long entries are kept after they were found in the database."""
MAX_KEPT = 50_000
"""Transactions whose entries are kept."""


class LatestEntries:
    """The first entry in each room of each transaction, which is lost completely or not at all."""

    def __init__(self) -> None:
        self._unchecked: deque[Sequence[WrittenEntry]] = deque(maxlen=MAX_KEPT)
        self._checked: deque[tuple[float, Sequence[WrittenEntry]]] = deque(maxlen=MAX_KEPT)
        """With the time of the check."""

    def add(self, notices: Iterable[Notice]) -> None:
        """Note what a transaction has committed."""
        written = [
            WrittenEntry(first.room_key, first.seq, first.message_id, first.created_at)
            for notice in notices
            if isinstance(notice, Appended)
            for first in notice.entries[:1]
            if isinstance(first, EntryRow)  # a node publishes nothing else
        ]
        if written:
            self._unchecked.append(written)

    def unchecked(self) -> list[WrittenEntry]:
        """One entry of each transaction that `checked` has not named, in the order of the commits."""
        return [written[0] for written in self._unchecked]

    def checked(self, count: int) -> None:
        """The database has the first `count` of `unchecked`."""
        now = time.monotonic()
        for _ in range(min(count, len(self._unchecked))):
            self._checked.append((now, self._unchecked.popleft()))
        while self._checked and self._checked[0][0] < now - KEPT_S:
            self._checked.popleft()

    def kept(self) -> list[WrittenEntry]:
        """All of them, in the order of the commits."""
        transactions = [*(written for _, written in self._checked), *self._unchecked]
        return [entry for written in transactions for entry in written]

    def clear(self) -> None:
        self._unchecked.clear()
        self._checked.clear()
