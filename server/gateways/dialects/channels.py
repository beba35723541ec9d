"""The two channels: an echo channel and a public one, each behind a link that is given to who is signed in.

The public channel is the topic `PUBLIC`. Its owner is an account of the server's, so that nobody owns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, parse_qsl

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from server.auth import Auth, now_ms
from server.context import Context, Parts
from server.contract.errors import ActionError, CloseReason, Error, ErrorCode, invalid, not_found
from server.delivery.connection import Principal
from server.dispatch import Answer, Dispatcher
from server.gateways import rest
from server.gateways.dialects.speaker import SpeakerGateway
from server.gateways.dialects.turns import TurnTaker
from server.gateways.openapi import PASSWORD_FLOW
from server.gateways.requests import NOTE, Note
from server.gateways.websocket import POLICY, UNAUTHENTICATED
from server.transport.outlet import Scope
from server.transport.websocket import WebSocketSession

ECHO, PUBLIC_CHANNEL = "echo_ws", "pub_ws"
"""Their paths, what their tickets are for, and the devices of their connections."""
PUBLIC: Final = "public"
OWNER: Final = "channels"
HISTORY: Final = 5_000
HISTORY_BYTES: Final = 4 * 1024 * 1024
"""`GET /history` answers with so much at once."""
PAGE: Final = 200
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 20
Admit = Callable[[Scope], Awaitable[tuple[int, str] | None]]


class PublicChannel:
    def __init__(self, parts: Parts, dispatcher: Dispatcher) -> None:
        self.since = now_ms()
        """When the server was started: a newcomer gets what was said from then on."""
        self._parts = parts
        self._dispatcher = dispatcher
        self._making = asyncio.Lock()
        self._owner: Principal | None = None

    async def enter(self, context: Context) -> None:
        """Make the caller a member, and the topic if it is not there yet.

        Raises `forbidden` for who is banned, and `conflict` if a user or a private topic has its name.
        """
        if await self._subscribe(context):
            return
        async with self._making:
            taken = await self._make()
        if not await self._subscribe(context):
            raise taken or not_found()

    async def _subscribe(self, context: Context) -> bool:
        """False: there is no such public topic."""
        try:
            await self._do("subscribe", {"topic_name": PUBLIC}, context)
        except ActionError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return False
            if error.code is not ErrorCode.CONFLICT:  # a member already
                raise
        return True

    async def _make(self) -> ActionError | None:
        """Returns the error if the name is taken; by another node for the same purpose, perhaps."""
        if self._owner is None:
            self._owner = await self._parts.auth.service(OWNER)
        try:
            await self._do("create", {"topic_name": PUBLIC}, Context(self._parts, self._owner))
        except ActionError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            return error
        return None

    async def _do(self, action: str, payload: object, context: Context) -> Any:
        return (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()


# -- WebSockets ------------------------------------------------------------------------------------------------------


class _Channel(TurnTaker):
    """A WebSocket of a channel: the token or ticket is in its address, and good, or there is no WebSocket."""

    def opened(self, query: Mapping[str, str]) -> None:
        self.sign_in(query.get("token", ""))

    def hears(self) -> set[str]:
        return set()

    def refused(self, error: Error) -> None:
        self.leave(UNAUTHENTICATED if error.code.http_status == 401 else POLICY, _refusal(error))

    def failed(self, error: Error) -> None:
        self.in_turn(lambda: self.say(_refusal(error)))

    def told(self, event: str, payload: Any) -> object | None:
        if event != "closing":
            return None
        reason = CloseReason(payload["reason"])
        return {"error": {"code": reason, "message": "the channel is closed", "reconnect": reason.reconnect}}


class EchoChannel(_Channel):
    """Says what it is told. Both directions are in the database before it does."""

    name: ClassVar[str] = ECHO
    purpose: ClassVar[str] = ECHO

    def arrived(self) -> None:
        self.begin()

    async def deal(self, data: str | bytes) -> None:
        self.ask("echo", {"content": _text(data)}, len(data), self._answered)

    def _answered(self, answer: Answer) -> None:
        if answer.error is not None:
            self.say(_refusal(answer.error))
        else:
            self.say_text(answer.data["content"])


class PublicSpeaker(_Channel):
    """Text in, and out who said what. What was said since the server was started comes first."""

    name: ClassVar[str] = PUBLIC_CHANNEL
    purpose: ClassVar[str] = PUBLIC_CHANNEL

    def __init__(self, channel: PublicChannel, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        super().__init__(gateway, session)
        self._channel = channel
        self._room_id = ""

    def arrived(self) -> None:
        self.begin(self._come_in)

    async def _come_in(self) -> None:
        try:
            await self._channel.enter(self.context())
            room = (await self.do("connect_to_room", {"topic_name": PUBLIC}))["room"]
            self._room_id = room["room_id"]
            if not await self.enter(self._room_id, since=self._channel.since):
                raise _REMOVED
        except ActionError as error:
            self.leave(POLICY, _refusal(error.error))

    async def deal(self, data: str | bytes) -> None:
        self.ask("message", {"room_id": self._room_id, "content": _text(data)}, len(data), self._answered)

    def _answered(self, answer: Answer) -> None:
        if answer.error is not None:  # what succeeded comes as everybody's messages do
            self.say(_refusal(answer.error))

    def told(self, event: str, payload: Any) -> object | None:
        if event == "message" and payload["room_id"] == self._room_id and not payload["deleted"]:
            said = {"username": payload["sender"], "message": payload["content"], "created_at": payload["created_at"]}
            return {"id": payload["id"], **said}
        if event == "room_removed" and payload["room_id"] == self._room_id:
            asyncio.get_running_loop().call_soon(self.leave, POLICY, _refusal(_REMOVED.error))
        return super().told(event, payload)


_REMOVED: Final = ActionError(ErrorCode.FORBIDDEN, "you are not in the public channel any more")


def _text(data: str | bytes) -> str:
    if isinstance(data, bytes):
        raise invalid("frame", "a text frame is wanted, not a binary one")
    return data


def _refusal(error: Error) -> dict[str, Any]:
    return {"error": error.model_dump(mode="json")}


def admission(auth: Auth, dispatcher: Dispatcher, purpose: str) -> Admit:
    """Who has no good token or ticket gets no WebSocket."""

    async def admit(scope: Scope) -> tuple[int, str] | None:
        query: bytes = scope.get("query_string", b"")
        token = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        try:
            await auth.authenticate(token, purpose)
        except Exception as problem:
            error = dispatcher.describe(problem, purpose)
            return error.code.http_status, error.message
        return None

    return admit


# -- HTTP ------------------------------------------------------------------------------------------------------------


def install(web: FastAPI, parts: Parts, dispatcher: Dispatcher, channel: PublicChannel) -> None:
    """Add the routes."""
    routes = _Routes(parts, dispatcher, channel)
    for method, path, serve in (
        ("POST", "/register", routes.register),
        ("POST", PASSWORD_FLOW, routes.login),
        ("GET", f"/{ECHO}", routes.echo_link),
        ("GET", f"/{PUBLIC_CHANNEL}", routes.public_link),
        ("GET", "/history", routes.history),
    ):
        web.add_api_route(path, routes.endpoint(serve), methods=[method], include_in_schema=False)


class _Routes:
    def __init__(self, parts: Parts, dispatcher: Dispatcher, channel: PublicChannel) -> None:
        self._parts = parts
        self._dispatcher = dispatcher
        self._channel = channel

    def endpoint(
        self, serve: Callable[[Request], Awaitable[tuple[int, dict[str, Any]]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            note: Note = request.scope[NOTE]
            note.action = request.url.path.strip("/")
            try:
                status, data = await serve(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as problem:
                error = self._dispatcher.describe(problem, note.action, note.request_id)
                note.outcome = error.code
                return rest.problem(error)
            note.outcome = "ok"
            return Response(orjson.dumps(data), status, {"Cache-Control": "no-store"}, media_type="application/json")

        return endpoint

    async def register(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 201, await self._signed_in("register", request)

    async def login(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 200, await self._signed_in("login", request)

    async def _signed_in(self, action: str, request: Request) -> dict[str, Any]:
        got = await self._do(action, await _credentials(request), self._context(request))
        request.scope[NOTE].user = username = got["user"]["username"]
        return {
            "access_token": got["token"],
            "token_type": "bearer",
            "expires_at": got["expires_at"],
            "username": username,
        }

    async def echo_link(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 200, self._link(request, ECHO, await self._signed(request))

    async def public_link(self, request: Request) -> tuple[int, dict[str, Any]]:
        context = await self._signed(request)
        await self._channel.enter(context)
        return 200, self._link(request, PUBLIC_CHANNEL, context)

    def _link(self, request: Request, purpose: str, context: Context) -> dict[str, Any]:
        ticket, expires_at = self._parts.auth.ticket(context.principal, purpose)
        scheme = "wss" if request.url.scheme == "https" else "ws"
        link = f"{scheme}://{request.url.netloc}/{purpose}?token={ticket}"
        return {"link": link, "expires_in": max(0, (expires_at - now_ms()) // 1000)}

    async def history(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The newest of the echo log, in order; `?before=` what an answer had as `next`: what is older."""
        context = await self._signed(request)
        before = request.query_params.get("before")
        pages: list[list[dict[str, Any]]] = []
        number = size = 0
        while True:
            page = await self._do("echo_history", {"before": before, "limit": PAGE}, context)
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
        return 200, {"history": history, "next": before}

    async def _signed(self, request: Request) -> Context:
        """Raises `unauthenticated` and its kin."""
        principal = await rest.bearer(request, self._parts.auth)
        request.scope[NOTE].user = principal.username
        return self._context(request, principal)

    def _context(self, request: Request, caller: Principal | None = None) -> Context:
        address = request.client.host if request.client else ""
        note: Note = request.scope[NOTE]
        return Context(self._parts, caller, address=address, agent=rest.agent_of(request), request_id=note.request_id)

    async def _do(self, action: str, payload: object, context: Context) -> Any:
        return (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()


async def _credentials(request: Request) -> dict[str, Any]:
    """Of JSON, or of a form as OAuth2 has it (RFC 6749, section 4.3.2). Raises `invalid`."""
    body = await rest.body_of(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM:
        fields = _form(body)
        if fields.get("grant_type", "password") != "password":
            raise invalid("grant_type", "password")
    else:
        fields = rest.json_object(body)
    if "login" in fields:
        if "username" in fields:
            raise invalid("login", "the same as `username`: one of them is given")
        fields["username"] = fields["login"]
    return {name: fields[name] for name in ("username", "password") if name in fields}


def _form(body: bytes) -> dict[str, Any]:
    try:
        given = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise invalid("body", "not a form") from None
    fields = dict(given)
    if len(fields) != len(given):
        raise invalid("body", "a field is given twice")
    return fields
