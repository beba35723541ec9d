"""uvicorn, extended: its server, and its protocol for HTTP.

Every use of uvicorn beyond its documented interface is here and in `uvicorn_websocket.py`;
`tests/extending/test_versions.py` lists them.

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
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from httptools import HttpParserUpgrade
from uvicorn.middleware.proxy_headers import _TrustedHosts
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidings.transport.elsewhere import RELAY_HEADER, RELAY_PROTOCOL, Elsewhere
from tidings.transport.handshake import WebSocketOpening, accept_key
from tidings.transport.listening import BACKLOG
from tidings.transport.tcp_connections import TcpConnection, TcpConnections
from tidings.transport.uvicorn_websocket import UvicornWebSocket
from tidings.transport.websocket_wire import LINGER_S, Wire

logger = logging.getLogger("tidings.transport")

HEAD_S: Final = 10.0
"""Seconds for a complete request head, from the begin of the connection or of the head."""
BODY_S: Final = 20.0
"""Seconds for a complete body, from the end of the head."""
MAX_HEAD: Final = 64 * 1024
"""The most bytes of a request line and headers."""
MAX_HEADERS: Final = 2000
"""The limit of Node's servers."""
MAX_LINE: Final = 8000
"""The most bytes of the address of a WebSocket, and of each header of `_OPENING`: a limit of the library that parses
them."""
MAX_OPENING: Final = 100
"""The most headers of `_OPENING`, for the same reason."""
_OPENING: Final = frozenset(
    (
        b"connection",
        b"host",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"upgrade",
    )
)
"""The headers of a WebSocket's opening handshake (RFC 6455, section 4.2.1). That library gets only these."""
GRACE_S: Final = 4
"""Time for running requests, and for clients that got `closing`, to end."""
_NOT_PLAIN: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding", b"sec-websocket-protocol")
)
"""Headers that uvicorn, its middleware or the application must process."""


class _Refused(Exception):
    """The request is answered with a status, and the connection is closed."""


_Phase = Enum("_Phase", "IDLE HEAD BODY")
"""The part of a request that is arriving."""


