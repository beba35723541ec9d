"""Protocol classes for uvicorn (`http=`, `ws=`) that let the transport write to a WebSocket's socket itself.

A `Wire` is a WebSocket after its handshake: messages come by a call, frames are written to the socket's transport,
without a task, a queue or an ASGI event in between. There are two ways to one:

* An application with a method `open_websocket` (see `Opens`) is asked first; the handshake is answered here.
* Whatever it leaves is uvicorn's, whose protocol offers itself in the ASGI scope, as the extension `tidings.direct`,
  to be taken over after the handshake. An application that does not take it is served over ASGI as ever.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import socket
import struct
import sys
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from server.transport import frames
from server.transport.frames import FrameError, Parser

logger = logging.getLogger("tidings.transport")

EXTENSION: Final = "tidings.direct"
HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
LINGER_S = 5.0
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NOT_PLAIN: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding"))
"""Headers that are uvicorn's and its middleware's to judge."""
_MOST_HEADERS: Final = 64


class Receiver(Protocol):
    """Who has taken a WebSocket over."""

    def message(self, data: str | bytes) -> None:
        """A whole message has come in."""

    def writable(self) -> None:
        """What was written has gone down to the low-water mark."""

    def pong(self, payload: bytes) -> None:
        """A PONG has come in."""

    def failing(self, code: int) -> None:
        """The peer broke the protocol: what is written now goes out before the closing handshake with this code."""

    def lost(self) -> None:
        """The WebSocket is over."""


class Opening(NamedTuple):
    """A request to open a WebSocket, valid by RFC 6455 (section 4.2.1)."""

    path: bytes
    query_string: bytes
    headers: Mapping[bytes, bytes]
    """Names in lower case, each once."""
    address: str
    """The client's."""


