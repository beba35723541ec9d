"""A server on a thread and an event loop of its own, and the processor time of each step of that loop.

The clients stay on the test's loop, so the measurement covers only the server: the processor time of its thread.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from asyncio.events import Handle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support.node import RunningNode, settings_for
from tests.support.yardstick import slowdown

T = TypeVar("T")

BUDGET_S = 0.020
"""No request or message may hold the event loop for longer than this."""
TRIES = 5
"""The best try counts: another process can only lengthen a step."""


class Meter:
    """The processor time that the steps of one event loop have taken since `reset`, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        """The longest single step, during which no other client is served."""
        self.total = 0.0
        self.steps = 0

    def reset(self) -> None:
        self.longest = self.total = 0.0
        self.steps = 0

    def add(self, spent: float) -> None:
        self.longest = max(self.longest, spent)
        self.total += spent
        self.steps += 1


class ServerThread:
    """Runs coroutines on the server's loop."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server")

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Run a coroutine on the server's loop, and await its result on the caller's."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @contextmanager
    def started(self) -> Iterator[None]:
        self._thread.start()
        try:
            with _metered(self._thread, self.meter):
                yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@contextmanager
def _metered(thread: threading.Thread, meter: Meter) -> Iterator[None]:
    """Measure each callback that an event loop runs on that thread; a step of a task is one."""
    run, ident = Handle._run, thread.ident  # type: ignore[attr-defined]

    def measured(handle: Handle) -> None:
        if threading.get_ident() != ident:
            run(handle)
            return
        begun = time.thread_time()
        run(handle)
        meter.add(time.thread_time() - begun)

    Handle._run = measured  # type: ignore[attr-defined]
    try:
        yield
    finally:
        Handle._run = run  # type: ignore[attr-defined]


class MeteredNode(RunningNode):
    """A node on a thread of its own. `thread.run` runs coroutines on its loop, everything else runs on the test's."""

    thread: ServerThread

    @property
    def meter(self) -> Meter:
        return self.thread.meter


@asynccontextmanager
async def metered_node(
    database_url: str, data_dir: Path, *, options: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[MeteredNode]:
    """As `tests.support.node.running_node`, on a thread of its own."""
    thread = ServerThread()
    node = MeteredNode(settings_for(database_url, data_dir, **changes), **{"bcrypt_rounds": 4, **(options or {})})
    node.thread = thread
    with thread.started():
        await thread.run(node.start())
        try:
            yield node
        finally:
            await thread.run(node.stop())


async def longest_step(node: MeteredNode, attempt: Callable[[], Awaitable[object]], tries: int = TRIES) -> float:
    """The longest step of the server's loop during `attempt`, in seconds; the best of some tries.

    The first try within the budget ends the measurement. Other processes on the same cores and caches lengthen
    the server's processor time, too, up to threefold. So each try is divided by how much slower than on the idle
    machine the yardstick is right after it.
    """
    best = float("inf")
    gc.disable()
    try:
        for _ in range(tries):
            node.meter.reset()
            await attempt()
            longest = node.meter.longest
            best = min(best, longest / await node.thread.run(_slowdown()))
            if best < BUDGET_S:
                break
    finally:
        gc.enable()
    return best


async def _slowdown() -> float:
    return slowdown()
