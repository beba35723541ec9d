"""Limits of a connection before its request is complete: time, bytes and descriptors, by source."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conformance.wire import DEADLINE_S, eventually, frame, running
from tests.support.client import connected
from tests.support.node import NO_TLS, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings.transport import tcp_connections, uvicorn_websocket
from tidings.transport.tcp_connections import RESERVED, SourceQueue
from tidings.transport.uvicorn_server import MAX_HEAD, MAX_HEADERS, MAX_LINE, UvicornHttp, UvicornWebSocket

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)
LONG = "x" * (MAX_LINE + 200)


class Raw:
    """A TCP connection on which nothing was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, data: str | bytes) -> None:
        """Send bytes; the server may have closed."""
        self.writer.write(data if isinstance(data, bytes) else data.encode())
        with suppress(ConnectionError):
            await self.writer.drain()

    async def until_end(self) -> bytes:
        """Everything that the server sends before it closes."""
        received = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                while more := await self._reader.read(65_536):
                    received += more
        return received

    async def until_answered(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def raw(node: RunningNode, source: str = "127.0.0.1") -> AsyncIterator[Raw]:
    port = int(node.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        ("", b""),
        ("\r\n\r\n", b""),
        ("GET / HTTP/1.1\r\nHo", b"HTTP/1.1 408 "),
        ("POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{", b"HTTP/1.1 408 "),
    ],
    ids=["nothing", "empty lines", "half a head", "half a body"],
)
async def test_a_request_that_is_incomplete_at_its_time_limit_is_closed(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, begin: str, status: bytes
) -> None:
    monkeypatch.setattr(UvicornHttp, "head_s", 0.2)
    monkeypatch.setattr(UvicornHttp, "body_s", 0.2)
    async with raw(server) as connection:
        await connection.send(begin)
        assert (await connection.until_end()).startswith(status)
    assert server.node.connections.open == 0


async def test_the_second_request_of_a_connection_has_a_time_limit_too(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UvicornHttp, "head_s", 0.2)
    async with raw(server) as connection:
        await connection.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await connection.until_answered()).startswith(b"HTTP/1.1 200 ")
        await connection.send("GET / HTT")
        assert b"HTTP/1.1 408 " in await connection.until_end()


async def test_a_request_that_waits_for_its_answer_has_no_time_limit(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await server.register("omar")
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=DEADLINE_S) as http:
        opened = await http.get("/socket.io/?EIO=4&transport=polling")
        session = f"/socket.io/?EIO=4&transport=polling&sid={json.loads(opened.text[1:])['sid']}"
        await http.post(session, content=f"40{json.dumps({'token': token})}")
        while "ready" not in (await http.get(session)).text:
            pass
        with monkeypatch.context() as hurried:
            hurried.setattr(UvicornHttp, "head_s", 0.5)
            hurried.setattr(UvicornHttp, "body_s", 0.5)
            waiting = asyncio.create_task(http.get(session))
            await eventually(lambda: any(session.polling for session in server.node.socketio.eio.sockets.values()))
            async with raw(server) as silent:  # times out while the poll still waits
                assert await silent.until_end() == b""
        await http.post(session, content='42["create",{"topic_name":"noticias"}]')
        assert "room_added" in (await waiting).text
        await http.post(session, content="1")  # or the server would wait for its last polls


# -- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\r\n" + "".join(f"a{n}: b\r\n" for n in range(MAX_HEADERS + 2)),
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\na: " + "b" * MAX_HEAD + "\r\nc: d\r\n",
        "GET /" + "a" * MAX_HEAD + " HTTP/1.1\r\n",
    ],
    ids=["many headers", "a long header", "a long address"],
)
async def test_a_head_over_the_limit_is_refused_before_it_is_complete(server: RunningNode, head: str) -> None:
    async with raw(server) as connection:
        await connection.send(head)
        assert (await connection.until_end()).startswith(b"HTTP/1.1 431 ")


