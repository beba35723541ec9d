"""One Engine.IO session: its way out, its heartbeat and its end, whichever transport carries it.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/). A packet is held as it goes over a
WebSocket: text with the type as its first character, or the bytes of a binary message.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Any, Final

from engineio.base_socket import BaseSocket

from server.transport.outlet import Heartbeat, Outlet, Packet

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
SEPARATOR: Final = "\x1e"


class ProtocolError(Exception):
    """The client has broken the protocol; the session is closed."""


class EngineSession(Outlet, BaseSocket):  # type: ignore[misc]
    """Its queue is also for polling, and for the time before the upgrade."""

    def __init__(self, server: Any, sid: str) -> None:
        # Not `BaseSocket`'s constructor: its queue has no bound.
        super().__init__()
        self.server = server
        self.sid = sid
        self.connected = True
        self.upgrading = False
        self.upgraded = False
        self.probe: Callable[[], None] | None = None
        """Closes the WebSocket that is about to take a polling session over."""
        self.polling = False
        """A GET of the polling transport is waiting."""
        self.heartbeat: Heartbeat | None = None
        self._awaiting_pong = False
        self._ping_due = 0.0

    def nudge_poll(self) -> None:
        """End a waiting poll, so that the client can go on with its upgrade."""
        if self.polling and not self._out:
            self._enqueue([NOOP], 1)

    # -- in: called by the transports ----------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        """A WebSocket message has come in."""
        if not self.closing:
            try:
                self.receive_packet(data)
            except ProtocolError as error:
                self.server.broken(self, error)

    def lost(self) -> None:
        """The WebSocket is over."""
        self.end(self.server.reason.TRANSPORT_CLOSE)
        self.finish()

    def receive_packet(self, packet: Packet) -> None:
        """Take a packet from the client. Raises `ProtocolError`."""
        if isinstance(packet, bytes):
            self.server.listener.message(self, packet)
        elif packet[:1] == MESSAGE:
            self.server.listener.message(self, packet[1:])
        elif packet == PONG:
            self._pong()
        elif packet == CLOSE:
            self.end(self.server.reason.CLIENT_DISCONNECT)
        else:
            raise ProtocolError(f"unexpected packet of type {packet[:1]!r}")

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def start_heartbeat(self) -> None:
        loop = asyncio.get_running_loop()
        self._ping_due = loop.time() + self.server.ping_interval
        self._timer = loop.call_at(self._ping_due, self._ping)

    def _ping(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.ping_written()
        self._awaiting_pong = True
        timed_out = self.server.reason.PING_TIMEOUT
        deadline = self._ping_due + self.server.ping_timeout
        self._timer = asyncio.get_running_loop().call_at(deadline, self.end, timed_out)
        self._send([PING], 1)

    def check_timeout(self) -> None:
        """End the session if its PONG is overdue, however late the event loop is."""
        if asyncio.get_running_loop().time() >= self._ping_due + self.server.ping_timeout:
            self.end(self.server.reason.PING_TIMEOUT)

    def _pong(self) -> None:
        if not self._awaiting_pong:
            return
        self._awaiting_pong = False
        if self.heartbeat is not None:
            self.heartbeat.pong_received()
        self._cancel_timer()
        self.start_heartbeat()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self, reason: str, *, politely: bool = False, last: Packet = NOOP) -> None:
        """End the session. `politely`: what was sent goes out first, if the client reads it soon. Idempotent.

        Otherwise a waiting poll is answered with `last`.
        """
        if self.closing:
            return
        self.closing = True
        self.ended_for = reason
        self._cancel_timer()
        if self.probe is not None:
            self.probe()
        try:
            self.server.listener.ended(self, reason)
        finally:
            self.server.authenticated(self.sid)
            if politely:
                if self.wire is None and not self.upgraded:
                    self._enqueue([CLOSE], 1)
                self._linger()
            else:
                self._drop()
                if self.polling:
                    self._enqueue([last], 1)
                self.finish()

    def has_ended(self) -> bool:
        """Whether the session takes no more packets; ask again after each."""
        return self.closing


def encode_payload(packets: Sequence[Packet]) -> str:
    """Packets as the body of a polling answer."""
    return SEPARATOR.join(
        packet if isinstance(packet, str) else "b" + base64.b64encode(packet).decode() for packet in packets
    )


def decode_payload(body: bytes) -> list[Packet]:
    """The packets of a polling request's body. Raises `ProtocolError`."""
    try:
        return [
            base64.b64decode(part[1:], validate=True) if part[:1] == "b" else part
            for part in body.decode().split(SEPARATOR)
        ]
    except ValueError as error:
        raise ProtocolError("undecodable payload") from error
