"""One Engine.IO session: polling, the upgrade, WebSocket, and the end.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/). A packet is stored in its WebSocket form: text
with the type as its first character, or the bytes of a binary message.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from tidings.transport.buffered_session import BufferedSession, Packet, PacketQueue, WebSocket
from tidings.transport.heartbeat import Heartbeat
from tidings.transport.websocket_frames import NORMAL
from tidings.transport.websocket_wire import NO_RECEIVER, State, WireReceiver

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
BASE64: Final = "b"
"""Begins a binary message as text: in polling, and over a WebSocket from clients with `forceBase64`."""
POLL_PACKETS: Final = 16
"""The most packets in one answer to a poll: python-engineio's client closes the connection if there are more."""
SEPARATOR: Final = "\x1e"
MAX_PACKETS: Final = 16_384
"""The most packets in one polling request: twice as many as a client may have unanswered."""


class ProtocolError(Exception):
    """The client has broken the protocol; the session is closed."""


Transport = Enum("Transport", "POLLING PROBING UPGRADING WEBSOCKET")
"""PROBING: a WebSocket was opened for the upgrade. UPGRADING: its probe was answered; polls are answered immediately,
until the client completes the upgrade."""


class Polling(PacketQueue):
    """Packets of a session for its polls. Each packet of the farewell is the answer to one poll, after the others."""

    def __init__(self, low_water: int, session: BufferedSession) -> None:
        super().__init__(low_water)
        self._receiver = session
        self.farewell: deque[Packet] = deque()
        self._until_ping = 0
        """Number of queued packets up to and including the last PING; 0 if there is none."""

    async def take(self, at_most: int | None = None) -> list[Packet]:
        packets = await super().take(at_most)
        if not packets and self.farewell:
            packets = [self.farewell.popleft()]
        self._until_ping = max(0, self._until_ping - len(packets))
        return packets

    def ping(self) -> None:
        self.write_packets([PING], 1)
        self._until_ping = len(self._out)

    def ping_ahead(self) -> int | None:
        """See `BufferedSession.ping_ahead`."""
        if len(self._out) < POLL_PACKETS:
            return None
        overtaken = int(self._until_ping > 0)
        self._out.appendleft(PING)
        self._out_bytes += 1
        self._until_ping += overtaken
        return overtaken

    def is_empty(self) -> bool:
        return not self._out and not self.farewell

    def leave(self) -> list[Packet]:
        """The packets that a WebSocket sends instead."""
        packets = [*self._out, *(packet for packet in self.farewell if packet != CLOSE)]
        self.close_or_abort(NORMAL)
        self._out.clear()
        self.farewell.clear()
        return packets

    def close_or_abort(self, code: int) -> None:
        super().close_or_abort(code)
        self._receiver = NO_RECEIVER  # breaks a reference cycle


