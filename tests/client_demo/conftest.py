"""A real server, real clients, and a real pseudo-terminal for the one that people look at."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

PASSWORD = "correct horse"
DEADLINE = 30.0


class Server:
    """`tidings serve` as a process that can be killed and comes back on the same port with the same data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        environment = {**os.environ, "TIDINGS_DATA_DIR": str(self._directory), "TIDINGS_RATE_LIMITS": "off"}
        command = [sys.executable, "-m", "server", "serve", "--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        said: list[str] = []
        for line in self._process.stdout:
            said.append(line)
            if address := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self._port = int(address[1])
                return
        raise AssertionError("the server did not start:\n" + "".join(said))

    def kill(self) -> None:
        """As a power cut would: nothing is said, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


class Cli:
    """The client as a process: `await cli("omar", "send", "noticias", "hola")`."""

    def __init__(self, server: Server, state: Path) -> None:
        self._server = server
        self._state = state

    def command(self, user: str, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "client_demo", "--server", self._server.url, "--state", str(self._state)),
            *("--user", user, "--register", *arguments),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TIDINGS_PASSWORD": PASSWORD, "PYTHONWARNINGS": "error", "PROMPT_TOOLKIT_NO_CPR": "1"}

    async def start(self, user: str, *arguments: str, stdin: str = "") -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self.command(user, *arguments),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        return process

    async def run(self, user: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Status, standard output and standard error."""
        process = await self.start(user, *arguments, stdin=stdin)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, user: str, *arguments: str, stdin: str = "") -> str:
        status, out, err = await self.run(user, *arguments, stdin=stdin)
        assert (status, err) == (0, "")
        return out


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server, tmp_path / "state")


class Terminal:
    """A process on a pseudo-terminal of 100 columns. `text` is all that it has written, without colours and moves."""

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
        self._changed = asyncio.Event()
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        try:
            read = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:  # the process has ended
            read = b""
        if not read:
            asyncio.get_running_loop().remove_reader(self._master)
        self._raw += read
        self._changed.set()

    @property
    def text(self) -> str:
        return self._CODES.sub("", self._raw.decode(errors="replace"))

    async def sees(self, pattern: str, times: int = 1) -> None:
        """Wait until it has shown this (a regular expression) so many times."""
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
