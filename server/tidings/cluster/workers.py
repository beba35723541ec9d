"""The supervisor of `tidings serve --workers`: it starts the worker processes, replaces those that crash, and serves
nothing itself.

Each worker is a new process, not a fork, with a listening socket of its own on the same port (`worker.py`). The
supervisor keeps the sockets open, so that connections that arrive while a worker is down wait for its successor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from tidings.cli.banner import banner
from tidings.cluster.control_channel import ControlChannel, ControlMessage
from tidings.monitoring.logs import Logs
from tidings.settings import Settings
from tidings.supervision import spawn
from tidings.transport.listening import listen_together

START_S = 120.0
"""The longest silence of a worker that starts."""
SILENT_S = 10.0
"""A worker that has not reported for so long is killed."""
RECHECK_S = 1.0
"""The part of `SILENT_S` in which a supervisor that was itself suspended reads what has arrived."""
EXIT_S = 20.0
"""The longest that a worker takes to stop, besides closing its connections slowly."""
MAX_CRASHES, CRASHES_S = 5, 60.0
"""With so many crashes within this time, the supervisor gives up."""
PAUSE_S = 0.5
"""The pause before a worker is replaced a second time; it doubles each further time."""

logger = logging.getLogger("tidings.cluster.workers")


class WorkersFailed(Exception):
    """The supervisor has given up; the message says why."""


class _Worker:
    """One process."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: ControlChannel) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.node_id = ""
        """Id of the node; empty until the worker is ready."""
        self.proxies: Sequence[str] | str = ""
        self.heard = False
        self.status: int | None = None
        """Its exit status; negative: the signal that has ended it. None while it runs."""
        self.ended = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        return bool(self.node_id) and self.status is None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class _WorkerSlot:
    """The slot of one worker: a number, a listening socket, and the process that serves it now."""

    def __init__(self, number: int, listening: socket.socket) -> None:
        self.number = number
        self.listening = listening
        self.worker: _Worker | None = None
        self.changed = asyncio.Event()
        """Set when anything has happened that `Supervisor._keep` looks at."""
        self.must_replace = False
        """Whether the worker is to be replaced."""
        self.replaced: asyncio.Future[bool] | None = None
        """Done when the worker that was to be replaced has ended; False: its successor has failed."""


