"""The messenger's REST routes: everything can be asked there, in one envelope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from server.auth import now_ms
from server.context import Context, Parts
from server.contract.errors import ActionError, Error, ErrorCode, invalid, not_found
from server.contract.models import timestamp
from server.delivery.connection import Principal
from server.dispatch import Dispatcher
from server.gateways.dialects.messenger import Fields, envelope, message_of, to_send
from server.gateways.requests import NOTE, Note
from server.gateways.rest import agent_of, bearer, body_of, json_object, take_idempotency_key

MAX_CONVERSATIONS = 1000
MAX_MESSAGES, MAX_CHARACTERS = 10_000, 4 * 1024 * 1024
"""What is given at once to who asks for all; the rest is behind the `Link` to the next page."""
_ROOMS_AT_ONCE, _MEMBERS_AT_ONCE, _MESSAGES_AT_ONCE = 500, 500, 200
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ELSE = "messenger: no such route"


class _Request:
    """One request: what was given, and how the actions behind it are asked."""

    def __init__(self, request: Request, parts: Parts, dispatcher: Dispatcher, caller: Principal | None) -> None:
        self.auth = parts.auth
        self.caller = caller
        self.fields = Fields({})
        self.headers: dict[str, str] = {}
        """Of the answer."""
        self.http = request
        self._parts = parts
        self._dispatcher = dispatcher

    @property
    def note(self) -> Note:
        note: Note = self.http.scope[NOTE]
        return note

    async def ask(self, action: str, payload: Mapping[str, Any], *, strict: bool = True) -> Any:
        """Perform a canonical action; its data. Raises `ActionError`. Not `strict`: values are of a query string."""
        context = Context(
            self._parts,
            self.caller,
            address=self.http.client.host if self.http.client else "",
            agent=agent_of(self.http),
            until_logout=True,
            request_id=self.note.request_id,
        )
        self.note.action = self.note.action or action
        answer = await self._dispatcher.execute(action, dict(payload), context, strict=strict, gateway="rest")
        for callback in context.afterwards:
            callback()
        self.note.room = context.room
        return answer.result()

    def page(self, *wanted: str) -> dict[str, str]:
        """Which page is wanted, of the query string; empty: all."""
        self.fields.take(**{name: name for name in wanted})
        return {name: value for name in wanted if (value := self.http.query_params.get(name)) is not None}

    def link(self, **page: object) -> None:
        """Tell where the next page is (RFC 8288)."""
        self.headers["Link"] = f'<{quote(self.http.url.path)}?{urlencode(page)}>; rel="next"'


async def _create_user(request: _Request) -> object:
    return await _credentials(request, "register")


async def _login(request: _Request) -> object:
    return await _credentials(request, "login")


async def _credentials(request: _Request, action: str) -> object:
    found = await request.ask(action, request.fields.take(username="Username", password="Password"))
    request.note.user = found["user"]["username"]
    return found["token"]


async def _logout(request: _Request) -> object:
    await request.ask("logout", {})
    return None


async def _profile(request: _Request) -> object:
    request.fields.take(username="Username")
    profile = await request.ask("get_profile", {"username": request.http.path_params["Username"]})
    assert request.caller is not None
    return {
        "Username": profile["username"],
        "LoggedOn": await request.auth.is_signed_in(profile["username"], to=request.caller),
        "LastOnline": timestamp(now_ms()) if profile["online"] else profile["last_seen"] or profile["created_at"],
        "Created": profile["created_at"],
    }


async def _create_conversation(request: _Request) -> object:
    one, several = request.fields["Recipient"], request.fields["Recipients"]
    if (one is None) == (several is None):
        raise invalid("Recipient", "give it, or Recipients")
    request.fields.take(usernames="Recipients" if one is None else "Recipient")
    room = await request.ask("create_conversation", {"usernames": several if one is None else [one]})
    return room["room_id"]


async def _conversations(request: _Request) -> object:
    page = request.page("after", "limit")
    found = await request.ask("get_rooms", {"member": True, "limit": _ROOMS_AT_ONCE} | page, strict=False)
    rooms, then = found["rooms"], found["next"]
    while not page and then is not None and len(rooms) < MAX_CONVERSATIONS:
        found = await request.ask("get_rooms", {"member": True, "limit": _ROOMS_AT_ONCE, "after": then})
        rooms, then = rooms + found["rooms"], found["next"]
    if then is not None:
        request.link(**page | {"after": then})
    seen = [(room, await _members(request, room)) for room in rooms]
    return [
        {
            "ConversationId": room["room_id"],
            "Members": members,
            "Name": None if room["kind"] == "direct" else room["topic_name"] or room["title"],
            "LastMessage": room["last_message"] and message_of(room["last_message"]),
            "Unread": room["unread"],
        }
        for room, members in seen
        if members is not None
    ]


async def _members(request: _Request, room: Mapping[str, Any]) -> list[str] | None:
    """Who is in a room; None if the caller no longer is."""
    assert request.caller is not None
    if room["kind"] == "direct":
        return sorted((request.caller.username, room["title"]))
    try:
        found = await request.ask("get_members", {"room_id": room["room_id"], "limit": _MEMBERS_AT_ONCE})
    except ActionError as error:
        if error.code in (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN):
            return None
        raise
    return [member["username"] for member in found["members"]]


async def _create_message(request: _Request) -> object:
    payload = to_send(request.fields)
    take_idempotency_key(request.http, payload)
    return (await request.ask("message", payload))["id"]


async def _edit_message(request: _Request) -> object:
    return message_of(await request.ask("edit", request.fields.take(message_id="MessageId", content="Message")))


async def _delete_message(request: _Request) -> object:
    request.fields.take(message_id="MessageId")
    await request.ask("delete", {"message_id": request.http.path_params["MessageId"]})
    return None


async def _messages(request: _Request) -> object:
    request.fields.take(room_id="ConversationId")
    room = {"room_id": request.http.path_params["ConversationId"]}
    page = request.page("before", "limit")
    if page:
        found = await request.ask("history", room | page, strict=False)
        messages = found["messages"]
    else:
        found = await request.ask("history", room | {"limit": _MESSAGES_AT_ONCE})
        messages, size = found["messages"], 0
        while found["has_more"] and len(messages) < MAX_MESSAGES and size < MAX_CHARACTERS:
            older = {"before": messages[0]["seq"], "limit": _MESSAGES_AT_ONCE}
            found = await request.ask("history", room | older)
            messages = found["messages"] + messages
            size += sum(len(message["content"]) for message in found["messages"])
    if found["has_more"]:
        request.link(**page | {"before": messages[0]["seq"]})
    return [message_of(message) for message in messages]


_Handler = Callable[[_Request], Awaitable[object]]
_ROUTES: Final[tuple[tuple[str, _Handler, int, str], ...]] = (
    ("POST /user", _create_user, 201, "User created"),
    ("POST /user/login", _login, 200, "Logged in"),
    ("POST /user/logout", _logout, 200, "Logged out"),
    ("GET /user/{Username}", _profile, 200, "Profile"),
    ("POST /conversation", _create_conversation, 201, "Conversation created"),
    ("GET /conversation", _conversations, 200, "Conversations"),
    ("POST /message", _create_message, 201, "Message created"),
    ("PUT /message", _edit_message, 200, "Message edited"),
    ("DELETE /message{MessageId}", _delete_message, 200, "Message deleted"),  # as it is printed, without a slash
    ("DELETE /message/{MessageId}", _delete_message, 200, "Message deleted"),
    ("GET /message/{ConversationId}", _messages, 200, "Messages"),
)
_ANONYMOUS = (_create_user, _login)
_WITHOUT_BODY = (_logout, _profile, _conversations, _delete_message, _messages)
_EVERYTHING_ELSE = (
    "/user",
    "/user/{rest:path}",
    "/conversation",
    "/conversation/{rest:path}",
    "/message",
    "/message/{rest:path}",
    "/message{rest}",
)


def install(web: FastAPI, parts: Parts, dispatcher: Dispatcher) -> None:
    """Add the documented endpoints; what else is asked under their paths is refused in the same envelope."""
    for route, handler, status, said in _ROUTES:
        method, path = route.split(" ")
        endpoint = _endpoint(handler, status, said, parts, dispatcher)
        web.add_api_route(path, endpoint, methods=[method], include_in_schema=False)
    for path in _EVERYTHING_ELSE:
        web.add_api_route(path, _nothing, methods=_METHODS, name=_ELSE, include_in_schema=False)


def _endpoint(
    handler: _Handler, status: int, said: str, parts: Parts, dispatcher: Dispatcher
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        note: Note = request.scope[NOTE]
        asked = _Request(request, parts, dispatcher, None)
        try:
            if handler not in _ANONYMOUS:
                asked.caller = await bearer(request, parts.auth)
                note.user = asked.caller.username
            if handler not in _WITHOUT_BODY:
                body = await body_of(request)
                asked.fields = Fields(json_object(body) if body else {})
            data = await handler(asked)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as problem:
            error = dispatcher.describe(problem, note.action or "a request", note.request_id)
            note.outcome = error.code
            return _refusal(error, asked.fields.said(error))
        note.outcome = "ok"
        return _response(envelope(said, data), status, asked.headers)

    return endpoint


async def _nothing(request: Request) -> Response:
    """What is under the messenger's paths and is none of its endpoints."""
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.name != _ELSE]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    if not here:
        return _refusal(not_found("endpoint").error, "no such endpoint")
    allowed = {method for route in here for method in route.methods or ()}
    return _response(envelope("this endpoint has another method"), 405, {"Allow": ", ".join(sorted(allowed))})


def _refusal(error: Error, said: str) -> Response:
    headers = {}
    if error.code.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    return _response(envelope(said), error.code.http_status, headers)


def _response(envelope: object, status: int, headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(envelope), status, headers, "application/json")
