"""The plain WebSocket gateway: actions and events as JSON objects in text frames, for clients without Socket.IO.

`{"id": 7, "action": "message", "data": {…}}` is answered with `{"id": 7, "ok": true, "data": {…}}`; an event is
`{"event": "message", "data": {…}}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from pydantic import ValidationError

from tidings.actions.dispatch import Answer, payload_of
from tidings.auth.tokens import unauthenticated
from tidings.contract.actions import NoPayload
from tidings.contract.errors import ActionError, Error, invalid
from tidings.contract.models import timestamp
from tidings.fanout.connection import Connection
from tidings.gateways.client_session import Backend, read_credentials
from tidings.gateways.websocket_client import POLICY, UNAUTHENTICATED, WebSocketClient, WebSocketLink, json_object
from tidings.transport.websocket_frames import TEXT, frame, joined
from tidings.transport.websocket_server import WebSocketSession

MAX_ID = 128
"""Characters of a request's id."""
MAX_NUMBER = 2**53 - 1
"""The largest integer that every JSON parser reads exactly (RFC 8259, section 6)."""

_FIELDS: Final = frozenset(("id", "action", "data"))
RequestId = str | int | float | None


class JsonCodec:
    """A `fanout.connection.EventCodec`: one JSON object per text frame."""

    plain = True
    json = True

    def encode(self, event: str, payload: Any) -> bytes:
        return b'{"event":"%b","data":%b}' % (event.encode(), orjson.dumps(payload))

    def answer(self, request_id: RequestId, answer: Answer) -> bytes:
        fields = {} if request_id is None else {"id": request_id}
        return orjson.dumps(fields | answer.wire())

    def packet(self, message: bytes) -> str:
        return message.decode()

    def value(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, messages)


class _RequestFrame:
    """A request as received; its action and payload are not validated yet."""

    __slots__ = ("action", "data", "id")

    def __init__(self) -> None:
        self.id: RequestId = None
        self.action = ""
        self.data: object = None

    def read(self, data: str | bytes) -> None:
        """Parse a frame. Raises `invalid`; the id is kept if it was read, so that the answer can name the request."""
        raw = json_object(data)
        self.id = _id(raw.get("id"))
        if len(raw) > len(_FIELDS) or raw.keys() - _FIELDS:
            raise invalid("frame", "an object with no other fields than id, action and data")
        if not isinstance(raw.get("action"), str):
            raise invalid("action", "a text is wanted")
        self.action = raw["action"]
        self.data = payload_of([raw.get("data")])


def _id(value: object) -> RequestId:
    """Validate a request's id. Raises `invalid` for a value that the answer could not repeat exactly."""
    if value is None:
        return None
    if isinstance(value, str):
        if len(value) <= MAX_ID and _is_unicode(value):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER:
        return value
    raise invalid("id", f"a text of up to {MAX_ID} characters is wanted, or a number up to {MAX_NUMBER}")


def _is_unicode(value: str) -> bool:
    """Whether the text can be encoded: JSON can hold a lone surrogate, UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class PlainClient(WebSocketClient):
    """A client of `/ws`. It signs in by a token in the opening handshake, or by `authenticate` as first request."""

    def __init__(self, codec: JsonCodec, backend: Backend, session: WebSocketSession) -> None:
        link = WebSocketLink(session, codec, "websocket")
        super().__init__(backend, session, link)
        self._codec = codec
        self._dispatcher = backend.dispatcher
        self._authenticate: _RequestFrame | None = None
        """The request to answer, if the token is not in the address."""
        self._leaving = False
        """Whether the client has sent `disconnect`; further frames are ignored."""

    def opened(self, query: Mapping[str, str]) -> None:
        if "token" in query:
            self._sign_in_with({name: query[name] for name in ("token", "device") if name in query})

    def received(self, data: str | bytes) -> None:
        if self._leaving:
            return
        if self.connection is None:
            self._read_authenticate(data)
        else:
            self._ask(data)

    def accepted(self, connection: Connection) -> None:
        self._session.authenticated(self)
        if self._authenticate is not None:
            expires_at = timestamp(connection.principal.expires_at)
            self._reply(self._authenticate.id, Answer(data={"token_expires_at": expires_at}))

    def refused(self, error: Error) -> None:
        """Refuse the client. An error during the sign-in does not answer `authenticate`: it has no request id."""
        request_id = None if self.signing_in or self._authenticate is None else self._authenticate.id
        self._refuse(request_id, error)

    def _read_authenticate(self, data: str | bytes) -> None:
        """Read the first request, which must be `authenticate`."""
        request = _RequestFrame()
        try:
            request.read(data)
            if request.action != "authenticate":
                raise unauthenticated("authenticate first")
        except ActionError as error:
            self._refuse(request.id, error.error)
        else:
            self._authenticate = request
            self._sign_in_with(request.data)

    def _sign_in_with(self, data: object) -> None:
        self.sign_in(lambda: read_credentials(data, self.parts.auth))

    def _ask(self, data: str | bytes) -> None:
        request = _RequestFrame()

        def reply(answer: Answer) -> None:
            self._reply(request.id, answer)

        try:
            request.read(data)
            if request.action == "disconnect":
                NoPayload.model_validate(request.data or {})
        except (ActionError, ValidationError) as error:
            self.actions.answer(Answer(error=self._dispatcher.describe(error, request.action)), reply)
        else:
            if request.action == "disconnect":
                self._leaving = True
                self.actions.answer(Answer(data={}), lambda answer: self._leave(request.id, answer))
            else:
                self.actions.push(request.action, request.data, len(data), reply)

    def _reply(self, request_id: RequestId, answer: Answer) -> None:
        self._link.send(self._codec.answer(request_id, answer))

    def _refuse(self, request_id: RequestId, error: Error) -> None:
        code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
        self._link.end(error.code, code, self._codec.answer(request_id, Answer(error=error)))

    def _leave(self, request_id: RequestId, answer: Answer) -> None:
        self._reply(request_id, answer)
        self._session.end("client disconnect", politely=True)
