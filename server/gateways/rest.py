"""The REST gateway: one route for every action that names one, made from the registry.

The request's body (or its query string, for GET and DELETE) is the action's payload, with what stands in the path.
Errors are problem details (RFC 9457) with the contract's `code`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.routing import Match, Route

from db.engine import Database, StoreUnavailable
from server.auth import Auth, unauthenticated
from server.context import Context, Parts
from server.contract.actions import MAX_CONTENT
from server.contract.errors import ActionError, Error, ErrorCode, invalid
from server.delivery.connection import Principal
from server.delivery.journal import Journal
from server.dispatch import Action, Answer, Dispatcher
from server.gateways.requests import NOTE, Note
from server.metrics import CONTENT_TYPE, Metrics

MAX_BODY = 16 * MAX_CONTENT
PROBLEM = "application/problem+json"
JSON_LINES = "application/x-ndjson"
PIECE = 64 * 1024
"""Bytes of a stream that go out together."""
READY_TIMEOUT_S = 5.0
IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header that stands for `client_id`: what other HTTP interfaces call it."""
KEY_PATTERN = r"^[\x21-\x7e]{1,64}$"
_STATUS_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.NOT_FOUND, 413: ErrorCode.TOO_LARGE}


def problem(error: Error, status: int | None = None) -> Response:
    """An error as problem details (RFC 9457)."""
    status = error.code.http_status if status is None else status
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    return Response(orjson.dumps(problem_details(error, status)), status, headers, PROBLEM)


def problem_details(error: Error, status: int) -> dict[str, Any]:
    """The members of problem details, and those of the contract's error."""
    return {
        "type": f"urn:tidings:error:{error.code}",
        "title": error.code.meaning,
        "status": status,
        "detail": error.message,
        **error.model_dump(mode="json", exclude={"message"}),
    }


def install(app: FastAPI, dispatcher: Dispatcher, parts: Parts, metrics: Metrics) -> None:
    """Add the routes of the registry, the health checks, the metrics and the error answers to the application."""
    for action in dispatcher.registry:
        if action.http is not None:
            method, path = action.http.split(" ", 1)
            app.add_api_route(
                path,
                _endpoint(action, dispatcher, parts),
                methods=[method],
                name=action.name,
                include_in_schema=False,  # server.gateways.openapi describes the registry itself
            )
    _add_health(app, parts.db, parts.journal)
    _add_metrics(app, metrics)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _crash(dispatcher))


def _endpoint(action: Action, dispatcher: Dispatcher, parts: Parts) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        note: Note = request.scope[NOTE]
        note.action = action.name
        try:
            caller = None if action.anonymous else await bearer(request, parts.auth)
            raw, strict = await _payload(request)
            if "client_id" in action.request.model_fields:
                take_idempotency_key(request, raw)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            refused = dispatcher.describe(error, action.name, note.request_id)
            note.outcome = refused.code
            return problem(refused)
        address = request.client.host if request.client else ""
        context = Context(parts, caller, address=address, agent=agent_of(request), request_id=note.request_id)
        answer = await dispatcher.execute(action.name, raw, context, strict=strict, gateway="rest")
        for callback in context.afterwards:
            callback()
        note.user = _signed_in(answer) if caller is None else caller.username
        note.room, note.outcome = context.room, "ok" if answer.error is None else answer.error.code
        if answer.error is not None:
            return problem(answer.error)
        if action.streams:
            return StreamingResponse(_json_lines(answer.data), action.status, media_type=JSON_LINES)
        if action.status == 204:
            return Response(status_code=204)
        return Response(orjson.dumps(answer.data), action.status, media_type="application/json")

    return endpoint


def _signed_in(answer: Answer) -> str | None:
    """Who has just got a token."""
    user = answer.data.get("user") if answer.error is None else None
    return None if user is None else str(user["username"])


def agent_of(request: Request) -> str | None:
    """The client's `User-Agent`, as far as it is worth showing."""
    shown = "".join(char for char in request.headers.get("user-agent", "") if char.isprintable())[:200]
    return shown or None


async def _json_lines(records: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The records as JSON lines, in pieces of some size, as the client takes them."""
    piece = bytearray()
    async for record in records:
        piece += orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


async def bearer(request: Request, auth: Auth) -> Principal:
    """The caller, by `Authorization: Bearer` (RFC 6750). Raises `unauthenticated` and its kin."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthenticated("give Authorization: Bearer <token>")
    return await auth.authenticate(token.strip())


async def _payload(request: Request) -> tuple[dict[str, Any], bool]:
    """The payload, and whether it is typed (JSON) or text to convert (a query string)."""
    raw: dict[str, Any] = {}
    strict = request.method not in ("GET", "DELETE")
    if strict:
        body = await body_of(request)
        if body:
            raw = json_object(body)
    else:
        for key, value in request.query_params.multi_items():
            if key in raw:
                raise invalid(key, "given twice")
            raw[key] = value
    for key, value in request.path_params.items():
        if key in raw:
            raise invalid(key, "given twice: it is in the path")
        raw[key] = value
    return raw, strict


async def body_of(request: Request) -> bytes:
    """The body. Raises `too_large`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ActionError(ErrorCode.TOO_LARGE, "the body is too large", limit=MAX_BODY)
    return body


def json_object(body: bytes) -> dict[str, Any]:
    """What a body holds. Raises `invalid`."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("body", "not JSON") from None
    if not isinstance(decoded, dict):
        raise invalid("body", "not an object")
    return decoded


def take_idempotency_key(request: Request, raw: dict[str, Any]) -> None:
    """Put the header where `client_id` stands in the payload. Raises `invalid` if that says something else."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return
    if len(keys) > 1:
        raise invalid(IDEMPOTENCY_KEY, "given twice")
    if not re.fullmatch(KEY_PATTERN, keys[0]):
        raise invalid(IDEMPOTENCY_KEY, "1–64 visible ASCII characters")
    if raw.get("client_id") not in (None, keys[0]):
        raise invalid(IDEMPOTENCY_KEY, "another than `client_id`")
    raw["client_id"] = keys[0]


def _add_health(app: FastAPI, database: Database, journal: Journal) -> None:
    probing: asyncio.Task[None] | None = None

    async def probe() -> None:
        """However many ask, and however long the store hangs: one write at a time."""
        nonlocal probing
        if probing is None or probing.done():
            probing = asyncio.create_task(database.probe())
            probing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait_for(asyncio.shield(probing), READY_TIMEOUT_S)

    @app.get("/health/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/health/ready", include_in_schema=False)
    async def ready() -> Response:
        """The database can be written to, and the journal runs."""
        try:
            if not journal.alive:
                raise StoreUnavailable("the journal has stopped")
            await probe()
        except (StoreUnavailable, TimeoutError):
            error = ActionError(ErrorCode.UNAVAILABLE, "the store cannot be written to now")
            return problem(error.error)
        return Response(b'{"status":"ok"}', media_type="application/json")


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _STATUS_CODES.get(error.status_code, ErrorCode.INVALID)
    response = problem(Error(code=code, message=str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == 405:  # several routes may share the path; the error knows of one
        known = [route for route in request.app.routes if isinstance(route, Route)]
        here = [route for route in known if route.matches(request.scope)[0] is not Match.NONE]
        response.headers["Allow"] = ", ".join(sorted(method for route in here for method in route.methods or ()))
    return response


def _crash(dispatcher: Dispatcher) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def crash(request: Request, error: Exception) -> Response:
        note: Note = request.scope[NOTE]
        return problem(dispatcher.describe(error, "a request", note.request_id))

    return crash
