"""How late the event loop of the clients is."""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import bisect_right
from typing import NamedTuple


class Delivery(NamedTuple):
    seconds: float
    """From the acknowledgement of the message until its reception."""
    lag: float
    """For how many of these seconds the event loop of the clients was late: it was busy, or had no processor."""


class LoopLag:
    """How late the event loop of this process was, all the time."""

    INTERVAL_S = 0.02
    ALLOWED_S = 0.005

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        """From when until when a timer was overdue, in the order of time."""

    async def measure(self) -> None:
        while True:
            due_at = time.monotonic() + self.INTERVAL_S
            await asyncio.sleep(self.INTERVAL_S)
            if (now := time.monotonic()) > due_at + self.ALLOWED_S:
                self._late.append((due_at, now))

    def between(self, begin: float, end: float) -> float:
        """For how many seconds it was late in this time."""
        first = max(0, bisect_right(self._late, (begin,)) - 1)
        late = 0.0
        for since, until in itertools.islice(self._late, first, None):
            if since >= end:
                break
            late += max(0.0, min(until, end) - max(since, begin))
        return late
