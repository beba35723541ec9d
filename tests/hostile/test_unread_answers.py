"""HTTP answers that nobody reads: they are dropped after a while, and first when descriptors run short."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.wire import eventually
from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode, running_node
from tests.support.timers import Timers
from tidings.transport.tcp_connections import RESERVED, SLOWEST, STALLED_S

REQUEST = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
"""The answer is larger than the kernel's buffers."""
LAST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
REFUSED = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://elsewhere\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path, timers: Timers) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, options={"timers": timers}) as node:
        yield node


@asynccontextmanager
async def slow_client(node: RunningNode, requests: bytes, source: str = "127.0.0.1") -> AsyncIterator[socket.socket]:
    """A client that has sent requests, and reads only what the test reads."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind((source, 0))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", int(node.url.rpartition(":")[2])))
        await loop.sock_sendall(client, requests)
        yield client


async def read(client: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end of the connection."""
    received = b""
    async with asyncio.timeout(DEADLINE_S):
        while len(received) < size:
            more = await asyncio.get_running_loop().sock_recv(client, min(size - len(received), 4096))
            if not more:
                break
            received += more
    return received


@pytest.mark.parametrize("then", [b"", LAST, REFUSED], ids=["kept open", "closing", "a refusal"])
async def test_an_answer_that_is_not_read_is_dropped(server: RunningNode, timers: Timers, then: bytes) -> None:
    connections = server.node.connections
    async with slow_client(server, REQUEST) as client:
        await eventually(lambda: len(connections.stalled) == 1)
        await asyncio.get_running_loop().sock_sendall(client, then)
        for _ in range(10):
            await asyncio.sleep(0)
        timers.advance(STALLED_S - 1)
        assert connections.open == 1
        timers.advance(1)
        await eventually(lambda: connections.open == 0)
    assert len(connections.stalled) == 0


async def test_a_slow_client_that_reads_gets_the_whole_answer(server: RunningNode, timers: Timers) -> None:
    connections = server.node.connections
    step = 2 * int(SLOWEST * STALLED_S)  # the kernel's buffers hold less than half of it
    async with slow_client(server, LAST) as client:
        await eventually(lambda: len(connections.stalled) == 1)
        received = b""
        while len(more := await read(client, step)) == step:
            received += more
            timers.advance(STALLED_S)
    head, _, body = (received + more).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}" in head.decode().lower()
    assert len(body) > 2 * step


async def test_unread_answers_make_room_for_others_when_descriptors_run_short(server: RunningNode) -> None:
    connections = server.node.connections
    with socket.socket() as highest:
        connections.descriptors = highest.fileno() + 30 + RESERVED
    async with AsyncExitStack() as stack:
        for number in range(25):
            await stack.enter_async_context(slow_client(server, REQUEST, f"127.0.0.{2 + number % 5}"))
        await eventually(lambda: connections.dropped + len(connections.stalled) == 25)
        for _ in range(10):
            honest = await stack.enter_async_context(
                slow_client(server, LAST.replace(b"openapi.json", b"health/live"))
            )
            assert await read(honest, 12) == b"HTTP/1.1 200"
    assert connections.dropped > 0
    assert connections.refused == 0
