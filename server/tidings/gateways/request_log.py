"""Middleware for every HTTP request: its id, its log line, and headers for browsers and caches."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tidings.contract.errors import invalid
from tidings.gateways.problems import problem
from tidings.monitoring.logs import Logs
from tidings.transport.buffered_session import Receive, Scope, Send
from tidings.transport.input_limits import MAX_PARAMETERS

App = Callable[[Scope, Receive, Send], Awaitable[None]]
RECORD: Final = "tidings.record"
"""The key of the request's `RequestRecord` in the scope."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_QUIET = ("/health/", "/metrics")
"""Paths that machines poll: logged at the level `debug`."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_TOO_MANY: Final = problem(invalid("query", f"more than {MAX_PARAMETERS} parameters").error)


_DEFAULT_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Answers contain tokens and messages: they must not be cached, or interpreted as a page or a script."""


class RequestRecord:
    """Facts about a request for its log line, set while it is served."""

    __slots__ = ("action", "outcome", "request_id", "room", "user")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        """The client's own `X-Request-Id` if it is a short word, or else a new one. Sent with the answer."""
        self.action: str | None = None
        self.user: str | None = None
        self.room: str | None = None
        self.outcome: str | None = None


class RequestLog:
    """An ASGI middleware."""

    def __init__(self, app: App, logs: Logs) -> None:
        self._app = app
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[RECORD] = RequestRecord(_client_request_id(scope["headers"]) or self._logs.request_id())
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = [*message.get("headers", ())]
                headers.append((b"x-request-id", record.request_id.encode()))
                names = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in _DEFAULT_HEADERS if name not in names]
            await send(message)

        too_many = scope["query_string"].count(b"&") >= MAX_PARAMETERS
        try:
            await (_TOO_MANY if too_many else self._app)(scope, receive, send_with_id)
        finally:
            if self._logs.on:
                # The route, not the path: a path contains text from the client.
                route: str | None = getattr(scope.get("route"), "path", None)
                write = self._logs.debug if route is not None and route.startswith(_QUIET) else self._logs.info
                write(
                    "request",
                    request_id=record.request_id,
                    gateway="rest",
                    method=scope["method"] if scope["method"] in _METHODS else "other",
                    route=route,
                    action=record.action,
                    user=record.user,
                    room=record.room,
                    outcome=record.outcome,
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 3),
                )


def _client_request_id(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode() if _REQUEST_ID.fullmatch(value) else None
    return None
