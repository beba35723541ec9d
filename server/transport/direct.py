"""Protocol classes for uvicorn (`http=`, `ws=`) that let the transport write to a WebSocket's socket itself.

The handshake is uvicorn's own. It then offers itself in the ASGI scope, as the extension `tidings.direct`; an
application that takes it over gets messages by a call and writes frames to the socket's transport, without a task, a
queue or an ASGI event in between. An application that does not is served over ASGI as ever.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Final, Protocol

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


class Http(HttpToolsProtocol):
    """uvicorn's own, which drops what comes in one read with a request to upgrade, and behind it."""

    def data_received(self, data: bytes) -> None:
        self._read = data
        try:
            super().data_received(data)
        finally:
            del self._read

    def handle_websocket_upgrade(self) -> None:
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        super().handle_websocket_upgrade()
        behind = self._read[upgrade.args[0] :]
        protocol = self.transport.get_protocol()
        if behind and isinstance(protocol, DirectWebSocket):
            protocol.data_received(behind)


class DirectWebSocket(WebSocketsSansIOProtocol):
    """`write`, `buffered`, `end` and `close_or_abort` are for who has taken it over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiver: Receiver = _Nobody()
        self._parser: Parser | None = None
        self._early = b""
        self._over_asgi = False
        self._connect_received = False
        self._end_sent = False
        self.full = False
        """More is buffered than the high-water mark."""

    # -- taking over ---------------------------------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def take_over(self, receiver: Receiver, max_size: int) -> None:
        """From here on messages (of up to `max_size` bytes) go to the receiver. Call it after the handshake."""
        self._receiver = receiver
        if self._parser is not None:
            return  # from one receiver to the next, maybe between two messages of one read
        self._parser = Parser(max_size)
        self.transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        # What only the handshake and ASGI need; there may be many thousands of connections.
        for name in ("conn", "request", "response", "scope", "queue", "app_state", "frames"):
            self.__dict__.pop(name, None)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            logger.exception("the application failed")
            if self._parser is None:
                self.send_500_response()
        if self._parser is None:
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

    # -- called by the event loop --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            if self.handshake_initiated and not self._over_asgi:
                self._early += data  # until it is known who reads
            else:
                super().data_received(data)
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
        super().pause_writing()

    def resume_writing(self) -> None:
        self.full = False
        super().resume_writing()
        self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._parser is None:
            super().connection_lost(exc)
            return
        self.connections.discard(self)
        self.disconnected = True
        if self.close_timer is not None:
            self.close_timer.cancel()
        receiver, self._receiver = self._receiver, _Nobody()
        receiver.lost()

    def shutdown(self) -> None:
        if self._parser is None:
            super().shutdown()
        else:
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
        if self.disconnected:
            return
        self.end(code)
        if self.full:
            self._abort()
        else:
            self.transport.close()
            self.close_timer = self.loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        """Close, and drop what the peer has not read in the kernel too: there it is megabytes, kept for minutes."""
        if self.disconnected:
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


def offered(scope: Any) -> DirectWebSocket | None:
    """The connection's protocol, if the server under us is one that can be taken over."""
    found = scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, DirectWebSocket) else None
