"""Admission of sessions: the same rules for every transport."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping

from tidings.transport.addresses import source_of
from tidings.transport.buffered_session import Scope, Send
from tidings.transport.tcp_connections import SourceQueue

logger = logging.getLogger("tidings.transport")

MAX_HALF_OPEN = 1000
"""The most sessions without authentication."""
CROWDED = "too many connections without authentication"


class HalfOpen:
    """The sessions that have not authenticated yet, by source.

    New sessions are always admitted. At the limit, the oldest session of that source, or of the busiest one, is
    dropped. So a client that authenticates soon is served despite many that do not.
    """

    def __init__(self, limit: int = MAX_HALF_OPEN, limit_per_source: int = MAX_HALF_OPEN) -> None:
        self._limit = limit
        self._limit_per_source = limit_per_source
        self._by_source: SourceQueue[str] = SourceQueue()
        self._drop: dict[str, Callable[[], None]] = {}
        self.dropped = 0
        """Number of dropped sessions since the start."""

    def __len__(self) -> int:
        return len(self._by_source)

    def sources(self) -> list[str]:
        """The source of each session (`tidings.transport.addresses.source_of`)."""
        return self._by_source.sources()

    def add(self, sid: str, address: str, drop: Callable[[], None]) -> None:
        """Add a session. `drop` ends it, to make room for another."""
        source = source_of(address)
        if self._by_source.count(source) >= self._limit_per_source:
            self.shed(source)
        elif len(self._by_source) >= self._limit:
            self.shed()
        self._by_source.add(sid, source)
        self._drop[sid] = drop

    def remove(self, sid: str) -> None:
        """Remove a session that has authenticated or ended. Idempotent."""
        if self._by_source.remove(sid):
            del self._drop[sid]

    def shed(self, source: str | None = None) -> bool:
        """Drop the oldest session of a source, by default the busiest one. Returns False if there is none."""
        oldest = self._by_source.oldest(source)
        if oldest is None:
            return False
        drop = self._drop[oldest]
        self.remove(oldest)
        self.dropped += 1
        drop()
        return True


ORIGIN_REFUSED = "origin not allowed: the operator of this server can add it to TIDINGS_CORS_ORIGINS"


MAX_LOGGED_ORIGINS = 100
"""Each refused origin is logged once, and no more than these: anybody can invent them."""
_refused_origins: set[str] = set()


def origin_allowed(headers: Mapping[str, str], allowed: str | Collection[str] | None) -> bool:
    """Whether the request's `Origin`, which browsers send, is this host's or an allowed one. Logs a refused one."""
    origin = headers.get("origin")
    if origin is None or allowed == "*" or (allowed and "*" in allowed):
        return True
    host = origin.partition("://")[2]  # an origin ends with its host and port (RFC 6454, 6.2)
    if host == headers.get("host") or (allowed and origin in allowed):
        return True
    if origin not in _refused_origins and len(_refused_origins) < MAX_LOGGED_ORIGINS:
        _refused_origins.add(origin)
        logger.warning("refused a page of the origin %.100r; see TIDINGS_CORS_ORIGINS", origin)
    return False


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def bearer_token(headers: Mapping[str, str]) -> str:
    """The token of `Authorization: Bearer` (RFC 6750); "" if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def refuse_websocket(scope: Scope, send: Send, status: int, text: str, body: str | None = None) -> None:
    """Answer the opening handshake with a status, if the ASGI server supports it; otherwise refuse it.

    `body`: JSON; None: an object with the text as its `message`.
    """
    if "websocket.http.response" in scope.get("extensions", {}):
        content = (json.dumps({"message": text}) if body is None else body).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "websocket.http.response.start", "status": status, "headers": head})
        await send({"type": "websocket.http.response.body", "body": content})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": text})
