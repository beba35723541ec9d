"""The plain WebSocket gateway: actions and events as JSON objects in text frames, for clients without Socket.IO.

`{"id": 7, "action": "message", "data": {…}}` is answered with `{"id": 7, "ok": true, "data": {…}}`; an event is
`{"event": "message", "data": {…}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import orjson
from pydantic import ValidationError

from server.auth import unauthenticated
from server.context import Context, Parts
from server.contract.actions import NoPayload
from server.contract.errors import ActionError, CloseReason, Error, ErrorCode, invalid
from server.contract.models import timestamp
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.dispatch import Answer, Dispatcher, payload_of
from server.gateways.inbox import Inbox
from server.gateways.live import CursorHeartbeat, LiveLink, ended, json_object, read_auth
from server.opening import open_connection
from server.transport.admission import HalfOpen
from server.transport.frames import RESTART, TEXT, frame, joined
from server.transport.protocol import CONNECT_TIMEOUT_S
from server.transport.websocket import WebSocketServer, WebSocketSession

UNAUTHENTICATED: Final = 4401
"""Close code: a fresh token is needed. 4000–4999 are an application's own (RFC 6455, section 7.4.2)."""
POLICY, TRY_LATER = 1008, 1013
CLOSE_CODES: Final[dict[CloseReason, int]] = {
    CloseReason.SLOW_CONSUMER: TRY_LATER,
    CloseReason.TOKEN_EXPIRED: UNAUTHENTICATED,
    CloseReason.TOKEN_REVOKED: UNAUTHENTICATED,
    CloseReason.SHUTDOWN: RESTART,
    CloseReason.REPLACED: POLICY,
    CloseReason.PROTOCOL_ERROR: POLICY,
}
MAX_ID = 128
"""Characters of a request's id."""
MAX_NUMBER = 2**53 - 1
"""The largest number that every JSON parser reads as it was written (RFC 8259, section 6)."""
MAX_EARLY, MAX_EARLY_BYTES = 256, 256 * 1024
"""Requests that may wait for the authentication before them."""

Id = str | int | float | None


class JsonCodec:
    """A `delivery.frames.Codec`: one JSON object per text frame."""

    plain = True

    def encode(self, event: str, payload: Any) -> bytes:
        return b'{"event":"%b","data":%b}' % (event.encode(), orjson.dumps(payload))

    def answer(self, request_id: Id, answer: Answer) -> bytes:
        named = {} if request_id is None else {"id": request_id}
        return orjson.dumps(named | answer.wire())

    def packet(self, message: bytes) -> str:
        return message.decode()

    def value(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, messages)


class WebSocketLink(LiveLink[WebSocketSession, JsonCodec]):
    gateway = transport = "websocket"

    def answer(self, request_id: Id, answer: Answer) -> None:
        self.send(self.codec.answer(request_id, answer))

    def close(self, reason: CloseReason, code: int | None = None) -> None:
        """As `Link`; `code`: the close code, if not the reason's own."""
        closing = self.codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        code = CLOSE_CODES[reason] if code is None else code
        self._close(closing, reason, code, drop=reason is CloseReason.SLOW_CONSUMER)

    def refuse(self, request_id: Id, error: Error) -> None:
        """The client does not get in."""
        code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
        self._close(self.codec.answer(request_id, Answer(error=error)), error.code, code)

    def leave(self) -> None:
        """The client has said that it goes."""
        self._session.end("client disconnect", politely=True)

    def _close(self, last: bytes, reason: str, code: int, *, drop: bool = False) -> None:
        session = self._session
        if session.closing or session.sealed:
            return
        if self.inbox is not None:
            self.inbox.stop()
        session.seal([self.codec.packet(last)], drop=drop)
        session.end(reason, code, politely=True)


class _Request:
    """A request as it came, before anybody has looked at what it asks."""

    __slots__ = ("action", "data", "id")

    def __init__(self) -> None:
        self.id: Id = None
        self.action = ""
        self.data: object = None

    def read(self, data: str | bytes) -> None:
        """Raises `invalid`; what was read before is kept, so that the answer can name the request."""
        raw = json_object(data)
        self.id = _id(raw.get("id"))
        unknown = raw.keys() - {"id", "action", "data"}
        if unknown:
            raise invalid("frame", "an object with no other fields than id, action and data")
        if not isinstance(raw.get("action"), str):
            raise invalid("action", "a text is wanted")
        self.action = raw["action"]
        self.data = payload_of([raw.get("data")])


def _id(value: object) -> Id:
    """Raises `invalid` for what could not be given back as it came."""
    if value is None:
        return None
    if isinstance(value, str):
        if len(value) <= MAX_ID and _is_unicode(value):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER:
        return value
    raise invalid("id", f"a text of up to {MAX_ID} characters is wanted, or a number up to {MAX_NUMBER}")


