"""Who may open a session at all: the same rules for every way in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping

from server.transport.outlet import Scope, Send

MAX_HALF_OPEN = 1000
"""Sessions without authentication, all together."""


class HalfOpen:
    """The sessions that have not authenticated yet."""

    def __init__(self, most: int = MAX_HALF_OPEN, most_per_address: int = MAX_HALF_OPEN) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._addresses: dict[str, str] = {}
        self._from: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    def addresses(self) -> list[str]:
        """Where they come from."""
        return list(self._addresses.values())

    def is_full(self, address: str) -> bool:
        """Whether there may be no more of them, or no more from there."""
        return len(self._addresses) >= self._most or self._from[address] >= self._most_per_address

    def add(self, sid: str, address: str) -> None:
        self._addresses[sid] = address
        self._from[address] += 1

    def remove(self, sid: str) -> None:
        """The session has authenticated, or is over. Idempotent."""
        address = self._addresses.pop(sid, None)
        if address is not None:
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]


def origin_allowed(headers: Mapping[str, str], allowed: str | Collection[str] | None) -> bool:
    """Browsers name their origin; it must be this host's, or one of those allowed."""
    origin = headers.get("origin")
    if origin is None or allowed == "*" or (allowed and "*" in allowed):
        return True
    host = origin.partition("://")[2]  # an origin has nothing after its host and port (RFC 6454, 6.2)
    return host == headers.get("host") or (bool(allowed) and origin in (allowed or ()))


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def refuse_websocket(scope: Scope, send: Send, status: int, text: str) -> None:
    """Answer the opening handshake with a status, if the server under us can; else refuse it."""
    if "websocket.http.response" in scope.get("extensions", {}):
        body = json.dumps({"message": text}).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "websocket.http.response.start", "status": status, "headers": head})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": text})
