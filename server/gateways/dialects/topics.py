"""The topics system: a WebSocket whose path is the token, one JSON object with an `action` in each frame.

`{"action": "message", "topic_name": "noticias", "content": "Hola"}` is answered with
`{"action": "message", "status": "ok", …}`; a message is pushed as
`{"action": "message", "topic_name", "sender", "content", "sent_at", "pending"}`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from server.auth import Auth, unauthenticated
from server.contract.errors import ActionError, CloseReason, Error, ErrorCode, invalid
from server.contract.models import RoomKind, timestamp
from server.dispatch import Answer, Dispatcher
from server.gateways.dialects.speaker import Ask, Speaker, SpeakerGateway
from server.gateways.live import json_object
from server.gateways.requests import NOTE, Note
from server.gateways.rest import problem
from server.gateways.websocket import POLICY, UNAUTHENTICATED
from server.transport.outlet import Scope
from server.transport.websocket import WebSocketSession

MAX_TOKEN = 4096
"""Characters."""
ROOMS_AT_ONCE = 500


class _Known(NamedTuple):
    """An action of the document: the canonical one, and the frame's fields."""

    action: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()


_ACTIONS: Final = {
    "suscribe": _Known("subscribe", frozenset(("topic_name",))),
    "subscribe": _Known("subscribe", frozenset(("topic_name",))),
    "invite": _Known("invite", frozenset(("topic_name", "username"))),
    "create": _Known("create", frozenset(("topic_name",)), frozenset(("is_private",))),
    "message": _Known("message", frozenset(("topic_name", "content"))),
    "disconnect": _Known("disconnect", frozenset()),
}
_IN_ROOMS: Final = ("message", "invite")
"""What can also be asked of a group."""
_CLOSING: Final = {
    CloseReason.SLOW_CONSUMER: "messages came faster than they were read; connect again",
    CloseReason.TOKEN_EXPIRED: "the token has expired",
    CloseReason.TOKEN_REVOKED: "the token was withdrawn",
    CloseReason.SHUTDOWN: "the server is shutting down; connect again",
    CloseReason.REPLACED: "too many connections of this user; the oldest one is closed",
    CloseReason.PROTOCOL_ERROR: "what came is no WebSocket, or far too much at once",
}
"""The last word, for people."""


def token_in(path: str) -> str:
    """The token that a path is: its one segment. Empty if it has none or several."""
    return "" if "/" in path[1:] else path[1:]


def admission(auth: Auth, dispatcher: Dispatcher) -> Callable[[Scope], Awaitable[tuple[int, str] | None]]:
    """Refuses a WebSocket whose path is no good token, in the handshake."""

    async def admit(scope: Scope) -> tuple[int, str] | None:
        try:
            token = token_in(scope["path"])
            if len(token) > MAX_TOKEN:
                raise unauthenticated()
            await auth.authenticate(token)
        except Exception as problem:
            error = dispatcher.describe(problem, "connect")
            return error.code.http_status, error.message
        return None

    return admit


