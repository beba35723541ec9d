"""The longest that the input of one connection is processed before other connections have their turn."""

from __future__ import annotations

import asyncio
from time import monotonic, thread_time

TURN_S = 0.01
"""Processor time of a turn. The frame or action that ends it can exceed it.

A burst of 64 messages should fit: if it is cut, each half is written and delivered in a batch of its own, and a
delivery costs up to 1.6 times as much. The halves stay apart, as the sender continues each when it is acknowledged.
"""


class Turn:
    """A turn that begins now. Only the processor time of this thread counts, not that of other processes."""

    __slots__ = ("_ends", "_next_look")
    _was_suspended = False

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._next_look = monotonic() + TURN_S
        """No processor time is asked for before: that is a system call, ten times as slow as this clock."""
        self._ends = thread_time() + TURN_S

    def is_over(self) -> bool:
        if self._was_suspended:
            self._begin()
        now = monotonic()
        if now < self._next_look:
            return False
        left = self._ends - thread_time()
        self._next_look = now + left
        return left <= 0


class TaskTurn(Turn):
    """The turn of a task. It begins anew when the task continues after it was suspended.

    Others had their turn meanwhile: neither the wait nor their commits and deliveries count. When it is over, the
    task suspends itself with `asyncio.sleep(0)`.
    """

    __slots__ = ("_was_suspended",)

    def _begin(self) -> None:
        super()._begin()
        self._was_suspended = False
        asyncio.get_running_loop().call_soon(self._others_run)

    def _others_run(self) -> None:
        self._was_suspended = True
