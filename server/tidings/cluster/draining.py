"""Drains a node: moves its connections to other nodes, a few at a time.

So they arrive at the others one after another. Each client first confirms what it has received: otherwise one that
brings no cursors would get entries again from the next node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tidings.contract.errors import CloseReason
from tidings.fanout.confirming import confirm_all
from tidings.fanout.connection import Connection
from tidings.supervision import Periodic, spawn

logger = logging.getLogger("tidings.draining")

T = TypeVar("T")

SETTLE_S = 2.0
"""The longest wait for the answers of running actions."""
SLICE_S = 0.25
MIN_RATE = 50
"""Connections that are closed in a second, at least."""
CUT_OFF_S = 12.0
"""A node whose database is silent for so long is cut off from it. It says that it is not ready 10 s earlier."""
CUT_OFF_CHECK_S = 1.0


async def drain_in_slices(
    items: Sequence[T], over_s: float, move: Callable[[Sequence[T]], Coroutine[Any, Any, object]]
) -> None:
    """Move connections, or sessions, in slices over the time, or faster than that if they are few."""
    slices = max(1, math.ceil(min(over_s, len(items) / MIN_RATE) / SLICE_S))
    size = math.ceil(len(items) / slices)
    running = []
    try:
        for start in range(0, len(items), size or 1):
            if start:
                await asyncio.sleep(SLICE_S)
            running.append(spawn(move(items[start : start + size]), "moving connections"))
        if running:
            await asyncio.wait(running)
    finally:
        for task in running:
            task.cancel()


class Mover:
    """Moves connections of this node: closes them so that their clients go to other nodes."""

    def __init__(
        self,
        connections: Callable[[], Sequence[Connection]],
        write_cursors: Callable[[], Awaitable[object]],
        over_s: float,
    ) -> None:
        """`connections`: returns all. `over_s`: the longest that closing all of them takes."""
        self._connections = connections
        self._write_cursors = write_cursors
        self._over_s = over_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def move_all(self) -> None:
        """Move all connections, in slices."""
        await drain_in_slices(self._connections(), self._over_s, self._move)

    def move(self, connections: Sequence[Connection]) -> None:
        """Begin to move some connections."""
        task = spawn(self._move(connections), "moving connections")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _move(self, connections: Sequence[Connection]) -> None:
        """Close connections, so that their clients go to other nodes.

        Each client's running actions are answered, and its cursors are written, before it is sent `closing`.
        """
        connections = [connection for connection in connections if not connection.has_ended()]
        settling = [connection.link.settle() for connection in connections]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await asyncio.gather(*settling)
        await confirm_all(connections)
        await self._write_cursors()
        for connection in connections:
            if not connection.closed:
                connection.link.close(CloseReason.SHUTDOWN)


class CutOff(Periodic):
    """Moves the connections of a node that is cut off from its database, if another node is ready.

    If none is, the database itself is away: the connections stay, and go on when it is back.
    """

    def __init__(
        self, silence: Callable[[], float], is_another_ready: Callable[[], Awaitable[bool]], mover: Mover
    ) -> None:
        """`silence`: returns for how many seconds the database has not answered."""
        super().__init__(CUT_OFF_CHECK_S, logger, "the connections of a node that is cut off could not be moved")
        self._silence = silence
        self._is_another_ready = is_another_ready
        self._mover = mover

    async def _round(self) -> None:
        if self._silence() > CUT_OFF_S and await self._is_another_ready() and self._silence() > CUT_OFF_S:
            await self._mover.move_all()
