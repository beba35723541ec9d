"""The topics protocol: a WebSocket with the token as its path, and one JSON object with an `action` per frame.

`{"action": "message", "topic_name": "noticias", "content": "Hola"}` is answered with
`{"action": "message", "status": "ok", …}`; a message is pushed as
`{"action": "message", "topic_name", "sender", "content", "sent_at", "pending"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tidings.actions.dispatch import Answer, Dispatcher
from tidings.auth.sessions import Auth
from tidings.auth.tokens import now_ms, unauthenticated
from tidings.contract.errors import ActionError, CloseReason, Error, ErrorCode, invalid
from tidings.contract.events import Closing, RoomAdded
from tidings.contract.models import Message, RoomKind, View, timestamp
from tidings.fanout.connection import Connection
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.base import DialectClient
from tidings.gateways.dialects.mounting import Dialects, admit_by_token
from tidings.gateways.dialects.routes import TIME, TOKEN, DialectRoute, Tag, record
from tidings.gateways.problems import problem
from tidings.gateways.request_log import RECORD, RequestRecord
from tidings.gateways.websocket_client import POLICY, UNAUTHENTICATED, json_object
from tidings.transport.addresses import host_of, is_loopback
from tidings.transport.buffered_session import Scope
from tidings.transport.websocket_server import WebSocketSession

MAX_TOKEN = 4096
"""Characters."""
ROOMS_PER_PAGE = 500


class _DocumentedAction(NamedTuple):
    """An action of the documented protocol: the canonical action, and the fields of the frame."""

    action: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()


_ACTIONS: Final = {
    "suscribe": _DocumentedAction("subscribe", frozenset(("topic_name",))),
    "subscribe": _DocumentedAction("subscribe", frozenset(("topic_name",))),
    "invite": _DocumentedAction("invite", frozenset(("topic_name", "username"))),
    "create": _DocumentedAction("create", frozenset(("topic_name",)), frozenset(("is_private",))),
    "message": _DocumentedAction("message", frozenset(("topic_name", "content"))),
    "disconnect": _DocumentedAction("disconnect", frozenset()),
}
_IN_ROOMS: Final = ("message", "invite")
"""Actions that can also refer to a group."""
_CLOSING: Final = {
    CloseReason.SLOW_CONSUMER: "messages came faster than they were read; connect again",
    CloseReason.TOKEN_EXPIRED: "the token has expired",
    CloseReason.TOKEN_REVOKED: "the token was withdrawn",
    CloseReason.SHUTDOWN: "the server is shutting down; connect again",
    CloseReason.REPLACED: "too many connections of this user; the oldest one is closed",
    CloseReason.PROTOCOL_ERROR: "a frame was invalid or too large",
}
"""The text of the last frame, by the reason for closing."""


def token_in(path: str) -> str:
    """The token in a path of one segment; empty for any other path."""
    return "" if "/" in path[1:] else path[1:]


def _checked_token_in(scope: Scope) -> str:
    """`token_in`. Raises `unauthenticated` for a path that is too long for a token."""
    token = token_in(scope["path"])
    if len(token) > MAX_TOKEN:
        raise unauthenticated()
    return token


def mount(dialects: Dialects) -> None:
    auth, dispatcher = dialects.backend.parts.auth, dialects.backend.dispatcher
    dialects.add_websockets(token_in, TopicsClient, admit_by_token(auth, dispatcher, "connect", _checked_token_in))
    dialects.add_routes(partial(_install, auth=auth, dispatcher=dispatcher, dev_tokens=dialects.dev_tokens))


class TopicsClient(DialectClient):
    name = "topics"

    def __init__(self, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._leaving = False
        """Whether the client has sent `disconnect`; further frames are ignored."""
        self._opened_at = ""
        """Timestamp of the sign-in: messages up to it are pending."""
        self._names: dict[str, str] = {}
        """The names of conversations in this protocol, by `room_id`."""

    def opened(self, query: Mapping[str, str]) -> None:
        self.sign_in_by_token(token_in(self._session.path))

    async def prepare(self, connection: Connection) -> None:
        """Load the names of conversations, because their events do not include them."""
        self._opened_at = timestamp(now_ms())
        for kind in (RoomKind.DIRECT, RoomKind.GROUP):
            page: dict[str, Any] = {"kind": kind.value, "member": True, "limit": ROOMS_PER_PAGE}
            while True:
                answer = await self.query(connection, "get_rooms", page)
                for room in answer["rooms"]:
                    self._name_room(room["kind"], room["room_id"], room["title"])
                if answer["next"] is None:
                    break
                page["after"] = answer["next"]

    def signed_in(self) -> None:
        """The protocol has no greeting."""

    def refused(self, error: Error) -> None:
        code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
        self.disconnect(code, _failed("disconnect", error.code, error.message))

    # -- received --------------------------------------------------------------------------------------------------

    def received(self, data: str | bytes) -> None:
        if self._leaving:
            return
        action: str | None = None
        try:
            frame = json_object(data)
            action = _action(frame)
            documented = _ACTIONS.get(action)
            if documented is None:
                raise ActionError(ErrorCode.UNKNOWN_ACTION, f"no such action; the actions are {', '.join(_ACTIONS)}")
            _check(frame, documented)
        except ActionError as error:
            self.actions.refuse(error, lambda answer: self._send_answer(action, answer, {}))
            return
        if documented.action == "disconnect":
            self._leaving = True
            goodbye = {"action": "disconnect", "status": "ok"}
            # Delivered messages must not be pending at the next connect.
            self.after_answers(lambda: self.when_delivered(lambda: self.disconnect_when_written(goodbye)))
            return
        request = dict(frame)
        if action in _IN_ROOMS and self._names.get(_text(frame["topic_name"])) == frame["topic_name"]:
            frame["room_id"] = frame.pop("topic_name")
        self.actions.push(
            documented.action, frame, len(data), lambda answer: self._send_answer(action, answer, request)
        )

    def _send_answer(self, action: str | None, answer: Answer, request: Mapping[str, Any]) -> None:
        if answer.error is not None:
            self.send(_failed(action, answer.error.code, answer.error.message))
            return
        data = answer.data
        frame = {
            "action": action,
            "status": "ok",
            "topic_name": self._topic(data["room_id"], data["topic_name"], request["topic_name"]),
        }
        if action == "message":
            frame |= {"id": data["id"], "seq": data["seq"], "sent_at": data["created_at"]}
        elif action == "invite":
            frame["username"] = request["username"]
        else:
            frame["is_private"] = data["is_private"]
        self.send(frame)

    # -- sent ------------------------------------------------------------------------------------------------------

    def translate(self, event: str, view: View) -> object | None:
        match view:
            case Message(deleted=False):
                return {
                    "action": "message",
                    "topic_name": self._topic(view.room_id, view.topic_name, view.room_id),
                    "sender": view.sender,
                    "content": view.content,
                    "sent_at": view.created_at,
                    "pending": view.created_at <= self._opened_at,
                }
            case RoomAdded(room=room):
                self._name_room(room.kind, room.room_id, room.title)
            case Closing():
                return _failed("disconnect", view.reason, _CLOSING[view.reason])
        return None

    def _name_room(self, kind: str, room_id: str, title: str | None) -> None:
        """Name a direct conversation after the other user. A group is named by its id: a topic may have its title."""
        if kind == RoomKind.DIRECT:
            self._names[room_id] = title or ""
        elif kind == RoomKind.GROUP:
            self._names[room_id] = room_id

    def _topic(self, room_id: str, topic_name: str | None, fallback: str) -> str:
        """The `topic_name` of a room in this protocol; a client's frame with that name refers to the same room."""
        return self._names.get(room_id, fallback) if topic_name is None else topic_name


