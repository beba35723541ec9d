"""The base of all sessions: sending with a bounded buffer, its carriers, and the end."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from tidings.transport import websocket_frames as frames
from tidings.transport.heartbeat import Heartbeat
from tidings.transport.timers import GetTimers
from tidings.transport.uvicorn_websocket import take_over
from tidings.transport.websocket_wire import LINGER_S as CLOSE_S
from tidings.transport.websocket_wire import NO_RECEIVER, OPEN, State, Wire, WireReceiver

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Packet = str | bytes
"""A WebSocket message: text or binary."""

MAX_BUFFERED = 1024 * 1024
LINGER_S = 5.0


class PacketQueue:
    """Carries packets that are fetched by `take`."""

    full = True
    """Always ask `BufferedSession.has_room`."""
    emptied = 0

    def __init__(self, low_water: int) -> None:
        """The receiver may write again when no more than `low_water` bytes wait."""
        self._low_water = low_water
        self._receiver: WireReceiver = NO_RECEIVER
        self._out: deque[Packet] = deque()
        self._out_bytes = 0
        self._under_way = 0
        self._arrival: asyncio.Future[None] | None = None
        self._ended = False
        self._code = frames.NORMAL

    def is_filling(self) -> bool:
        return self.buffered() > self._low_water

    def buffered(self) -> int:
        return self._out_bytes + self._under_way

    def unacknowledged(self) -> int:
        """Unknown here: nothing shows how far the client has read."""
        return 0

    def write_packets(self, packets: Sequence[Packet], size: int) -> None:
        if not self._ended:
            self._out.extend(packets)
            self._out_bytes += size
            self._wake()

    def drop(self) -> None:
        self._out.clear()
        self._out_bytes = 0
        self._report_room()

    async def take(self, at_most: int | None = None) -> list[Packet]:
        """Wait for packets, then return all, or `at_most`. Empty once the queue has ended and all are sent."""
        while not self._out and not self._ended:
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
        """The client, or the ASGI server, has the packets of `take`."""
        self._under_way = 0
        self._report_room()

    def end(self, code: int) -> None:
        if not self._ended:
            self._ended, self._code = True, code
            self._wake()

    def close_or_abort(self, code: int) -> None:
        self.end(code)

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _report_room(self) -> None:
        if not self.is_filling():
            self._receiver.writable()


def _size(packet: Packet) -> int:
    """Bytes on the wire."""
    return len(packet) if isinstance(packet, bytes) or packet.isascii() else len(packet.encode())


class AsgiWebSocket(PacketQueue):
    """A WebSocket over plain ASGI, which has no PINGs, no frames and no socket."""

    def __init__(self, receive: Receive, send: Send, low_water: int) -> None:
        super().__init__(low_water)
        self._receive = receive
        self._send = send
        self._max_size = 0
        self._task: asyncio.Task[object] | None = None
        """Serves the WebSocket; None before and after."""
        self._aborted = False
        self._closing: asyncio.TimerHandle | None = None

    def take_over(self, receiver: WireReceiver, max_size: int) -> None:
        self._receiver = receiver
        self._max_size = max_size

    async def serve(self) -> None:
        self._task = asyncio.current_task()
        reader = asyncio.ensure_future(self._read())
        try:
            while packets := await self.take():
                for packet in packets:
                    key = "text" if isinstance(packet, str) else "bytes"
                    await self._send({"type": "websocket.send", key: packet})
                self.packets_sent()
            await self._send({"type": "websocket.close", "code": self._code})
        except asyncio.CancelledError:
            if not self._aborted:
                raise
        except (OSError, RuntimeError):
            pass  # the client is gone; the reader reports that
        finally:
            reader.cancel()
            self._task = None
            if self._closing is not None:
                self._closing.cancel()
            receiver, self._receiver = self._receiver, NO_RECEIVER
            receiver.lost()

    async def _read(self) -> None:
        while (event := await self._receive())["type"] == "websocket.receive":
            text = event.get("text")
            packet: Packet = event["bytes"] if text is None else text
            if len(packet) > self._max_size:
                self._receiver.failing(frames.TOO_BIG)
                self.close_or_abort(frames.TOO_BIG)
                return
            self._receiver.message(packet)
        self._abort()

    def close_or_abort(self, code: int) -> None:
        self.end(code)
        if self.is_filling():
            self._abort()
        elif self._task is not None:
            self._closing = asyncio.get_running_loop().call_later(CLOSE_S, self._abort)

    def _abort(self) -> None:
        if self._task is not None:
            self._aborted = True
            self._task.cancel()


Carrier = Wire | PacketQueue
"""Carries the packets of a session: a WebSocket that was taken over, a WebSocket over ASGI, or polling."""
WebSocket = Wire | AsgiWebSocket


def open_carrier(scope: Scope, receive: Receive, send: Send, low_water: int) -> WebSocket:
    """The carrier of an accepted WebSocket: its socket, if the server gives it away, otherwise ASGI's events."""
    wire = take_over(scope)
    return AsgiWebSocket(receive, send, low_water) if wire is None else wire


