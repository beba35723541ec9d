"""Sessions over a plain WebSocket (RFC 6455): one session per WebSocket, with PING and PONG as its heartbeat.

PINGs are only written on sockets that were taken over. ASGI cannot send them, so under another ASGI server that
server has its own heartbeat, whose PONGs are not visible here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from tidings.transport import websocket_frames as frames
from tidings.transport.admission import (
    CROWDED,
    ORIGIN_REFUSED,
    HalfOpen,
    address_of,
    bearer_token,
    headers_of,
    origin_allowed,
    refuse_websocket,
)
from tidings.transport.buffered_session import (
    LINGER_S,
    MAX_BUFFERED,
    BufferedSession,
    Heartbeat,
    Packet,
    Receive,
    Scope,
    Send,
)
from tidings.transport.input_limits import parameters
from tidings.transport.timers import GetTimers
from tidings.transport.uvicorn_websocket import take_over

PING_INTERVAL_S = 25.0
PING_TIMEOUT_S = 20.0
MAX_MESSAGE = 1_000_000


class WebSocketListener(Protocol):
    """Receives the events of the sessions."""

    def vouches(self, query: Mapping[str, str]) -> bool:
        """Whether the parameters have a token signed by this server; then the session is not half open."""

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        """A session was opened, with these parameters in its address.

        `token` is that of the header `Authorization: Bearer` if the address has none.
        """

    def message(self, session: WebSocketSession, data: Packet) -> None:
        """A message has arrived."""

    def failing(self, session: WebSocketSession, code: int) -> None:
        """The client has violated the WebSocket protocol. Frames sent now precede the close with this code."""

    def ended(self, session: WebSocketSession) -> None:
        """The session is over."""


class WebSocketSession(BufferedSession):
    def __init__(self, server: WebSocketServer, address: str) -> None:
        super().__init__()
        self.server: WebSocketServer = server
        self.sid = secrets.token_urlsafe(15)
        self.address = address
        """The client's."""
        self.path = ""
        """The path of its address."""
        self.data: Any = None
        """Data of the listener, until the session ends."""
        self._heartbeat: Heartbeat | None = None
        self._ping_due = 0.0
        self._pending_ping: bytes | None = None
        """The payload of the pending PING, which the PONG must repeat."""
        self._written = False
        """Whether something was written after the pending PING."""
        self._prove_again = False
        self._on_confirmed: Callable[[], None] | None = None

    def authenticated(self, heartbeat: Heartbeat) -> None:
        """The client has authenticated: start the heartbeat."""
        self.server.half_open.remove(self.sid)
        self._heartbeat = heartbeat
        self._schedule_ping()

    # -- received ------------------------------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        if not self.closing:
            self.server.listener.message(self, data)

    def failing(self, code: int) -> None:
        if not self.closing:
            self.server.listener.failing(self, code)

    def lost(self) -> None:
        self.end("transport close")
        self.finish()

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        self._ping_soon()
        return super().put(packets, size)

    def put_frames(self, buffer: bytes) -> bool:
        self._ping_soon()
        return super().put_frames(buffer)

    def _ping_soon(self) -> None:
        """Schedule a PING soon, unless an earlier one is due; while one is pending, after its PONG."""
        soon = self.server.ping_soon
        if soon is None or self._heartbeat is None or self.wire is None:
            return
        if self._pending_ping is not None:
            self._written = True
            return
        timers = self.server.timers()
        due = timers.time() + soon
        if not self.closing and due < self._ping_due:
            self._cancel_timer()
            self._ping_due = due
            self._timer = timers.call_at(due, self._ping)

    async def drain(self) -> None:
        """Wait for room as in the base class. Sends a PING if the buffer is full and none is pending."""
        if (
            self._is_full()
            and self._heartbeat is not None
            and self._pending_ping is None
            and self.wire
            and not self.closing
        ):
            self._cancel_timer()
            self._ping_due = self.server.timers().time()
            self._ping()
        await super().drain()

    def prove(self) -> None:
        """Send a PING whose PONG proves that everything sent so far has arrived.

        While one is pending, the next follows it.
        """
        if self._heartbeat is None or self.wire is None or self.closing:
            return
        if self._pending_ping is not None:
            self._prove_again = True
            return
        self._write_ping()

    def confirm(self, callback: Callable[[], None]) -> None:
        """Call back when everything written so far has arrived; immediately without PINGs. One caller at a time."""
        if self.wire is None or self._heartbeat is None or self.closing:
            callback()
            return
        self._on_confirmed = callback
        self._cancel_timer()
        self._ping_due = self.server.timers().time()
        self._pending_ping = None  # it replaces a pending one
        self._ping()

    def _schedule_ping(self) -> None:
        if self.wire is not None and not self.closing:
            timers = self.server.timers()
            self._ping_due = timers.time() + self.server.ping_interval
            self._timer = timers.call_at(self._ping_due, self._ping)

    def _ping(self) -> None:
        """Send the regular PING. If one is pending, wait for it instead, no longer than for a new one."""
        patience = self.server.ping_timeout
        overdue = partial(self.end, "ping timeout", frames.GOING_AWAY)
        self._expect_pong(self._ping_due + patience, patience, overdue)
        if self._pending_ping is None:
            self._write_ping()

    def _write_ping(self) -> None:
        assert self.wire is not None
        assert self._heartbeat is not None
        self._heartbeat.ping_written()
        self._written = False
        self._pending_ping = secrets.token_bytes(8)
        self.wire.write(frames.frame(frames.PING, self._pending_ping))

    def pong(self, payload: bytes) -> None:
        """Process a PONG; an unsolicited one is ignored (section 5.5.3)."""
        if payload != self._pending_ping or self.closing:
            return
        self._pending_ping = None
        self._cancel_timer()
        if self._heartbeat is not None:
            self._heartbeat.pong_received()
        callback, self._on_confirmed = self._on_confirmed, None
        self._schedule_ping()
        if self._prove_again:
            self._prove_again = False
            self.prove()
        elif self._written:
            self._ping_soon()
        if callback is not None:
            callback()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self, reason: str, code: int = frames.NORMAL, *, politely: bool = False) -> None:
        """End the session. Idempotent. `politely`: send the buffered frames first, if the client reads them soon."""
        if self.closing:
            return
        self.closing = True
        self.end_reason = reason
        self.close_code = code
        self._cancel_timer()
        try:
            self.server.listener.ended(self)
        finally:
            self.data = self._heartbeat = None  # breaks reference cycles
            self.server.half_open.remove(self.sid)
            if politely:
                self._linger()
            else:
                self._drop()
                self.finish()


