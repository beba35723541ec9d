"""The two-channels protocol: an echo channel and a public one. Signed-in users get a link to each.

The public channel is the topic `PUBLIC`. An account of the server owns it, so that no user does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import orjson
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Answer, Dispatcher
from tidings.auth.principal import Principal
from tidings.auth.tokens import now_ms
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid, not_found
from tidings.contract.events import Closing, RoomRemoved
from tidings.contract.models import Message, View
from tidings.gateways import rest
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.mounting import Dialects, admit_by_token
from tidings.gateways.dialects.routes import FORM, PASSWORD_FLOW
from tidings.gateways.dialects.sequential import SequentialClient
from tidings.gateways.problems import problem
from tidings.gateways.request_log import RECORD, RequestRecord
from tidings.gateways.websocket_client import POLICY, UNAUTHENTICATED
from tidings.transport.buffered_session import Scope
from tidings.transport.input_limits import parameters
from tidings.transport.websocket_server import WebSocketSession

ECHO, PUBLIC_CHANNEL = "echo_ws", "pub_ws"
"""Names of the channels: their paths, the purposes of their tickets, and the devices of their connections."""
PUBLIC: Final = "public"
OWNER: Final = "channels"
HISTORY: Final = 5_000
HISTORY_BYTES: Final = 512 * 1024
"""Approximate limits of one answer of `GET /history`, in entries and bytes."""
PAGE: Final = 200
_MAX_FIELDS: Final = 20
logger = logging.getLogger("tidings.channels")


def mount(dialects: Dialects) -> None:
    parts, dispatcher = dialects.backend.parts, dialects.backend.dispatcher
    channel = PublicChannel(parts, dispatcher, dialects.public_since)
    for purpose, client in ((ECHO, EchoChannelClient), (PUBLIC_CHANNEL, partial(PublicChannelClient, channel))):
        admit = admit_by_token(parts.auth, dispatcher, purpose, _token_in, purpose)
        dialects.add_websocket(f"/{purpose}", client, admit)
    routes = _Routes(parts, dispatcher, channel, dialects.public_url)
    dialects.add_routes(routes.install)
    if dialects.public_channel:
        dialects.add_preparation(channel.prepare)


def _token_in(scope: Scope) -> str:
    return parameters(scope.get("query_string", b"")).get("token", "")


class PublicChannel:
    def __init__(self, parts: Parts, dispatcher: Dispatcher, since: Callable[[], int]) -> None:
        self.since = since
        """Returns the start of the first server (ms): a newcomer gets the messages since then."""
        self._parts = parts
        self._dispatcher = dispatcher
        self._creating = asyncio.Lock()
        self._owner: Principal | None = None
        parts.directory.founders[PUBLIC] = self.create

    async def enter(self, context: Context) -> None:
        """Make the caller a member; creates the topic if necessary.

        Raises `forbidden` for a banned user, and `conflict` if a user or a private topic has the name.
        """
        if not await self._subscribe(context):
            raise await self.create() or not_found()

    async def prepare(self) -> None:
        """Create the topic unless its name is taken, so that it is listed before anybody has entered it.

        If this fails, the first user who enters creates it.
        """
        try:
            if not await self._parts.directory.has(PUBLIC):
                await self.create()
        except Exception as problem:
            logger.warning(
                "the public channel could not be created; the first user who enters will create it: %s", problem
            )

    async def create(self) -> ActionError | None:
        """Create the topic if it does not exist, for users who subscribe to it over any gateway.

        Returns the error if the name is taken.
        """
        async with self._creating:
            return await self._create()

    async def _subscribe(self, context: Context) -> bool:
        """Make the caller a member. Returns False if there is no public topic with the name."""
        try:
            await self._execute("subscribe", {"topic_name": PUBLIC}, context)
        except ActionError as error:
            if error.code is ErrorCode.NOT_FOUND:
                return False
            if error.code is not ErrorCode.CONFLICT:  # already a member
                raise
        return True

    async def _create(self) -> ActionError | None:
        """Create the topic. Returns the error if the name is taken, perhaps by another node that created it."""
        if self._owner is None:
            self._owner = await self._parts.auth.service(OWNER)
        try:
            await self._execute("create", {"topic_name": PUBLIC}, Context(self._parts, self._owner))
        except ActionError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            return error
        return None

    async def _execute(self, action: str, payload: object, context: Context) -> Any:
        return (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()


# -- WebSockets ------------------------------------------------------------------------------------------------------


class _ChannelClient(SequentialClient):
    """A WebSocket of a channel. Its address has a valid token or ticket, checked in the handshake."""

    def opened(self, query: Mapping[str, str]) -> None:
        self.sign_in_by_token(query.get("token", ""))

    def initial_rooms(self) -> set[str]:
        return set()

    def refused(self, error: Error) -> None:
        self.disconnect(UNAUTHENTICATED if error.code.http_status == 401 else POLICY, _refusal(error))

    def failed(self, error: Error) -> None:
        self.after_answers(lambda: self.send(_refusal(error)))

    def translate(self, event: str, view: View) -> object | None:
        if not isinstance(view, Closing):
            return None
        return {"error": {"code": view.reason, "message": "the channel is closed", "reconnect": view.reconnect}}


class EchoChannelClient(_ChannelClient):
    """The echo channel. Both directions are stored before the answer."""

    name: ClassVar[str] = ECHO
    purpose: ClassVar[str] = ECHO

    _is_proxy = False

    def signed_in(self) -> None:
        assert self.connection is not None, "not signed in"
        self._is_proxy = self.parts.echo.listen(self.connection.principal, self.connection, self.send_text)
        self.start_handling()

    async def handle(self, data: str | bytes) -> None:
        self.actions.push("echo", {"content": _text(data)}, len(data), self._report)

    def _report(self, answer: Answer) -> None:
        if answer.error is not None:
            self.send(_refusal(answer.error))
        elif not self._is_proxy:  # the listener sends all replies of an upstream, including this one
            self.send_text(answer.data["content"])


class PublicChannelClient(_ChannelClient):
    """The public channel: text in, messages out. The messages since the start of the server come first."""

    name: ClassVar[str] = PUBLIC_CHANNEL
    purpose: ClassVar[str] = PUBLIC_CHANNEL

    def __init__(self, channel: PublicChannel, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._channel = channel
        self._room_id = ""

    def signed_in(self) -> None:
        self.start_handling(self._enter_channel)

    async def _enter_channel(self) -> None:
        try:
            await self._channel.enter(self.actions.context())
            room = (await self.run("connect_to_room", {"topic_name": PUBLIC}))["room"]
            self._room_id = room["room_id"]
            if not await self.enter_room(self._room_id, since=self._channel.since()):
                raise _REMOVED
        except ActionError as error:
            self.disconnect(POLICY, _refusal(error.error))

    async def handle(self, data: str | bytes) -> None:
        self.actions.push("message", {"room_id": self._room_id, "content": _text(data)}, len(data), self._report)

    def _report(self, answer: Answer) -> None:
        if answer.error is not None:  # a sent message arrives as an event
            self.send(_refusal(answer.error))

    def translate(self, event: str, view: View) -> object | None:
        match view:
            case Message(deleted=False) if view.room_id == self._room_id:
                return {
                    "id": view.id,
                    "username": view.sender,
                    "message": view.content,
                    "created_at": view.created_at,
                }
            case RoomRemoved() if view.room_id == self._room_id:
                asyncio.get_running_loop().call_soon(self.disconnect, POLICY, _refusal(_REMOVED.error))
        return super().translate(event, view)


_REMOVED: Final = ActionError(ErrorCode.FORBIDDEN, "you are no longer in the public channel")


def _text(data: str | bytes) -> str:
    if isinstance(data, bytes):
        raise invalid("frame", "must be a text frame, not a binary one")
    return data


def _refusal(error: Error) -> dict[str, Any]:
    return {"error": error.model_dump(mode="json")}


# -- HTTP ------------------------------------------------------------------------------------------------------------


class _Routes:
    def __init__(self, parts: Parts, dispatcher: Dispatcher, channel: PublicChannel, public_url: str) -> None:
        self._parts = parts
        self._dispatcher = dispatcher
        self._channel = channel
        self._public_url = public_url
        """The origin of every link; empty: the host of the request."""

    def install(self, web: FastAPI) -> None:
        for method, path, handler in (
            ("POST", "/register", self.register),
            ("POST", PASSWORD_FLOW, self.login),
            ("GET", f"/{ECHO}", self.echo_link),
            ("GET", f"/{PUBLIC_CHANNEL}", self.public_link),
            ("GET", "/history", self.history),
        ):
            web.add_api_route(path, self.endpoint(handler), methods=[method], include_in_schema=False)

    def endpoint(
        self, handler: Callable[[Request], Awaitable[tuple[int, dict[str, Any]]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            record: RequestRecord = request.scope[RECORD]
            record.action = request.url.path.strip("/")
            try:
                status, data = await handler(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except Exception as failure:
                error = self._dispatcher.describe(failure, record.action, record.request_id)
                record.outcome = error.code
                return problem(error)
            record.outcome = "ok"
            return Response(orjson.dumps(data), status, {"Cache-Control": "no-store"}, media_type="application/json")

        return endpoint

    async def register(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 201, await self._sign_in("register", request)

    async def login(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 200, await self._sign_in("login", request)

    async def _sign_in(self, action: str, request: Request) -> dict[str, Any]:
        credentials = await self._execute(action, await _credentials(request), self._context(request))
        request.scope[RECORD].user = username = credentials["user"]["username"]
        return {
            "access_token": credentials["token"],
            "token_type": "bearer",
            "expires_at": credentials["expires_at"],
            "username": username,
        }

    async def echo_link(self, request: Request) -> tuple[int, dict[str, Any]]:
        return 200, self._link(request, ECHO, await self._signed_in_context(request))

    async def public_link(self, request: Request) -> tuple[int, dict[str, Any]]:
        context = await self._signed_in_context(request)
        await self._channel.enter(context)
        return 200, self._link(request, PUBLIC_CHANNEL, context)

    def _link(self, request: Request, purpose: str, context: Context) -> dict[str, Any]:
        ticket, expires_at = self._parts.auth.ticket(context.principal, purpose)
        base = self._public_url or f"{request.url.scheme}://{request.url.netloc}"
        link = f"{base.replace('http', 'ws', 1)}/{purpose}?token={ticket}"
        return {"link": link, "expires_in": max(0, (expires_at - now_ms()) // 1000)}

    async def history(self, request: Request) -> tuple[int, dict[str, Any]]:
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
        return 200, {"history": history, "next": before}

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


async def _credentials(request: Request) -> dict[str, Any]:
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