async def test_a_header_without_an_end_is_refused(server: RunningNode) -> None:
    async with raw(server) as connection:
        await connection.send("GET / HTTP/1.1\r\na: ")
        sent = 0
        while not connection.writer.is_closing() and sent < 64 * MAX_HEAD:
            await connection.send(b"b" * 4096)
            sent += 4096
            await asyncio.sleep(0)
        assert sent < 64 * MAX_HEAD
    await eventually(lambda: server.node.connections.open == 0)


@pytest.mark.parametrize(
    ("opening", "status"),
    [
        (UPGRADE.format(path="/ws", more="Content-Length: 5\r\n") + "hello", b"400"),
        (UPGRADE.format(path="/ws", more="Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", b"400"),
        (UPGRADE.format(path="/ws", more="".join(f"a{n}: b\r\n" for n in range(MAX_HEADERS + 1))), b"431"),
        (UPGRADE.format(path="/ws", more=MAX_HEADERS // 2 * "Sec-WebSocket-Protocol: a\r\n"), b"431"),
        (UPGRADE.format(path="/ws", more=f"Sec-WebSocket-Protocol: {LONG}\r\n"), b"431"),
        (UPGRADE.format(path=f"/ws?token={LONG}", more=""), b"414"),
        (UPGRADE.format(path="/ws?token=" + 10 * LONG, more=""), b"431"),
        (UPGRADE.format(path="/socket.io/?EIO=4&transport=websocket&x=" + 10 * LONG, more=""), b"431"),
        (UPGRADE.format(path="/ws", more="").replace("HTTP/1.1", "HTTP/1.0"), b"400"),
        (UPGRADE.format(path="/ws", more="").replace("Host: 127.0.0.1\r\n", ""), b"400"),
        (UPGRADE.format(path="/ws", more="Host: 127.0.0.1\r\n"), b"400"),
        (UPGRADE.format(path="/ws", more="").replace("GET", "POST"), b"400"),
    ],
    ids=[
        "a body",
        "a chunked body",
        "many headers",
        "many headers of the handshake",
        "a header of the handshake over 8 KB",
        "an address over 8 KB",
        "an address over 64 KB",
        "an address over 64 KB of Socket.IO",
        "HTTP/1.0",
        "no Host",
        "two Hosts",
        "POST",
    ],
)
async def test_an_invalid_opening_handshake_is_answered_and_closed(
    server: RunningNode, opening: str, status: bytes
) -> None:
    async with raw(server) as connection:
        await connection.send(opening)
        assert (await connection.until_end()).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("path", ["/ws", "/socket.io/?EIO=4&transport=websocket"])
@pytest.mark.parametrize("more", [f"Cookie: {'x' * 12_000}\r\n", "".join(f"a{n}: b\r\n" for n in range(1900))])
async def test_large_and_many_headers_are_accepted_as_by_node(server: RunningNode, path: str, more: str) -> None:
    """Also if the handshake goes over ASGI, to which every header is passed."""
    for opening in (more, more + "X-Forwarded-Proto: http\r\n"):
        async with raw(server) as connection:
            await connection.send(UPGRADE.format(path=path, more=opening))
            assert (await connection.until_answered()).startswith(b"HTTP/1.1 101 ")


async def test_frames_before_a_websocket_is_accepted_wait_in_the_socket() -> None:
    """All of them are read after the accept."""
    accept = asyncio.Event()
    messages = [b"x" * 60_000] * 200
    received: list[object] = []
    connections: list[UvicornWebSocket] = []

    async def app(scope: object, receive: object, send: object) -> None:
        assert isinstance(scope, dict)
        assert callable(receive)
        assert callable(send)
        connections.append(scope["extensions"][uvicorn_websocket.EXTENSION])
        await receive()
        await accept.wait()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            received.append(event["bytes"])

    async with running(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE.format(path="/", more="").encode())
        await eventually(lambda: bool(connections))
        writer.write(b"".join(frame(0x82, message) for message in messages))
        await eventually(lambda: not connections[0].transport.is_reading())
        assert len(connections[0]._early) <= uvicorn_websocket.MAX_EARLY + 256 * 1024  # the last read
        accept.set()
        await eventually(lambda: len(received) == len(messages))
        assert received == messages
        writer.close()
        await reader.read()


# -- number of connections -------------------------------------------------------------------------------------------


@asynccontextmanager
async def bounded(sqlite_url: str, tmp_path: Path, most: int) -> AsyncIterator[RunningNode]:
    """A node that accepts at most `most` connections of one source."""
    async with running_node(sqlite_url, tmp_path) as node:
        node.node.connections.trusted = frozenset()
        node.node.connections._max_per_source = most
        yield node


async def test_the_connections_of_a_source_are_limited_and_other_sources_are_served(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        bounded(sqlite_url, tmp_path, 3) as node,
        connected(node.url, await node.register("omar")),
    ):
        async with raw(node), raw(node):
            await eventually(lambda: node.node.connections.open == 3)  # one WebSocket and two silent connections
            async with raw(node) as refused:
                await refused.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert not (await refused.until_end()).startswith(b"HTTP/1.1 200 ")
            async with raw(node, "127.0.0.2") as other:
                await other.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert (await other.until_answered()).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: node.node.connections.open == 1)
        async with raw(node) as again:
            await again.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await again.until_answered()).startswith(b"HTTP/1.1 200 ")
    assert node.node.connections.refused == 1


async def test_the_connections_of_a_trusted_proxy_are_not_counted_by_source(sqlite_url: str, tmp_path: Path) -> None:
    async with bounded(sqlite_url, tmp_path, 1) as node:
        node.node.connections.trusted = frozenset(("127.0.0.1",))
        async with raw(node), raw(node) as second:
            await second.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await second.until_answered()).startswith(b"HTTP/1.1 200 ")


