"""The handlers of the messenger's REST routes. Every answer has the same envelope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Dispatcher
from tidings.auth import names
from tidings.auth.principal import Principal
from tidings.auth.tokens import now_ms
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid, not_found
from tidings.contract.models import timestamp
from tidings.gateways.dialects.messenger import PATH, MessengerFields, envelope, message_of, to_send
from tidings.gateways.dialects.routes import DialectRoute
from tidings.gateways.problems import headers_of
from tidings.gateways.request_log import RECORD, RequestRecord
from tidings.gateways.rest import (
    MAX_ANONYMOUS_BODY,
    MAX_BODY,
    agent_of,
    bearer,
    body_of,
    json_object,
    take_idempotency_key,
)

MAX_CONVERSATIONS = 1000
MAX_OF_SEVERAL = 100
"""The most topics and groups among them: loading the members of each takes an action."""
MAX_MESSAGES, MAX_CHARACTERS = 10_000, 512 * 1024
"""Limits of an answer without a page query; the header `Link` leads to the rest."""
MEMBERS_READ_AS_ONE = 10
"""Loading the members of this many rooms counts as one read, so that users with many rooms can list them all."""
_ROOMS_PER_PAGE, _MEMBERS_PER_PAGE, _MESSAGES_PER_PAGE = 500, 500, 200
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
OTHER_ROUTES = "messenger: no such route"
"""The name of the routes that refuse every other request."""


class MessengerRequest:
    """One request: its fields, and the execution of its actions."""

    def __init__(self, request: Request, parts: Parts, dispatcher: Dispatcher, caller: Principal | None) -> None:
        self.auth = parts.auth
        self.caller = caller
        self.fields = MessengerFields({})
        self.headers: dict[str, str] = {}
        """Headers of the answer."""
        self.http = request
        self._parts = parts
        self._dispatcher = dispatcher

    @property
    def record(self) -> RequestRecord:
        record: RequestRecord = self.http.scope[RECORD]
        return record

    async def ask(self, action: str, payload: Mapping[str, Any], *, strict: bool = True, counted: bool = True) -> Any:
        """Execute a canonical action; returns its data. Raises `ActionError`.

        Args:
            strict: False for values of a query string.
            counted: False if another action of this request was counted already.
        """
        context = Context(
            self._parts,
            self.caller,
            address=self.http.client.host if self.http.client else "",
            agent=agent_of(self.http),
            until_logout=True,
            request_id=self.record.request_id,
        )
        self.record.action = self.record.action or action
        answer = await self._dispatcher.execute(
            action, dict(payload), context, strict=strict, gateway="rest", counted=counted
        )
        for callback in context.afterwards:
            callback()
        self.record.room = context.room
        return answer.result()

    def page(self, *parameters: str) -> dict[str, str]:
        """The page parameters of the query string; empty if the client requests everything."""
        self.fields.take(**{name: name for name in parameters})
        return {name: value for name in parameters if (value := self.http.query_params.get(name)) is not None}

    def link(self, **page: object) -> None:
        """Add a link to the next page to the answer (RFC 8288)."""
        self.headers["Link"] = f'<{quote(self.http.url.path)}?{urlencode(page)}>; rel="next"'


async def sign_in(request: MessengerRequest, action: str) -> object:
    credentials = await request.ask(action, request.fields.take(username="Username", password="Password"))
    request.record.user = credentials["user"]["username"]
    return credentials["token"]


async def logout(request: MessengerRequest) -> object:
    await request.ask("logout", {})
    return None


async def profile(request: MessengerRequest) -> object:
    request.fields.take(username="Username")
    profile = await request.ask("get_profile", {"username": _in_path(request)})
    assert request.caller is not None
    return {
        "Username": profile["username"],
        "LoggedOn": await request.auth.is_signed_in(profile["username"], viewer=request.caller),
        "LastOnline": timestamp(now_ms()) if profile["online"] else profile["last_seen"] or profile["created_at"],
        "Created": profile["created_at"],
    }


async def create_conversation(request: MessengerRequest) -> object:
    recipient, recipients = request.fields["Recipient"], request.fields["Recipients"]
    if (recipient is None) == (recipients is None):
        raise invalid("Recipient", "give either it or Recipients")
    request.fields.take(usernames="Recipients" if recipient is None else "Recipient")
    room = await request.ask("create_conversation", {"usernames": recipients if recipient is None else [recipient]})
    return room["room_id"]


async def conversations(request: MessengerRequest) -> object:
    page = request.page("after", "limit")
    answer = await request.ask("get_rooms", {"member": True, "limit": _ROOMS_PER_PAGE} | page, strict=False)
    rooms, after = answer["rooms"], answer["next"]
    while not page and after is not None and len(rooms) < MAX_CONVERSATIONS:
        answer = await request.ask("get_rooms", {"member": True, "limit": _ROOMS_PER_PAGE, "after": after})
        rooms, after = rooms + answer["rooms"], answer["next"]
    not_direct = [index for index, room in enumerate(rooms) if room["kind"] != "direct"]
    if len(not_direct) > MAX_OF_SEVERAL:
        rooms = rooms[: not_direct[MAX_OF_SEVERAL]]
        after = rooms[-1]["room_id"]
    if after is not None:
        request.link(**page | {"after": after})
    conversations = [
        (room, await _members(request, room, counted=not index % MEMBERS_READ_AS_ONE))
        for index, room in enumerate(rooms)
    ]
    return [
        {
            "ConversationId": room["room_id"],
            "Members": members,
            "Name": None if room["kind"] == "direct" else room["topic_name"] or room["title"],
            "LastMessage": room["last_message"] and message_of(room["last_message"]),
            "Unread": room["unread"],
        }
        for room, members in conversations
        if members is not None
    ]


async def _members(request: MessengerRequest, room: Mapping[str, Any], *, counted: bool) -> list[str] | None:
    """The usernames of a room's members; None if the caller is no longer one."""
    assert request.caller is not None
    if room["kind"] == "direct":
        return sorted((request.caller.username, room["title"]), key=names.username_key)
    try:
        answer = await request.ask(
            "get_members", {"room_id": room["room_id"], "limit": _MEMBERS_PER_PAGE}, counted=counted
        )
    except ActionError as error:
        if error.code in (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN):
            return None
        raise
    return [member["username"] for member in answer["members"]]


