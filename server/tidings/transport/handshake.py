"""Requests that open a session, and the opening handshake of WebSocket (RFC 6455, section 4.2)."""

from __future__ import annotations

import base64
import hashlib
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from tidings.transport.websocket_wire import Wire

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handshake(NamedTuple):
    """The request that opened a session."""

    address: str
    """The client's."""
    kind: str
    """"http" or "websocket", as in an ASGI scope."""
    path: str
    query_string: bytes
    headers: Mapping[str, str]
    """Names in lower case."""

    def environ(self) -> dict[str, Any]:
        """The request as python-socketio passes it to an application: a WSGI environment around the ASGI scope.

        Unlike python-engineio's, it has the client's address, and no body.
        """
        query = self.query_string.decode("latin-1")
        scope = {
            "type": self.kind,
            "path": self.path,
            "query_string": self.query_string,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()],
            "client": (self.address, 0),
        }
        environ: dict[str, Any] = {
            "SERVER_SOFTWARE": "asgi",
            "REQUEST_METHOD": "GET",
            "PATH_INFO": self.path,
            "QUERY_STRING": query,
            "RAW_URI": f"{self.path}?{query}" if query else self.path,
            "SCRIPT_NAME": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": self.address,
            "REMOTE_PORT": "0",
            "SERVER_NAME": "asgi",
            "SERVER_PORT": "0",
            "asgi.scope": scope,
            "wsgi.url_scheme": self.headers.get("x-forwarded-proto", "http"),
        }
        for name, value in self.headers.items():
            environ["HTTP_" + name.upper().replace("-", "_")] = value
        return environ


class WebSocketOpening(NamedTuple):
    """A request to open a WebSocket, valid by RFC 6455 (section 4.2.1)."""

    path: bytes
    query_string: bytes
    headers: Mapping[bytes, bytes]
    """Names in lower case, each once."""
    address: str
    """The client's."""


class WebSocketOpener(Protocol):
    """An application that opens WebSockets without ASGI."""

    def open_websocket(self, opening: WebSocketOpening) -> tuple[bytes, Callable[[Wire], None]] | None:
        """The first frames to write, and the callback that takes the wire over; None to handle it over ASGI."""


def accept_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The `Sec-WebSocket-Accept` for an opening handshake; None if it is invalid (RFC 6455, section 4.2.1).

    The caller checks the method, the HTTP version and the upgrade headers.
    """
    key = headers.get(b"sec-websocket-key", b"")
    try:
        if len(a2b_base64(key, strict_mode=True)) != 16:
            return None
    except NotBase64:
        return None
    if headers.get(b"sec-websocket-version") != b"13" or b"host" not in headers:
        return None
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