class BufferedSession(WireReceiver, ABC):
    """Sends packets in the order of `put`, with a bounded number of waiting bytes.

    Subclasses define how a session ends.
    """

    server: Any  # a `SessionServer`
    heartbeat: Heartbeat | None

    def __init__(self, carrier: Carrier) -> None:
        self.state = OPEN
        self.end_reason = ""
        """Why the session has ended, once it has."""
        self.close_code = frames.NORMAL
        self.wire: Wire | None = None
        """The carrier, if it takes encoded frames."""
        self._room: asyncio.Future[None] | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._carry(carrier)

    def _carry(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.wire = carrier if isinstance(carrier, Wire) else None

    @property
    def closing(self) -> bool:
        """Whether the session has ended."""
        return self.state is not OPEN

    # -- sending -------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process until the client reads."""
        return self.carrier.buffered()

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may wait. A session with an empty buffer accepts any size."""
        waiting = self.carrier.buffered()
        return not waiting or bool(waiting + size <= self.server.max_buffered)

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        """Send packets of `size` bytes in all; False if there is no room. After the end they are dropped."""
        if self.state is not OPEN:
            return True
        carrier = self.carrier
        if carrier.full and not self.has_room(size):
            return False
        carrier.write_packets(packets, size)
        return True

    def put_frames(self, buffer: bytes) -> bool:
        """Send encoded frames as `put` sends packets. Only with a `wire`."""
        if self.state is not OPEN:
            return True
        wire = self.wire
        assert wire is not None
        if wire.full and not self.has_room(len(buffer)):
            return False
        wire.write(buffer)
        return True

    async def drain(self) -> None:
        """Wait until most of the buffer has been written, or the session is over.

        Sends a PING if the buffer is filling and none is pending: on a slow link the regular one might arrive too
        late. The PONG also confirms what has arrived so far.
        """
        if self.heartbeat is not None and self.state is OPEN and self.carrier.is_filling():
            self.heartbeat.ping_now()
        while self.state is not State.CLOSED and self.carrier.is_filling():
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def prove(self) -> None:
        """Send a PING, if possible, whose PONG proves that everything sent so far has arrived (`Heartbeat.prove`)."""
        if self.heartbeat is not None:
            self.heartbeat.prove()

    # -- called by the carrier -----------------------------------------------------------------------------------

    def writable(self) -> None:
        """The buffer has room again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    @abstractmethod
    def lost(self) -> None: ...

    # -- called by the heartbeat ---------------------------------------------------------------------------------

    @abstractmethod
    def write_ping(self) -> None:
        """Write a PING after everything sent so far."""

    def ping_ahead(self) -> int | None:
        """If the queue is too long for a PING at its end to arrive in time, write one at its front.

        Returns the number of queued PINGs that it has overtaken; None: the queue is short.
        """
        return None

    @abstractmethod
    def overdue(self) -> None:
        """No PONG in time."""

    # -- the end -------------------------------------------------------------------------------------------------

    def _begin_closing(self, reason: str, last: Sequence[Packet], *, drop: bool) -> bool:
        """Send the last packets, and stop the heartbeat. Returns False if the session has ended already.

        `drop`: discard packets that wait before the last ones.
        """
        if self.state is not OPEN:
            return False
        if drop:
            self.carrier.drop()
        if last:
            self._send(last)
        self.state = State.CLOSING
        self.end_reason = reason
        if self.heartbeat is not None:
            self.heartbeat.stop()
        return True

    def _send(self, packets: Sequence[Packet]) -> None:
        """Send packets whether there is room or not."""
        self.carrier.write_packets(packets, sum(map(len, packets)))

    def _linger(self) -> None:
        """Give the client some time to read the buffered packets, then finish."""
        self.carrier.end(self.close_code)
        self.writable()
        # Random, so that many sessions do not finish together: freeing kernel buffers takes time.
        patience = self.server.linger * random.uniform(0.5, 1)
        self._linger_timer = asyncio.get_running_loop().call_later(patience, self.finish)

    def finish(self) -> None:
        """End all reading and writing. Idempotent."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self.server.forget(self)
        self.writable()
        self.carrier.close_or_abort(self.close_code)


class SessionServer:
    """The limits of its sessions, and how they end together. Times are in seconds, sizes in bytes.

    `timers` are those of the heartbeats and of signing in.
    """

    def __init__(
        self, max_buffered: int = MAX_BUFFERED, linger: float = LINGER_S, timers: GetTimers = asyncio.get_running_loop
    ) -> None:
        self.timers = timers
        self.max_buffered = max_buffered
        self.low_water = max_buffered // 4
        self.linger = linger
        self.sessions: set[Any] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False

    def remember(self, session: BufferedSession) -> None:
        self.sessions.add(session)
        self._empty.clear()

    def forget(self, session: BufferedSession) -> None:
        self.sessions.discard(session)
        if not self.sessions:
            self._empty.set()

    async def end_all(self, reason: str) -> None:
        """Refuse new sessions, end all politely, and wait until they are gone or the linger time is over."""
        self._stopping = True
        for session in list(self.sessions):
            session.end(reason, politely=True)
        try:
            await asyncio.wait_for(self._empty.wait(), self.linger)
        except TimeoutError:
            for session in list(self.sessions):
                session.finish()
