"""One Engine.IO session: its queue, its heartbeat and its end, whichever transport carries it.

Protocol: Engine.IO v4 (https://socket.io/docs/v4/engine-io-protocol/). A packet is held as it goes over the wire of
a WebSocket: text with the type as its first character, or the bytes of a binary message.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from engineio import packet as engineio_packet
from engineio.async_socket import AsyncSocket

logger = logging.getLogger("tidings.transport")

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
SEPARATOR: Final = "\x1e"
Packet = str | bytes


class Heartbeat(Protocol):
    """Told of the heartbeat, in the order of what is written and read."""

    def ping_written(self) -> None: ...

    def pong_received(self) -> None: ...


class ProtocolError(Exception):
    """The client has broken the protocol; the session is closed."""


class EngineSession(AsyncSocket):  # type: ignore[misc]
    """Everything goes out through `put`, in that order. What waits is counted in bytes, and bounded."""

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
        self.queue = None  # the base class's has no bound
        self.closing: bool = False
        self.closed: bool = False
        self.connected = True
        self.heartbeat: Heartbeat | None = None
        self.polling = False
        """A GET of the polling transport is waiting."""
        self._out: deque[Packet] = deque()
        self._out_bytes = 0
        self._under_way = 0
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.awaiting_pong = False
        self.task: asyncio.Task[Any] | None = None
        """What serves the WebSocket; cancelled when the session is over."""
        self.sealed = False
        """Nothing is queued any more; the session is about to end."""

    # -- out -----------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that wait for the transport."""
        return self._out_bytes + self._under_way

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        """Queue packets of so many bytes together; False if there is no room. What comes after the end is dropped."""
        if self.closing or self.sealed:
            return True
        if self.buffered and self.buffered + size > self.server.max_buffered:
            return False
        self._enqueue(packets, size)
        return True

    def seal(self, last: Sequence[Packet], *, drop: bool = False) -> None:
        """Queue the last packets there will be; `drop` what waits before them."""
        if self.closing or self.sealed:
            return
        self.sealed = True
        if drop:
            self._out.clear()
            self._out_bytes = 0
        self._enqueue(last, sum(map(len, last)))

    def _enqueue(self, packets: Sequence[Packet], size: int) -> None:
        self._out.extend(packets)
        self._out_bytes += size
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def send(self, pkt: engineio_packet.Packet) -> None:
        """Queue one packet of the base library."""
        encoded = pkt.encode()
        self.put([encoded], len(encoded))

    async def take(self) -> list[Packet]:
        """Wait for packets, then take all there are; none when the session has ended and all is said."""
        while not self._out and not self.closing:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        packets = list(self._out)
        self._out.clear()
        self._under_way, self._out_bytes = self._out_bytes, 0
        return packets

    def nudge_poll(self) -> None:
        """End a waiting poll, so that the client can go on with its upgrade."""
        if self.polling and not self._out:
            self._enqueue([NOOP], 1)

    def taken(self) -> None:
        """What `take` gave has been handed to the transport."""
        self._under_way = 0
        if self._room is not None and not self._room.done() and self.buffered <= self.server.low_water:
            self._room.set_result(None)

    async def drain(self) -> None:
        """Wait until most of what was queued has been handed to the transport, or the session is over."""
        while self.buffered > self.server.low_water and not self.closed:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    # -- in ------------------------------------------------------------------------------------------------------

    async def receive_packet(self, packet: Packet) -> None:
        """Take a packet from the client. Raises `ProtocolError`."""
        if isinstance(packet, bytes):
            await self.server.received(self.sid, packet)
        elif packet[:1] == MESSAGE:
            await self.server.received(self.sid, packet[1:])
        elif packet == PONG:
            self._pong()
        elif packet == CLOSE:
            await self.end(self.server.reason.CLIENT_DISCONNECT)
        else:
            raise ProtocolError(f"unexpected packet {packet[:16]!r}")

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def start_heartbeat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_interval, self._ping)

    def _ping(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.ping_written()
        self._enqueue([PING], 1)
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_timeout, self._timed_out)
        self.awaiting_pong = True

    def _pong(self) -> None:
        if not self.awaiting_pong:
            return
        self.awaiting_pong = False
        if self.heartbeat is not None:
            self.heartbeat.pong_received()
        if self._timer is not None:
            self._timer.cancel()
        self.start_heartbeat()

    def _timed_out(self) -> None:
        self.server.spawn(self.end(self.server.reason.PING_TIMEOUT))

    # -- the end -------------------------------------------------------------------------------------------------

    async def end(self, reason: str, *, politely: bool = False) -> None:
        """End the session. `politely`: what is queued goes out first, if the client reads it soon."""
        if self.closing:
            return
        self.closing = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self.server.ended(self.sid, reason)
        finally:
            if politely:
                if not self.upgraded:
                    self._enqueue([CLOSE], 1)
                self._wake()
                self._timer = asyncio.get_running_loop().call_later(self.server.linger, self.finish)
            else:
                self._out.clear()
                self._out_bytes = 0
                if self.polling:
                    self._enqueue([NOOP], 1)
                self.finish()

    def finish(self) -> None:
        """Nothing more will be read or written. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.server.forget(self)
        self._wake()
        if self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        for waiting in (self._arrival, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def said_all(self) -> bool:
        """The session has ended, and what was queued before has been handed to the transport."""
        return bool(self.closing and not self._out)

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """As the base library ends a session."""
        await self.end(reason or self.server.reason.SERVER_DISCONNECT, politely=not abort)


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
