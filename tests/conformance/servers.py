"""The servers that the protocols' official suites expect, on the real transport."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from tidings.contract.errors import CloseReason
from tidings.transport.engine_server import EngineServer, Receive, Scope, Send
from tidings.transport.engine_session import EngineSession
from tidings.transport.handshake import Handshake, WebSocketOpening
from tidings.transport.socketio_codecs import ACK, EVENT
from tidings.transport.socketio_server import NamespaceSocket, SocketIOServer
from tidings.transport.uvicorn_server import UvicornHttp, UvicornWebSocket
from tidings.transport.websocket_wire import Wire

TRANSPORT: dict[str, Any] = {
    "ping_interval": 0.3,
    "ping_timeout": 0.2,
    "max_http_buffer_size": 1_000_000,
    "cors_allowed_origins": "*",
}
CONNECT_TIMEOUT_S = 1.0


class Echo:
    """Engine.IO: every message is echoed."""

    def opened(self, session: EngineSession, handshake: Handshake) -> None: ...

    def message(self, session: EngineSession, data: str | bytes) -> None:
        session.put(["4" + data if isinstance(data, str) else data], len(data))

    def broken(self, session: EngineSession) -> bool:
        return False

    def ended(self, session: EngineSession, reason: str) -> None: ...


class Namespaces:
    """Socket.IO: the reactions that the suite expects in `/` and `/custom`."""

    def connect(self, client: NamespaceSocket[None], auth: Any) -> None:
        client.accept()
        client.send(EVENT, ["auth", auth or {}])

    def event(self, client: NamespaceSocket[None], data: list[Any], ack_id: int | None, size: int) -> None:
        if data[0] == "message":
            client.send(EVENT, ["message-back", *data[1:]])
        elif data[0] == "message-with-ack" and ack_id is not None:
            client.send(ACK, data[1:], ack_id)

    def disconnected(self, client: NamespaceSocket[None]) -> None: ...

    def close(self, client: NamespaceSocket[None], reason: CloseReason) -> None:
        client.session.end(reason, politely=True)


def engineio(**options: Any) -> tuple[str, EngineServer]:
    server = EngineServer(async_mode="asgi", **{**TRANSPORT, **options})
    server.listener = Echo()
    return "/engine.io/", server


def socketio(**options: Any) -> tuple[str, EngineServer]:
    server: SocketIOServer[None] = SocketIOServer(
        Namespaces(),
        namespaces=("/", "/custom"),
        **{"connect_timeout": CONNECT_TIMEOUT_S, **TRANSPORT, **options},
    )
    return "/socket.io/", server.eio


APPLICATIONS: dict[str, Callable[..., tuple[str, EngineServer]]] = {"engineio": engineio, "socketio": socketio}


class Application:
    """An ASGI application that serves only the transport."""

    def __init__(self, path: str, engine: EngineServer) -> None:
        self.path = path
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == self.path:
            await self.engine.handle_request(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})


class DirectApplication(Application):
    """Opens WebSockets without ASGI, too, as Tidings does."""

    def open_websocket(self, opening: WebSocketOpening) -> tuple[bytes, Callable[[Wire], None]] | None:
        return self.engine.open_websocket(opening) if opening.path == self.path.encode() else None


def configure(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn as Tidings runs it."""
    return uvicorn.Config(
        app,
        **{
            "lifespan": "off",
            "http": UvicornHttp,
            "ws": UvicornWebSocket,
            "ws_per_message_deflate": False,
            "ws_ping_interval": None,
            "log_config": None,
            "access_log": False,
            **options,
        },
    )


async def serve(protocol: str, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    server = uvicorn.Server(configure(DirectApplication(*APPLICATIONS[protocol]())))
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.create_server((host, port), family=family) as listening:
        print(f"{protocol} on http://{host}:{listening.getsockname()[1]}", flush=True)
        await server.serve([listening])
