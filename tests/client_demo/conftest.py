"""A real server, the real client, and a pseudo-terminal for the interactive one."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings_chat.cli import main

DEADLINE = 60.0
AT = r"\d\d:\d\d "
"""The time before a message."""


Server = RunningNode | ServerProcess


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for who runs the tests in another language."""
    monkeypatch.setenv("LANGUAGE", "en")


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    """A server in the test's own process, which starts fast. Tests that kill the server override it."""
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


class People:
    """Users who act over REST: they prepare what a test needs."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._tokens: dict[str, str] = {}

    async def ask(self, user: str, method: str, path: str, **body: Any) -> dict[str, Any]:
        if user not in self._tokens:
            credentials = {"username": user, "password": PASSWORD}
            account = await self._http.post("/api/register", json=credentials)
            if account.status_code == 409:
                account = await self._http.post("/api/login", json=credentials)
            self._tokens[user] = account.json()["token"]
        answer = await self._http.request(
            method,
            path,
            headers={"Authorization": f"Bearer {self._tokens[user]}"},
            **({"params": body} if method == "GET" else {"json": body}),
        )
        assert answer.is_success, answer.text
        data: dict[str, Any] = answer.json()
        return data

    async def topic(self, name: str, owner: str, *members: str) -> None:
        await self.ask(owner, "POST", "/api/topics", topic_name=name)
        for member in members:
            await self.ask(member, "POST", "/api/subscriptions", topic_name=name)

    async def send(self, user: str, room: str, *contents: str) -> None:
        for content in contents:
            await self.ask(user, "POST", "/api/messages", topic_name=room, content=content)

    async def upload(self, user: str, name: str, content: bytes) -> str:
        """Upload a file under any name: its id."""
        begun = await self.ask(user, "POST", "/api/files", name=name, size=len(content))
        headers = {
            "Authorization": f"Bearer {self._tokens[user]}",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": "0",
        }
        answer = await self._http.patch(f"/{begun['url']}", content=content, headers=headers)
        assert answer.is_success, answer.text
        file_id: str = begun["id"]
        return file_id

    async def contents(self, user: str, room: str) -> list[str]:
        """The contents of all messages in a room."""
        page = await self.ask(user, "GET", "/api/messages", topic_name=room, limit=200)
        return [message["content"] for message in page["messages"]]


@pytest.fixture
async def people(server: Server) -> AsyncIterator[People]:
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=DEADLINE) as http:
        yield People(http)


class Cli:
    """The client on a command line: `await cli("omar", "send", "noticias", "hola")`.

    `start` and `execute` run it in its own process. `run` runs a command to its end in a thread of this process,
    which saves the imports.
    """

    def __init__(self, server: Server, state: Path) -> None:
        self._server = server
        self.state = state
        self._started: list[asyncio.subprocess.Process] = []
        self._running = asyncio.Lock()

    def _arguments(self, user: str, *arguments: str) -> list[str]:
        return ["--server", self._server.url, "--state", str(self.state), "--user", user, "--register", *arguments]

    def command(self, user: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tidings_chat", *self._arguments(user, *arguments)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TIDINGS_PASSWORD": PASSWORD, "PYTHONWARNINGS": "error"}

    async def start(self, user: str, *arguments: str, stdin: str = "") -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.command(user, *arguments),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        return process

    async def run(self, user: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Status, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        async with self._running, asyncio.timeout(DEADLINE):
            with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
                patched.setattr(sys, "stdin", io.StringIO(stdin))
                patched.setenv("TIDINGS_PASSWORD", PASSWORD)
                status = await asyncio.to_thread(main, self._arguments(user, *arguments))
        return status, out.getvalue(), err.getvalue()

    async def execute(self, command: list[str], **environment: str) -> tuple[int, str, str]:
        """Run any command in its own process; returns status, standard output and standard error."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return await self._end_of(process)

    @staticmethod
    async def _end_of(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, user: str, *arguments: str, stdin: str = "") -> str:
        status, out, err = await self.run(user, *arguments, stdin=stdin)
        assert (status, err) == (0, "")
        return out

    async def end(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def cli(server: Server, tmp_path: Path) -> AsyncIterator[Cli]:
    cli = Cli(server, tmp_path / "state")
    yield cli
    await cli.end()


class Terminal:
    """A process on a pseudo-terminal of 100 columns. `text` is its whole output without control sequences."""

    _CODES = re.compile(r"\x1b(?:\[[0-9;?<=>]*[a-zA-Z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78])|\r")

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self._process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = b""
        self._answered = 0
        self._changed = asyncio.Event()
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        try:
            output = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:  # the process has ended
            output = b""
        if not output:
            asyncio.get_running_loop().remove_reader(self._master)
        self._raw += output
        while self._answered < self._raw.count(
            b"\x1b[6n"
        ):  # a query of the cursor position: the status bar waits for the answer
            self._answered += 1
            self.keys("\x1b[20;1R")
        self._changed.set()

    @property
    def text(self) -> str:
        return self._CODES.sub("", self._raw.decode(errors="replace"))

    async def sees(self, pattern: str, times: int = 1) -> None:
        """Wait until its output matches a regular expression `times` times."""
        try:
            async with asyncio.timeout(DEADLINE):
                while len(re.findall(pattern, self.text)) < times:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{pattern!r} was not shown {times} times in:\n{self.text}") from None

    def keys(self, text: str) -> None:
        os.write(self._master, text.encode())

    def type(self, line: str) -> None:
        self.keys(f"{line}\r")

    async def ends(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        self.kill()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


class Terminals:
    def __init__(self, cli: Cli, stack: AsyncExitStack) -> None:
        self._cli = cli
        self._stack = stack

    def open(self, user: str, *arguments: str) -> Terminal:
        return self.start(self._cli.command(user, *arguments), self._cli.environment)

    def start(self, command: list[str], environment: dict[str, str]) -> Terminal:
        terminal = Terminal(command, environment)
        self._stack.callback(terminal.close)
        return terminal


@pytest.fixture
async def terminals(cli: Cli) -> AsyncIterator[Terminals]:
    async with AsyncExitStack() as stack:
        yield Terminals(cli, stack)


async def line_of(tail: asyncio.subprocess.Process) -> dict[str, Any]:
    assert tail.stdout is not None
    async with asyncio.timeout(DEADLINE):
        line = await tail.stdout.readline()
    assert line, (await tail.communicate())[1]
    message: dict[str, Any] = json.loads(line)
    return message