class EngineSession(BufferedSession):
    """An Engine.IO session. It begins with polling, also if its WebSocket is about to be bound."""

    heartbeat: Heartbeat

    def __init__(self, server: Any, sid: str) -> None:
        self.server = server
        self.sid = sid
        self.transport = Transport.POLLING
        self.polls = Polling(server.low_water, self)
        self.polling = False
        """A poll (GET) is pending."""
        self.last_poll: tuple[str, str] | None = None
        """The parameter `t` of the last poll, and its answer."""
        self.last_post: tuple[str | None, int] | None = None
        """The parameter `t` of the last POST, and the hash of its body."""
        self.posting: Callable[[], None] | None = None
        """Aborts reading the body of a POST."""
        self._upgrade: Upgrade | None = None
        """The one in progress."""
        self.heartbeat = Heartbeat(self)
        super().__init__(self.polls)

    @property
    def upgraded(self) -> bool:
        """Read by python-socketio (`EngineOptions.sockets`)."""
        return self.transport is Transport.WEBSOCKET

    @property
    def closed(self) -> bool:
        """Read by python-socketio."""
        return self.state is State.CLOSED

    # -- the transport -------------------------------------------------------------------------------------------

    def begin_upgrade(self, websocket: WebSocket, timeout: float) -> None:
        """Continue on this WebSocket when the client has completed the upgrade, within so many seconds."""
        self.transport = Transport.PROBING
        self._upgrade = Upgrade(self, websocket, timeout)
        websocket.take_over(self._upgrade, self.server.max_http_buffer_size)

    def end_upgrade(self) -> None:
        """The client has given the upgrade up, or is about to be bound to its WebSocket."""
        self.transport, self._upgrade = Transport.POLLING, None

    def bind(self, websocket: WebSocket) -> None:
        """Continue on a WebSocket; queued packets are sent first, also if the session has ended."""
        self.transport = Transport.WEBSOCKET
        packets = self.polls.leave()
        self._carry(websocket)
        if packets:
            self._send(packets)
        websocket.take_over(self, self.server.max_http_buffer_size)
        if self.state is State.CLOSING:
            websocket.end(self.close_code)
        elif self.state is State.CLOSED:
            websocket.close_or_abort(self.close_code)
        if not websocket.is_filling():
            self.writable()

    # -- called by the transports --------------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        """A WebSocket message has arrived."""
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
        """Process a packet from the client. Raises `ProtocolError`."""
        if isinstance(packet, bytes):
            self.server.listener.message(self, packet)
        elif packet[:1] == MESSAGE:
            self.server.listener.message(self, packet[1:])
        elif packet == PONG:
            self.heartbeat.pong()
        elif packet[:1] == BASE64:
            self.server.listener.message(self, _decode_base64(packet))
        elif packet == CLOSE:
            self.end(self.server.reason.CLIENT_DISCONNECT)
        elif packet not in (UPGRADE, NOOP):  # Node's server ignores these
            raise ProtocolError(f"unexpected packet of type {packet[:1]!r}")

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def write_ping(self) -> None:
        if self.carrier is self.polls:
            self.polls.ping()
        else:
            self._send([PING])

    def ping_ahead(self) -> int | None:
        return self.polls.ping_ahead() if self.carrier is self.polls else None

    def overdue(self) -> None:
        self.end(self.server.reason.PING_TIMEOUT)

    def check_timeout(self) -> None:
        """End a polling session whose PONG is overdue."""
        if self.carrier is self.polls and self.heartbeat.is_overdue():
            self.overdue()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(
        self,
        reason: str,
        *,
        politely: bool = False,
        last: Sequence[Packet] = (),
        drop: bool = False,
        farewell: Sequence[Packet] = (CLOSE,),
        poll_answer: Packet = NOOP,
    ) -> None:
        """End the session. Idempotent.

        Args:
            politely: send the buffered packets first, if the client reads them soon.
            last: sent after them; with `drop` instead of them.
            farewell: sent after those over polling, each packet in an answer of its own: stock clients close on CLOSE
                and DISCONNECT before they dispatch earlier packets of the same answer. Without a farewell the next
                poll is refused, and a stock client reconnects. A WebSocket is closed instead of sending CLOSE.
            poll_answer: the answer to a pending poll, if not `politely`.
        """
        if not self._begin_closing(reason, last, drop=drop):
            return
        if self._upgrade is not None and not (politely and self.transport is Transport.UPGRADING):
            self._upgrade.abandon()  # else the client no longer polls, and gets the last packets over the WebSocket
        try:
            self.server.listener.ended(self, reason)
        finally:
            self.server.authenticated(self.sid)
            if politely:
                if self.carrier is self.polls:
                    self.polls.farewell.extend(farewell)
                elif packets := [packet for packet in farewell if packet != CLOSE]:
                    self._send(packets)
                self._linger()
            else:
                self.carrier.drop()
                if self.polling:
                    self.polls.write_packets([poll_answer], 1)
                self.finish()

    def finish(self) -> None:
        if self._upgrade is not None:
            self._upgrade.abandon()
        if self.posting is not None:
            self.posting()
        super().finish()

    def is_flushed(self) -> bool:
        """Whether the session has ended and nothing waits for a poll."""
        return self.closing and self.polls.is_empty()

    def has_ended(self) -> bool:
        """Whether the session ignores further packets; check it after each one."""
        return self.closing


class Upgrade(WireReceiver):
    """The upgrade of a polling session to a WebSocket, in progress: the WebSocket's receiver until it is complete.

    Protocol: https://socket.io/docs/v4/engine-io-protocol/#upgrade.
    """

    def __init__(self, session: EngineSession, websocket: WebSocket, timeout: float) -> None:
        self._session = session
        self._websocket = websocket
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(timeout, self.abandon)

    def message(self, data: Packet) -> None:
        session, websocket = self._session, self._websocket
        if self._over:
            return
        if data == PING + "probe" and session.transport is Transport.PROBING:
            websocket.write_packets([PONG + "probe"], len(data))
            session.transport = Transport.UPGRADING
            if session.polling and session.polls.is_empty():  # answer the poll, so that the client can continue
                session.polls.write_packets([NOOP], 1)
        elif data == UPGRADE and (session.transport is Transport.UPGRADING or not session.polling):
            # The clients of some microcontrollers send it without a probe.
            self._end()
            session.bind(websocket)
        else:
            self.abandon()

    def lost(self) -> None:
        self._end()

    def abandon(self) -> None:
        """Close the WebSocket; the session continues polling, or has ended."""
        self._end()
        self._websocket.close_or_abort(NORMAL)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._session.end_upgrade()


def encode_payload(packets: Sequence[Packet]) -> str:
    """Packets as the body of a polling answer."""
    return SEPARATOR.join(
        packet if isinstance(packet, str) else BASE64 + base64.b64encode(packet).decode() for packet in packets
    )


def decode_payload(body: bytes) -> list[str]:
    """The packets of a polling request's body, binary ones still in base64. Raises `ProtocolError`."""
    if body.count(SEPARATOR.encode()) >= MAX_PACKETS:
        raise ProtocolError("too many packets")
    try:
        return body.decode().split(SEPARATOR)
    except ValueError as error:
        raise ProtocolError("undecodable payload") from error


def _decode_base64(packet: str) -> bytes:
    """Base64, perhaps in lines, as Java clients write it. Raises `ProtocolError`."""
    try:
        return base64.b64decode("".join(packet[1:].splitlines()), validate=True)
    except ValueError as error:
        raise ProtocolError("undecodable base64") from error
