"""Time that a test lets pass: for the option `timers` of a node and of the transports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """`tidings.transport.timers.Timers`, and the function that returns them. Only `advance` moves the time."""

    def __init__(self) -> None:
        self._now = 0.0
        self._pending: list[asyncio.TimerHandle] = []

    def __call__(self) -> Timers:
        return self

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self._pending.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let so much time pass, and run what is due meanwhile, in order."""
        until = self._now + seconds
        while due := [timer for timer in self._pending if timer.when() <= until and not timer.cancelled()]:
            timer = min(due, key=asyncio.TimerHandle.when)
            self._pending.remove(timer)
            self._now = max(self._now, timer.when())
            timer._run()  # type: ignore[attr-defined]
        self._now = until
