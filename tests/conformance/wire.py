"""Clients of the conformance tests: HTTP requests, WebSockets, and bytes on a plain connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conformance.servers import APPLICATIONS, Application, DirectApplication, configure
from tidings.transport.engine_server import EngineServer

DEADLINE_S = 30.0
SEPARATOR = "\x1e"


@asynccontextmanager
async def running(app: Any, **options: Any) -> AsyncIterator[int]:
    """Run an ASGI application under uvicorn, with `options` of uvicorn; yields its port."""
    server = uvicorn.Server(configure(app, host="127.0.0.1", port=0, timeout_graceful_shutdown=1, **options))
    # As `serve`, without the signals, which belong to pytest, and without the ticks, which are slow to stop.
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        port: int = server.servers[0].sockets[0].getsockname()[1]
        yield port
    finally:
        await server.shutdown()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds of the server, which runs in this event loop."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Endpoint:
    """A server for the official suites. `engine` holds its sessions."""

    def __init__(self, port: int, path: str, engine: EngineServer, http: httpx.AsyncClient) -> None:
        self.port = port
        self.path = path
        self.engine = engine
        self.http = http

    def address(self, transport: str = "polling", sid: str | None = None) -> str:
        return f"{self.path}?EIO=4&transport={transport}" + ("" if sid is None else f"&sid={sid}")

    async def request(self, method: str, **query: str) -> httpx.Response:
        return await self.http.request(method, self.path, params=query)

    # -- polling -------------------------------------------------------------------------------------------------

    async def open(self) -> str:
        """Begin a polling session; returns its sid."""
        answer = await self.http.get(self.address())
        assert answer.status_code == 200, answer.text
        return str(handshake(answer.text)["sid"])

    async def poll(self, sid: str) -> httpx.Response:
        return await self.http.get(self.address(sid=sid))

    async def post(self, sid: str, *packets: str) -> httpx.Response:
        return await self.http.post(self.address(sid=sid), content=SEPARATOR.join(packets).encode())

    async def packets(self, sid: str, number: int) -> list[str]:
        """Poll until `number` packets have arrived, not counting PINGs, which are answered."""
        arrived: list[str] = []
        while len(arrived) < number:
            answer = await self.poll(sid)
            assert answer.status_code == 200, answer.text
            for packet in answer.text.split(SEPARATOR):
                if packet == "2":
                    await self.post(sid, "3")
                else:
                    arrived.append(packet)
        assert len(arrived) == number, arrived
        return arrived

    @asynccontextmanager
    async def waiting_poll(self, sid: str) -> AsyncIterator[asyncio.Task[httpx.Response]]:
        """A pending poll, which the server holds until it has a packet."""
        polling = asyncio.create_task(self.poll(sid))
        await eventually(lambda: self.engine.sockets[sid].polling)
        try:
            yield polling
        finally:
            polling.cancel()
            await asyncio.wait([polling])

    async def is_gone(self, sid: str) -> bool:
        """Whether the server refuses both a poll and a packet of the session."""
        polled, posted = await self.poll(sid), await self.post(sid, "4")
        return (polled.status_code, posted.status_code) == (400, 400)

    # -- WebSocket -----------------------------------------------------------------------------------------------

    def websocket(self, sid: str | None = None, query: Mapping[str, str] | None = None) -> connect:
        """A WebSocket of the session `sid`, of a new one, or with exactly this query."""
        address = f"{self.path}?{httpx.QueryParams(dict(query))}" if query else self.address("websocket", sid)
        return connect(
            f"ws://127.0.0.1:{self.port}{address}",
            compression=None,
            ping_interval=None,
            max_size=None,
            proxy=None,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ClientConnection]:
        """A session on WebSocket, after the handshake."""
        async with self.websocket() as socket:
            assert handshake(await received(socket))["upgrades"] == []
            yield socket

    @asynccontextmanager
    async def upgrading(self, sid: str) -> AsyncIterator[ClientConnection]:
        """A WebSocket whose probe has been answered."""
        async with self.websocket(sid) as socket:
            await socket.send("2probe")
            assert await received(socket) == "3probe"
            yield socket


def handshake(packet: str | bytes) -> dict[str, Any]:
    """The payload of an OPEN packet."""
    assert isinstance(packet, str)
    assert packet[:1] == "0", packet
    payload: dict[str, Any] = json.loads(packet[1:])
    return payload


async def received(socket: ClientConnection) -> str | bytes:
    """The next message that is not a PING; a PING is answered. Raises `ConnectionClosed`."""
    async with asyncio.timeout(DEADLINE_S):
        while (packet := await socket.recv()) == "2":
            await socket.send("3")
        return packet


async def until_closed(socket: ClientConnection) -> list[str | bytes]:
    """The messages until the server closes."""
    arrived: list[str | bytes] = []
    try:
        while True:
            arrived.append(await received(socket))
    except ConnectionClosed:
        return arrived


@asynccontextmanager
async def serving(
    protocol: str, websockets: Any, application: type[Application] = DirectApplication, **options: Any
) -> AsyncIterator[Endpoint]:
    """The server for a protocol's suite; `websockets` is uvicorn's `ws`, `options` are of the transport."""
    path, engine = APPLICATIONS[protocol](**{"ping_interval": 20, "ping_timeout": 20, **options})
    async with running(application(path, engine), ws=websockets) as port:
        limits = httpx.Limits(max_keepalive_connections=0)  # cancelling a request closes its connection
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S, limits=limits, trust_env=False
        ) as http:
            yield Endpoint(port, path, engine, http)
        for session in list(engine.sockets.values()):
            session.end("the test is over")


class Wire:
    """A WebSocket whose client is the test, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_bytewise(self, data: bytes) -> None:
        """Send each byte on its own; the server reads it before the next one."""
        for at in range(len(data)):
            await self.send(data[at : at + 1])
            for _ in range(2):
                await asyncio.sleep(0)

    async def send_in_two(self, data: bytes, at: int) -> None:
        for part in (data[:at], data[at:]):
            await self.send(part)
            for _ in range(2):
                await asyncio.sleep(0)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame, final and unmasked: its opcode and payload."""
        async with asyncio.timeout(DEADLINE_S):
            first, second = await self._reader.readexactly(2)
            assert first & 0xF0 == 0x80, first
            assert not second & 0x80, "a server does not mask"
            size = second
            if size > 125:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0x0F, await self._reader.readexactly(size)

    async def echo(self, content: str = "still here") -> None:
        """The session answers."""
        await self.send(text(f"4{content}"))
        assert await self.frame() == (1, f"4{content}".encode())

    async def close_code(self) -> int:
        """The code of the next frame, a CLOSE, which ends the connection."""
        opcode, payload = await self.frame()
        assert opcode == 8, (opcode, payload)
        async with asyncio.timeout(DEADLINE_S):
            assert await self._reader.read() == b""
        return int.from_bytes(payload[:2], "big")

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.read(65_536)

    async def bytes_until_end(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.read()

    async def head(self) -> bytes:
        """The answer to the opening handshake."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readuntil(b"\r\n\r\n")

    def abort(self) -> None:
        self._writer.transport.abort()


