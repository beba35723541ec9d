"""The REST gateway: one route for every action that names one, made from the registry.

The payload is the request's body (for GET and DELETE its query string), with the parameters of the path.
Errors are problem details (RFC 9457) with the contract's `code`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from hmac import compare_digest
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.routing import Match, Route

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Action, Answer, Dispatcher
from tidings.auth.principal import Principal
from tidings.auth.sessions import Auth
from tidings.auth.tokens import unauthenticated
from tidings.contract.actions import MAX_CONTENT
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid
from tidings.gateways.problems import problem
from tidings.gateways.request_log import RECORD, RequestRecord
from tidings.gateways.responses import json_answer
from tidings.log.health import Health
from tidings.monitoring.metrics import CONTENT_TYPE, Metrics
from tidings.transport.addresses import is_private_address
from tidings.transport.input_limits import holds_too_many

MAX_BODY = 16 * MAX_CONTENT
MAX_ANONYMOUS_BODY = MAX_CONTENT
"""Bytes of the body of a request that needs no token."""
JSON_LINES = "application/x-ndjson"
CHUNK = 64 * 1024
"""Bytes of a stream that are sent together."""
ACT_AS = "Tidings-User"
"""The HTTP header that names the user as whom a key acts."""
IDEMPOTENCY_KEY = "Idempotency-Key"
"""The HTTP header for `client_id`, under the name that other HTTP interfaces use."""
KEY_PATTERN = r"^[\x21-\x7e]{1,64}$"
_STATUS_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.NOT_FOUND, 413: ErrorCode.TOO_LARGE}


def install(app: FastAPI, dispatcher: Dispatcher, parts: Parts, metrics: Metrics, *, metrics_token: str = "") -> None:
    """Add the routes of the registry, the health checks, the metrics and the error answers to the application.

    Args:
        metrics_token: the bearer token of `/metrics`; empty: clients in private networks may read it.
    """
    for action in dispatcher.registry:
        if action.http is not None:
            method, path = action.http.split(" ", 1)
            app.add_api_route(
                path,
                _endpoint(action, dispatcher, parts),
                methods=[method],
                name=action.name,
                include_in_schema=False,  # tidings.gateways.openapi describes the routes of the registry
            )
    _add_health(app, parts.health)
    _add_metrics(app, metrics, metrics_token)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _crash(dispatcher))


def _endpoint(action: Action, dispatcher: Dispatcher, parts: Parts) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        record: RequestRecord = request.scope[RECORD]
        record.action = action.name
        try:
            is_known = not action.anonymous or (action.personal and "authorization" in request.headers)
            caller = await bearer(request, parts.auth) if is_known else None
            raw, strict = await _payload(request, MAX_ANONYMOUS_BODY if action.anonymous else MAX_BODY)
            if "client_id" in action.request.model_fields:
                take_idempotency_key(request, raw)
        except ClientDisconnect:
            return Response(status_code=400)  # never read: the client is gone
        except Exception as error:
            refusal = dispatcher.describe(error, action.name, record.request_id)
            record.outcome = refusal.code
            return problem(refusal)
        address = request.client.host if request.client else ""
        context = Context(
            parts,
            caller,
            address=address,
            agent=agent_of(request),
            traceparent=request.headers.get("traceparent", ""),
            request_id=record.request_id,
        )
        answer = await dispatcher.execute(action.name, raw, context, strict=strict, gateway="rest")
        for callback in context.afterwards:
            callback()
        record.user = _username_in(answer) if caller is None else caller.username
        record.room, record.outcome = context.room, "ok" if answer.error is None else answer.error.code
        if answer.error is not None:
            return problem(answer.error)
        if action.streams:
            return StreamingResponse(_json_lines(answer.data), action.status, media_type=JSON_LINES)
        if action.status == 204:
            return Response(status_code=204)
        return await json_answer(request, orjson.dumps(answer.data), action.status)

    return endpoint


def _username_in(answer: Answer) -> str | None:
    """The username in the answer of a sign-in; None in any other."""
    user = answer.data.get("user") if answer.error is None else None
    return None if user is None else str(user["username"])


def agent_of(request: Request) -> str | None:
    """The printable characters of the client's `User-Agent`, up to 200."""
    shown = "".join(char for char in request.headers.get("user-agent", "") if char.isprintable())[:200]
    return shown or None


