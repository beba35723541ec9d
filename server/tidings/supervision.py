"""Background work: its failure is always logged, with a traceback.

* A `Loop` runs as long as the node. If it dies, it is restarted after a pause that grows while it keeps dying, and
  `down` reports it to the health check until it runs again.
* A `Periodic` runs a round of work at an interval for as long as the node runs.
* `spawn` starts a task that nobody awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from tidings_db.engine import StoreUnavailable

logger = logging.getLogger("tidings.supervision")
T = TypeVar("T")

RESTART_S = 0.5
"""The pause before the first restart; each later one is twice as long."""
LONGEST_RESTART_S = 30.0
SETTLED_S = 60.0
"""A loop that ran this long before it died is restarted after `RESTART_S` again."""
OFTEN = 3
"""Deaths in a row, none after running for `SETTLED_S`, from which a loop counts as down even while it runs."""


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start a task that nobody awaits. Keep a reference: the event loop holds only a weak one."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled() and task.cancelling():
        return
    try:
        error: BaseException | None = task.exception()
    except asyncio.CancelledError as cancelled:  # nobody has cancelled the task: it was raised within
        error = cancelled
    if error is not None:
        logger.error("the task %r has failed", task.get_name(), exc_info=error)


async def end_within(seconds: float, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Let tasks end, and cancel those that have not after `seconds`."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def cancelled_from_within() -> bool:
    """Whether a `CancelledError` that the current task has caught is a failure: nobody has cancelled the task."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class Loop:
    """A function that runs as long as the node."""

    def __init__(
        self,
        name: str,
        run: Callable[[], Awaitable[None]],
        *,
        restart_s: float = RESTART_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` returns only after its owner has signalled it to end; the owner then awaits `ended`.

        `clock`: returns seconds.
        """
        self.name = name
        self.deaths = 0
        """How many times it has died."""
        self._run = run
        self._restart_s = restart_s
        self._clock = clock
        self._ending = False
        self._running = False
        self._began = 0.0
        self._unsettled = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = True
        self._task = asyncio.create_task(self._supervise(), name=self.name)

    async def ended(self) -> None:
        """Wait until `run` has returned, after it was signalled to. A pause before a restart is cut short."""
        self._ending = True
        if self._task is not None:
            if not self._running:
                self._task.cancel()
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        """Cancel `run` and do not restart it."""
        self._ending = True
        if self._task is not None:
            self._task.cancel()

    @property
    def down(self) -> bool:
        """Whether it has died and is not running again yet, or keeps dying."""
        if self._task is None or self._ending:
            return False
        return not self._running or (self._unsettled >= OFTEN and self._clock() - self._began < SETTLED_S)

    async def _supervise(self) -> None:
        while True:
            self._began = self._clock()
            try:
                await self._run()
                if self._ending:
                    return
                logger.error("%s has ended by itself; restarting it", self.name)
            except asyncio.CancelledError:
                if self._ending or not cancelled_from_within():
                    raise
                logger.exception("%s was cancelled from within; restarting it", self.name)
            except Exception:
                logger.exception("%s has died; restarting it", self.name)
            finally:
                self._running = False
            self.deaths += 1
            self._unsettled = 1 if self._clock() - self._began >= SETTLED_S else self._unsettled + 1
            if self._ending:
                return
            await asyncio.sleep(min(LONGEST_RESTART_S, self._restart_s * 2 ** (self._unsettled - 1)))
            self._running = True


class Periodic(ABC):
    """Runs a round every `interval_s` seconds, from `start` to `stop`. A failed round does not end the loop."""

    def __init__(self, interval_s: float, logger: logging.Logger, failed: str) -> None:
        """`failed`: the log message for a round that fails, unless the store was unavailable."""
        self._interval_s = interval_s
        self._logger = logger
        self._failed = failed
        self._stopping = asyncio.Event()
        self._due = asyncio.Event()
        self.loop = Loop(logger.name, self._run)

    async def start(self) -> None:
        self.loop.start()

    async def stop(self) -> None:
        """End after the current round; a long round should check `_stopping`."""
        self._stopping.set()
        self._due.set()
        await self.loop.ended()

    def hurry(self) -> None:
        """Begin the next round now, or after the current one."""
        self._due.set()

    @abstractmethod
    async def _round(self) -> None: ...

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._interval_s)
            if self._stopping.is_set():
                return
            self._due.clear()
            try:
                await self._round()
            except StoreUnavailable:
                pass  # the next round retries
            except Exception:
                self._logger.exception(self._failed)
