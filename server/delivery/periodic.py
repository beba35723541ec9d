"""What is done again and again, for as long as the server runs."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from db.engine import StoreUnavailable


class Periodic(ABC):
    """Does something every `interval_s` seconds, from `start` to `stop`. A round that fails is not the last one."""

    def __init__(self, interval_s: float, logger: logging.Logger, failed: str) -> None:
        """`failed`: what the log says of a round that has failed, but not because the store was away."""
        self._interval_s = interval_s
        self._logger = logger
        self._failed = failed
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._logger.name)

    async def stop(self) -> None:
        """End after the round that is under way; one that is long may look at `_stopping`."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    @abstractmethod
    async def _round(self) -> None: ...

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)
                return
            except TimeoutError:
                pass
            try:
                await self._round()
            except StoreUnavailable:
                pass  # the next round will do
            except Exception:
                self._logger.exception(self._failed)
