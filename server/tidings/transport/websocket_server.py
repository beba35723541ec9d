"""Sessions over a plain WebSocket (RFC 6455): one session per WebSocket, with PING and PONG as its heartbeat.

PINGs are only written on sockets that were taken over. ASGI cannot send them, so under another ASGI server that
server has its own heartbeat, whose PONGs are not visible here.
"""

from __future__ import annotations

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
    BufferedSession,
    Packet,
    Receive,
    Scope,
    Send,
    SessionServer,
    WebSocket,
    open_carrier,
)
from tidings.transport.heartbeat import Heartbeat, HeartbeatListener
from tidings.transport.input_limits import parameters

PING_INTERVAL_S = 25.0
PING_TIMEOUT_S = 20.0
MAX_MESSAGE = 1_000_000


class WebSocketListener(Protocol):
    """Receives the sessions of a server."""

    def vouches(self, query: Mapping[str, str]) -> bool:
        """Whether the parameters have a token signed by this server; then the session is not half open."""

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        """A session was opened, with these parameters in its address: set its `client`.

        `token` is that of the header `Authorization: Bearer` if the address has none.
        """


class SessionListener(Protocol):
    """Receives the events of a session."""

    def receive(self, data: Packet) -> None:
        """A message has arrived."""

    def failing(self, code: int) -> None:
        """The client has violated the WebSocket protocol. Frames sent now precede the close with this code."""

    def ended(self) -> None:
        """The session is over."""


class WebSocketSession(BufferedSession):
    def __init__(self, server: WebSocketServer, address: str, websocket: WebSocket) -> None:
        super().__init__(websocket)
        self.server: WebSocketServer = server
        self.sid = secrets.token_urlsafe(15)
        self.address = address
        """The client's."""
        self.path = ""
        """The path of its address."""
        self.client: SessionListener | None = None
        """Set by the server's listener; None again after the end."""
        self.heartbeat = None  # until the client has authenticated; over ASGI there is none
        self._ping_payload = b""
        """Of the pending PING, which the PONG must repeat."""
        self._on_confirmed: Callable[[], None] | None = None

    def authenticated(self, listener: HeartbeatListener) -> None:
        """The client has authenticated: start the heartbeat."""
        server = self.server
        server.half_open.remove(self.sid)
        if self.wire is not None and not self.closing:
            self.heartbeat = Heartbeat(self, soon=server.ping_soon)
            self.heartbeat.listener = listener
            self.heartbeat.start()

    # -- received ------------------------------------------------------------------------------------------------

    def message(self, data: Packet) -> None:
        if self.client is not None:
            self.client.receive(data)

    def failing(self, code: int) -> None:
        if self.client is not None:
            self.client.failing(code)

    def lost(self) -> None:
        self.end("transport close")
        self.finish()

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def put(self, packets: Sequence[Packet], size: int) -> bool:
        if self.heartbeat is not None:
            self.heartbeat.written()
        return super().put(packets, size)

    def put_frames(self, buffer: bytes) -> bool:
        if self.heartbeat is not None:
            self.heartbeat.written()
        return super().put_frames(buffer)

    def confirm(self, callback: Callable[[], None]) -> None:
        """Call back when everything written so far has arrived; immediately without PINGs. One caller at a time."""
        if self.heartbeat is None:
            callback()
        else:
            self._on_confirmed = callback
            self.heartbeat.ping_now(replace=True)

    def write_ping(self) -> None:
        assert self.wire is not None
        self._ping_payload = secrets.token_bytes(8)
        self.wire.write(frames.frame(frames.PING, self._ping_payload))

    def overdue(self) -> None:
        self.end("ping timeout", frames.GOING_AWAY)

    def pong(self, payload: bytes) -> None:
        """Process a PONG; an unsolicited one is ignored (section 5.5.3)."""
        if self.heartbeat is None or payload != self._ping_payload:
            return
        self._ping_payload = b""
        callback, self._on_confirmed = self._on_confirmed, None
        self.heartbeat.pong()
        if callback is not None:
            callback()

    # -- the end -------------------------------------------------------------------------------------------------

    def end(
        self,
        reason: str,
        code: int = frames.NORMAL,
        *,
        politely: bool = False,
        last: Sequence[Packet] = (),
        drop: bool = False,
    ) -> None:
        """End the session. Idempotent.

        Args:
            politely: send the buffered packets first, if the client reads them soon.
            last: sent after them; with `drop` instead of them.
        """
        if not self._begin_closing(reason, last, drop=drop):
            return
        self.close_code = code
        client, self.client, self.heartbeat = self.client, None, None  # breaks reference cycles
        try:
            if client is not None:
                client.ended()
        finally:
            self.server.half_open.remove(self.sid)
            if politely:
                self._linger()
            else:
                self.carrier.drop()
                self.finish()


class WebSocketServer(SessionServer):
    """Opens the sessions, on ASGI or on sockets that are taken over, and ends them."""

    def __init__(
        self,
        listener: WebSocketListener,
        half_open: HalfOpen,
        *,
        cors_allowed_origins: Collection[str] = (),
        ping_interval: float = PING_INTERVAL_S,
        ping_timeout: float = PING_TIMEOUT_S,
        ping_soon: float | None = None,
        admit: Callable[[Scope], Awaitable[tuple[int, str] | None]] | None = None,
        **limits: Any,
    ) -> None:
        """Times are in seconds.

        Args:
            half_open: counts the sessions of all transports.
            ping_soon: delay of a PING after a write; None: PINGs are only sent at the interval.
            admit: called before the handshake is answered. Returns the status and text of a refusal, or None for an
                authenticated client, whose session does not count as half open.
            limits: options of `SessionServer`.
        """
        super().__init__(**limits)
        self.ping_soon = ping_soon
        self._admit = admit
        self.listener = listener
        self.half_open = half_open
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.max_http_buffer_size = MAX_MESSAGE
        self._origins = cors_allowed_origins

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
        websocket = open_carrier(scope, receive, send, self.low_water)
        session = WebSocketSession(self, address_of(scope), websocket)
        session.path = scope["path"]
        self.remember(session)
        if self._admit is None and not self.listener.vouches(query):
            self.half_open.add(session.sid, session.address, partial(session.end, CROWDED, frames.TRY_LATER))
        self.listener.opened(session, query)
        websocket.take_over(session, self.max_http_buffer_size)
        await websocket.serve()

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if not origin_allowed(headers_of(scope), self._origins):
            return 403, ORIGIN_REFUSED
        if self._stopping:
            return 503, "the server is shutting down"
        return None
