"""A process of the benchmark on the servers' core, whose output names its port."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bench.cpu import cores, on_core

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0
STOP_S = 15.0
POLL_S = 1.0


class ServerFailed(Exception):
    """A server did not start."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer the signals that end the run, so that the caller can stop a process that is being started."""
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def readable(pipe: IO[Any], seconds: float) -> bool:
    """Wait until there is something to read, or the time is over.

    In steps: a signal that arrives right before a wait does not end it, and its handler runs only after the wait.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], min(left, POLL_S))[0]:
            return True
    return False


class Process:
    """`start` and `stop` once each."""

    def __init__(self, name: str, log: Path) -> None:
        self.port = 0
        self._name = name
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Returns when the process listens. Raises `ServerFailed`."""
        with self._log.open("w") as log, uninterrupted(), on_core(cores()[0]):
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_S
        while not self.port:
            waiting = readable(self._process.stdout, deadline - time.monotonic())
            line = self._process.stdout.readline() if waiting else ""
            if not line:
                raise ServerFailed(f"{self._name} did not start:\n{self.logged()}")
            if address := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(address[1])

    def logged(self) -> str:
        return self._log.read_text()[-4000:]

    def kill(self) -> None:
        """End it by SIGKILL; `stop` is still to be called."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            process.terminate()
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            # The process leads a session: what a launcher has started, such as the real server, ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdout is not None:
                process.stdout.close()
