"""Under another ASGI server Tidings works over plain ASGI, without taking over sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.client import DEADLINE_S, Client, LiveClient, plainly_connected
from tests.support.node import token_from

pytestmark = pytest.mark.long

SERVERS = ("granian", "hypercorn", "uvicorn, websockets", "uvicorn, websockets-sansio", "uvicorn, wsproto")
WAYS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}
PLAIN = "plain WebSocket"


class Process:
    """A server process; `output` holds its output."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read())
        self.url = url
        self.output = ""

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output += line.decode()

    async def register(self, username: str) -> str:
        return await token_from(self.url, "register", username)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> None:
        async with asyncio.timeout(30):
            await self._reading
            await self._process.wait()


@asynccontextmanager
async def process(server: str, data_dir: Path) -> AsyncIterator[Process]:
    own = {"TIDINGS_DATA_DIR": str(data_dir), "TIDINGS_RATE_LIMITS": "off", "PYTHONUNBUFFERED": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transport.serve",
        server,
        env=inherited | own,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert started.stdout is not None
        async with asyncio.timeout(30):
            url = (await started.stdout.readline()).decode().strip()
            await _served(url)
        yield Process(started, url)
    finally:
        if started.returncode is None:
            os.killpg(started.pid, signal.SIGKILL)
            await started.wait()


async def _served(url: str) -> None:
    """Wait until the server, which already listens, answers a request."""
    async with httpx.AsyncClient(base_url=url, timeout=None) as http:
        assert (await http.get("/health/ready")).status_code == 200


@asynccontextmanager
async def client(server: Process, token: str, way: str, **auth: object) -> AsyncIterator[LiveClient]:
    if way == PLAIN:
        async with plainly_connected(server.url, token, **auth) as plain:
            yield plain
        return
    live = Client(server.url, token, **auth)
    try:
        await live.connect(WAYS[way])
        assert live.sio.transport() == ("polling" if way == "polling" else "websocket")
        yield live
    finally:
        with warnings.catch_warnings():
            # The library closes its HTTP session without reading the answer to its last request.
            warnings.simplefilter("ignore", ResourceWarning)
            await live.close()
            gc.collect()


@pytest.mark.parametrize("server", SERVERS)
async def test_messages_are_sent_received_in_order_and_replayed_over_every_transport(
    server: str, tmp_path: Path
) -> None:
    async with process(server, tmp_path) as running, AsyncExitStack() as stack:
        omar, diego = await running.register("omar"), await running.register("diego")
        sender = await stack.enter_async_context(client(running, omar, "websocket"))
        room_id = (await sender.ask("create", topic_name="noticias"))["room_id"]
        head = 0

        async def send(member: LiveClient, contents: Sequence[str]) -> list[int]:
            """Send messages without waiting in between; returns their seqs."""
            sent = [member.send("message", {"room_id": room_id, "content": content}) for content in contents]
            answers = await asyncio.gather(*sent)
            assert all(answer["ok"] for answer in answers)
            return [answer["data"]["seq"] for answer in answers]

        def seqs(member: LiveClient) -> list[int]:
            return [message["seq"] for message in member.of("message")]

        for way in (*WAYS, PLAIN):
            async with client(running, diego, way, device=way) as member:
                await member.ask("connect_to_room", topic_name="noticias")
                before = len(seqs(member))
                numbers = [f"{n} ñ" for n in range(50)]
                of_sender, of_member = await asyncio.gather(send(sender, numbers), send(member, numbers[:20]))
                assert of_sender == sorted(of_sender), way
                assert of_member == sorted(of_member), way
                assert sorted(of_sender + of_member) == list(range(head + 1, head + 71))
                head += 70
                await sender.until(lambda head=head: len(seqs(sender)) == head)
                await member.until(lambda member=member, before=before: len(seqs(member)) == before + 70)
                assert seqs(sender) == list(range(1, head + 1)), way
                assert seqs(member) == list(range(head - 69 - before, head + 1)), way
            await send(sender, ["x" * 10_000] * 40)
            async with client(running, diego, way, device=way, cursors={room_id: head}) as returned:
                assert seqs(returned) == list(range(head + 1, head + 41)), way
                assert returned.of("ready")[0]["replayed"] == 40
            head += 40
            await sender.until(lambda head=head: len(seqs(sender)) == head)
        assert "Traceback" not in running.output, running.output
        # These servers close connections without notifying the application: clients only see the end.
        upgraded = await stack.enter_async_context(client(running, diego, "upgrade"))
        plain = await stack.enter_async_context(client(running, diego, PLAIN))
        running.terminate()
        for ended in (sender, upgraded, plain):
            await asyncio.wait_for(ended.closed.wait(), DEADLINE_S)
        await running.ended()
        assert (tmp_path / "tidings.db").exists()
        assert not (tmp_path / "tidings.db-wal").exists(), "the database was not closed"
