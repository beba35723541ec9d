"""uvicorn's protocol for WebSockets, extended: an application can take over the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from tidings.transport.tcp_connections import TcpConnection
from tidings.transport.websocket_wire import Wire

logger = logging.getLogger("tidings.transport")

EXTENSION: Final = "tidings.direct"
MAX_EARLY: Final = 64 * 1024
"""The most bytes of frames that wait until their receiver is known; then reading from the socket pauses."""


_Reader = Enum("_Reader", "UNKNOWN CONNECTED UVICORN TAKEN_OVER")
"""The reader of the input. It waits until the application uses ASGI's events after `websocket.connect`, or takes the
WebSocket over."""


class UvicornWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol, until the WebSocket is taken over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tcp_connection: TcpConnection | None = None
        self._early = bytearray()
        self._reader = _Reader.UNKNOWN
        self._early_full = False
        """Whether reading from the socket is paused."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]

    def take_over(self) -> Wire:
        """Take the WebSocket over from uvicorn. Call it once, after the handshake."""
        early = self._leave()
        wire = Wire(self.transport, self.connections, early, tcp_connection=self.tcp_connection)
        self.transport.set_protocol(wire)
        return wire

    def detach(self) -> tuple[asyncio.Transport, bytes, Callable[[], object]]:
        """Give the socket away, after the handshake: the transport, the bytes after the handshake, and a function to
        call when the connection has ended.

        The caller sets another protocol before it returns to the event loop.
        """
        early = self._leave()
        if self.tcp_connection is not None:
            self.tcp_connection.progressed()
        end = (lambda: None) if self.tcp_connection is None else self.tcp_connection.end
        return self.transport, early, end

    def _leave(self) -> bytes:
        """Returns the bytes after the handshake."""
        self._reader = _Reader.TAKEN_OVER
        self._leave_scope()
        self._resume()
        self.connections.discard(self)
        return bytes(self._early)

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
            if self._reader is not _Reader.TAKEN_OVER:
                self.send_500_response()
        if self._reader is not _Reader.TAKEN_OVER:
            if not self.handshake_complete:
                self.send_500_response()
            if self.close_timer is None:
                self.transport.close()
            self._expect_progress()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.tcp_connection is not None and not self.transport.is_closing():
            self.tcp_connection.progressed()

    def _expect_progress(self) -> None:
        """Bytes wait for the client: it must read them."""
        if self.tcp_connection is not None and self.transport.get_write_buffer_size():
            self.tcp_connection.expect_progress()

    async def receive(self) -> Any:
        if self._reader is _Reader.UNKNOWN:
            self._reader = _Reader.CONNECTED
        else:
            self._read_over_asgi()
        return await super().receive()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] in ("websocket.send", "websocket.close"):
            self._read_over_asgi()

    def _read_over_asgi(self) -> None:
        """The application has not taken the WebSocket over: pass input to uvicorn."""
        if self._reader is not _Reader.UVICORN:
            self._reader = _Reader.UVICORN
            early, self._early = bytes(self._early), bytearray()
            self._resume()
            if early:
                super().data_received(early)

    def _resume(self) -> None:
        if self._early_full and not self.transport.is_closing():
            self._early_full = False
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated or self._reader is _Reader.UVICORN:
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
    protocol = detachable(scope)
    return None if protocol is None else protocol.take_over()


def detachable(scope: Any) -> UvicornWebSocket | None:
    """The protocol of an ASGI scope, if its socket can be given away (`UvicornWebSocket.detach`)."""
    protocol = scope.get("extensions", {}).get(EXTENSION)
    return protocol if isinstance(protocol, UvicornWebSocket) else None