class Supervisor:
    def __init__(self, settings: Settings, arguments: Sequence[str]) -> None:
        """`arguments`: of the command line, for the workers, which also get the host and the port."""
        self._settings = settings
        self._arguments = arguments
        self._address: tuple[str, int]
        self._slots: list[_WorkerSlot] = []
        self._workers: set[_Worker] = set()
        """All that run, those included that are being replaced."""
        self._crashes: deque[tuple[float, int]] = deque()
        """When the workers of which numbers have crashed lately."""
        self._crash_count = 0
        self._have_served = False
        """Whether all workers have been ready."""
        self._stopping = False
        self._failure = ""
        """Why the supervisor gives up."""
        self._changed = asyncio.Event()
        self._restart: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Supervise the workers until a signal. Returns the exit status.

        Raises `OSError` if it cannot listen, and `WorkersFailed`.
        """
        settings = self._settings
        listening = listen_together(settings.host, settings.port, settings.workers)
        self._address = listening[0].getsockname()[:2]
        self._slots = [_WorkerSlot(number, one) for number, one in enumerate(listening, 1)]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._handle_restart_signal)
        keeping = [spawn(self._keep(slot), f"worker {slot.number}") for slot in self._slots]
        try:
            await self._until_ready()
            await asyncio.wait(keeping)
            while self._workers:  # those that were being replaced
                await next(iter(self._workers)).ended.wait()
        finally:
            for worker in self._workers:
                worker.kill()
            for slot in self._slots:
                slot.listening.close()
        if self._failure:
            raise WorkersFailed(self._failure)
        return 0 if all(task.result() for task in keeping) else 1

    async def _until_ready(self) -> None:
        """Wait until all workers are ready, and say so."""
        while not self._stopping:
            workers = [slot.worker for slot in self._slots if slot.worker is not None and slot.worker.is_ready]
            if len(workers) == len(self._slots):
                self._have_served = True
                database, proxies = make_url(self._settings.database), workers[0].proxies
                text = banner(self._settings, database, *self._address, proxies, workers=len(workers))
                print(text, flush=True)
                return
            self._changed.clear()
            await self._changed.wait()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- signals -------------------------------------------------------------------------------------------------

    def _handle_stop_signal(self, number: signal.Signals) -> None:
        if self._stopping:  # the second one does not wait
            for worker in self._workers:
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        logger.info("the workers are told to stop")
        together = [worker.node_id for worker in self._workers]
        for worker in list(self._workers):
            worker.channel.send("stop", also_leaving=together, replaced=False)
            self._spawn(self._end(worker), "ending a worker")
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        for slot in self._slots:
            slot.changed.set()

    def _handle_restart_signal(self) -> None:
        if self._restart is None or self._restart.done():
            self._restart = spawn(self._replace_all(), "restarting the workers")

    async def _replace_all(self) -> None:
        """Replace one worker after the other."""
        logger.info("the workers are being replaced")
        for slot in self._slots:
            slot.must_replace, slot.replaced = True, asyncio.get_running_loop().create_future()
            slot.changed.set()
            if not await slot.replaced:
                if not self._stopping:
                    logger.error("worker %d could not be replaced: the restart ends here", slot.number)
                return
        logger.info("all workers have been replaced")

    # -- workers -------------------------------------------------------------------------------------------------

    async def _keep(self, slot: _WorkerSlot) -> bool:
        """Keep a worker running until the supervisor stops. Returns whether the last one has ended well."""
        try:
            return await self._supervise(slot)
        except OSError as error:  # of the system: too many processes, no memory
            self._give_up(f"worker {slot.number} cannot be started: {error}")
            self._answer_restart(slot, False)
            return False

    async def _supervise(self, slot: _WorkerSlot) -> bool:
        worker = slot.worker = await self._launch(slot)
        while True:
            await slot.changed.wait()
            slot.changed.clear()
            if worker.status is not None:
                if self._stopping or not await self._may_replace(slot, worker):
                    self._answer_restart(slot, False)
                    return worker.status == 0
                worker = slot.worker = await self._launch(slot)
            elif slot.must_replace and not self._stopping:
                slot.must_replace = False
                try:
                    successor = await self._launch(slot)
                except OSError as error:
                    logger.error("the successor of worker %d cannot be started: %s", slot.number, error)
                    self._answer_restart(slot, False)
                    continue
                while successor.status is None and not successor.is_ready and not self._stopping:
                    await slot.changed.wait()
                    slot.changed.clear()
                slot.changed.set()  # `worker` may have ended meanwhile
                if not successor.is_ready or self._stopping:
                    self._answer_restart(slot, False)
                    continue
                predecessor, worker = worker, successor
                slot.worker = worker
                logger.info("worker %d has a successor", slot.number)
                predecessor.channel.send("stop", also_leaving=[], replaced=True)
                self._spawn(self._end(predecessor, slot), "ending a worker")

    def _answer_restart(self, slot: _WorkerSlot, replaced: bool) -> None:
        if slot.replaced is not None and not slot.replaced.done():
            slot.replaced.set_result(replaced)

    async def _launch(self, slot: _WorkerSlot) -> _Worker:
        """Start a worker process."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = slot.listening.fileno(), theirs.fileno()
            given = ",".join(map(str, (slot.number, *descriptors)))
            process = await asyncio.create_subprocess_exec(
                *_command(),
                *self._arguments,
                *("--host", self._address[0], "--port", str(self._address[1]), "--worker", given),
                env=self._settings.worker_environment(slot.number),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=descriptors,
                process_group=0,  # a terminal would send Ctrl-C to the workers as well
            )
        logger.info("worker %d starts, process %d", slot.number, process.pid)
        worker = _Worker(slot.number, process, await ControlChannel.open(ours))
        self._workers.add(worker)
        self._spawn(self._attend(slot, worker), f"attending worker {slot.number}")
        if self._stopping:
            worker.channel.send("stop", also_leaving=[], replaced=False)
            self._spawn(self._end(worker), "ending a worker")
        return worker

    async def _attend(self, slot: _WorkerSlot, worker: _Worker) -> None:
        """Handle the messages of a worker until it ends. Kill it if there are none."""
        try:
            while (message := await self._next_message(worker)) is not None:
                worker.heard = True
                self._handle(slot, worker, message)
            async with asyncio.timeout(EXIT_S):
                await worker.process.wait()
        except TimeoutError:
            logger.error("worker %d hangs, and is killed", worker.number)
        finally:
            worker.kill()
            worker.status = await worker.process.wait()
            worker.channel.close()
            self._workers.discard(worker)
            worker.ended.set()
            slot.changed.set()
            self._changed.set()

    async def _next_message(self, worker: _Worker) -> ControlMessage | None:
        """The next message of a worker; None: it ends. Raises `TimeoutError` if it hangs."""
        try:
            async with asyncio.timeout((SILENT_S if worker.heard else START_S) - RECHECK_S):
                return await worker.channel.receive()
        except TimeoutError:
            async with asyncio.timeout(RECHECK_S):
                return await worker.channel.receive()

    async def _end(self, worker: _Worker, replaced_in: _WorkerSlot | None = None) -> None:
        """Wait until a worker that was told to stop has ended; kill it if that takes too long."""
        try:
            async with asyncio.timeout(self._settings.drain_wait + self._settings.drain_s + EXIT_S):
                await worker.ended.wait()
        except TimeoutError:
            logger.error("worker %d does not stop, and is killed", worker.number)
            worker.kill()
            await worker.ended.wait()
        if replaced_in is not None:
            self._answer_restart(replaced_in, True)

    async def _may_replace(self, slot: _WorkerSlot, worker: _Worker) -> bool:
        """Wait until a worker that has ended may be replaced. Returns False if the supervisor stops."""
        if not self._have_served and worker.status == 1 and not worker.node_id:
            self._give_up("a worker could not start")
            return False
        if worker.status:
            how, status = ("signal", -worker.status) if worker.status < 0 else ("status", worker.status)
            logger.error("worker %d has ended with %s %d, and is replaced", worker.number, how, status)
            now = time.monotonic()
            self._crash_count += 1
            self._crashes.append((now, worker.number))
            while self._crashes[0][0] < now - CRASHES_S:
                self._crashes.popleft()
            if len(self._crashes) >= MAX_CRASHES:
                self._give_up(
                    f"the workers have crashed {MAX_CRASHES} times within {CRASHES_S:g} s: the server stops; the log"
                    " says how they ended"
                )
                return False
            if earlier := [number for _, number in self._crashes].count(worker.number) - 1:
                await self._pause(slot, PAUSE_S * 2 ** (earlier - 1))
        else:
            logger.warning("worker %d was stopped by somebody else, and is replaced", worker.number)
        return not self._stopping

    async def _pause(self, slot: _WorkerSlot, seconds: float) -> None:
        """Wait, but not after the supervisor begins to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._stopping:
                    slot.changed.clear()
                    await slot.changed.wait()
        slot.changed.set()

    def _give_up(self, reason: str) -> None:
        if not self._stopping:
            self._failure = reason
            self._stop()

    # -- messages ------------------------------------------------------------------------------------------------

    def _handle(self, slot: _WorkerSlot, worker: _Worker, message: ControlMessage) -> None:
        kind = message["kind"]
        if kind == "ready":
            worker.node_id, worker.proxies = message["node"], message["proxies"]
            slot.changed.set()
            self._changed.set()
        elif kind == "gather":
            self._gather(worker, message["gathering"])
        elif kind == "metrics":
            asking = self._slots[message["to"] - 1].worker
            if asking is not None:
                answer: dict[str, Any] = {"gathering": message["gathering"], "worker": str(worker.number)}
                asking.channel.send("gathered", **answer, text=message["text"])

    def _gather(self, asking: _Worker, gathering: int) -> None:
        """Ask the other workers for their metrics, on behalf of one."""
        others = [slot for slot in self._slots if slot.number != asking.number]
        asked = [slot.worker for slot in others if slot.worker is not None and slot.worker.is_ready]
        up = [str(worker.number) for worker in asked]
        down = [str(slot.number) for slot in others if str(slot.number) not in up]
        asking.channel.send("gathering", gathering=gathering, asked=up, down=down, crashes=self._crash_count)
        for worker in asked:
            worker.channel.send("metrics", to=asking.number, gathering=gathering)


def _command() -> list[str]:
    """The command that starts `tidings`, whatever is in the working directory."""
    root = Path(__file__).parents[1]
    isolated = [] if root == Path.cwd() else ["-P"]  # without it, the working directory is searched first
    return [sys.executable, *isolated, "-m", "tidings"]


def supervise(settings: Settings, arguments: Sequence[str]) -> int:
    """Serve with several workers until SIGTERM or SIGINT; SIGHUP replaces them. Returns the exit status.

    Raises `OSError` if it cannot listen, and `WorkersFailed`.
    """
    logs = Logs(settings.log_level)
    logs.node = settings.node_label
    logs.take_over()
    try:
        return asyncio.run(Supervisor(settings, arguments).run())
    finally:
        logs.flush()
