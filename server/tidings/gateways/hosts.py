"""Checks the `Host` header, which prevents DNS rebinding.

The owner of evil.example can let that name resolve to an address in a visitor's network, 127.0.0.1 for instance. The
browser then treats the server at that address as evil.example, so a page of that origin may send requests to it and
read the answers. Only the `Host` header, which contains the name, shows this.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection

from tidings.contract.errors import ActionError, ErrorCode
from tidings.gateways.problems import problem
from tidings.transport.addresses import host_of, is_loopback
from tidings.transport.admission import refuse_websocket
from tidings.transport.buffered_session import Receive, Scope, Send

logger = logging.getLogger("tidings.hosts")
MISDIRECTED = 421
"""RFC 9110, section 15.5.20: the server is unable or unwilling to answer for the target URI."""
_MAX_CACHED = 100


class Hosts:
    """Decides which `Host` headers are allowed."""

    def __init__(self, names: Collection[str] | None) -> None:
        """`names`: in lower case, without ports; None: any name is allowed."""
        self._names = names
        self._allowed: set[bytes] = set()
        """Cache of allowed headers: there are few, and every request is checked."""
        self._logged = False

    def allow(self, header: bytes) -> bool:
        """Whether requests with that `Host` header are allowed.

        IP addresses are allowed: only a page from that address has it as its origin. So are loopback names, which
        resolve to this machine, and an empty header, which no browser sends.
        """
        if self._names is None or not header or header in self._allowed:
            return True
        host = host_of(header.decode("latin-1"))
        if host not in self._names and not is_loopback(host) and not _is_address(host):
            if not self._logged:  # only once, or an attacker could fill the log
                self._logged = True
                logger.warning("refused a request for an unknown host; see TIDINGS_PUBLIC_URL, TIDINGS_ALLOWED_HOSTS")
            return False
        if len(self._allowed) < _MAX_CACHED:
            self._allowed.add(header)
        return True

    def allow_request(self, scope: Scope) -> bool:
        """`allow` for an HTTP request or a WebSocket."""
        return self._names is None or all(self.allow(value) for name, value in scope["headers"] if name == b"host")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


_REFUSED = "this server does not answer for that host; its operator may add it to TIDINGS_ALLOWED_HOSTS"


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application that refuses a request whose `Host` is not allowed."""
    if scope["type"] == "websocket":
        await receive()
        await refuse_websocket(scope, send, MISDIRECTED, _REFUSED)
    else:
        await problem(ActionError(ErrorCode.FORBIDDEN, _REFUSED).error, MISDIRECTED)(scope, receive, send)
