"""An echo server on a free port; a test may replace its behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.server import Server, ServerConnection, serve

from tests.support.client import DEADLINE_S
from tests.support.ports import port_of

Behaviour = Callable[[ServerConnection, str], Awaitable[None]]


async def echoes(ws: ServerConnection, content: str) -> None:
    await ws.send(content)


async def is_silent(_ws: ServerConnection, _content: str) -> None:
    pass


class EchoServer:
    def __init__(self) -> None:
        self.behaviour: Behaviour = echoes
        self.greeting: str | None = None
        self.clients: list[ServerConnection] = []
        """The connected clients."""
        self.accepted = 0
        self.received: list[str] = []
        self._server: Server | None = None
        self._port = port_of(self)
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/"

    async def start(self) -> None:
        """Serve; after `stop`, on the same port."""
        self._server = await serve(self._serve, "127.0.0.1", self._port, close_timeout=0.1, ping_interval=None)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, ws: ServerConnection) -> None:
        self.accepted += 1
        self.clients.append(ws)
        self._changed.set()
        try:
            if self.greeting is not None:
                await ws.send(self.greeting)
            async for content in ws:
                assert isinstance(content, str)
                self.received.append(content)
                self._changed.set()
                await self.behaviour(ws, content)
        finally:
            self.clients.remove(ws)
            self._changed.set()


@asynccontextmanager
async def echo_server() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