class Topics(Speaker):
    name = "topics"

    def __init__(self, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        super().__init__(gateway, session)
        self._leaving = False
        """It has said `disconnect`: nothing more is taken."""
        self._names: dict[str, str] = {}
        """What conversations are called here, by `room_id`."""

    def opened(self, query: Mapping[str, str]) -> None:
        self.sign_in(token_in(self.path))

    async def prepare(self, ask: Ask) -> None:
        """Events of conversations have no name in them."""
        for kind in (RoomKind.DIRECT, RoomKind.GROUP):
            page: dict[str, Any] = {"kind": kind.value, "member": True, "limit": ROOMS_AT_ONCE}
            while True:
                found = await ask("get_rooms", page)
                for room in found["rooms"]:
                    self._learn(room)
                if found["next"] is None:
                    break
                page["after"] = found["next"]

    def arrived(self) -> None:
        """The document has no greeting."""

    def refused(self, error: Error) -> None:
        code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
        self.leave(code, _failed("disconnect", error.code, error.message))

    # -- in --------------------------------------------------------------------------------------------------------

    def received(self, data: str | bytes) -> None:
        if self._leaving:
            return
        action: str | None = None
        try:
            frame = json_object(data)
            action = _action(frame)
            known = _ACTIONS.get(action)
            if known is None:
                raise ActionError(ErrorCode.UNKNOWN_ACTION, f"no such action; there are {', '.join(_ACTIONS)}")
            _check(frame, known)
        except ActionError as error:
            self.answer(error, lambda answer: self._answered(action, answer, {}))
            return
        if known.action == "disconnect":
            self._leaving = True
            goodbye = {"action": "disconnect", "status": "ok"}
            # What was shown before it goes is not pending when it comes back.
            self.in_turn(lambda: self.confirmed(lambda: self.leave(last=goodbye)))
            return
        asked = dict(frame)
        if action in _IN_ROOMS and self._names.get(_text(frame["topic_name"])) == frame["topic_name"]:
            frame["room_id"] = frame.pop("topic_name")
        self.ask(known.action, frame, len(data), lambda answer: self._answered(action, answer, asked))

    def _answered(self, action: str | None, answer: Answer, asked: Mapping[str, Any]) -> None:
        if answer.error is not None:
            self.say(_failed(action, answer.error.code, answer.error.message))
            return
        data = answer.data
        said = {"action": action, "status": "ok", "topic_name": self._topic(data, asked["topic_name"])}
        if action == "message":
            said |= {"id": data["id"], "seq": data["seq"], "sent_at": data["created_at"]}
        elif action == "invite":
            said["username"] = asked["username"]
        else:
            said["is_private"] = data["is_private"]
        self.say(said)

    # -- out -------------------------------------------------------------------------------------------------------

    def told(self, event: str, payload: Any) -> object | None:
        if event == "message" and not payload["deleted"]:
            return {
                "action": "message",
                "topic_name": self._topic(payload, payload["room_id"]),
                "sender": payload["sender"],
                "content": payload["content"],
                "sent_at": payload["created_at"],
                "pending": payload["created_at"] <= self.opened_at,
            }
        if event == "room_added":
            self._learn(payload["room"])
        elif event == "closing":
            return _failed("disconnect", payload["reason"], _CLOSING[payload["reason"]])
        return None

    def _learn(self, room: Mapping[str, Any]) -> None:
        """A direct conversation is called as the other user; a group by its id, for a topic may have its title."""
        if room["kind"] == RoomKind.DIRECT:
            self._names[room["room_id"]] = room["title"]
        elif room["kind"] == RoomKind.GROUP:
            self._names[room["room_id"]] = room["room_id"]

    def _topic(self, about: Mapping[str, Any], otherwise: str) -> str:
        """What a message or a room is called here: its `topic_name` in a frame would mean the same room."""
        name: str | None = about["topic_name"]
        return self._names.get(about["room_id"], otherwise) if name is None else name


def _action(frame: dict[str, Any]) -> str:
    """Take the action's name out of a frame, as it can be told. Raises `invalid`."""
    action = frame.pop("action", None)
    if not isinstance(action, str):
        raise invalid("action", "a text is wanted")
    return action[:64].encode("utf-8", "replace").decode()


def _check(frame: Mapping[str, Any], known: _Known) -> None:
    """Raises `invalid` for fields that are missing, and for those that the document does not have."""
    for name in sorted(known.required):
        if frame.get(name) is None:
            raise invalid(name, "wanted")
    if frame.keys() - known.required - known.optional:
        fields = ", ".join(("action", *sorted(known.required), *sorted(known.optional)))
        raise invalid("frame", f"an object with no other fields than {fields}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _failed(action: str | None, code: str, message: str) -> dict[str, Any]:
    return {"action": action, "status": "error", "code": code, "message": message}


# -- tokens for trying things out -----------------------------------------------------------------------------------


def install(web: FastAPI, auth: Auth, dispatcher: Dispatcher, *, dev_tokens: bool) -> None:
    """Add `GET /token?username=`, which gives a token to anyone if `dev_tokens`, and is not found otherwise."""

    async def token(request: Request) -> Response:
        # A page elsewhere could have its own name lead here, and read the answer as its own.
        if not dev_tokens or not _at_home(request.headers.get("host", "")):
            raise HTTPException(404)
        note: Note = request.scope[NOTE]
        try:
            usernames = request.query_params.getlist("username")
            if len(usernames) != 1:
                raise invalid("username", "wanted, once")
            made, expires_at = await auth.token_for(usernames[0])
        except Exception as error:
            refused = dispatcher.describe(error, "token", note.request_id)
            note.outcome = refused.code
            return problem(refused)
        note.outcome = "ok"
        body = orjson.dumps({"token": made, "expires_at": timestamp(expires_at)})
        return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")

    web.add_api_route("/token", token, methods=["GET"], name="token", include_in_schema=False)


def _at_home(host: str) -> bool:
    """Whether this is how this machine calls itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
