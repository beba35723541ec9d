"""SIGHUP replaces the workers one after the other, and nobody loses a message or gets one twice."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
import pytest
import socketio
from socketio.exceptions import SocketIOError

from tests.cli.conftest import PATIENCE_S, Start
from tests.delivery.support import make_topic
from tests.support.client import unread_answers
from tests.support.node import token_from

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ANSWER_S = 5
UPGRADING, POLLING = 6, 2
"""Clients that upgrade to a WebSocket, and that only poll. Their requests reach either worker."""


class Reconnecting:
    """A stock client, which reconnects by itself."""

    def __init__(self) -> None:
        self.contents: list[str] = []
        self.closings: list[dict[str, Any]] = []
        self.connects = 0
        self.sio = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.5, handle_sigint=False)
        self.sio.on("message", self._message)
        self.sio.on("closing", self._closing)
        self.sio.on("connect", self._connect)
        self.sio.on("disconnect", self._disconnect)
        self._connected = asyncio.Event()
        self._changed = asyncio.Event()

    async def _message(self, message: dict[str, Any]) -> None:
        self.contents.append(message["content"])
        self._changed.set()

    async def _closing(self, closing: dict[str, Any]) -> None:
        self.closings.append(closing)

    async def _connect(self) -> None:
        self.connects += 1
        self._connected.set()

    async def _disconnect(self, *_: object) -> None:
        self._connected.clear()

    async def until(self, contents: list[str]) -> None:
        """Wait until the last message has arrived."""
        async with asyncio.timeout(PATIENCE_S):
            while contents[-1] not in self.contents:
                self._changed.clear()
                await self._changed.wait()

    async def send(self, room_id: str, content: str) -> None:
        """Send a message until it is acknowledged, each time with the same `client_id`."""
        message = {"room_id": room_id, "content": content, "client_id": content}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await self.sio.call("message", message, timeout=ANSWER_S)
                except SocketIOError:  # the connection is lost, and comes back
                    await self._connected.wait()
                    continue
                if answer["ok"]:
                    return
                assert answer["error"]["retryable"], answer


@asynccontextmanager
async def reconnecting(url: str, token: str, device: str, *transports: str) -> AsyncIterator[Reconnecting]:
    client = Reconnecting()
    auth = {"token": token, "device": device}
    await client.sio.connect(url, auth=auth, transports=list(transports), wait_timeout=30)
    try:
        yield client
    finally:
        await client.sio.disconnect()


async def test_a_restart_under_load_loses_and_doubles_no_acknowledged_message(serve_workers: Start) -> None:
    server = await serve_workers(2, TIDINGS_LOG_LEVEL="info")
    supervisor = psutil.Process(server.process.pid)
    before = set(supervisor.children())
    token = await token_from(server.url, "register", "omar")
    room_id = await make_topic(server.url, token, "noticias")
    restarted = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(unread_answers())

        async def connect(device: str, *transports: str) -> Reconnecting:
            return await stack.enter_async_context(reconnecting(server.url, token, device, *transports))

        writer = await connect("writer", "websocket")
        clients = [writer, await connect("reader", "websocket")]
        clients += [await connect(f"upgrading {n}", "polling", "websocket") for n in range(UPGRADING)]
        clients += [await connect(f"polling {n}", "polling") for n in range(POLLING)]
        sent: list[str] = []

        async def keep_sending() -> None:
            for n in itertools.count():
                last = restarted.is_set()
                await writer.send(room_id, f"{n}")
                sent.append(f"{n}")
                if last:
                    return

        sending = asyncio.create_task(keep_sending())
        server.process.send_signal(signal.SIGHUP)
        await server.until("err", "all workers have been replaced")
        restarted.set()
        await sending
        assert len(sent) > 10
        for client in clients:
            await client.until(sent)
            assert client.contents == sent
            assert client.closings
            if client in clients[:2]:  # the successor of the first worker listens before the second one leaves
                assert len(client.closings) <= 2
            assert all(closing == {"reason": "shutdown", "reconnect": True} for closing in client.closings)
            assert client.connects == len(client.closings) + 1
    after = set(supervisor.children())
    assert len(after) == 2
    assert not after & before
    _, _, restart = server.err.partition("the workers are being replaced")
    assert re.findall(r"worker \d (?:starts|has a successor)", restart) == [
        f"worker {number} {step}" for number in (1, 2) for step in ("starts", "has a successor")
    ], "the second one is replaced after the first"
    assert await server.end(signal.SIGTERM) == 0