def _action(frame: dict[str, Any]) -> str:
    """Remove the action's name from a frame and return it, shortened and valid in UTF-8. Raises `invalid`."""
    action = frame.pop("action", None)
    if not isinstance(action, str):
        raise invalid("action", "must be a text")
    return action[:64].encode("utf-8", "replace").decode()


def _check(frame: Mapping[str, Any], documented: _DocumentedAction) -> None:
    """Raises `invalid` for missing or unknown fields."""
    for name in sorted(documented.required):
        if frame.get(name) is None:
            raise invalid(name, "required")
    fields = documented.required | documented.optional
    if len(frame) > len(fields) or frame.keys() - fields:
        listed = ", ".join(("action", *sorted(documented.required), *sorted(documented.optional)))
        raise invalid("frame", f"may only have the fields {listed}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _failed(action: str | None, code: str, message: str) -> dict[str, Any]:
    return {"action": action, "status": "error", "code": code, "message": message}


# -- tokens for development ------------------------------------------------------------------------------------------


async def _give_token(request: Request, auth: Auth) -> dict[str, str]:
    _check_is_local(request)
    usernames = request.query_params.getlist("username")
    if len(usernames) != 1:
        raise invalid("username", "required, exactly once")
    token, expires_at = await auth.token_for(usernames[0])
    return {"token": token, "expires_at": timestamp(expires_at)}


ROUTES: Final = (
    DialectRoute(
        http="GET /token",
        name="topics_token",
        tag=Tag("dialect: topics", "Topics over a WebSocket with the token in its path"),
        summary="Get a token of a user, created if necessary: with `TIDINGS_DEV_TOKENS`, on the server's own machine",
        serve=_give_token,
        answer=record(token=TOKEN, expires_at=TIME),
        query={"username": "register.username"},
        errors=(ErrorCode.INVALID, ErrorCode.FORBIDDEN, ErrorCode.CONFLICT),
        anonymous=True,
        token="token",
    ),
)
"""It is served with `TIDINGS_DEV_TOKENS`."""


def _install(web: FastAPI, auth: Auth, dispatcher: Dispatcher, *, dev_tokens: bool) -> None:
    """Add `GET /token?username=`: with `dev_tokens` it gives a token to any program on this machine.

    It is `not_found` without `dev_tokens`, and `forbidden` for a request that may come from elsewhere: through a
    proxy, or from a page of another origin.
    """
    (route,) = ROUTES

    async def token(request: Request) -> Response:
        if not dev_tokens:
            raise HTTPException(404)
        record: RequestRecord = request.scope[RECORD]
        try:
            data = await route.serve(request, auth)
        except Exception as error:
            refusal = dispatcher.describe(error, "token", record.request_id)
            record.outcome = refusal.code
            return problem(refusal)
        record.outcome = "ok"
        return Response(orjson.dumps(data), headers={"Cache-Control": "no-store"}, media_type="application/json")

    web.add_api_route(route.url, token, methods=[route.method], name="token", include_in_schema=False)


_PROXY_HEADERS: Final = frozenset(
    ("forwarded", "via", "x-real-ip", "x-client-ip", "x-original-host", "true-client-ip", "cf-connecting-ip")
)
"""Headers that proxies add, besides those that begin with `x-forwarded`."""


def _check_is_local(request: Request) -> None:
    """Raises `forbidden` unless the request certainly comes from a program or an address bar on this machine."""
    headers = request.headers
    if any(name in _PROXY_HEADERS or name.startswith("x-forwarded") for name in headers):
        raise _not_local("this request came through a proxy")
    if request.client is None or not is_loopback(request.client.host):
        raise _not_local("this request came from another machine")
    # The owner of another host name could let it resolve to this address, and read the answer from a page.
    host = headers.get("host", "")
    if not is_loopback(host_of(host)):
        raise _not_local("use localhost or 127.0.0.1 as the host")
    # Any page may send a GET without reading the answer, and this one creates users.
    own = (f"http://{host}", f"https://{host}")
    if any(origin not in own for origin in headers.getlist("origin")):
        raise _not_local("this request comes from a page of another origin")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise _not_local("this request comes from a page of another origin")


def _not_local(reason: str) -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, f"tokens are available on the server's own machine only: {reason}")
