"""The base of dialects whose frames may need several actions: frames are handled one after another."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from tidings.actions.dispatch import Answer
from tidings.contract.errors import ActionError, CloseReason, Error, ErrorCode
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.base import DialectClient
from tidings.supervision import spawn
from tidings.transport.turn import TaskTurn
from tidings.transport.websocket_server import WebSocketSession

MAX_WAITING: Final = 1024
"""The most waiting frames; further ones are refused."""
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_REFUSALS: Final = 8 * MAX_WAITING
"""The most waiting frames, including refused ones; beyond that the connection is closed."""

Job = Callable[[], Awaitable[None]]


class SequentialClient(DialectClient):
    """Handles one frame at a time. A failure is answered, and the connection stays open."""

    def __init__(self, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._jobs: deque[tuple[Job, int]] = deque()
        self._jobs_bytes = 0
        self._started = False
        self._worker: asyncio.Task[None] | None = None

    @abstractmethod
    async def handle(self, data: str | bytes) -> None:
        """Handle a frame. Exceptions go to `failed`."""

    @abstractmethod
    def failed(self, error: Error) -> None:
        """Answer the current frame, which has failed."""

    def receive(self, data: str | bytes) -> None:
        """Queue a frame; also one that arrives before the sign-in."""
        size = len(data)
        if len(self._jobs) >= MAX_WAITING or self._jobs_bytes + size > MAX_WAITING_BYTES:
            if len(self._jobs) >= MAX_REFUSALS:
                self._link.close(CloseReason.PROTOCOL_ERROR)
                return
            self._jobs.append((_refuse, 0))
        else:
            self._jobs.append((partial(self.handle, data), size))
            self._jobs_bytes += size
        self._run_jobs()

    def start_handling(self, first: Job | None = None) -> None:
        """Start to handle frames, after `first` if given. Until then they wait."""
        self._started = True
        if first is not None:
            self._jobs.appendleft((first, 0))
        self._run_jobs()

    async def run(self, action: str, payload: object = None, size: int = 0) -> Any:
        """Run an action after all earlier ones, and return its data. Raises `ActionError`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.actions.push(action, payload, size, lambda answer: None if future.done() else future.set_result(answer))
        return (await future).result()

    async def answered(self) -> None:
        """Wait until all earlier actions are answered."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.after_answers(lambda: None if future.done() else future.set_result(None))
        await future

    def after_answers(self, callback: Callable[[], None]) -> None:
        """See the base class; before the sign-in, the callback is called immediately."""
        if self.connection is None:
            callback()
        else:
            super().after_answers(callback)

    def ended(self) -> None:
        self._jobs.clear()
        if self._worker is not None:
            self._worker.cancel()
        super().ended()

    def _run_jobs(self) -> None:
        if self._started and self._jobs and self._worker is None:
            self._worker = spawn(self._work(), "dialect worker")

    async def _work(self) -> None:
        turn = TaskTurn()
        try:
            while self._jobs:
                if turn.is_over():
                    await asyncio.sleep(0)
                job, size = self._jobs.popleft()
                self._jobs_bytes -= size
                try:
                    await job()
                except Exception as problem:
                    self.failed(self._backend.dispatcher.describe(problem, self.name))
        finally:
            self._worker = None


async def _refuse() -> None:
    raise ActionError(ErrorCode.RATE_LIMITED, "too many frames at once", retry_after=1)
