from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tidings.cli.commands import main
from tidings.testing import postgresql

DEADLINE_S = 60


class Command:
    """A `tidings` process; its output is read as it arrives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        self.url = ""
        self.deadline_s = DEADLINE_S

    async def until(self, stream: str, pattern: str) -> re.Match[str]:
        """Read `out` or `err` until the pattern is in it."""
        async with asyncio.timeout(self.deadline_s):
            while True:
                text: str = getattr(self, stream)
                if match := re.search(pattern, text):
                    return match
                reader = self.process.stdout if stream == "out" else self.process.stderr
                assert reader is not None
                line = (await reader.readline()).decode()
                assert line, f"it ended before it printed {pattern}:\n{self.out}{self.err}"
                setattr(self, stream, text + line)

    async def listening(self) -> Command:
        """Wait until it serves and has printed its start-up lines; sets `url`."""
        self.url = (await self.until("out", r"http://\S+"))[0]
        await self.until("out", r"safety  .*\n")
        return self

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for its end, after a signal if one is given; returns the exit status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(self.deadline_s):
            out, err = await self.process.communicate()
        self.out += out.decode()
        self.err += err.decode()
        assert self.process.returncode is not None
        return self.process.returncode


Start = Callable[..., Awaitable[Command]]


@pytest.fixture
async def tidings(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `tidings` in its own process, in `tmp_path`; `environment` is added to the inherited one."""
    running: list[Command] = []

    async def start(*args: str, **environment: str) -> Command:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tidings",
            *args,
            cwd=tmp_path,
            env=inherited | {"TIDINGS_RATE_LIMITS": "off", "TIDINGS_LOG_LEVEL": "warning", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        command = Command(process)
        running.append(command)
        return command

    yield start
    for command in running:
        if command.process.returncode is None:
            command.process.kill()
            await command.end()


@pytest.fixture
async def serve(tidings: Start) -> Start:
    """Starts `tidings serve` on a free port; returns when it listens."""

    async def start(*args: str, **environment: str) -> Command:
        return await (await tidings("serve", "--port", "0", *args, **environment)).listening()

    return start


PATIENCE_S = 240
"""For several processes that start, on a machine that may be busy."""


@pytest.fixture
def serve_workers(tidings: Start, postgresql_url: str) -> Start:
    """Starts `tidings serve --workers` on PostgreSQL and a free port; returns when all workers listen."""

    async def start(workers: int, *args: str, **environment: str) -> Command:
        arguments = "serve", "--port", "0", "--workers", str(workers), *args
        server = await tidings(*arguments, TIDINGS_DATABASE_URL=postgresql_url, **environment)
        server.deadline_s = PATIENCE_S
        return await server.listening()

    return start


@pytest.fixture
def empty_postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A PostgreSQL database without a table."""
    with postgresql.database(postgresql_server) as url:
        yield url


@dataclass
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a `tidings` command in this process, in `tmp_path`: a new process would import everything again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)  # else `tidings token` takes it for a mistake
    loggers = [logging.getLogger(name) for name in ("alembic", "uvicorn", "asyncio")]
    levels = [logger.level for logger in loggers]
    mask = os.umask(0o022)

    async def run(*args: str, stdin: str = "", status: int = 0, **environment: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            patched.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in environment.items():
                patched.setenv(name, value)
            exit_status = await asyncio.to_thread(main, args)
        assert exit_status == status, out.getvalue() + err.getvalue()
        if status:
            assert out.getvalue() == ""
            assert err.getvalue().startswith("tidings: ")
            assert err.getvalue().count("\n") == 1, err.getvalue()
        else:
            assert (err.getvalue() != "") == (args[0] == "token"), err.getvalue()
        return Result(exit_status, out.getvalue(), err.getvalue())

    yield run
    os.umask(mask)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
