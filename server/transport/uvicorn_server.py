"""uvicorn, extended: its server, and its protocols for HTTP and WebSocket.

All that is used of uvicorn beyond its documented interface stands here; `tests/extending/test_versions.py` says what.

The server drains the node before it closes connections. HTTP has bounds on a request that is not whole yet. An
application with a method `open_websocket` (see `WebSocketOpener`) is asked first to open a plain WebSocket, and the
opening handshake is answered here; `UvicornWebSocket` has all other WebSockets.
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
"""Seconds for a whole request head, from the connection's beginning or the head's."""
BODY_S: Final = 20.0
"""Seconds for a whole body, from the end of the head."""
MAX_HEAD: Final = 64 * 1024
"""Most bytes of a request line and headers."""
MAX_HEADERS: Final = 100
MAX_LINE: Final = 8000
"""Most bytes of a line of a WebSocket's opening handshake: the limit of the library that parses it."""
BACKLOG: Final = 4096
GRACE_S: Final = 4
"""Time for running requests, and for clients that got `closing`, to end."""
_NOT_PLAIN: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding"))
"""Headers that uvicorn or its middleware must process."""


EXTENSION: Final = "tidings.direct"
MAX_EARLY: Final = 64 * 1024
"""Most bytes of frames that wait until their receiver is known; beyond that, nothing is read from the socket."""


class _Refused(Exception):
    """The request is answered with a status, and the connection is closed."""


class UvicornHttp(HttpToolsProtocol):
    """uvicorn's protocol, with limits, and with plain WebSockets opened here.

    What uvicorn prepares for a connection and a request it does here when there is something for it to serve. And it
    drops what comes in one read with a request to upgrade, and behind it; here it is kept.

    An application may have `connections`, in which its connections are counted.
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
        counted: TcpConnections | None = getattr(self.config.app, "connections", None)
        if counted is not None:
            peer, descriptor = transport.get_extra_info("peername"), transport.get_extra_info("socket").fileno()
            self._tcp_connection = counted.begin(
                peer[0] if isinstance(peer, tuple) else "", descriptor, transport.abort
            )
            if self._tcp_connection is None:
                self._refuse(503, "too many connections")
                return
        self._allow(self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.end()
        super().connection_lost(exc)

    # -- time ----------------------------------------------------------------------------------------------------

    def _allow(self, seconds: float) -> None:
        """Start the timer for the rest of a head or a body."""
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_body and self.flow.read_paused:  # the application is slow, not the client
            self._allow(self.body_s)
        elif self._in_head or self._in_body:
            self._refuse(408, "the request took too long to arrive")
        else:
            self._close()

    def _refuse(self, status: int, why: str) -> None:
        """Answer, unless an earlier request is unanswered or this one's answer has begun; then close."""
        cycle = self.cycle
        if not self._answering() or (self._in_body and not cycle.response_started and not self.pipeline):
            text = why.encode()
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
            self._allow(self.head_s)
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
            self._allow(self.body_s)

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

    def _reject(self, status: int, why: str) -> None:
        """Stop the parser with an exception that it catches, and answer."""
        self._refusal = status, why
        raise _Refused(why)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.heard()
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
        if any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
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
        behind = self._read[upgrade.args[0] :]
        if self._open(behind):
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
            elif behind:
                protocol.data_received(behind)

    def _open(self, behind: bytes) -> bool:
        """Open a plain WebSocket without ASGI, if the application supports it. Returns False otherwise."""
        asked: Callable[[WebSocketOpening], tuple[bytes, Callable[[Wire], None]] | None] | None
        asked = getattr(self.config.app, "open_websocket", None)
        if asked is None or self.root_path or self.ws_protocol_class is not UvicornWebSocket:
            return False
        if not getattr(self.cycle, "response_complete", True):
            return False
        headers = dict(self.headers)
        accept = accept_key(headers)
        if accept is None or len(headers) != len(self.headers) or not _NOT_PLAIN.isdisjoint(headers):
            return False
        peer = self.transport.get_extra_info("peername")
        path, _, query_string = self.url.partition(b"?")
        opened = asked(WebSocketOpening(path, query_string, headers, peer[0] if isinstance(peer, tuple) else ""))
        if opened is None:
            return False
        first, take = opened
        flow = getattr(self, "flow", None)  # of uvicorn, if it has served a request here
        full = flow is not None and flow.write_paused
        wire = Wire(self.transport, self.connections, behind, full=full, tcp_connection=self._tcp_connection)
        self.connections.discard(self)
        self.transport.set_protocol(wire)
        # breaks a reference cycle
        self.parser = None  # type: ignore[assignment]
        more = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n%b" % (accept, b"".join(more), first)
        )
        take(wire)
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
        """Nothing is read from the socket."""

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
        scope: Any = getattr(self, "scope", None)  # it has none before the opening handshake
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
        self._early += data  # until it is known who reads
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
