"""One Engine.IO session: sending, the heartbeat and the end, over polling and WebSocket.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/). A packet is stored in its WebSocket form: text
with the type as its first character, or the bytes of a binary message.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from tidings.transport.buffered_session import BufferedSession, Heartbeat, Packet
from tidings.transport.websocket_wire import Wire

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


class EngineSession(BufferedSession):
    """An Engine.IO session. Its queue also serves polling, and the time before the upgrade."""

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__()
        self.server = server
        self.sid = sid
        self.upgrading = False
        self.upgraded = False
        self.probe: Callable[[], None] | None = None
        """Closes the WebSocket of an upgrade in progress."""
        self.posting: Callable[[], None] | None = None
        """Aborts reading the body of a POST."""
        self.polling = False
        """A poll (GET) is pending."""
        self.heartbeat: Heartbeat | None = None
        self._pings: deque[bool] = deque()
        """Unanswered PINGs in the order of arrival at the client; True for the one whose PONG is the proof."""
        self._ping_due = 0.0
        self._ahead_of_proof = 0
        """Number of queued packets up to and including the proof's PING; 0 if it is not queued."""
        self._prove_again = False
        self._farewell: deque[Packet] = deque()
        """Packets that end the session at the client, after the queue. Each is the answer to one poll."""

    async def drain(self) -> None:
        """Wait for room as in the base class. Sends a PING if the buffer is full and none is pending.

        On a slow link the regular PING might arrive too late. The PONG also confirms what has arrived so far.
        """
        if self._is_full() and not self._pings and not self.closing:
            self._cancel_timer()
            self._ping_due = self.server.timers().time()
            self._ping()
        await super().drain()

    async def take(self, at_most: int | None = None) -> list[Packet]:
        packets = await super().take(at_most)
        if not packets and self._farewell:
            packets = [self._farewell.popleft()]
        self._ahead_of_proof = max(0, self._ahead_of_proof - len(packets))
        return packets

    def leave_polling(self) -> None:
        """Continue over a WebSocket; also for a session that has ended with packets left to send."""
        self.upgraded = True
        self._out.extend(packet for packet in self._farewell if packet != CLOSE)
        self._farewell.clear()

    def bind(self, wire: Wire) -> None:
        self._ahead_of_proof = 0
        super().bind(wire)
        if self.closing:
            wire.end(self.close_code)

    def nudge_poll(self) -> None:
        """Answer a pending poll, so that the client can continue its upgrade."""
        if self.polling and not self._out:
            self._enqueue([NOOP], 1)

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
            self._pong()
        elif packet[:1] == BASE64:
            self.server.listener.message(self, _decode_base64(packet))
        elif packet == CLOSE:
            self.end(self.server.reason.CLIENT_DISCONNECT)
        elif packet not in (UPGRADE, NOOP):  # Node's server ignores these
            raise ProtocolError(f"unexpected packet of type {packet[:1]!r}")

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def start_heartbeat(self) -> None:
        timers = self.server.timers()
        self._ping_due = timers.time() + self.server.ping_interval
        self._timer = timers.call_at(self._ping_due, self._ping)

    def _ping(self) -> None:
        """Send the regular PING. If one is pending, wait for it instead, no longer than for a new one.

        If the queue needs several polls, the PING goes to its front, or it would arrive too late. There it proves
        nothing about the overtaken packets, so another PING at the end of the queue is the proof.
        """
        patience = self.server.ping_timeout
        overdue = partial(self.end, self.server.reason.PING_TIMEOUT)
        self._expect_pong(self._ping_due + patience, patience, overdue)
        if not self.upgraded and len(self._out) >= POLL_PACKETS:
            self.prove()
            self._pings.insert(len(self._pings) - (self._ahead_of_proof > 0), False)
            self._out.appendleft(PING)
            self._out_bytes += 1
            self._ahead_of_proof += self._ahead_of_proof > 0
        elif self.heartbeat is not None and not self._pings:
            self.prove()
        elif not self._pings:
            self._pings.append(False)
            self._send([PING], 1)

    def prove(self) -> None:
        """Send a PING whose PONG proves that everything sent so far has arrived.

        The regular PINGs continue independently. While such a proof is pending, the next one follows it.
        """
        if self.heartbeat is None or self.closing or self.sealed:
            return
        if True in self._pings:
            self._prove_again = True
            return
        self.heartbeat.ping_written()
        self._pings.append(True)
        self._send([PING], 1)
        if self.wire is None and not self.upgraded:
            self._ahead_of_proof = len(self._out)

    def check_timeout(self) -> None:
        """End a polling session if its PONG is overdue, even if the event loop has not run the timer yet."""
        if self.wire is None and self.server.timers().time() >= self._ping_due + self.server.ping_timeout:
            self.end(self.server.reason.PING_TIMEOUT)

    def _pong(self) -> None:
        if not self._pings:
            return
        proves = self._pings.popleft()
        if proves and self.heartbeat is not None:
            self.heartbeat.pong_received()
        self._cancel_timer()
        self.start_heartbeat()
        if proves and self._prove_again:
            self._prove_again = False
            self.prove()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(
        self,
        reason: str,
        *,
        politely: bool = False,
        farewell: Sequence[Packet] = (CLOSE,),
        poll_answer: Packet = NOOP,
    ) -> None:
        """End the session. Idempotent.

        Args:
            politely: send the buffered packets first, if the client reads them soon.
            farewell: sent after them over polling, each packet in an answer of its own: stock clients close on CLOSE
                and DISCONNECT before they dispatch earlier packets of the same answer. Without a farewell the next
                poll is refused, and a stock client reconnects. A WebSocket is closed instead of sending CLOSE.
            poll_answer: the answer to a pending poll, if not `politely`.
        """
        if self.closing:
            return
        self.closing = True
        self.end_reason = reason
        self._cancel_timer()
        if self.probe is not None and not (politely and self.upgrading):
            self.probe()  # else the client no longer polls, and gets the remaining packets over the WebSocket
        try:
            self.server.listener.ended(self, reason)
        finally:
            self.server.authenticated(self.sid)
            if politely:
                if self.wire is None and not self.upgraded:
                    self._farewell.extend(farewell)
                elif packets := [packet for packet in farewell if packet != CLOSE]:
                    self._send(packets, sum(map(len, packets)))
                self._linger()
            else:
                self._drop()
                if self.polling:
                    self._enqueue([poll_answer], 1)
                self.finish()

    def finish(self) -> None:
        if self.probe is not None:
            self.probe()
        if self.posting is not None:
            self.posting()
        super().finish()

    def is_flushed(self) -> bool:
        return super().is_flushed() and not self._farewell

    def has_ended(self) -> bool:
        """Whether the session ignores further packets; check it after each one."""
        return self.closing


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
    """Raises `ProtocolError`."""
    try:
        return base64.b64decode(packet[1:], validate=True)
    except ValueError as error:
        raise ProtocolError("undecodable base64") from error
