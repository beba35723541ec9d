"""The ASGI application: live connections on their paths, everything else to FastAPI."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from tidings import __version__
from tidings.api import ServerApi
from tidings.gateways import docs, files, hosts, rest, static_files
from tidings.gateways.hosts import Hosts
from tidings.gateways.request_log import RequestLog
from tidings.gateways.static_files import TYPES, Brand
from tidings.node import Node, NodeOptions
from tidings.settings import Settings, SettingsError
from tidings.transport.buffered_session import Receive, Send
from tidings.transport.handshake import WebSocketOpening
from tidings.transport.websocket_wire import Wire
from tidings_db.failures import StoreUnavailable

SOCKETIO_PATH = "/socket.io"
WEBSOCKET_PATH = "/ws"
_LIBRARY = re.compile(SOCKETIO_PATH + r"/socket\.io(\.esm|\.msgpack)?(\.min)?\.js(\.map)?")
"""The files of socket.io-client, which Node's servers serve on this path; here they are among the static files."""
_DIRECT_PATHS = (b"/socket.io/", b"/socket.io")


class Application:
    """The ASGI application: live connections on their paths, the rest to FastAPI, whose lifespan runs the node."""

    def __init__(self, node: Node, web: FastAPI) -> None:
        self.node = node
        self.web = web
        self._hosts = Hosts(node.settings.host_names)
        self._requests = RequestLog(web, node.logs)
        self._misdirected = RequestLog(hosts.refuse, node.logs)
        self.sio = node.socketio.server
        """A `socketio.AsyncServer`, for namespaces of an application's own; see `docs/extending.md`."""
        self.tidings = ServerApi(node.parts, node.dispatcher)
        """The server's own API, for applications; see `docs/extending.md`."""
        self.connections = node.connections
        """For `transport.uvicorn_server.UvicornHttp`, as is `elsewhere`; unused under another ASGI server."""
        self.elsewhere = node.cluster.elsewhere

    def open_websocket(self, opening: WebSocketOpening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """A `transport.handshake.WebSocketOpener`; not called under another ASGI server."""
        if opening.path not in _DIRECT_PATHS or not self._hosts.allow(opening.headers.get(b"host", b"")):
            return None
        return self.node.socketio.eio.open_websocket(opening)

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Run the node: the lifespan of the application into which this one is mounted.

        Raises `StoreUnavailable` or `SettingsError` if it cannot start.
        """
        await self.node.start()
        try:
            yield
        finally:
            await self.node.stop()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            if not self._hosts.allow_request(scope):
                await self._misdirected(scope, receive, send)
                return
            prefix: str = scope.get("root_path", "")
            path: str = scope["path"].removeprefix(prefix)
            below = {**scope, "path": path} if prefix else scope
            if path == SOCKETIO_PATH or (path.startswith(SOCKETIO_PATH + "/") and not _LIBRARY.fullmatch(path)):
                await self.node.socketio.eio.handle_request(below, receive, send)
                return
            if scope["type"] == "websocket":
                if path == WEBSOCKET_PATH:
                    await self.node.websocket.server.handle_request(below, receive, send)
                    return
                dialect = self.node.dialects.find(path)
                if dialect is not None:
                    await dialect.server.handle_request(below, receive, send)
                    return
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
        await self._requests(scope, receive, _naming_the_problem(send) if scope["type"] == "lifespan" else send)


def _naming_the_problem(send: Send) -> Send:
    """Replaces the traceback of a start that failed by a sentence, if the operator can solve the problem."""

    async def send_sentence(message: MutableMapping[str, Any]) -> None:
        problem = sys.exception()
        if message["type"] == "lifespan.startup.failed" and isinstance(problem, (SettingsError, StoreUnavailable)):
            message = {**message, "message": f"tidings: {problem}"}
        await send(message)

    return send_sentence


def create_app(settings: Settings | None = None, *, static: Traversable | None = None, **options: Any) -> Application:
    """Make an application with a node of its own; several can run in one process.

    Args:
        settings: None: from the environment.
        static: the built web client; None: the one in this package.
        options: fields of `NodeOptions`.
    """
    node = Node(Settings() if settings is None else settings, NodeOptions(**options))
    # A redirect to the path without its slash would repeat the host that the client sent, true or not.
    web = FastAPI(title="Tidings", version=__version__, openapi_url=None, redirect_slashes=False)
    if node.settings.cors_origins:
        web.add_middleware(
            CORSMiddleware,
            allow_origins=node.settings.cors_origins,
            allow_credentials=node.settings.cors_credentials,
            allow_methods=["*"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id", *files.TUS_HEADERS],
            expose_headers=["x-request-id", "location", *files.TUS_HEADERS],
        )
    token = node.settings.metrics_token.get_secret_value()
    rest.install(web, node.dispatcher, node.parts, node.metrics, metrics_token=token)
    docs.install(web, node.dispatcher.registry, dev_tokens=node.settings.dev_tokens)
    node.dialects.install(web)
    brand = Brand(node.settings.server_name)
    if node.settings.server_logo:
        logo = Path(node.settings.server_logo)
        brand = Brand(brand.name, logo.read_bytes(), TYPES[logo.suffix.lower()])
    files.install(web, node.dispatcher, node.parts)
    static_files.install(web, node.logs, static, brand, node.settings.files_origin)
    application = Application(node, web)
    web.router.lifespan_context = application.lifespan
    return application
