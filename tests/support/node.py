"""A real server on a free port, inside the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.ports import port_of
from tidings.app import Application, create_app
from tidings.cli.serving import Server
from tidings.fanout.connection import Connection
from tidings.node import Node
from tidings.settings import Settings
from tidings.transport.listening import listen

PASSWORD = "correct horse"
SECRET_KEY = "a key for tests only, of 32 bytes and more"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Shared by all HTTP clients: a client with a context of its own would read a bundle of certificates."""


class _Server(Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # pytest handles the signals


class RunningNode:
    """A node that serves on `url`; `stop` and `start` keep its address and its data."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._settings = settings
        self._options = options
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self._port = port_of(self)
        self._through = ""
        self.app: Application
        self.url = ""

    @property
    def node(self) -> Node:
        return self.app.node

    async def start(self) -> None:
        """Serve; raises the error if the node cannot start."""
        self.app = create_app(self._settings, **self._options)
        await self.app.node.start()
        self._socket = listen("127.0.0.1", self._port)
        self._port = self._socket.getsockname()[1]
        self.url = self._through or f"http://127.0.0.1:{self._port}"
        server = _Server(self.app, "127.0.0.1", 0)
        self._server = server
        self._serving = asyncio.create_task(server.serve([self._socket]))
        await asyncio.wait_for(server.listening.wait(), 30)

    def publish_url(self) -> None:
        """Let other nodes reach this one over HTTP. Call it before the start (on Linux, where ports are reserved)."""
        assert self._port, "no port is reserved on this system"
        self._settings = self._settings.model_copy(update={"node_url": f"http://127.0.0.1:{self._port}"})

    def through(self, url: str) -> None:
        """Use the URL of a proxy from now on, also after a restart (on Linux, where ports are kept)."""
        self.url = self._through = url

    def leave(self, *, replaced: bool = False) -> asyncio.Task[None]:
        """Begin to stop as on SIGTERM; the task is done when no connection is left. Call `stop` as well.

        `replaced`: as a worker that has a successor.
        """
        assert self._serving is not None, "not started"
        self._server.leave(replaced=replaced)
        return self._serving

    async def stop(self) -> None:
        """Stop immediately, without waiting for other nodes to take over."""
        if self._serving is not None:
            self._server.stop()
            await self._serving
            self._serving = None
            await self.app.node.stop()
        if self._socket is not None:
            self._socket.close()

    def gone(self, username: str = "") -> asyncio.Event:
        """An event that is set when the next connection, of a user or of any, has ended."""
        ended, remove = asyncio.Event(), self.node.hub.remove

        def removing(connection: Connection) -> None:
            remove(connection)
            if username in ("", connection.principal.username):
                ended.set()

        self.node.hub.remove = removing  # type: ignore[method-assign]
        return ended

    async def register(self, username: str, password: str = PASSWORD) -> str:
        """Create an account; returns its token."""
        return await token_from(self.url, "register", username, password)

    async def login(self, username: str, password: str = PASSWORD) -> str:
        """Sign in; returns the token of a new session."""
        return await token_from(self.url, "login", username, password)


async def token_from(url: str, action: str, username: str, password: str = PASSWORD) -> str:
    """`register` or `login` at a server; returns the token."""
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as http:
        answer = await http.post(f"/api/{action}", json={"username": username, "password": password})
        assert answer.is_success, answer.text
        token: str = answer.json()["token"]
        return token


def settings_for(database_url: str, data_dir: Path, **changes: Any) -> Settings:
    """Settings for a test: nothing from the environment, no rate limits, no rooms."""
    return Settings(
        _env_file=None,
        **{
            "database_url": database_url,
            "data_dir": data_dir,
            "rate_limits": "off",
            "public_channel": "entry",
            "log_level": "warning",
            "secret_key": SECRET_KEY,
            **changes,
        },
    )


@asynccontextmanager
async def running_node(
    database_url: str,
    data_dir: Path,
    *,
    options: dict[str, Any] | None = None,
    publish_url: bool = False,
    **changes: Any,
) -> AsyncIterator[RunningNode]:
    """A running node; `changes` to its settings, `options` as of `tidings.node.NodeOptions`.

    `publish_url`: whether it tells other nodes its URL.
    """
    node = RunningNode(settings_for(database_url, data_dir, **changes), **{"bcrypt_rounds": 4, **(options or {})})
    if publish_url:
        node.publish_url()
    await node.start()
    try:
        yield node
    finally:
        await node.stop()
