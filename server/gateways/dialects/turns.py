"""For the dialects of which one frame can be several actions: frames are dealt with one at a time, in order."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from server.contract.errors import ActionError, CloseReason, Error, ErrorCode
from server.dispatch import Answer
from server.gateways.dialects.speaker import Speaker, SpeakerGateway
from server.transport.websocket import WebSocketSession

MAX_WAITING: Final = 1024
"""Frames that may wait for their turn; more are refused."""
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_REFUSALS: Final = 8 * MAX_WAITING
"""Frames that may wait for their refusal; who goes on is closed."""

Job = Callable[[], Awaitable[None]]


class TurnTaker(Speaker):
    """Each frame is dealt with when the one before it has been. Every failure is told, and ends nothing."""

    def __init__(self, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        super().__init__(gateway, session)
        self._jobs: deque[tuple[Job, int]] = deque()
        self._jobs_bytes = 0
        self._begun = False
        self._worker: asyncio.Task[None] | None = None

    @abstractmethod
    async def deal(self, data: str | bytes) -> None:
        """Deal with a frame. What it raises goes to `failed`."""

    @abstractmethod
    def failed(self, error: Error) -> None:
        """Say why the frame that was dealt with last came to nothing."""

    def take(self, data: str | bytes) -> None:
        self.received(data)  # what comes too early waits here

    def received(self, data: str | bytes) -> None:
        size = len(data)
        if len(self._jobs) >= MAX_WAITING or self._jobs_bytes + size > MAX_WAITING_BYTES:
            if len(self._jobs) >= MAX_REFUSALS:
                self._link.close(CloseReason.PROTOCOL_ERROR)
                return
            self._jobs.append((_refuse, 0))
        else:
            self._jobs.append((partial(self.deal, data), size))
            self._jobs_bytes += size
        self._go_on()

    def begin(self, first: Job | None = None) -> None:
        """From here on frames are dealt with, after something else if need be; until then they wait."""
        self._begun = True
        if first is not None:
            self._jobs.appendleft((first, 0))
        self._go_on()

    async def do(self, action: str, payload: object = None, size: int = 0) -> Any:
        """Perform a canonical action, after those that were asked before; its data. Raises `ActionError`."""
        coming: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.ask(action, payload, size, lambda answer: None if coming.done() else coming.set_result(answer))
        return (await coming).result()

    def in_turn(self, then: Callable[[], None]) -> None:
        """As everywhere, and at once before the client has signed in."""
        if self._inbox is None:
            then()
        else:
            super().in_turn(then)

    def ended(self) -> None:
        self._jobs.clear()
        if self._worker is not None:
            self._worker.cancel()
        super().ended()

    def _go_on(self) -> None:
        if self._begun and self._jobs and self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._jobs:
                job, size = self._jobs.popleft()
                self._jobs_bytes -= size
                try:
                    await job()
                except Exception as problem:
                    self.failed(self._gateway.dispatcher.describe(problem, self.name))
        finally:
            self._worker = None


async def _refuse() -> None:
    raise ActionError(ErrorCode.RATE_LIMITED, "too many frames at once", retry_after=1)
