"""The topics protocol at a terminal, with wscat."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.dialects.topics_client import (
    DISCONNECT,
    MESSAGE,
    address,
)
from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import DEADLINE_S
from tests.support.process import ServerProcess

# -- wscat, at a terminal ---------------------------------------------------------------------------------------


class Terminal:
    """wscat on a pseudo-terminal, with the lines that the document shows."""

    def __init__(self, process: asyncio.subprocess.Process, screen: asyncio.StreamReader, keyboard: int) -> None:
        self._process = process
        self._screen = screen
        self._keyboard = keyboard
        self.frames: list[dict[str, Any]] = []

    def type(self, line: str) -> None:
        os.write(self._keyboard, line.encode() + b"\r")

    async def until(self, **shown: Any) -> dict[str, Any]:
        """The next shown frame with these members."""
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._line():
                if match := re.search(r"< (\{.*\})", line):
                    frame: dict[str, Any] = json.loads(match[1])
                    self.frames.append(frame)
                    if shown.items() <= frame.items():
                        return frame
        raise AssertionError(f"wscat ended without showing {shown}")

    async def connected(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while "Connected" not in (line := await self._line()):
                assert line, "wscat ended without a connection"

    async def ended(self) -> str:
        """Wait for wscat to end; returns its last output."""
        last = ""
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._line():
                last += line
            await self._process.wait()
        return last

    async def _line(self) -> str:
        try:
            return (await self._screen.readline()).decode()
        except OSError:  # Linux: no process has the terminal open any more
            return ""


@asynccontextmanager
async def at_a_terminal(command: str) -> AsyncIterator[Terminal]:
    """Run the line that `tidings token` prints; yields once wscat is connected."""
    program, *args = shlex.split(command)
    assert program == "wscat"
    keyboard, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (50, 5000))  # wide enough for every line
    process = await asyncio.create_subprocess_exec(
        node("wscat"),
        str(SCRIPTS / "node_modules/wscat/bin/wscat"),
        *args,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    screen = asyncio.StreamReader(limit=2**20)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(screen), os.fdopen(os.dup(keyboard), "rb", 0)
    )
    try:
        started = Terminal(process, screen, keyboard)
        await started.connected()
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        transport.close()
        os.close(keyboard)


async def wscat_line(process: ServerProcess, username: str) -> str:
    """The line that `tidings token` prints for a running server, beside the token."""
    port = process.url.rpartition(":")[2]
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidings",
        "token",
        username,
        env={**os.environ, "TIDINGS_DATA_DIR": str(process.data_dir), "TIDINGS_PORT": port},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    token, line = (text.decode().strip() for text in await command.communicate())
    assert line == f"wscat -c ws://127.0.0.1:{port}/{token}"
    return line


async def test_the_four_users_of_the_document_can_chat_with_wscat(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "data", TIDINGS_DEV_TOKENS="true")
    await process.start()
    try:
        omars = await wscat_line(process, "omar")
        lines = {}
        async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
            for name in ("diego", "satoshi", "memoor"):
                token = (await http.get("/token", params={"username": name})).json()["token"]
                lines[name] = f"wscat -c {address(process.url, token)}"
        async with at_a_terminal(omars) as omar:
            omar.type('{"action": "create","topic_name": "noticias"}')
            await omar.until(action="create", status="ok", topic_name="noticias")
            omar.type('{"action": "create","topic_name": "secreto", "is_private": true}')
            await omar.until(action="create", status="ok", is_private=True)
            async with at_a_terminal(lines["diego"]) as diego, at_a_terminal(lines["satoshi"]) as satoshi:
                for user in (diego, satoshi):
                    user.type('{"action": "suscribe","topic_name": "noticias"}')
                    await user.until(action="suscribe", status="ok")
                omar.type('{"action": "invite","topic_name": "secreto","username": "satoshi"}')
                await omar.until(action="invite", status="ok")
                omar.type(MESSAGE)
                for user in (omar, diego, satoshi):
                    push = await user.until(action="message", sender="omar")
                    assert (push["topic_name"], push["pending"]) == ("noticias", False)
                    assert push["content"] == "Content of the message"
                diego.type(DISCONNECT)
                await diego.until(action="disconnect", status="ok")
                assert "Disconnected (code: 1000" in await diego.ended()
                satoshi.type('{"action": "message","topic_name": "diego","content": "¿dónde estás?"}')
                satoshi.type('{"action": "message","topic_name": "secreto","content": "first"}')
                await satoshi.until(action="message", status="ok", topic_name="secreto")
                satoshi.type('{"action": "message","topic_name": "noticias","content": "second"}')
                assert (await satoshi.until(action="message", status="ok", topic_name="noticias"))["seq"] == 2
            await omar.until(content="second")
            async with at_a_terminal(lines["memoor"]) as memoor, at_a_terminal(lines["diego"]) as diego:
                assert (await diego.until(topic_name="satoshi"))["content"] == "¿dónde estás?"
                memoor.type('{"action": "message","topic_name": "secreto","content": "let me in"}')
                await memoor.until(status="error", code="not_found")
                memoor.type("hola")
                await memoor.until(status="error", code="invalid")
                omar.type('{"action": "message","topic_name": "diego","content": "last"}')
                await diego.until(content="last")
                messages = [(frame["topic_name"], frame["content"], frame["pending"]) for frame in diego.frames]
                assert sorted(messages) == [
                    ("noticias", "second", True),
                    ("omar", "last", False),
                    ("satoshi", "¿dónde estás?", True),
                ]
                assert "secreto" not in {frame.get("topic_name") for frame in memoor.frames}
    finally:
        await process.kill()
