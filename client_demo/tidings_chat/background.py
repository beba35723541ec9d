"""Tasks whose failure the user need not know of: a typing notice, a look at who is online."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from tidings_client import TidingsError


class BackgroundTasks:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine; if the server refuses it or cannot be reached, that is ignored."""
        task = asyncio.create_task(_ignoring_refusals(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _ignoring_refusals(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(TidingsError):
        await work