class UvicornHttp(HttpToolsProtocol):
    """uvicorn's protocol, with limits, and with plain WebSockets opened here.

    uvicorn's preparations for a connection and a request run only when it has a request to serve. uvicorn drops the
    bytes after an upgrade request that arrive in the same read; this class keeps them.

    If the application has `connections`, the connection is counted there.
    """

    head_s = HEAD_S
    body_s = BODY_S
    relayed_for: str | None = None
    """The address of the client whose requests another node relays over this connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport
        self._phase = _Phase.IDLE
        self._head_bytes = 0
        self._refusal: tuple[int, str] | None = None
        """Status and text of the refusal that stopped the parser."""
        self._timer: asyncio.TimerHandle | None = None
        self._tcp_connection: TcpConnection | None = None
        connections: TcpConnections | None = getattr(self.config.app, "connections", None)
        if connections is not None:
            self._tcp_connection = connections.begin(self._address(), transport)
            if self._tcp_connection is None:
                self._refuse(503, "too many connections")
                return
        self._start_timer(self.head_s)

    def _address(self) -> str:
        """The client's address; "" on a Unix socket."""
        if self.relayed_for is not None:
            return self.relayed_for
        peer = self.transport.get_extra_info("peername")
        return peer[0] if isinstance(peer, tuple) else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.end()
        super().connection_lost(exc)

    # -- answers that wait to be read ----------------------------------------------------------------------------

    def pause_writing(self) -> None:
        if self.flow is not None:  # set by uvicorn when it has a request
            super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        if self.flow is not None:
            super().resume_writing()
        if self._tcp_connection is not None and not self.transport.is_closing():
            self._tcp_connection.progressed()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_progress()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_progress()

    def _expect_progress(self) -> None:
        """Bytes wait for the client: it must read them."""
        if self._tcp_connection is not None and self.transport.get_write_buffer_size():
            self._tcp_connection.expect_progress()

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
        if self._phase is _Phase.BODY and self.flow.read_paused:  # the application is slow, not the client
            self._start_timer(self.body_s)
        elif self._phase is not _Phase.IDLE:
            self._refuse(408, "the request took too long to arrive")
        else:
            self._close()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer, unless an earlier request is unanswered or this one's answer has begun; then close."""
        cycle = self.cycle
        if not self._answering() or (self._phase is _Phase.BODY and not cycle.response_started and not self.pipeline):
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
        if self._timer is None and self._phase is not _Phase.BODY and not self._answering():
            self._start_timer(self.head_s)
        if self._phase is _Phase.HEAD:
            self._head_bytes += len(data)
        self._read = data
        try:
            super().data_received(data)
        finally:
            del self._read
        if self._phase is _Phase.HEAD and self._head_bytes > MAX_HEAD:
            self._refuse(431, "the request line and headers are too large")
        elif self._phase is _Phase.BODY and self._timer is None:
            self._start_timer(self.body_s)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._refusal or (400, msg)))

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._phase = _Phase.HEAD
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
        self._phase = _Phase.IDLE
        self._cancel_timer()
        if self._tcp_connection is not None:
            self._tcp_connection.head_received()
        if self.parser.should_upgrade() and self._should_upgrade():
            if self._get_upgrade() != RELAY_PROTOCOL:
                self._check_opening()
        else:
            self._phase = _Phase.BODY
            self._serve()

    def on_message_complete(self) -> None:
        self._phase = _Phase.IDLE
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
        opening = [header for header in self.headers if header[0] in _OPENING]
        if len(opening) > MAX_OPENING or any(len(name) + len(value) > MAX_LINE for name, value in opening):
            self._reject(431, "the headers of the opening handshake are too large")

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() == RELAY_PROTOCOL or super()._should_upgrade()

    def _serve(self) -> None:
        """Pass the request to uvicorn."""
        if self.scheme is None:
            super().connection_made(self.transport)
            if self.relayed_for is not None:
                self.client = self.relayed_for, 0
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        following = self._read[upgrade.args[0] :]
        if self._get_upgrade() == RELAY_PROTOCOL:
            self._begin_relay(following)
            return
        if self._open(following):
            return
        self._serve()
        headers = self.scope["headers"]
        self.scope["headers"] = [header for header in headers if header[0] in _OPENING]
        super().handle_websocket_upgrade()
        # breaks a reference cycle
        self.parser = None  # type: ignore[assignment]
        protocol = self.transport.get_protocol()
        if isinstance(protocol, UvicornWebSocket):
            protocol.tcp_connection, self._tcp_connection = self._tcp_connection, None
            if protocol.handshake_initiated and hasattr(protocol, "scope"):  # it has none if it refused
                protocol.scope["headers"] = headers
            if not protocol.handshake_initiated and not self.transport.is_closing():
                self._refuse(400, "not the opening handshake of a WebSocket")
            elif following:
                protocol.data_received(following)

    def _begin_relay(self, following: bytes) -> None:
        """Serve what follows as if the client that another node names were connected here."""
        elsewhere: Elsewhere | None = getattr(self.config.app, "elsewhere", None)
        value = next((value for name, value in self.headers if name == RELAY_HEADER), b"")
        address = None
        if elsewhere is not None and not self._answering():
            passing_on = elsewhere.pass_on(self.transport, value, self.url, following)
            if passing_on is not None:
                self._end_counting()
                self.transport.pause_reading()
                self._passing_on = self.loop.create_task(passing_on)
                return
            address = elsewhere.admit(value, self.url)
        if address is None:
            self._refuse(403, "not a node of this database")
            return
        self._end_counting()
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: %b\r\nConnection: Upgrade\r\n\r\n" % RELAY_PROTOCOL
        )
        protocol = UvicornHttp(self.config, self.server_state, self.app_state)
        protocol.relayed_for = address
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        # breaks a reference cycle
        self.parser = None  # type: ignore[assignment]
        if following:
            protocol.data_received(following)

    def _end_counting(self) -> None:
        if self._tcp_connection is not None:
            self._tcp_connection.end()
            self._tcp_connection = None
        self.connections.discard(self)

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
        path, _, query_string = self.url.partition(b"?")
        accepted = open_websocket(WebSocketOpening(path, query_string, headers, self._address()))
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


class RelayDoor(UvicornHttp):
    """The protocol on the Unix socket of a node: only other nodes have business there."""

    def on_headers_complete(self) -> None:
        if not (self.parser.should_upgrade() and self._get_upgrade() == RELAY_PROTOCOL):
            self._reject(403, "for other nodes only")
        super().on_headers_complete()


class DrainingServer(uvicorn.Server):
    """A server for an application whose lifespan its caller runs. It leaves signals to its caller."""

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        max_message: int,
        drain: Callable[[], Awaitable[object]],
        listen_for_nodes: Callable[[], socket.socket | None] = lambda: None,
    ) -> None:
        """`max_message`: bytes of a WebSocket message. `drain` is awaited before the connections are closed.

        `listen_for_nodes` returns a listening Unix socket for streams from other nodes.
        """
        self._listen_for_nodes = listen_for_nodes
        self.listening = asyncio.Event()
        self._drain = drain
        self.door: asyncio.Server | None = None
        """Accepts streams of other nodes over the Unix socket. It stays open while sessions here still end."""
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
        """Stop immediately; uvicorn's own loop checks ten times a second whether to stop."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 0.1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        relay_socket = self._listen_for_nodes()
        if relay_socket is not None:
            self.door = await asyncio.get_running_loop().create_unix_server(
                lambda: RelayDoor(self.config, self.server_state, self.lifespan.state), sock=relay_socket
            )
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await self._drain()
        if self.door is not None:
            self.door.close()
        await super().shutdown(sockets)
