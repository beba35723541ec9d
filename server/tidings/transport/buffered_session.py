"""The base of all sessions: sending with a bounded buffer, the heartbeat timer, and the end."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from tidings.transport import websocket_frames as frames
from tidings.transport.tcp_connections import SLOWEST
from tidings.transport.websocket_wire import Wire

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Packet = str | bytes
"""A WebSocket message: text or binary."""

MAX_BUFFERED = 1024 * 1024
LINGER_S = 5.0


class Heartbeat(Protocol):
    """Receives the heartbeat's events, in the order of writing and reading."""

    def ping_written(self) -> None: ...

    def pong_received(self) -> None: ...


class WebSocketClosed(Exception):
    """The client has closed the WebSocket."""


class BufferedSession(ABC):
    """Sends packets in the order of `put`, with a bounded number of waiting bytes.

    Packets go directly to the socket of a WebSocket that was taken over (`wire`), and otherwise into a queue. It is a
    `transport.websocket_wire.WireReceiver`; subclasses define how a session ends.
    """

    server: Any
    """Has the limits: `max_buffered` and `low_water` in bytes, `max_http_buffer_size` of a message, `linger` in s.
    `timers` are those of the heartbeat."""

    def __init__(self) -> None:
        self.closing = False
        self.end_reason = ""
        """Why the session has ended, once it is closing."""
        self.closed = False
        self.sealed = False
        """Nothing more is sent; the session is about to end."""
        self.wire: Wire | None = None
        self.task: asyncio.Task[Any] | None = None
        """The task that serves a WebSocket over ASGI; cancelled at the end of the session."""
        self.close_code = frames.NORMAL
        self._out: deque[Packet] = deque()
        self._out_bytes = 0
        self._under_way = 0
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- sending -------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process until the client reads."""
        if self.wire is not None:
            return self.wire.buffered()
        return self._out_bytes + self._under_way

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may wait. A session with an empty buffer accepts any size."""
        waiting = self.buffered
        return not waiting or bool(waiting + size <= self.server.max_buffered)

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        """Send packets of `size` bytes in all; False if there is no room. After the end they are dropped."""
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
        """Like `put`, for encoded frames. Only with a `wire`."""
        wire = self.wire
        assert wire is not None
        if self.closing or self.sealed:
            return True
        if wire.full and not self.has_room(len(buffer)):
            return False
        wire.write(buffer)
        return True

    def seal(self, farewell: Sequence[Packet], *, drop: bool = False) -> None:
        """Send the last packets of the session. `drop`: discard queued packets before them."""
        if self.closing or self.sealed:
            return
        self.sealed = True
        if drop:
            self._drop()
        self._send(farewell, sum(map(len, farewell)))

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

    def _drop(self) -> None:
        self._out.clear()
        self._out_bytes = 0
        self._wake_if_room()

    async def take(self, at_most: int | None = None) -> list[Packet]:
        """Wait for packets, then return all, or `at_most`. Empty once the session has ended and all are sent."""
        while not self._out and not self.closing:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if at_most is not None and len(self._out) > at_most:
            packets = [self._out.popleft() for _ in range(at_most)]
            self._under_way = min(sum(map(_size, packets)), self._out_bytes)
        else:
            packets = list(self._out)
            self._out.clear()
            self._under_way = self._out_bytes
        self._out_bytes -= self._under_way
        return packets

    def packets_sent(self) -> None:
        """The transport has the packets of `take`."""
        self._under_way = 0
        self._wake_if_room()

    async def drain(self) -> None:
        """Wait until most of the buffer has been written, or the session is over.

        Code that frees the buffer must call `_wake_if_room`, which wakes the waiting callers.
        """
        while not self.closed and self._is_full():
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def _expect_pong(self, by: float, patience: float, overdue: Callable[[], None]) -> None:
        """Call `overdue` at the time `by`, unless the timer is cancelled; later, while the client still reads.

        On a slow link a PING waits behind earlier data. So acknowledged bytes count as a sign of life as well, and
        extend the time by `patience` seconds.
        """
        wire = self.wire
        emptied, waiting = (0, 0) if wire is None else (wire.emptied, wire.unacknowledged())

        def check() -> None:
            if (
                wire is not None
                and wire is self.wire
                and (wire.emptied != emptied or wire.unacknowledged() <= waiting - SLOWEST * patience)
            ):
                self._expect_pong(by + patience, patience, overdue)
            else:
                overdue()

        self._timer = self.server.timers().call_at(by, check)

    def _is_full(self) -> bool:
        return self.wire.full if self.wire is not None else bool(self.buffered > self.server.low_water)

    def _wake_if_room(self) -> None:
        if not self._is_full():
            self.writable()

    # -- WebSocket -----------------------------------------------------------------------------------------------

    def bind(self, wire: Wire) -> None:
        """Continue on a WebSocket that was taken over; queued packets are sent first."""
        packets = list(self._out)
        self._out.clear()
        self._out_bytes = self._under_way = 0
        self.wire = wire
        if packets:
            wire.write(frames.packet_frames(packets))
        wire.take_over(self, self.server.max_http_buffer_size)
        self._wake_if_room()

    async def serve(self, receive: Receive, send: Send) -> None:
        """Continue on a WebSocket accepted over ASGI, until its end."""
        self.task = asyncio.current_task()
        reader = asyncio.ensure_future(self._read(receive))
        try:
            while packets := await self.take():
                for packet in packets:
                    await send_packet(send, packet)
                self.packets_sent()
            await send({"type": "websocket.close", "code": self.close_code})
        except asyncio.CancelledError:
            if not self.closed:
                raise
        except (OSError, RuntimeError):
            pass  # the client is gone; the reader reports that
        finally:
            reader.cancel()
            self.task = None
            self.lost()

    async def _read(self, receive: Receive) -> None:
        try:
            while True:
                packet = await receive_packet(receive)
                if len(packet) > self.server.max_http_buffer_size:
                    self.close_code = frames.TOO_BIG
                    self.failing(frames.TOO_BIG)
                    if not self.closing:
                        self.lost()
                    return
                self.message(packet)
        except WebSocketClosed:
            self.lost()

    def writable(self) -> None:
        """The buffer has room again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    @abstractmethod
    def prove(self) -> None:
        """Send a PING, if possible, whose PONG proves that everything sent so far has arrived (`Heartbeat`)."""

    @abstractmethod
    def message(self, data: Packet) -> None:
        """A WebSocket message has arrived."""

    def pong(self, payload: bytes) -> None:  # noqa: B027 - optional
        """A PONG of the WebSocket protocol has arrived."""

    def failing(self, code: int) -> None:  # noqa: B027
        """The client has violated the WebSocket protocol; the WebSocket is about to be closed with this code."""

    @abstractmethod
    def lost(self) -> None:
        """The WebSocket is over."""

    # -- the end -------------------------------------------------------------------------------------------------

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _linger(self) -> None:
        """Give the client some time to read the buffered packets, then finish."""
        if self.wire is not None:
            self.wire.end(self.close_code)
        self._wake()
        # Random, so that many sessions do not finish together: freeing kernel buffers takes time.
        patience = self.server.linger * random.uniform(0.5, 1)
        self._timer = asyncio.get_running_loop().call_later(patience, self.finish)

    def finish(self) -> None:
        """End all reading and writing. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._cancel_timer()
        self.server.forget(self)
        self._wake()
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close_or_abort(self.close_code)
        if self.task is not None:
            self.task.cancel()

    def _wake(self) -> None:
        for waiting in (self._arrival, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def is_flushed(self) -> bool:
        """Whether the session has ended and its queue is empty."""
        return self.closing and not self._out


def _size(packet: Packet) -> int:
    """Bytes on the wire."""
    return len(packet) if isinstance(packet, bytes) or packet.isascii() else len(packet.encode())


async def send_packet(send: Send, packet: Packet) -> None:
    if isinstance(packet, str):
        await send({"type": "websocket.send", "text": packet})
    else:
        await send({"type": "websocket.send", "bytes": packet})


async def receive_packet(receive: Receive) -> Packet:
    """The next message. Raises `WebSocketClosed`."""
    event = await receive()
    if event["type"] != "websocket.receive":
        raise WebSocketClosed
    text = event.get("text")
    return text if text is not None else event["bytes"]  # type: ignore[no-any-return]