async def create_message(request: MessengerRequest) -> object:
    payload = to_send(request.fields)
    take_idempotency_key(request.http, payload)
    return (await request.ask("message", payload))["id"]


async def edit_message(request: MessengerRequest) -> object:
    return message_of(await request.ask("edit", request.fields.take(message_id="MessageId", content="Message")))


async def delete_message(request: MessengerRequest) -> object:
    request.fields.take(message_id="MessageId")
    await request.ask("delete", {"message_id": _in_path(request)})
    return None


def _in_path(request: MessengerRequest) -> str:
    (value,) = request.http.path_params.values()
    return str(value)


async def messages(request: MessengerRequest) -> object:
    request.fields.take(room_id="ConversationId")
    room = {"room_id": _in_path(request)}
    page = request.page("before", "limit")
    if page:
        answer = await request.ask("history", room | page, strict=False)
        messages = answer["messages"]
    else:
        answer = await request.ask("history", room | {"limit": _MESSAGES_PER_PAGE})
        messages, size = answer["messages"], 0
        while answer["has_more"] and len(messages) < MAX_MESSAGES and size < MAX_CHARACTERS:
            older = {"before": messages[0]["seq"], "limit": _MESSAGES_PER_PAGE}
            answer = await request.ask("history", room | older)
            messages = answer["messages"] + messages
            size += sum(len(message["content"]) for message in answer["messages"])
    if answer["has_more"]:
        request.link(**page | {"before": messages[0]["seq"]})
    return [message_of(message) for message in messages]


_OTHER_PATHS = (
    PATH,
    "/user",
    "/user/{rest:path}",
    "/conversation",
    "/conversation/{rest:path}",
    "/message",
    "/message/{rest:path}",
    "/message{rest}",
)


def install(web: FastAPI, routes: Iterable[DialectRoute], parts: Parts, dispatcher: Dispatcher) -> None:
    """Add the documented endpoints. Other requests under their paths are refused in the same envelope."""
    for route in routes:
        endpoint = _endpoint(route, parts, dispatcher)
        web.add_api_route(route.url, endpoint, methods=[route.method], include_in_schema=False)
    for path in _OTHER_PATHS:
        web.add_api_route(path, _refuse_unknown, methods=_METHODS, name=OTHER_ROUTES, include_in_schema=False)


def _endpoint(route: DialectRoute, parts: Parts, dispatcher: Dispatcher) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        record: RequestRecord = request.scope[RECORD]
        messenger_request = MessengerRequest(request, parts, dispatcher, None)
        try:
            if not route.anonymous:
                messenger_request.caller = await bearer(request, parts.auth)
                record.user = messenger_request.caller.username
            if route.body:
                body = await body_of(request, MAX_ANONYMOUS_BODY if route.anonymous else MAX_BODY)
                messenger_request.fields = MessengerFields(json_object(body) if body else {})
            data = await route.serve(messenger_request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as problem:
            error = dispatcher.describe(problem, record.action or "a request", record.request_id)
            record.outcome = error.code
            return _refusal(error, messenger_request.fields.describe(error))
        record.outcome = "ok"
        return _response(envelope(route.envelope, data), route.status, messenger_request.headers)

    return endpoint


async def _refuse_unknown(request: Request) -> Response:
    """Refuse a request under the messenger's paths that matches none of its endpoints."""
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.name != OTHER_ROUTES]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    if not matching:
        websocket = request.url.path == PATH
        return _refusal(not_found("endpoint").error, "open it as a WebSocket" if websocket else "no such endpoint")
    allowed = {method for route in matching for method in route.methods or ()}
    return _response(
        envelope("this endpoint does not support the method"), 405, {"Allow": ", ".join(sorted(allowed))}
    )


def _refusal(error: Error, text: str) -> Response:
    status = error.code.http_status
    return _response(envelope(text), status, headers_of(error, status))


def _response(envelope: object, status: int, headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(envelope), status, headers, "application/json")
