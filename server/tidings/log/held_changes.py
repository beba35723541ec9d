"""Changes to rooms that another transaction has locked."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from tidings.log.transaction import Operation

Queued = tuple[Operation[Any], asyncio.Future[Any], float]
"""(operation, its answer, when it was handed over by the loop's clock)."""


class HeldChanges:
    """The changes that wait for each room, in the order in which they were handed over."""

    def __init__(self) -> None:
        self._by_room: dict[int, deque[Queued]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """The number of rooms."""
        return len(self._by_room)

    @property
    def changes(self) -> int:
        return sum(map(len, self._by_room.values()))

    @property
    def oldest(self) -> float:
        """When the oldest of them was handed over; infinity if there is none."""
        return min((changes[0][2] for changes in self._by_room.values()), default=math.inf)

    def hold_behind_others(self, queued: Queued) -> bool:
        """Hold a change if others to one of its rooms are held. Returns whether it is held."""
        return bool(self._by_room) and not self.hold([queued], self._by_room)

    def hold(self, batch: Sequence[Queued], rooms: Collection[int]) -> list[Queued]:
        """Hold the changes to locked rooms; returns the remaining ones. Empty `rooms`: hold changes to any room."""
        remaining: list[Queued] = []
        for queued in batch:
            key = next((key for key in queued[0].lock_keys if key in rooms or not rooms), None)
            if key is None:
                remaining.append(queued)
            else:
                self._by_room.setdefault(key, deque()).append(queued)
                self.bytes += queued[0].size
        return remaining

    def release(self, since: float = math.inf) -> tuple[list[Queued], deque[Queued]]:
        """Release all changes. Returns (those handed over at `since` or later, earlier ones)."""
        released: list[Queued] = []
        late: deque[Queued] = deque()
        for changes in self._by_room.values():
            while changes and changes[0][2] < since:
                late.append(changes.popleft())
            released += changes
        self._by_room = {}
        self.bytes = 0
        return released, late
