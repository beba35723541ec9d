"""How busy the machine is, so that bounds on processor time hold beside other processes, too."""

from __future__ import annotations

import time

YARDSTICK_S = 0.0036
"""The processor time of the work in `slowdown` on the idle machine on which the bounds were set."""


def slowdown() -> float:
    """How much slower this thread is now than on that machine: at least 1.

    Other processes on the same cores and caches lengthen the processor time of the same work, up to threefold.
    """
    begun = time.thread_time()
    kept: dict[str, list[int]] = {}
    for number in range(12_000):
        name = str(number % 997)
        kept[name] = [*kept.get(name, ())[-3:], number]
    return max(1.0, (time.thread_time() - begun) / YARDSTICK_S)
