"""The channels: the table of their HTTP routes, which are served and described from it, and their WebSockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Dispatcher
from tidings.auth.principal import Principal
from tidings.auth.tokens import now_ms
from tidings.contract.errors import invalid
from tidings.gateways import rest
from tidings.gateways.dialects.channels import (
    ECHO,
    PUBLIC_CHANNEL,
    EchoChannelClient,
    PublicChannel,
    PublicChannelClient,
)
from tidings.gateways.dialects.mounting import Dialects, admit_by_token
from tidings.gateways.dialects.routes import (
    FORM,
    NAME,
    PASSWORD_FLOW,
    SECONDS,
    TEXT,
    TIME,
    TOKEN,
    DialectRoute,
    Tag,
    list_of,
    record,
)
from tidings.gateways.problems import problem
from tidings.gateways.request_log import RECORD, RequestRecord
from tidings.transport.buffered_session import Scope
from tidings.transport.input_limits import parameters

HISTORY: Final = 5_000
HISTORY_BYTES: Final = 512 * 1024
"""Approximate limits of one answer of `GET /history`, in entries and bytes."""
PAGE: Final = 200
_MAX_FIELDS: Final = 20


def mount(dialects: Dialects) -> None:
    parts, dispatcher = dialects.backend.parts, dialects.backend.dispatcher
    channel = PublicChannel(parts, dispatcher, dialects.public_since)
    for purpose, client in ((ECHO, EchoChannelClient), (PUBLIC_CHANNEL, partial(PublicChannelClient, channel))):
        admit = admit_by_token(parts.auth, dispatcher, purpose, _token_in, purpose)
        dialects.add_websocket(f"/{purpose}", client, admit)
    dialects.add_routes(_Handlers(parts, dispatcher, channel, dialects.public_url).install)
    if dialects.public_channel:
        dialects.add_preparation(channel.prepare)


def _token_in(scope: Scope) -> str:
    return parameters(scope.get("query_string", b"")).get("token", "")


class _Handlers:
    def __init__(self, parts: Parts, dispatcher: Dispatcher, channel: PublicChannel, public_url: str) -> None:
        self._parts = parts
        self._dispatcher = dispatcher
        self._channel = channel
        self._public_url = public_url
        """The origin of every link; empty: the host of the request."""

    def install(self, web: FastAPI) -> None:
        for route in ROUTES:
            web.add_api_route(route.url, self.endpoint(route), methods=[route.method], include_in_schema=False)

    def endpoint(self, route: DialectRoute) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            record: RequestRecord = request.scope[RECORD]
            record.action = request.url.path.strip("/")
            try:
                data = await route.serve(self, request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as failure:
                error = self._dispatcher.describe(failure, record.action, record.request_id)
                record.outcome = error.code
                return problem(error)
            record.outcome = "ok"
            headers = {"Cache-Control": "no-store"}
            return Response(orjson.dumps(data), route.status, headers, media_type="application/json")

        return endpoint

    async def sign_in(self, request: Request, action: str) -> dict[str, Any]:
        credentials = await self._execute(action, await _credentials_in(request), self._context(request))
        request.scope[RECORD].user = username = credentials["user"]["username"]
        return {
            "access_token": credentials["token"],
            "token_type": "bearer",
            "expires_at": credentials["expires_at"],
            "username": username,
        }

    async def echo_link(self, request: Request) -> dict[str, Any]:
        return self._link(request, ECHO, await self._signed_in_context(request))

    async def public_link(self, request: Request) -> dict[str, Any]:
        context = await self._signed_in_context(request)
        await self._channel.enter(context)
        return self._link(request, PUBLIC_CHANNEL, context)

    def _link(self, request: Request, purpose: str, context: Context) -> dict[str, Any]:
        ticket, expires_at = self._parts.auth.ticket(context.principal, purpose)
        base = self._public_url or f"{request.url.scheme}://{request.url.netloc}"
        link = f"{base.replace('http', 'ws', 1)}/{purpose}?token={ticket}"
        return {"link": link, "expires_in": max(0, (expires_at - now_ms()) // 1000)}

    async def history(self, request: Request) -> dict[str, Any]:
        """The newest entries of the echo log, in order; with `?before=`, the `next` of an answer, older ones."""
        context = await self._signed_in_context(request)
        before = request.query_params.get("before")
        pages: list[list[dict[str, Any]]] = []
        number = size = 0
        while True:
            page = await self._execute("echo_history", {"before": before, "limit": PAGE}, context)
            entries, before = page["entries"], page["next"]
            pages.append(entries)
            number += len(entries)
            size += sum(len(entry["content"]) for entry in entries)
            if before is None or number >= HISTORY or size >= HISTORY_BYTES:
                break
        history = [
            {"direction": entry["direction"], "message": entry["content"], "created_at": entry["created_at"]}
            for entries in reversed(pages)
            for entry in entries
        ]
        return {"history": history, "next": before}

    async def _signed_in_context(self, request: Request) -> Context:
        """The context of a signed-in caller. Raises `unauthenticated`, `token_expired` or `token_revoked`."""
        principal = await rest.bearer(request, self._parts.auth)
        request.scope[RECORD].user = principal.username
        return self._context(request, principal)

    def _context(self, request: Request, caller: Principal | None = None) -> Context:
        address = request.client.host if request.client else ""
        record: RequestRecord = request.scope[RECORD]
        return Context(
            self._parts, caller, address=address, agent=rest.agent_of(request), request_id=record.request_id
        )

    async def _execute(self, action: str, payload: object, context: Context) -> Any:
        return (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()


async def _credentials_in(request: Request) -> dict[str, Any]:
    """Username and password from JSON, or from a form of OAuth2 (RFC 6749, section 4.3.2). Raises `invalid`."""
    body = await rest.body_of(request, rest.MAX_ANONYMOUS_BODY)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
        fields = _form(body)
        if fields.get("grant_type", "password") != "password":
            raise invalid("grant_type", "must be `password`")
    else:
        fields = rest.json_object(body)
    if "login" in fields:
        if "username" in fields:
            raise invalid("login", "an alias of `username`: give one of them")
        fields["username"] = fields["login"]
    return {name: fields[name] for name in ("username", "password") if name in fields}


def _form(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise invalid("body", "not a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise invalid("body", "a field is given twice")
    return fields


_TAG: Final = Tag("dialect: channels", "The two channels: users, links to the WebSockets, the echo log")
_SIGNED_IN: Final = record(access_token=TOKEN, token_type={"const": "bearer"}, expires_at=TIME, username=NAME)
_LINK: Final = record(
    link={"type": "string", "examples": ["ws://127.0.0.1:8000/echo_ws?token=…"]}, expires_in=SECONDS
)
_ECHOED: Final = record(
    history=list_of(record(direction={"enum": ["sent", "received"]}, message=TEXT, created_at=TIME)),
    next={
        "type": ["string", "null"],
        "description": "Pass it as `before` to get older entries; null: there are none",
    },
)
_route: Final = partial(DialectRoute, tag=_TAG)


def _credentials(http: str, name: str, action: str, status: int, summary: str) -> DialectRoute:
    return _route(
        http=http,
        name=name,
        summary=summary,
        serve=partial(_Handlers.sign_in, action=action),
        status=status,
        answer=_SIGNED_IN,
        body={name: f"{action}.{name.replace('login', 'username')}" for name in ("username", "login", "password")},
        one_of=("username", "login"),
        actions=(action,),
        anonymous=True,
        form=True,
        token="access_token",
    )


ROUTES: Final = (
    _credentials("POST /register", "channels_register", "register", 201, "Create a user, and sign in"),
    _credentials(f"POST {PASSWORD_FLOW}", "channels_login", "login", 200, "Sign in"),
    _route(
        http=f"GET /{ECHO}",
        name="channels_echo_link",
        summary="Get a link to the echo channel, valid for some minutes",
        serve=_Handlers.echo_link,
        answer=_LINK,
    ),
    _route(
        http=f"GET /{PUBLIC_CHANNEL}",
        name="channels_public_link",
        summary="Enter the public channel: get a link to it, valid for some minutes",
        serve=_Handlers.public_link,
        answer=_LINK,
        actions=("subscribe", "create"),
    ),
    _route(
        http="GET /history",
        name="channels_history",
        summary="Get the newest entries of the caller's echo log, in order",
        serve=_Handlers.history,
        answer=_ECHOED,
        query={"before": "echo_history.before"},
        actions=("echo_history",),
    ),
)
