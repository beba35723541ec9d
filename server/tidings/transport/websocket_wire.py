"""A WebSocket after its handshake, directly on the socket, without a task, queue or ASGI event in between.

Messages arrive by callback, frames are written immediately. `transport.uvicorn_server` makes the wires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Any, Final

from tidings.transport import websocket_frames as frames
from tidings.transport.tcp_connections import SLOWEST, TcpConnection, abort, unacknowledged
from tidings.transport.turn import Turn
from tidings.transport.websocket_frames import FrameError, FrameParser, WebSocketMessage

logger = logging.getLogger("tidings.transport")

HIGH_WATER = 96 * 1024
"""A replay waits while more bytes are buffered for its client: on a slow link, a PING waits behind them."""
LOW_WATER = 32 * 1024
LINGER_S = 5.0
MESSAGE_S = 20.0
"""Time limit of a message, from its first byte. It is extended while the client sends at least `SLOWEST` bytes a
second of the message; control frames between its fragments do not count."""
MAX_CONTROL_FRAMES = 300
"""The most PINGs and PONGs of a client within `CONTROL_FRAMES_S`; each costs as much time as a small message."""
CONTROL_FRAMES_S = 10.0


State = Enum("State", "OPEN CLOSING CLOSED")
"""Of a WebSocket or a session. CLOSING: nothing more is sent, but the client may still read what was sent before."""
OPEN: Final = State.OPEN
"""For each write: the look-up in an Enum is slow in Python 3.11."""


class WireReceiver:
    """Receives the events of a WebSocket; this one ignores them."""

    def message(self, data: str | bytes) -> None:
        """A complete message has arrived."""

    def writable(self) -> None:
        """The buffer has fallen to the low-water mark."""

    def pong(self, payload: bytes) -> None:
        """A PONG has arrived."""

    def failing(self, code: int) -> None:
        """The peer has violated the protocol. Frames written now precede the closing handshake with this code."""

    def lost(self) -> None:
        """The WebSocket is over."""


NO_RECEIVER: Final = WireReceiver()


class Wire(asyncio.Protocol):
    """A WebSocket after the handshake (a `transport.buffered_session.Carrier`)."""

    __slots__ = (
        "_closing",
        "_connections",
        "_control_frames",
        "_counted_since",
        "_early",
        "_message_timer",
        "_parser",
        "_receiver",
        "_state",
        "_tcp_connection",
        "_turn_over",
        "emptied",
        "full",
        "transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        connections: set[Any],
        early: bytes,
        *,
        full: bool = False,
        tcp_connection: TcpConnection | None = None,
    ) -> None:
        """`connections`: the server's set, whose members it shuts down when it stops.

        `early`: bytes already received. `full`: writing is paused now, and will be resumed.
        """
        self.transport = transport
        self._connections = connections
        self._tcp_connection = tcp_connection
        self._early = early
        self._receiver: WireReceiver = NO_RECEIVER
        self._parser: FrameParser | None = None
        self._turn_over = False
        """Input waits for this connection's next turn; meanwhile nothing is read from the socket."""
        self._state = OPEN
        self._closing: asyncio.TimerHandle | None = None
        self._message_timer: asyncio.TimerHandle | None = None
        """Runs while a message is incomplete."""
        self._control_frames = 0
        """PINGs and PONGs received at or after the time `_counted_since`."""
        self._counted_since = asyncio.get_running_loop().time()
        self.emptied = 0
        """How often the buffer has fallen to the low-water mark."""
        self.full = full
        """The buffer is above the high-water mark."""
        if tcp_connection is not None:
            tcp_connection.progressed()  # the receiver has its own limits
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        connections.add(self)

    def take_over(self, receiver: WireReceiver, max_size: int) -> None:
        """Pass messages of up to `max_size` bytes to the receiver from now on."""
        self._receiver = receiver
        if self._parser is not None:
            return  # a change of the receiver, perhaps between two messages of one read
        self._parser = FrameParser(max_size)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    # -- called by the event loop --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self._turn_over:
            self._early += data
        elif (
            not self.transport.is_closing()
            and self._process(parser.feed(data))
            and (parser.pending or self._message_timer is not None)
        ):
            self._time_message()

    def _next_turn(self, messages: Iterator[WebSocketMessage]) -> None:
        self._turn_over = False
        if self._state is State.CLOSED or self.transport.is_closing() or not self._process(messages):
            return
        early, self._early = self._early, b""
        if not self.transport.is_closing():
            self.transport.resume_reading()
        self._time_message()
        if early:
            self.data_received(early)

    def _time_message(self) -> None:
        """All input is processed: start the timer of an incomplete message, if there is one."""
        assert self._parser is not None
        if self._parser.pending and self._state is not State.CLOSED:
            if self._message_timer is None:
                self._expect_message()
        else:
            self._cancel_message_timer()

    def _expect_message(self) -> None:
        assert self._parser is not None
        check = partial(self._check_message, self._parser.pending)
        self._message_timer = asyncio.get_running_loop().call_later(MESSAGE_S, check)

    def _check_message(self, before: int) -> None:
        assert self._parser is not None
        if self._parser.pending - before >= SLOWEST * MESSAGE_S:
            self._expect_message()
        else:
            self.close_or_abort(frames.GOING_AWAY)

    def _cancel_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _process(self, messages: Iterator[WebSocketMessage]) -> bool:
        """Pass messages to the receiver for up to one turn. Returns False if there are more."""
        turn: Turn | None = None
        lone = True
        try:
            for opcode, payload in messages:
                if lone:
                    lone = False  # a lone message needs no clock
                elif turn is None:
                    turn = Turn()
                if opcode in (frames.TEXT, frames.BINARY) and self._message_timer is not None:
                    self._cancel_message_timer()
                if opcode == frames.TEXT:
                    self._receiver.message(payload.decode())
                elif opcode == frames.BINARY:
                    self._receiver.message(payload)
                elif opcode == frames.PING:
                    self._limit_control_frames()
                    # A client that does not read gets no more PONGs, or its PINGs would fill the buffer.
                    if not self.full:
                        self.write(frames.frame(frames.PONG, payload))
                elif opcode == frames.PONG:
                    self._limit_control_frames()
                    self._receiver.pong(payload)
                elif opcode == frames.CLOSE:
                    self.end(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else frames.NORMAL)
                    self.close_or_abort()
                    return True
                if turn is not None and turn.is_over() and not self.transport.is_closing():
                    self._turn_over = True
                    self.transport.pause_reading()
                    asyncio.get_running_loop().call_soon(self._next_turn, messages)
                    return False
        except FrameError as error:
            self._fail(error.code, str(error))
        except UnicodeDecodeError:
            self._fail(frames.INVALID_DATA, "not UTF-8")
        return True

    def _limit_control_frames(self) -> None:
        """Count a PING or PONG. Raises `FrameError` for more than `MAX_CONTROL_FRAMES` within `CONTROL_FRAMES_S`.

        Time counts, not the turn: so it does not matter how the stream is split into reads.
        """
        self._control_frames += 1
        if self._control_frames > MAX_CONTROL_FRAMES:
            now = asyncio.get_running_loop().time()
            if now - self._counted_since < CONTROL_FRAMES_S:
                raise FrameError(frames.POLICY, "too many PINGs or PONGs")
            self._control_frames, self._counted_since = 1, now

    def _fail(self, code: int, reason: str) -> None:
        self._receiver.failing(code)
        self.end(code, "" if code == frames.TOO_BIG else reason)  # as Node's servers
        self.close_or_abort()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.emptied += 1
        self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._state = State.CLOSED
        if self._tcp_connection is not None:
            self._tcp_connection.end()
        self._cancel_message_timer()
        if self._closing is not None:
            self._closing.cancel()
        receiver, self._receiver = self._receiver, NO_RECEIVER
        receiver.lost()

    def shutdown(self) -> None:
        """The server shuts down."""
        self.end(frames.RESTART)
        self.close_or_abort()

    # -- called by the receiver ----------------------------------------------------------------------------------

    def write(self, buffer: bytes) -> None:
        """Write complete frames; never blocks. Check `full` and `buffered` first."""
        if self._state is OPEN:
            self.transport.write(buffer)

    def write_packets(self, packets: Iterable[str | bytes], size: int) -> None:
        """Write packets as frames. `size`: of the packets, for other carriers."""
        self.write(frames.packet_frames(packets))

    def is_filling(self) -> bool:
        return self.full

    def drop(self) -> None:
        """Frames in the socket's buffer cannot be discarded: one may be written in part."""

    async def serve(self) -> None:
        """Return: the event loop serves it."""

    def buffered(self) -> int:
        """Bytes that wait in this process."""
        return self.transport.get_write_buffer_size()

    def unacknowledged(self) -> int:
        """Unacknowledged bytes in this process, and in the kernel if it reports them."""
        return unacknowledged(self.transport)

    def end(self, code: int = frames.NORMAL, reason: str = "") -> None:
        """Start the closing handshake; nothing can be written after it."""
        if self._state is OPEN:
            self._state = State.CLOSING
            self.transport.write(frames.close_frame(code, reason))

    def close_or_abort(self, code: int = frames.NORMAL) -> None:
        """Close. Bytes that the peer does not read within a few seconds are dropped; a large buffer immediately."""
        if self._state is State.CLOSED:
            return
        self.end(code)
        if self.full:
            self._abort()
        else:
            self.transport.close()
            self._closing = asyncio.get_running_loop().call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        if self._state is not State.CLOSED:
            abort(self.transport)
