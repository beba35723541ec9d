"""uvicorn, extended: its server, and its protocols for HTTP and WebSocket.

Every use of uvicorn beyond its documented interface is here; `tests/extending/test_versions.py` lists them.

The server drains the node before it closes connections. Incomplete HTTP requests are bounded in time and size. If the
application has a method `open_websocket` (see `WebSocketOpener`), it is called first for a plain WebSocket, and the
opening handshake is answered here; `UvicornWebSocket` handles all other WebSockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from httptools import HttpParserUpgrade
from uvicorn.middleware.proxy_headers import _TrustedHosts
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from server.transport.handshake import WebSocketOpening, accept_key
from server.transport.tcp_connections import TcpConnection, TcpConnections
from server.transport.websocket_wire import LINGER_S, Wire

logger = logging.getLogger("tidings.transport")

HEAD_S: Final = 10.0
"""Seconds for a complete request head, from the begin of the connection or of the head."""
BODY_S: Final = 20.0
"""Seconds for a complete body, from the end of the head."""
MAX_HEAD: Final = 64 * 1024
"""The most bytes of a request line and headers."""
MAX_HEADERS: Final = 100
MAX_LINE: Final = 8000
"""The most bytes of a line of a WebSocket's opening handshake: the limit of the library that parses it."""
BACKLOG: Final = 4096
GRACE_S: Final = 4
"""Time for running requests, and for clients that got `closing`, to end."""
_NOT_PLAIN: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding"))
"""Headers that uvicorn or its middleware must process."""


EXTENSION: Final = "tidings.direct"
MAX_EARLY: Final = 64 * 1024
"""The most bytes of frames that wait until their receiver is known; then reading from the socket pauses."""


class _Refused(Exception):
    """The request is answered with a status, and the connection is closed."""


class UvicornHttp(HttpToolsProtocol):
    """uvicorn's protocol, with limits, and with plain WebSockets opened here.

    uvicorn's preparations for a connection and a request run only when it has a request to serve. uvicorn drops the
    bytes after an upgrade request that arrive in the same read; this class keeps them.

    If the application has `connections`, the connection is counted there.
    """

    head_s = HEAD_S
    body_s = BODY_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._refusal: tuple[int, str] | None = None
        """Status and text of the refusal that stopped the parser."""
        self._timer: asyncio.TimerHandle | None = None
        self._tcp_connection: TcpConnection | None = None
        connections: TcpConnections | None = getattr(self.config.app, "connections", None)
        if connections is not None:
            peer, descriptor = transport.get_extra_info("peername"), transport.get_extra_info("socket").fileno()
            self._tcp_connection = connections.begin(
                peer[0] if isinstance(peer, tuple) else "", descriptor, transport.abort
            )
            if self._tcp_connection is None:
                self._refuse(503, "too many connections")
                return
        self._start_timer(self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.end()
        super().connection_lost(exc)

    # -- time ----------------------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float) -> None:
        """Start the timer of a head or a body."""
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_body and self.flow.read_paused:  # the application is slow, not the client
            self._start_timer(self.body_s)
        elif self._in_head or self._in_body:
            self._refuse(408, "the request took too long to arrive")
        else:
            self._close()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, unless an earlier request is unanswered or this one's answer has begun; then close."""
        cycle = self.cycle
        if not self._answering() or (self._in_body and not cycle.response_started and not self.pipeline):
            text = reason.encode()
            self.transport.write(
                b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%b" % (status, HTTPStatus(status).phrase.encode(), len(text), text)
            )
        self._close()

    def _answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _close(self) -> None:
        """Close; the client has a few seconds to read its answer."""
        self._cancel_timer()
        if not self.transport.is_closing():
            self.transport.close()
            self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    # -- called by the event loop and the parser -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None and not self._in_body and not self._answering():
            self._start_timer(self.head_s)
        if self._in_head:
            self._head_bytes += len(data)
        self._read = data
        try:
            super().data_received(data)
        finally:
            del self._read
        if self._in_head and self._head_bytes > MAX_HEAD:
            self._refuse(431, "the request line and headers are too large")
        elif self._in_body and self._timer is None:
            self._start_timer(self.body_s)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._refusal or (400, msg)))

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self._size = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self._reject(431, "the request line and headers are too large")

    def _reject(self, status: int, reason: str) -> None:
        """Refuse from within the parser: it catches the exception and calls `send_400_response`."""
        self._refusal = status, reason
        raise _Refused(reason)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.head_received()
        if self.parser.should_upgrade() and self._should_upgrade():
            self._check_opening()
        else:
            self._in_body = True
            self._serve()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._cancel_timer()
        super().on_message_complete()

    def _check_opening(self) -> None:
        """Reject an opening handshake that is invalid (RFC 6455, section 4.2.1) or too long."""
        self.headers[:] = [header for header in self.headers if header != (b"content-length", b"0")]
        names = [name for name, _ in self.headers]
        if self.parser.get_http_version() != "1.1" or self.parser.get_method() != b"GET" or names.count(b"host") != 1:
            self._reject(400, "a WebSocket is opened with GET, HTTP/1.1 and Host")
        if b"content-length" in names or b"transfer-encoding" in names:
            self._reject(400, "a WebSocket is opened without a body")
        if len(self.url) > MAX_LINE:
            self._reject(414, "the address is too long")
        if self._size > MAX_LINE and any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
            self._reject(431, "a header is too long")

    def _serve(self) -> None:
        """Pass the request to uvicorn."""
        if self.scheme is None:
            super().connection_made(self.transport)
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        following = self._read[upgrade.args[0] :]
        if self._open(following):
            return
        self._serve()
        super().handle_websocket_upgrade()
        # breaks a reference cycle
        self.parser = None  # type: ignore[assignment]
        protocol = self.transport.get_protocol()
        if isinstance(protocol, UvicornWebSocket):
            protocol.tcp_connection, self._tcp_connection = self._tcp_connection, None
            if not protocol.handshake_initiated and not self.transport.is_closing():
                self._refuse(400, "not the opening handshake of a WebSocket")
            elif following:
                protocol.data_received(following)

    def _open(self, following: bytes) -> bool:
        """Open a plain WebSocket without ASGI, if the application supports it; else return False.

        `following`: the bytes after the handshake.
        """
        open_websocket: Callable[[WebSocketOpening], tuple[bytes, Callable[[Wire], None]] | None] | None
        open_websocket = getattr(self.config.app, "open_websocket", None)
        if open_websocket is None or self.root_path or self.ws_protocol_class is not UvicornWebSocket:
            return False
        if not getattr(self.cycle, "response_complete", True):
            return False
        headers = dict(self.headers)
        accept = accept_key(headers)
        if accept is None or len(headers) != len(self.headers) or not _NOT_PLAIN.isdisjoint(headers):
            return False
        peer = self.transport.get_extra_info("peername")
        path, _, query_string = self.url.partition(b"?")
        address = peer[0] if isinstance(peer, tuple) else ""
        accepted = open_websocket(WebSocketOpening(path, query_string, headers, address))
        if accepted is None:
            return False
        first_frames, take_over_wire = accepted
        flow = getattr(self, "flow", None)  # set by uvicorn, if it has served a request of this connection
        full = flow is not None and flow.write_paused
        wire = Wire(self.transport, self.connections, following, full=full, tcp_connection=self._tcp_connection)
        self.connections.discard(self)
        self.transport.set_protocol(wire)
        # breaks a reference cycle
        self.parser = None  # type: ignore[assignment]
        default_headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n%b" % (accept, b"".join(default_headers), first_frames)
        )
        take_over_wire(wire)
        return True


class UvicornWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, until the WebSocket is taken over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tcp_connection: TcpConnection | None = None
        self._early = bytearray()
        self._over_asgi = False
        self._taken_over = False
        self._connect_received = False
        self._early_full = False
        """Whether reading from the socket is paused."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def take_over(self) -> Wire:
        """Take the WebSocket over from uvicorn. Call it once, after the handshake."""
        self._taken_over = True
        self._leave_scope()
        wire = Wire(self.transport, self.connections, bytes(self._early), tcp_connection=self.tcp_connection)
        self._resume()
        self.connections.discard(self)
        self.transport.set_protocol(wire)
        return wire

    def _leave_scope(self) -> None:
        """Break the reference cycle between the scope and this protocol."""
        scope: Any = getattr(self, "scope", None)  # unset before the opening handshake
        if scope is not None:
            scope["extensions"].pop(EXTENSION, None)

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            logger.exception("the application failed")
            if not self._taken_over:
                self.send_500_response()
        if not self._taken_over:
            if not self.handshake_complete:
                self.send_500_response()
            if self.close_timer is None:
                self.transport.close()

    async def receive(self) -> Any:
        if self._connect_received:
            self._read_over_asgi()
        self._connect_received = True
        return await super().receive()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] in ("websocket.send", "websocket.close"):
            self._read_over_asgi()

    def _read_over_asgi(self) -> None:
        """The application has not taken the WebSocket over: pass input to uvicorn."""
        if not self._over_asgi:
            self._over_asgi = True
            early, self._early = bytes(self._early), bytearray()
            self._resume()
            if early:
                super().data_received(early)

    def _resume(self) -> None:
        if self._early_full and not self.transport.is_closing():
            self._early_full = False
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated or self._over_asgi:
            super().data_received(data)
            return
        self._early += data  # until the receiver is known
        if len(self._early) > MAX_EARLY and not self._early_full:
            self._early_full = True
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.tcp_connection is not None:
            self.tcp_connection.end()
        super().connection_lost(exc)
        self._leave_scope()


def take_over(scope: Any) -> Wire | None:
    """Take over the WebSocket of an ASGI scope, if the server supports it. Call it after the handshake."""
    protocol = scope.get("extensions", {}).get(EXTENSION)
    return protocol.take_over() if isinstance(protocol, UvicornWebSocket) else None


class DrainingServer(uvicorn.Server):
    """A server for an application whose lifespan its caller runs. It leaves signals to its caller."""

    def __init__(
        self, app: Any, host: str, port: int, *, max_message: int, drain: Callable[[], Awaitable[object]]
    ) -> None:
        """`max_message`: bytes of a WebSocket message. `drain` is awaited before the connections are closed."""
        self.listening = asyncio.Event()
        self._drain = drain
        self._stopping = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",
                http=UvicornHttp,
                ws=UvicornWebSocket,
                ws_max_size=max_message,
                ws_per_message_deflate=False,  # it holds memory per connection
                ws_ping_interval=None,  # Engine.IO has a heartbeat of its own
                timeout_keep_alive=5,
                timeout_graceful_shutdown=GRACE_S,
                access_log=False,
                log_config=None,
                server_header=False,
                backlog=BACKLOG,
            )
        )

    def trusted_proxies(self) -> Any:
        """The addresses whose `X-Forwarded-For` uvicorn trusts; supports `in`."""
        return _TrustedHosts(self.config.forwarded_allow_ips)

    def stop(self) -> None:
        """Make `serve` drain the node and return."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Like uvicorn's, which checks ten times a second whether to stop, but stops immediately."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await self._drain()
        await super().shutdown(sockets)