async def _json_lines(records: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The records as JSON lines, in chunks of about `CHUNK` bytes, at the client's pace."""
    chunk = bytearray()
    async for record in records:
        chunk += orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(chunk) >= CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def bearer(request: Request, auth: Auth) -> Principal:
    """The caller, from `Authorization: Bearer` (RFC 6750); with a key, the user whom `ACT_AS` names.

    Raises `unauthenticated`, `token_expired` or `token_revoked`; `forbidden` or `not_found` for that user.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthenticated("send Authorization: Bearer <token>")
    caller = await auth.authenticate(token.strip())
    username = request.headers.get(ACT_AS)
    return caller if username is None else await auth.act(caller, username)


async def _payload(request: Request, max_bytes: int) -> tuple[dict[str, Any], bool]:
    """The payload, and whether its values are typed (JSON) or texts to convert (a query string)."""
    raw: dict[str, Any] = {}
    strict = request.method not in ("GET", "DELETE")
    if strict:
        body = await body_of(request, max_bytes)
        if body:
            raw = json_object(body)
    else:
        for key, value in request.query_params.multi_items():
            if key in raw:
                raise invalid(key, "given twice")
            raw[key] = value
    for key, value in request.path_params.items():
        if key in raw:
            raise invalid(key, "also given in the path")
        raw[key] = value
    return raw, strict


async def body_of(request: Request, max_bytes: int = MAX_BODY) -> bytes:
    """The body, of up to `max_bytes`. Raises `too_large`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ActionError(ErrorCode.TOO_LARGE, "the body is too large", limit=max_bytes)
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """Decode a body that is a JSON object. Raises `invalid`."""
    if holds_too_many(body):
        raise invalid("body", "too many values")
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid("body", "not JSON") from None
    if not isinstance(decoded, dict):
        raise invalid("body", "not an object")
    return decoded


def take_idempotency_key(request: Request, raw: dict[str, Any]) -> None:
    """Set the payload's `client_id` from the header. Raises `invalid` if the payload has a different one."""
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return
    if len(keys) > 1:
        raise invalid(IDEMPOTENCY_KEY, "given twice")
    if not re.fullmatch(KEY_PATTERN, keys[0]):
        raise invalid(IDEMPOTENCY_KEY, "1–64 visible ASCII characters")
    if raw.get("client_id") not in (None, keys[0]):
        raise invalid(IDEMPOTENCY_KEY, "differs from `client_id`")
    raw["client_id"] = keys[0]


def _add_health(app: FastAPI, health: Health) -> None:
    ok = b'{"status":"ok"}'

    # Both return a Response: for any other type, FastAPI would import Pydantic 1's models to check it.
    @app.get("/health/live", include_in_schema=False)
    async def live() -> Response:
        """The process is running."""
        return Response(ok, media_type="application/json")

    @app.get("/health/ready", include_in_schema=False)
    async def ready() -> Response:
        """Messages can be written."""
        if trouble := await health.trouble():
            return problem(ActionError(ErrorCode.UNAVAILABLE, trouble).error)
        degraded = health.degraded()
        body = orjson.dumps({"status": "ok", "degraded": degraded}) if degraded else ok
        return Response(body, media_type="application/json")


def _add_metrics(app: FastAPI, metrics: Metrics, token: str) -> None:
    def refusal(request: Request) -> ActionError | None:
        if token:
            scheme, _, presented = request.headers.get("authorization", "").partition(" ")
            matches = compare_digest(presented.strip().encode("utf-8", "replace"), token.encode())
            return (
                None if matches and scheme.lower() == "bearer" else unauthenticated("send the token of the metrics")
            )
        if request.client is None or is_private_address(request.client.host):
            return None
        return ActionError(
            ErrorCode.FORBIDDEN,
            "only clients in private networks may read the metrics, or clients with TIDINGS_METRICS_TOKEN",
        )

    @app.get("/metrics", include_in_schema=False)
    async def exposition(request: Request) -> Response:
        error = refusal(request)
        if error is not None:
            return problem(error.error)
        headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        return Response(await metrics.expositions(), headers=headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _STATUS_CODES.get(error.status_code, ErrorCode.INVALID)
    response = problem(Error(code=code, message=str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == 405:  # several routes may share the path; the error has the methods of one
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        response.headers["Allow"] = ", ".join(sorted(method for route in matching for method in route.methods or ()))
    return response


def _crash(dispatcher: Dispatcher) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def crash(request: Request, error: Exception) -> Response:
        record: RequestRecord = request.scope[RECORD]
        return problem(dispatcher.describe(error, "a request", record.request_id))

    return crash
