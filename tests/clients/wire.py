"""The packets between a client and the server: a proxy that counts and rewrites them, and cuts between two of them.

It stands in front of a `Network`, which cuts anywhere. Only WebSocket is taken apart; other HTTP passes as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

Direction = Literal["up", "down"]
Change = Callable[[Direction, str], list[str] | None]
"""Gets a packet (Engine.IO, as text); returns the packets to pass on instead, or None: cut the connection here."""


class Wire:
    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self._target = address.hostname, address.port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.change: Change = lambda _, packet: [packet]
        self.connections = 0
        """WebSockets so far."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                to_server = await asyncio.open_connection(*self._target)
                try:
                    await self._connection(reader, writer, *to_server)
                finally:
                    to_server[1].close()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _connection(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        head = (await client.readuntil(b"\r\n\r\n")).split(b"\r\n")
        # Without an extension, no payload is compressed.
        to_server.write(b"\r\n".join(line for line in head if not line.lower().startswith(b"sec-websocket-ext")))
        if b"upgrade: websocket" in b"\n".join(head).lower():
            answer = await server.readuntil(b"\r\n\r\n")
            to_client.write(answer)
            pipes = [self._packets("up", client, to_server), self._packets("down", server, to_client)]
            self.connections += b" 101 " in answer
        else:
            pipes = [_bytes(client, to_server), _bytes(server, to_client)]
        tasks = [asyncio.create_task(pipe) for pipe in pipes]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _packets(self, direction: Direction, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """Pass frames on until the stream ends, or a packet is to be cut off."""
        while True:
            first, second = await source.readexactly(2)
            assert first & 0x80, "a fragmented message"
            length = second & 0x7F
            extended = await source.readexactly({126: 2, 127: 8}.get(length, 0))
            if extended:
                length = int.from_bytes(extended, "big")
            mask = await source.readexactly(4 if second & 0x80 else 0)
            payload = await source.readexactly(length)
            if first & 0x0F != 1:  # a close, a ping or a pong of WebSocket itself
                to.write(bytes((first, second)) + extended + mask + payload)
                continue
            packets = self.change(direction, _masked(payload, mask).decode())
            if packets is None:
                return
            for packet in packets:
                to.write(_frame(packet.encode(), mask))
            await to.drain()


async def _bytes(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        to.write(data)
        await to.drain()


def _masked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def _frame(payload: bytes, mask: bytes) -> bytes:
    size, masking = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", 0x81, masking | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x81, masking | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, masking | 127, size)
    return head + mask + _masked(payload, mask)


@asynccontextmanager
async def wire(target: str) -> AsyncIterator[Wire]:
    proxy = Wire(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