class WebSocketServer:
    """Opens the sessions, on ASGI or on sockets that are taken over, and ends them."""

    def __init__(
        self,
        listener: WebSocketListener,
        half_open: HalfOpen,
        *,
        cors_allowed_origins: Collection[str] = (),
        ping_interval: float = PING_INTERVAL_S,
        ping_timeout: float = PING_TIMEOUT_S,
        max_buffered: int = MAX_BUFFERED,
        linger: float = LINGER_S,
        ping_soon: float | None = None,
        admit: Callable[[Scope], Awaitable[tuple[int, str] | None]] | None = None,
        timers: GetTimers = asyncio.get_running_loop,
    ) -> None:
        """Times are in seconds, `max_buffered` is in bytes.

        Args:
            half_open: counts the sessions of all transports.
            ping_soon: delay of a PING after a write; None: PINGs are only sent at the interval.
            admit: called before the handshake is answered. Returns the status and text of a refusal, or None for an
                authenticated client, whose session does not count as half open.
            timers: those of the heartbeats and of signing in.
        """
        self.timers = timers
        self.ping_soon = ping_soon
        self._admit = admit
        self.listener = listener
        self.half_open = half_open
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.max_buffered = max_buffered
        self.low_water = max_buffered // 4
        self.max_http_buffer_size = MAX_MESSAGE
        self.linger = linger
        self.sessions: set[WebSocketSession] = set()
        self._origins = cors_allowed_origins
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI request to open a WebSocket."""
        await receive()  # websocket.connect
        refusal = self._refusal(scope)
        if refusal is None and self._admit is not None:
            refusal = await self._admit(scope) or self._refusal(scope)
        if refusal is not None:
            await refuse_websocket(scope, send, *refusal)
            return
        await send({"type": "websocket.accept"})
        query = parameters(scope.get("query_string", b""), blank=True)
        if token := bearer_token(headers_of(scope)):
            query.setdefault("token", token)
        session = WebSocketSession(self, address_of(scope))
        session.path = scope["path"]
        self.sessions.add(session)
        self._empty.clear()
        if self._admit is None and not self.listener.vouches(query):
            self.half_open.add(session.sid, session.address, partial(session.end, CROWDED, frames.TRY_LATER))
        self.listener.opened(session, query)
        wire = take_over(scope)
        if wire is not None:
            session.bind(wire)
        else:
            await session.serve(receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if not origin_allowed(headers_of(scope), self._origins):
            return 403, ORIGIN_REFUSED
        if self._stopping:
            return 503, "the server is shutting down"
        return None

    def forget(self, session: WebSocketSession) -> None:
        self.sessions.discard(session)
        if not self.sessions:
            self._empty.set()

    async def end_all(self, reason: str) -> None:
        """Refuse new sessions, end all politely, and wait until they are gone or the linger time is over."""
        self._stopping = True
        for session in list(self.sessions):
            session.end(reason, frames.RESTART, politely=True)
        try:
            await asyncio.wait_for(self._empty.wait(), self.linger)
        except TimeoutError:
            for session in list(self.sessions):
                session.finish()