def upgrade_request(endpoint: Endpoint, sid: str | None = None) -> bytes:
    return (
        f"GET {endpoint.address('websocket', sid)} HTTP/1.1\r\nHost: 127.0.0.1:{endpoint.port}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@asynccontextmanager
async def plain(endpoint: Endpoint, receive_buffer: int = 0) -> AsyncIterator[Wire]:
    """An unused TCP connection. `receive_buffer`: the size of the kernel's buffer in bytes; 0: the default."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", endpoint.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def wired(endpoint: Endpoint, receive_buffer: int = 0) -> AsyncIterator[Wire]:
    """A session on a `Wire`, after both handshakes."""
    async with plain(endpoint, receive_buffer) as wire:
        await wire.send(upgrade_request(endpoint))
        assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
        opcode, packet = await wire.frame()
        assert opcode == 1
        handshake(packet.decode())
        yield wire


def frame(head: int, payload: bytes = b"", *, masked: bool = True, size: int | None = None) -> bytes:
    """A client's frame: `head` is its first byte; `size` overrides the announced length."""
    length = len(payload) if size is None else size
    bit = 0x80 if masked else 0
    if length < 126:
        header = bytes((bit | length,))
    elif length < 65_536:
        header = bytes((bit | 126,)) + length.to_bytes(2, "big")
    else:
        header = bytes((bit | 127,)) + length.to_bytes(8, "big")
    mask = b"\x37\xfa\x21\x3d" if masked else b""
    data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if masked else payload
    return bytes((head,)) + header + mask + data


def text(message: str) -> bytes:
    return frame(0x81, message.encode())
