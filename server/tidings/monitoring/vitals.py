"""How late the event loop is, and how long things took lately: for `/metrics`, and for administrators."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from tidings.monitoring.metrics import Metrics
from tidings.supervision import Periodic

INTERVAL_S = 0.5
LATELY_S = 60.0
PART = 0.99

logger = logging.getLogger("tidings.monitoring.vitals")


class Vitals(Periodic):
    def __init__(
        self, metrics: Metrics, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: returns seconds."""
        super().__init__(interval_s, logger, "the lag of the event loop was not measured")
        self.started_at = time.time_ns() // 1_000_000
        """ms since the epoch."""
        self._lag = metrics.loop_lag
        self._measured = (metrics.delivery, metrics.commit, metrics.loop_lag)
        self._clock = clock
        self._last: float | None = None
        self._earlier = deque([(clock(), self._counts())], 2)
        """Up to two times, `LATELY_S` apart, with what was counted until then."""

    def lately(self) -> list[int | None]:
        """The ms that 99 % of deliveries, of commits and of timers kept within the last one or two `LATELY_S`."""
        _, counts = self._earlier[0]
        kept = [each.quantile(PART, before) for each, before in zip(self._measured, counts, strict=True)]
        return [None if seconds is None else math.ceil(1000 * seconds) for seconds in kept]

    def _counts(self) -> list[list[int]]:
        return [[*each.counts] for each in self._measured]

    async def _round(self) -> None:
        now = self._clock()
        if self._last is not None:
            self._lag.add(max(0.0, now - self._last - self._interval_s))
        self._last = now
        if now - self._earlier[-1][0] >= LATELY_S:
            self._earlier.append((now, self._counts()))
