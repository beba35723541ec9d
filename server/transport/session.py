"""One Engine.IO session: its way out, its heartbeat and its end, whichever transport carries it.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/). A packet is held as it goes over a
WebSocket: text with the type as its first character, or the bytes of a binary message.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from engineio.base_socket import BaseSocket

from server.transport import frames
from server.transport.direct import Wire

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
SEPARATOR: Final = "\x1e"
Packet = str | bytes


class Heartbeat(Protocol):
    """Told of the heartbeat, in the order of what is written and read."""

    def ping_written(self) -> None: ...

    def pong_received(self) -> None: ...


class ProtocolError(Exception):
    """The client has broken the protocol; the session is closed."""


class EngineSession(BaseSocket):  # type: ignore[misc]
    """Everything goes out by `put`, in that order. What waits is counted in bytes, and bounded.

    It goes to the socket at once where a WebSocket could be taken over (`wire`), and into a queue otherwise:
    for polling, before the upgrade, and for a WebSocket that is served over ASGI.
    """

    def __init__(self, server: Any, sid: str) -> None:
        # Not the base class's constructor: its queue has no bound.
        self.server = server
        self.sid = sid
        self.connected = True
        self.upgrading = False
        self.upgraded = False
        self.probe: Callable[[], None] | None = None
        """Closes the WebSocket that is about to take a polling session over."""
        self.closing = False
        self.ended_for = ""
        """Why, once it is closing."""
        self.closed = False
        self.sealed = False
        """Nothing is sent any more; the session is about to end."""
        self.polling = False
        """A GET of the polling transport is waiting."""
        self.heartbeat: Heartbeat | None = None
        self.wire: Wire | None = None
        self.task: asyncio.Task[Any] | None = None
        """What serves a WebSocket over ASGI; cancelled when the session is over."""
        self._out: deque[Packet] = deque()
        self._out_bytes = 0
        self._under_way = 0
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._awaiting_pong = False
        self._ping_due = 0.0

    # -- out -----------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process for the client to read."""
        if self.wire is not None:
            return self.wire.buffered()
        return self._out_bytes + self._under_way

    def has_room(self, size: int) -> bool:
        """Whether so many more bytes may wait. A session that waits for nothing takes anything."""
        waiting = self.buffered
        return not waiting or waiting + size <= self.server.max_buffered

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        """Send packets of so many bytes together; False if there is no room. After the end they are dropped."""
        if self.closing or self.sealed:
            return True
        wire = self.wire
        if wire is not None:
            if wire.full and not self.has_room(size):
                return False
            wire.write(frames.packet_frames(packets))
            return True
        if not self.has_room(size):
            return False
        self._enqueue(packets, size)
        return True

    def put_frames(self, buffer: bytes) -> bool:
        """As `put`, for packets that were framed before. Only with a `wire`."""
        wire = self.wire
        assert wire is not None
        if self.closing or self.sealed:
            return True
        if wire.full and not self.has_room(len(buffer)):
            return False
        wire.write(buffer)
        return True

    def seal(self, last: Sequence[Packet], *, drop: bool = False) -> None:
        """Send the last packets there will be; `drop` what waits in the queue before them."""
        if self.closing or self.sealed:
            return
        self.sealed = True
        if drop:
            self._out.clear()
            self._out_bytes = 0
        self._send(last, sum(map(len, last)))

    def _send(self, packets: Sequence[Packet], size: int) -> None:
        if self.wire is not None:
            self.wire.write(frames.packet_frames(packets))
        else:
            self._enqueue(packets, size)

    def _enqueue(self, packets: Sequence[Packet], size: int) -> None:
        self._out.extend(packets)
        self._out_bytes += size
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def take(self, at_most: int | None = None) -> list[Packet]:
        """Wait for packets, then take what there is, or so many; none when the session has ended and all is said."""
        while not self._out and not self.closing:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if at_most is not None and len(self._out) > at_most:
            packets = [self._out.popleft() for _ in range(at_most)]
            self._under_way = min(sum(map(len, packets)), self._out_bytes)
        else:
            packets = list(self._out)
            self._out.clear()
            self._under_way = self._out_bytes
        self._out_bytes -= self._under_way
        return packets

    def nudge_poll(self) -> None:
        """End a waiting poll, so that the client can go on with its upgrade."""
        if self.polling and not self._out:
            self._enqueue([NOOP], 1)

    def taken(self) -> None:
        """What `take` gave has been handed to the transport."""
        self._under_way = 0
        if self.buffered <= self.server.low_water:
            self.writable()

    async def drain(self) -> None:
        """Wait until most of what was sent has left this process, or the session is over."""
        while not self.closed and self._is_full():
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def _is_full(self) -> bool:
        return self.wire.full if self.wire is not None else self.buffered > self.server.low_water

    def bind(self, wire: Wire) -> None:
        """Go on over a WebSocket that was taken over; what is queued goes out first."""
        packets = list(self._out)
        self._out.clear()
        self._out_bytes = self._under_way = 0
        self.wire = wire
        if packets:
            wire.write(frames.packet_frames(packets))
        wire.take_over(self, self.server.max_http_buffer_size)

    # -- in: called by the transports ----------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        """A WebSocket message has come in."""
        if not self.closing:
            try:
                self.receive_packet(data)
            except ProtocolError as error:
                self.server.broken(self, error)

    def writable(self) -> None:
        """There is room again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

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
            raise ProtocolError(f"unexpected packet {packet[:16]!r}")

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
        if self._timer is not None:
            self._timer.cancel()
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.probe is not None:
            self.probe()
        try:
            self.server.listener.ended(self, reason)
        finally:
            self.server.authenticated(self.sid)
            if politely:
                if self.wire is not None:
                    self.wire.end()
                elif not self.upgraded:
                    self._enqueue([CLOSE], 1)
                self._wake()
                # Many that are ended in one step are not finished in one: freeing what the kernel holds takes time.
                patience = self.server.linger * random.uniform(0.5, 1)
                self._timer = asyncio.get_running_loop().call_later(patience, self.finish)
            else:
                self._out.clear()
                self._out_bytes = 0
                if self.polling:
                    self._enqueue([last], 1)
                self.finish()

    def has_ended(self) -> bool:
        """Whether the session takes no more packets; ask again after each."""
        return self.closing

    def finish(self) -> None:
        """Nothing more will be read or written. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.server.forget(self)
        self._wake()
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close_or_abort()
        if self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        for waiting in (self._arrival, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def said_all(self) -> bool:
        """The session has ended, and what was queued before has been handed to the transport."""
        return self.closing and not self._out


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
