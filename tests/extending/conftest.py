"""Servers with an application: a stock server, and Tidings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import socketio
import uvicorn

from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode, running_node
from tidings.transport.listening import listen

USERS = ("omar", "diego", "memoor")


class Serving:
    """A server that runs an application, and a token for each of `USERS`."""

    def __init__(self, url: str, sio: socketio.AsyncServer, installed: Any, tokens: dict[str, str]) -> None:
        self.url = url
        self.sio = sio
        self.installed = installed
        self.tokens = tokens
        self.node: RunningNode


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@asynccontextmanager
async def on_stock(install: Callable[[socketio.AsyncServer], Any], _: Path, **options: Any) -> AsyncIterator[Serving]:
    """The application on python-socketio's own server, under uvicorn."""
    sio = socketio.AsyncServer(async_mode="asgi", **options)
    installed = install(sio)
    server = _Server(
        uvicorn.Config(socketio.ASGIApp(sio), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    with listen("127.0.0.1", 0) as listening:
        task = asyncio.create_task(server.serve([listening]))
        await asyncio.wait_for(server.listening.wait(), 10)
        try:
            yield Serving(f"http://127.0.0.1:{listening.getsockname()[1]}", sio, installed, dict.fromkeys(USERS, "-"))
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def on_tidings(
    install: Callable[[socketio.AsyncServer], Any],
    data_dir: Path,
    *,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Serving]:
    """The application on Tidings; `options` of its node, and `changes` to the settings."""
    url = f"sqlite:///{data_dir}/tidings.db"
    async with running_node(url, data_dir, options=options, **changes) as node:
        tokens = {name: await node.register(name) for name in USERS}
        serving = Serving(node.url, node.app.sio, install(node.app.sio), tokens)
        serving.node = node
        yield serving


@asynccontextmanager
async def under_uvicorn(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The application under uvicorn; yields its URL. Port 0: any free port."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5))
    with listen("127.0.0.1", port) as socket:
        running = asyncio.create_task(server._serve([socket]))  # `serve` would take pytest's signals
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(running, 30)


async def joined(*nodes: RunningNode) -> None:
    """Wait until each node knows the others, and they answer."""
    async with asyncio.timeout(DEADLINE_S):
        for node in nodes:
            while len(node.node.cluster.registry.others) < len(nodes) - 1:
                await node.node.cluster.registry._round()
            while True:
                try:
                    await node.app.sio.participants()
                    break
                except TimeoutError:
                    continue
