"""Around every HTTP request: its id, and its line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from server.logs import Logs
from server.transport.outlet import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]
NOTE: Final = "tidings.note"
"""Where the scope has the request's `Note`."""
_GIVEN = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_QUIET = ("/health/", "/metrics")
"""Asked again and again by machines: told at the level `debug` only."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Note:
    """What becomes known of a request as it is served."""

    __slots__ = ("action", "outcome", "request_id", "room", "user")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        """The client's own `X-Request-Id`, if it is a short word, or a new one. The answer carries it."""
        self.action: str | None = None
        self.user: str | None = None
        self.room: str | None = None
        self.outcome: str | None = None


class Requests:
    """An ASGI application around another."""

    def __init__(self, app: App, logs: Logs) -> None:
        self._app = app
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note = scope[NOTE] = Note(_given(scope["headers"]) or self._logs.request_id())
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", note.request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if self._logs.on:
                # The route, not the path: a path holds what a client wrote.
                route: str | None = getattr(scope.get("route"), "path", None)
                tell = self._logs.debug if route is not None and route.startswith(_QUIET) else self._logs.info
                tell(
                    "request",
                    request_id=note.request_id,
                    gateway="rest",
                    method=scope["method"] if scope["method"] in _METHODS else "other",
                    route=route,
                    action=note.action,
                    user=note.user,
                    room=note.room,
                    outcome=note.outcome,
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 3),
                )


def _given(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"x-request-id":
            return value.decode() if _GIVEN.fullmatch(value) else None
    return None