class Opens(Protocol):
    """An application that opens WebSockets without ASGI."""

    def open_websocket(self, opening: Opening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """The frames to write first and who takes the wire over; None to be asked again, over ASGI."""


class Http(HttpToolsProtocol):
    """uvicorn's own, but for the plain openings of WebSockets.

    What uvicorn prepares for a connection and a request it does here when there is something for it to serve. And it
    drops what comes in one read with a request to upgrade, and behind it; here it is kept.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.add(self)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._read = data
        try:
            super().data_received(data)
        finally:
            del self._read

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self._serve()

    def _serve(self) -> None:
        """Let uvicorn have the request."""
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
        protocol = self.transport.get_protocol()
        if behind and isinstance(protocol, DirectWebSocket):
            protocol.data_received(behind)

    def _open(self, behind: bytes) -> bool:
        """Open the WebSocket here, if it is a plain one that the application opens without ASGI."""
        asked: Callable[[Opening], tuple[bytes, Callable[[Wire], None]] | None] | None
        asked = getattr(self.config.app, "open_websocket", None)
        if asked is None or self.root_path or self.ws_protocol_class is not DirectWebSocket:
            return False
        if not getattr(self.cycle, "response_complete", True):
            return False
        headers = dict(self.headers)
        accept = accept_key(headers)
        plain = len(headers) == len(self.headers) <= _MOST_HEADERS and _NOT_PLAIN.isdisjoint(headers)
        if accept is None or not plain or self.parser.get_method() != b"GET":
            return False
        if self.parser.get_http_version() != "1.1":
            return False
        peer = self.transport.get_extra_info("peername")
        path, _, query_string = self.url.partition(b"?")
        opened = asked(Opening(path, query_string, headers, peer[0] if isinstance(peer, tuple) else ""))
        if opened is None:
            return False
        first, take = opened
        wire = Wire(self.transport, self.connections, behind)
        self.connections.discard(self)
        self.transport.set_protocol(wire)
        self.parser = None  # type: ignore[assignment]  # they hold each other, until the collector comes
        more = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n%b" % (accept, b"".join(more), first)
        )
        take(wire)
        return True


def accept_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The answer to a client's opening handshake; None if it is not one as RFC 6455, section 4.2.1, has it.

    That it is GET, over HTTP/1.1, and to be upgraded, is the caller's to see.
    """
    key = headers.get(b"sec-websocket-key", b"")
    try:
        if len(a2b_base64(key, strict_mode=True)) != 16:
            return None
    except NotBase64:
        return None
    if headers.get(b"sec-websocket-version") != b"13" or b"host" not in headers:
        return None
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class DirectWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's own, up to when it is taken over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._early = b""
        self._over_asgi = False
        self._taken_over = False
        self._connect_received = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def take_over(self) -> Wire:
        """Have the WebSocket to oneself from here on. Call it once, after the handshake."""
        self._taken_over = True
        wire = Wire(self.transport, self.connections, self._early)
        self.connections.discard(self)
        self.transport.set_protocol(wire)
        return wire

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
        """The application has not taken the WebSocket over: what comes in is uvicorn's."""
        if not self._over_asgi:
            self._over_asgi = True
            early, self._early = self._early, b""
            if early:
                super().data_received(early)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self._over_asgi:
            self._early += data  # until it is known who reads
        else:
            super().data_received(data)


class Wire(asyncio.Protocol):
    """A WebSocket after the handshake, for who calls `take_over`: `write`, `buffered`, `end` and `close_or_abort`."""

    __slots__ = (
        "_closing",
        "_connections",
        "_early",
        "_end_sent",
        "_lost",
        "_parser",
        "_receiver",
        "full",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, connections: set[Any], early: bytes) -> None:
        """`connections` are the server's, which it shuts down when it stops; `early` has come in already."""
        self.transport = transport
        self._connections = connections
        self._early = early
        self._receiver: Receiver = _NOBODY
        self._parser: Parser | None = None
        self._end_sent = False
        self._lost = False
        self._closing: asyncio.TimerHandle | None = None
        self.full = False
        """More is buffered than the high-water mark."""
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        connections.add(self)

    def take_over(self, receiver: Receiver, max_size: int) -> None:
        """From here on messages (of up to `max_size` bytes) go to the receiver."""
        self._receiver = receiver
        if self._parser is not None:
            return  # from one receiver to the next, maybe between two messages of one read
        self._parser = Parser(max_size)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    # -- called by the event loop --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            self._early += data
            return
        if self.transport.is_closing():
            return
        try:
            for opcode, payload in parser.feed(data):
                if opcode == frames.TEXT:
                    self._receiver.message(payload.decode())
                elif opcode == frames.BINARY:
                    self._receiver.message(payload)
                elif opcode == frames.PING:
                    # Who does not read gets no more of them, or its PINGs would fill this process.
                    if not self.full:
                        self.write(frames.frame(frames.PONG, payload))
                elif opcode == frames.PONG:
                    self._receiver.pong(payload)
                elif opcode == frames.CLOSE:
                    self.end(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else frames.NORMAL)
                    self.close_or_abort()
                    return
        except FrameError as error:
            self._fail(error.code, str(error))
        except UnicodeDecodeError:
            self._fail(frames.INVALID_DATA, "not UTF-8")

    def _fail(self, code: int, reason: str) -> None:
        self._receiver.failing(code)
        self.end(code, reason)
        self.close_or_abort()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._lost = True
        if self._closing is not None:
            self._closing.cancel()
        receiver, self._receiver = self._receiver, _NOBODY
        receiver.lost()

    def shutdown(self) -> None:
        """The server stops."""
        self.end(frames.RESTART)
        self.close_or_abort()

    # -- for who has taken it over -------------------------------------------------------------------------------

    def write(self, buffer: bytes) -> None:
        """Write whole frames; never blocks. Look at `full` and `buffered` first."""
        if not self._end_sent:
            self.transport.write(buffer)

    def buffered(self) -> int:
        """Bytes that wait in this process."""
        return self.transport.get_write_buffer_size()

    def end(self, code: int = frames.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake; nothing can be written after it."""
        if not self._end_sent:
            self._end_sent = True
            self.transport.write(frames.close_frame(code, reason))

    def close_or_abort(self, code: int = frames.NORMAL) -> None:
        """Close; what the peer does not read within a few seconds is dropped, much of it at once."""
        if self._lost:
            return
        self.end(code)
        if self.full:
            self._abort()
        else:
            self.transport.close()
            self._closing = asyncio.get_running_loop().call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        """Close, and drop what the peer has not read in the kernel too: there it is megabytes, kept for minutes."""
        if self._lost:
            return
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


class _Nobody:
    def message(self, data: str | bytes) -> None: ...

    def writable(self) -> None: ...

    def pong(self, payload: bytes) -> None: ...

    def failing(self, code: int) -> None: ...

    def lost(self) -> None: ...


_NOBODY: Final = _Nobody()


def take_over(scope: Any) -> Wire | None:
    """The WebSocket of an ASGI scope to oneself, if the server under us lets it go. Call it after the handshake."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found.take_over() if isinstance(found, DirectWebSocket) else None
