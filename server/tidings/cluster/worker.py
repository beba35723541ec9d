"""A worker: a server process whose supervisor (`tidings.cluster.workers`) gives it a socket to listen on.

It reports to the supervisor that its event loop runs, and stops when the supervisor says so or ends. Any worker that
is asked for the metrics collects those of all workers, through the supervisor.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from tidings.cluster.control_channel import ControlChannel, ControlMessage
from tidings.monitoring.metrics import Metrics, merged
from tidings.supervision import Loop, spawn

ALIVE_S = 1.0
"""The interval of its reports."""
GATHER_S = 2.0
"""The longest wait for the metrics of the other workers, who check their health meanwhile."""


class WorkerServer(Protocol):
    """The server that the worker runs."""

    listening: asyncio.Event

    def leave(self, *, also_leaving: Collection[str] = (), replaced: bool = False) -> None:
        """See `tidings.cli.serving.Server`."""

    def stop(self) -> None:
        """Stop now."""

    def trusted_addresses(self) -> Sequence[str] | str:
        """The addresses of proxies that it trusts."""


class WorkerNode(Protocol):
    """The node that the worker runs."""

    id: str
    metrics: Metrics


class Worker:
    """This worker's number, socket and control channel."""

    def __init__(self, number: int, listening: int, control: int) -> None:
        """`number`: of this worker, from 1. `listening` and `control` are inherited descriptors."""
        for descriptor in (listening, control):
            os.set_inheritable(descriptor, False)
        self.number = number
        self.listening = socket.socket(fileno=listening)
        self._control = socket.socket(fileno=control)
        self._channel: ControlChannel
        self._server: WorkerServer
        self._node: WorkerNode
        self._gatherings = itertools.count()
        self._gathering: asyncio.Task[bytes] | None = None
        self._gathered: _Gathering | None = None
        self._answering: asyncio.Task[None] | None = None
        self._reporting = Loop("tidings.worker_reports", self._report)
        self._obeying = Loop("tidings.worker_control", self._obey)

    @classmethod
    def parse(cls, text: str) -> Worker:
        """Parse the number and the descriptors, separated by commas, as `tidings.cluster.workers` writes them."""
        number, listening, control = map(int, text.split(","))
        return cls(number, listening, control)

    @asynccontextmanager
    async def attached(self, server: WorkerServer, node: WorkerNode) -> AsyncIterator[None]:
        """Report to the supervisor, and obey it."""
        self._server, self._node = server, node
        self._channel = await ControlChannel.open(self._control)
        node.metrics.gather = self._gather
        announcing = spawn(self._announce(), "announcing the worker")
        loops = self._reporting, self._obeying
        for loop in loops:
            loop.start()
        try:
            yield
        finally:
            announcing.cancel()
            for loop in loops:
                loop.cancel()
                await loop.ended()
            self._channel.close()

    async def _announce(self) -> None:
        await self._server.listening.wait()
        self._channel.send("ready", node=self._node.id, proxies=self._server.trusted_addresses())

    async def _report(self) -> None:
        while True:
            self._channel.send("alive")
            await asyncio.sleep(ALIVE_S)

    async def _obey(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._handle(message)
        self._server.stop()  # the supervisor has ended, and all workers do
        await asyncio.Event().wait()

    def _handle(self, message: ControlMessage) -> None:
        kind = message["kind"]
        if kind == "stop":
            self._server.leave(also_leaving=message["also_leaving"], replaced=message["replaced"])
        elif kind == "metrics":
            self._answering = spawn(self._answer(message), "the metrics for another worker")
        elif self._gathered is not None and message["gathering"] == self._gathered.number:
            if kind == "gathering":
                self._gathered.expect(message["asked"], message["down"], message["crashes"])
            else:
                self._gathered.add(message["worker"], message["text"])

    async def _answer(self, message: ControlMessage) -> None:
        text = (await self._node.metrics.exposition()).decode()
        self._channel.send("metrics", to=message["to"], gathering=message["gathering"], text=text)

    # -- metrics -------------------------------------------------------------------------------------------------

    async def _gather(self) -> bytes:
        """The metrics of all workers. Concurrent callers share one collection."""
        if self._gathering is None or self._gathering.done():
            self._gathering = spawn(self._collect(), "collecting the metrics")
        return await asyncio.shield(self._gathering)

    async def _collect(self) -> bytes:
        gathering = self._gathered = _Gathering(next(self._gatherings))
        self._channel.send("gather", gathering=gathering.number)
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await gathering.complete.wait()
        self._gathered = None
        gathering.add(str(self.number), (await self._node.metrics.exposition()).decode())
        return gathering.text().encode()


class _Gathering:
    """The metrics of other workers, as they arrive."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.complete = asyncio.Event()
        self._expected: set[str] | None = None
        self._down: set[str] = set()
        self._crashes = 0
        self._texts: dict[str, str] = {}

    def expect(self, asked: Sequence[str], down: Sequence[str], crashes: int) -> None:
        """
        Args:
            asked: the workers that will answer.
            down: those that cannot answer now.
            crashes: how many workers have crashed so far.
        """
        self._expected, self._down, self._crashes = set(asked), set(down), crashes
        self._look()

    def add(self, worker: str, text: str) -> None:
        self._texts[worker] = text
        self._look()

    def _look(self) -> None:
        if self._expected is not None and self._expected <= self._texts.keys():
            self.complete.set()

    def text(self) -> str:
        numbers = sorted({*self._texts, *(self._expected or ()), *self._down}, key=int)
        lines = [
            "# HELP tidings_worker_up Whether the worker has answered with its metrics",
            "# TYPE tidings_worker_up gauge",
            *(f'tidings_worker_up{{worker="{number}"}} {float(number in self._texts)}' for number in numbers),
            "# HELP tidings_worker_crashes_total Workers that have ended without being told to, since the start",
            "# TYPE tidings_worker_crashes_total counter",
            f"tidings_worker_crashes_total {float(self._crashes)}",
            "",
        ]
        return merged({number: self._texts[number] for number in numbers if number in self._texts}) + "\n".join(lines)
