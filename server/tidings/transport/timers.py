"""The clock of the protocols: sign-ins, heartbeats, expiries, typing. A test can replace that of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timers(Protocol):
    """The part of an event loop that has a clock and schedules callbacks. Times are in seconds."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle: ...


GetTimers = Callable[[], Timers]
"""Returns the timers of the running event loop: `asyncio.get_running_loop`, unless a test stands in for it."""
