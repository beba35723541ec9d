"""Sessions over a plain WebSocket (RFC 6455): one session is one WebSocket, its heartbeat is PING and PONG.

PINGs are written where the socket could be taken over. ASGI has no way to send them: under another server the
heartbeat is that server's, and no PONG of it is seen here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs

from server.transport import frames
from server.transport.admission import HalfOpen, address_of, headers_of, origin_allowed, refuse_websocket
from server.transport.direct import take_over
from server.transport.outlet import LINGER_S, MAX_BUFFERED, Heartbeat, Outlet, Packet, Receive, Scope, Send

PING_INTERVAL_S = 25.0
PING_TIMEOUT_S = 20.0
MAX_MESSAGE = 1_000_000


class Listener(Protocol):
    """Who the sessions belong to."""

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        """A session has begun, with these parameters in its address."""

    def message(self, session: WebSocketSession, data: Packet) -> None:
        """A message has come in."""

    def failing(self, session: WebSocketSession, code: int) -> None:
        """The client broke the WebSocket protocol. What is sent now goes out before the close with this code."""

    def ended(self, session: WebSocketSession) -> None:
        """The session is over."""


class WebSocketSession(Outlet):
    def __init__(self, server: WebSocketServer, address: str) -> None:
        super().__init__()
        self.server: WebSocketServer = server
        self.sid = secrets.token_urlsafe(15)
        self.address = address
        """The client's."""
        self.path = ""
        """Of the address that it opened."""
        self.data: Any = None
        """The listener's."""
        self._heartbeat: Heartbeat | None = None
        self._ping_due = 0.0
        self._expected: bytes | None = None
        """What the PONG of the PING that is under way must hold."""
        self._written = False
        """Something was, after the PING that is under way."""
        self._confirming: Callable[[], None] | None = None

    def authenticated(self, heartbeat: Heartbeat) -> None:
        """The session may stay; from here on it has a heartbeat."""
        self.server.half_open.remove(self.sid)
        self._heartbeat = heartbeat
        self._wait_to_ping()

    # -- in ------------------------------------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        if not self.closing:
            self.server.listener.message(self, data)

    def failing(self, code: int) -> None:
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
        """Unless one is to be sooner; while a PING is under way, after its PONG."""
        soon = self.server.ping_soon
        if soon is None or self._heartbeat is None or self.wire is None:
            return
        if self._expected is not None:
            self._written = True
            return
        due = asyncio.get_running_loop().time() + soon
        if not self.closing and due < self._ping_due:
            self._cancel_timer()
            self._ping_due = due
            self._timer = asyncio.get_running_loop().call_at(due, self._ping)

    def confirm(self, then: Callable[[], None]) -> None:
        """Call back when what was written before has arrived; at once where there are no PINGs. For one caller."""
        if self.wire is None or self._heartbeat is None or self.closing:
            then()
            return
        self._confirming = then
        self._cancel_timer()
        self._ping_due = asyncio.get_running_loop().time()
        self._ping()  # takes the place of one that is under way

    def _wait_to_ping(self) -> None:
        if self.wire is not None and not self.closing:
            loop = asyncio.get_running_loop()
            self._ping_due = loop.time() + self.server.ping_interval
            self._timer = loop.call_at(self._ping_due, self._ping)

    def _ping(self) -> None:
        assert self.wire is not None
        assert self._heartbeat is not None
        self._heartbeat.ping_written()
        self._written = False
        self._expected = secrets.token_bytes(8)
        deadline = self._ping_due + self.server.ping_timeout
        self._timer = asyncio.get_running_loop().call_at(deadline, self.end, "ping timeout", frames.GOING_AWAY)
        self.wire.write(frames.frame(frames.PING, self._expected))

    def pong(self, payload: bytes) -> None:
        """A PONG without a PING of its own says nothing (section 5.5.3)."""
        if payload != self._expected or self.closing:
            return
        self._expected = None
        self._cancel_timer()
        if self._heartbeat is not None:
            self._heartbeat.pong_received()
        confirmed, self._confirming = self._confirming, None
        self._wait_to_ping()
        if self._written:
            self._ping_soon()
        if confirmed is not None:
            confirmed()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(self, reason: str, code: int = frames.NORMAL, *, politely: bool = False) -> None:
        """End the session. `politely`: what was sent goes out first, if the client reads it soon. Idempotent."""
        if self.closing:
            return
        self.closing = True
        self.ended_for = reason
        self.close_code = code
        self._cancel_timer()
        try:
            self.server.listener.ended(self)
        finally:
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
        listener: Listener,
        half_open: HalfOpen,
        *,
        cors_allowed_origins: Collection[str] = (),
        ping_interval: float = PING_INTERVAL_S,
        ping_timeout: float = PING_TIMEOUT_S,
        max_buffered: int = MAX_BUFFERED,
        linger: float = LINGER_S,
        ping_soon: float | None = None,
        admit: Callable[[Scope], Awaitable[tuple[int, str] | None]] | None = None,
    ) -> None:
        """`half_open` counts the sessions of every way in; times are in seconds, `max_buffered` is in bytes.

        `ping_soon`: what was written is followed by a PING after so long, instead of at the next interval.
        `admit`: asked before the handshake is answered; the status and text of a refusal, or None.
        """
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
        refused = self._refusal(scope)
        if refused is None and self._admit is not None:
            refused = await self._admit(scope) or self._refusal(scope)
        if refused is not None:
            await refuse_websocket(scope, send, *refused)
            return
        await send({"type": "websocket.accept"})
        query = {key: value[0] for key, value in parse_qs(_query(scope), keep_blank_values=True).items()}
        session = WebSocketSession(self, address_of(scope))
        session.path = scope["path"]
        self.sessions.add(session)
        self._empty.clear()
        self.half_open.add(session.sid, session.address)
        self.listener.opened(session, query)
        wire = take_over(scope)
        if wire is not None:
            session.bind(wire)
        else:
            await session.serve(receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if not origin_allowed(headers_of(scope), self._origins):
            return 403, "origin not allowed"
        if self._stopping:
            return 503, "the server is shutting down"
        if self.half_open.is_full(address_of(scope)):
            return 503, "too many connections without authentication"
        return None

    def forget(self, session: WebSocketSession) -> None:
        self.sessions.discard(session)
        if not self.sessions:
            self._empty.set()

    async def end_all(self, reason: str) -> None:
        """Open no more, end every session, politely, and wait until all are gone or the linger time is over."""
        self._stopping = True
        for session in list(self.sessions):
            session.end(reason, frames.RESTART, politely=True)
        try:
            await asyncio.wait_for(self._empty.wait(), self.linger)
        except TimeoutError:
            for session in list(self.sessions):
                session.finish()


def _query(scope: Scope) -> str:
    raw: bytes = scope.get("query_string", b"")
    return raw.decode("latin-1")
