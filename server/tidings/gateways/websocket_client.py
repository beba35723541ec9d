"""Clients over a WebSocket of their own: those of `/ws` and of the dialects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from tidings.contract.errors import CloseReason, invalid
from tidings.fanout.connection import EventCodec
from tidings.gateways.client_session import Backend, ClientSession
from tidings.gateways.links import BaseLink
from tidings.transport.admission import HalfOpen
from tidings.transport.input_limits import BoundedJson, holds_too_many
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S
from tidings.transport.websocket_frames import RESTART
from tidings.transport.websocket_server import WebSocketServer, WebSocketSession

UNAUTHENTICATED: Final = 4401
"""Close code: a fresh token is needed. 4000-4999 are an application's own (RFC 6455, section 7.4.2)."""
POLICY, TRY_LATER = 1008, 1013
CLOSE_CODES: Final[dict[CloseReason, int]] = {
    CloseReason.SLOW_CONSUMER: TRY_LATER,
    CloseReason.TOKEN_EXPIRED: UNAUTHENTICATED,
    CloseReason.TOKEN_REVOKED: UNAUTHENTICATED,
    CloseReason.SHUTDOWN: RESTART,
    CloseReason.REPLACED: POLICY,
    CloseReason.PROTOCOL_ERROR: POLICY,
}
C = TypeVar("C", bound=EventCodec)


class WebSocketLink(BaseLink[WebSocketSession, C]):
    transport = "websocket"

    def __init__(self, session: WebSocketSession, codec: C, gateway: str) -> None:
        super().__init__(session, codec)
        self.gateway = gateway

    def close(self, reason: CloseReason, code: int | None = None) -> None:
        """See `Link.close`. `code`: the close code, if not the reason's own."""
        closing = self.codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        code = CLOSE_CODES[reason] if code is None else code
        self.end(reason, code, closing, drop=reason is CloseReason.SLOW_CONSUMER)

    def end(self, reason: str, code: int, farewell: bytes = b"", *, drop: bool = False) -> None:
        """Send the farewell, if there is one, then close. `drop`: discard the queued messages before it."""
        if self.has_ended:
            return
        if self.actions is not None:
            self.actions.stop()
        last = [self.codec.packet(farewell)] if farewell else []
        self._session.end(reason, code, politely=True, last=last, drop=drop)


class WebSocketClient(ClientSession):
    """A client with a WebSocket of its own."""

    def __init__(self, backend: Backend, session: WebSocketSession, link: WebSocketLink[Any]) -> None:
        super().__init__(backend, link, session.address)
        self._session = session
        self._link: WebSocketLink[Any] = link

    @abstractmethod
    def opened(self, query: Mapping[str, str]) -> None:
        """The WebSocket is open. `query`: the parameters of its address."""

    def failing(self, code: int) -> None:
        """The client has violated the WebSocket protocol; it is closed with this code."""
        self._link.close(CloseReason.PROTOCOL_ERROR, code)


class WebSocketGateway:
    """The clients of one path; a `WebSocketListener` of the transport. The application mounts its `server`."""

    def __init__(
        self,
        client: Callable[[Backend, WebSocketSession], WebSocketClient],
        backend: Backend,
        half_open: HalfOpen,
        *,
        cors_allowed_origins: Collection[str] = (),
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **transport: Any,
    ) -> None:
        """`connect_timeout`: seconds within which to sign in. `transport`: options of `WebSocketServer`."""
        self._backend = backend
        self._client = client
        self._connect_timeout = connect_timeout
        self.server = WebSocketServer(self, half_open, cors_allowed_origins=cors_allowed_origins, **transport)

    async def stop(self) -> None:
        """Close all connections with the reason `shutdown`."""
        for session in list(self.server.sessions):
            if isinstance(session.client, WebSocketClient):
                session.client.close(CloseReason.SHUTDOWN)
        await self.server.end_all(CloseReason.SHUTDOWN)

    # -- called by the transport ---------------------------------------------------------------------------------

    def vouches(self, query: Mapping[str, str]) -> bool:
        return self._backend.parts.auth.vouches(query.get("token", ""))

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        client = session.client = self._client(self._backend, session)
        client.expect_sign_in(self._connect_timeout, self.server.timers())
        client.opened(query)


def json_object(data: str | bytes) -> dict[str, Any]:
    """Parse a frame that must be a JSON object. Raises `invalid`."""
    if isinstance(data, bytes):
        raise invalid("frame", "a text frame is wanted, not a binary one")
    try:
        value = BoundedJson.loads(data)
    except ValueError:
        raise invalid("frame", "too many values" if holds_too_many(data) else "not JSON") from None
    if not isinstance(value, dict):
        raise invalid("frame", "not an object")
    return value