async def test_silent_connections_make_room_for_others_when_descriptors_run_short(
    server: RunningNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortage is logged once a minute, and a connected client stays."""
    counted = server.node.connections
    monkeypatch.setattr(UvicornHttp, "head_s", DEADLINE_S)
    async with connected(server.url, await server.register("omar")) as omar:
        with socket.socket() as highest:
            counted.descriptors = highest.fileno() + 10 + RESERVED
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(raw(server, "127.0.0.2")) for _ in range(20)]
            async with raw(server) as honest:
                await honest.send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert (await honest.until_answered()).startswith(b"HTTP/1.1 200 ")
            assert counted.dropped > 0
            assert counted.refused == 0
            await omar.ask("get_rooms")
            assert await crowd[0].until_end() == b"", "the oldest goes first"
    logged = [record for record in caplog.records if "descriptors run short" in record.getMessage()]
    assert [record.levelno for record in logged] == [logging.ERROR]


@pytest.mark.skipif(sys.platform != "linux", reason="lowers the limit of another process")
async def test_a_crowd_that_arrives_at_once_takes_no_reserved_descriptor(tmp_path: Path) -> None:
    """Those that are closed for newer ones free low numbers: a number alone does not tell how many are in use."""
    server = ServerProcess(tmp_path / "data")
    await server.start()
    try:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (512, 512))
        with ExitStack() as stack:
            for _ in range(700):
                silent = stack.enter_context(socket.socket())
                silent.setblocking(False)
                silent.connect_ex(("127.0.0.1", urlsplit(server.url).port))
            async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=DEADLINE_S) as http:
                assert (await http.get("/health/ready")).status_code == 200
            assert len(os.listdir(f"/proc/{server.pid}/fd")) <= 512 - RESERVED + 2
    finally:
        await server.terminate()


def test_the_limit_of_descriptors_is_raised_to_the_hard_limit() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 600));"
        "from tidings.transport.tcp_connections import raise_descriptor_limit; print(raise_descriptor_limit())"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= 600
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "600"


def test_the_oldest_connection_of_the_busiest_source_is_dropped_first() -> None:
    crowd: SourceQueue[int] = SourceQueue()
    for item, source in enumerate(["a", "b", "b", "c", "c", "c", "b"]):
        crowd.add(item, source)
    dropped = []
    while (oldest := crowd.oldest()) is not None:
        assert crowd.remove(oldest)
        dropped.append(oldest)
    assert sorted(dropped) == list(range(7))
    assert set(dropped[:2]) == {1, 3}, "the oldest of each source with three"
    assert not crowd.remove(0)
    assert len(crowd) == 0
    assert tcp_connections.descriptor_limit() > 0