def _is_unicode(value: str) -> bool:
    """JSON can hold half a character, UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Client:
    """What the gateway knows of one session. It has a `connection` when it is authenticated."""

    __slots__ = ("connecting", "connection", "early", "early_bytes", "inbox", "leaving", "link", "timeout")

    def __init__(self, link: WebSocketLink) -> None:
        self.link = link
        self.inbox: Inbox
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.timeout: asyncio.TimerHandle | None = None
        self.early: list[str | bytes] = []
        """What came behind the token, and waits until it is known who sends it."""
        self.early_bytes = 0
        self.leaving = False
        """It has said `disconnect`: nothing more is taken."""


class WebSocketGateway:
    """A `transport.websocket.Listener`. `server` is for the application to mount."""

    def __init__(
        self,
        parts: Parts,
        dispatcher: Dispatcher,
        catch_up: CatchUp,
        half_open: HalfOpen,
        *,
        cors_allowed_origins: Collection[str] = (),
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **transport: Any,
    ) -> None:
        """`connect_timeout`: seconds within which to authenticate. `transport`: options of `WebSocketServer`."""
        self._parts = parts
        self._dispatcher = dispatcher
        self._catch_up = catch_up
        self._connect_timeout = connect_timeout
        self._codec = JsonCodec()
        self.server = WebSocketServer(self, half_open, cors_allowed_origins=cors_allowed_origins, **transport)

    async def stop(self) -> None:
        """Tell every connection that the server goes away, and close it."""
        for session in list(self.server.sessions):
            _client(session).link.close(CloseReason.SHUTDOWN)
        await self.server.end_all(CloseReason.SHUTDOWN)

    # -- called by the transport ---------------------------------------------------------------------------------

    def opened(self, session: WebSocketSession, query: Mapping[str, str]) -> None:
        client = session.data = _Client(WebSocketLink(session, self._codec))
        client.timeout = asyncio.get_running_loop().call_later(self._connect_timeout, self._too_late, client)
        if "token" in query:
            self._start(session, client, {name: query[name] for name in ("token", "device") if name in query})

    def message(self, session: WebSocketSession, data: str | bytes) -> None:
        client = _client(session)
        if client.leaving:
            return
        if client.connection is not None:
            self._ask(client, data)
        elif client.connecting is not None:
            client.early.append(data)
            client.early_bytes += len(data)
            if len(client.early) > MAX_EARLY or client.early_bytes > MAX_EARLY_BYTES:
                busy = ActionError(ErrorCode.RATE_LIMITED, "too many requests before the authentication")
                client.link.refuse(None, busy.error)
        else:
            self._introduce(session, client, data)

    def failing(self, session: WebSocketSession, code: int) -> None:
        _client(session).link.close(CloseReason.PROTOCOL_ERROR, code)

    def ended(self, session: WebSocketSession) -> None:
        client = _client(session)
        client.early.clear()
        if client.timeout is not None:
            client.timeout.cancel()
        if client.connection is not None:
            ended(self._parts, client.connection)

    # -- requests ------------------------------------------------------------------------------------------------

    def _ask(self, client: _Client, data: str | bytes) -> None:
        request = _Request()

        def reply(answer: Answer) -> None:
            client.link.answer(request.id, answer)

        try:
            request.read(data)
            if request.action == "disconnect":
                NoPayload.model_validate(request.data or {})
        except (ActionError, ValidationError) as error:
            room = client.inbox.answer(Answer(error=self._dispatcher.describe(error, request.action)), reply)
        else:
            if request.action == "disconnect":
                client.leaving = True
                room = client.inbox.answer(Answer(data={}), lambda answer: self._leave(client, request.id, answer))
            else:
                room = client.inbox.push(request.action, request.data, len(data), reply)
        if not room:
            client.link.close(CloseReason.PROTOCOL_ERROR)

    def _leave(self, client: _Client, request_id: Id, answer: Answer) -> None:
        client.link.answer(request_id, answer)
        client.link.leave()

    # -- connections ---------------------------------------------------------------------------------------------

    def _too_late(self, client: _Client) -> None:
        """It has said nothing in time; or the store that knows its token is too slow, which is not its fault."""
        error = unauthenticated("no token in time")
        if client.connecting is not None:
            error = ActionError(ErrorCode.UNAVAILABLE, "the store cannot be reached now")
        client.link.refuse(None, error.error)

    def _introduce(self, session: WebSocketSession, client: _Client, data: str | bytes) -> None:
        """The first request must be `authenticate`."""
        request = _Request()
        try:
            request.read(data)
            if request.action != "authenticate":
                raise unauthenticated("authenticate first")
        except ActionError as error:
            client.link.refuse(request.id, error.error)
        else:
            self._start(session, client, request.data, request)

    def _start(
        self, session: WebSocketSession, client: _Client, auth: object, request: _Request | None = None
    ) -> None:
        client.connecting = asyncio.create_task(self._connect(session, client, auth, request))

    async def _connect(
        self, session: WebSocketSession, client: _Client, data: object, request: _Request | None
    ) -> None:
        """`request`: the one to answer, if the token did not come in the address."""
        link, connection = client.link, None
        try:
            auth = read_auth(data)
            opened = connection = await open_connection(self._parts, link, auth)
            if session.closing or session.sealed:
                self._parts.hub.remove(connection)
                return
            client.inbox = link.inbox = Inbox(
                self._dispatcher, lambda: Context(self._parts, opened.principal, opened, session.address)
            )
            client.connection = connection
            if client.timeout is not None:
                client.timeout.cancel()
            session.authenticated(CursorHeartbeat(connection, self._parts))
            if request is not None:
                expires_at = timestamp(connection.principal.expires_at)
                link.answer(request.id, Answer(data={"token_expires_at": expires_at}))
            self._catch_up.start(connection, auth.cursors)
            early, client.early = client.early, []
            for waiting in early:
                self.message(session, waiting)
        except Exception as problem:
            if connection is not None:
                self._parts.hub.remove(connection)
            link.refuse(None if request is None else request.id, self._dispatcher.describe(problem, "connect"))
        finally:
            client.connecting = None


def _client(session: WebSocketSession) -> _Client:
    client: _Client = session.data
    return client
