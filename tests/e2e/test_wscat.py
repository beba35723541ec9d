"""A chat over a plain WebSocket: wscat, with typed JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.javascript import SCRIPTS, node
from tests.support.client import DEADLINE_S, connected
from tests.support.process import ServerProcess

pytestmark = pytest.mark.long


class Wscat:
    """A running wscat; `frames` holds the frames that it has shown."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.frames: list[dict[str, Any]] = []

    def type(self, **frame: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")

    async def until(self, **shown: Any) -> dict[str, Any]:
        """The next frame with these members."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._process.stdout.readline():
                with contextlib.suppress(ValueError):
                    frame: dict[str, Any] = json.loads(line.decode().lstrip("> "))
                    self.frames.append(frame)
                    if shown.items() <= frame.items():
                        return frame
        raise AssertionError(f"wscat ended without showing {shown}")

    async def exit_status(self) -> int:
        return await asyncio.wait_for(self._process.wait(), DEADLINE_S)


@contextlib.asynccontextmanager
async def wscat(url: str, *options: str, query: str = "") -> AsyncIterator[Wscat]:
    """wscat with `query` in the address. It drops what is typed before it is connected."""
    process = await asyncio.create_subprocess_exec(
        node("wscat"),
        str(SCRIPTS / "node_modules/wscat/bin/wscat"),
        "--no-color",
        "--connect",
        url.replace("http", "ws", 1) + "/ws" + query,
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Wscat(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        assert process.stdin is not None
        process.stdin.close()


async def test_wscat_chats_with_a_socketio_client(process: ServerProcess, tokens: dict[str, str]) -> None:
    async with (
        connected(process.url, tokens["omar"]) as omar,
        wscat(process.url, query=f"?token={tokens['diego']}") as diego,
    ):
        assert (await diego.until(event="ready"))["data"]["username"] == "diego"
        await omar.ask("create", topic_name="noticias")
        diego.type(id="in", action="subscribe", data={"topic_name": "noticias"})
        assert (await diego.until(id="in"))["ok"]
        await omar.ask("message", topic_name="noticias", content="Buenos días")
        assert (await diego.until(event="message"))["data"]["content"] == "Buenos días"
        diego.type(id=2, action="message", data={"topic_name": "noticias", "content": "¡Hola!"})
        sent = (await diego.until(id=2))["data"]
        assert sent["seq"] == 2
        await omar.event("message", lambda m: m["content"] == "¡Hola!" and m["sender"] == "diego")
        diego.type(id=3, action="disconnect")
        assert (await diego.until(id=3))["ok"]
        assert await diego.exit_status() == 0
        # It reconnects with its cursor and gets the missed message.
        await omar.ask("message", topic_name="noticias", content="¿sigues ahí?")
        auth = {"token": tokens["diego"], "cursors": {sent["room_id"]: 2}}
        first = json.dumps({"id": 1, "action": "authenticate", "data": auth})
        async with wscat(process.url, "--execute", first, "--wait", "60") as back:
            assert "token_expires_at" in (await back.until(id=1))["data"]
            assert (await back.until(event="ready"))["data"]["replayed"] == 1
            assert [f["data"]["content"] for f in back.frames if f.get("event") == "message"] == ["¿sigues ahí?"]
