"""Requests to addresses that users and operators have named: over HTTP, and not into a private network."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import certifi
import httpcore

from tidings.contract.errors import invalid
from tidings.transport.addresses import is_public_address

ANSWER_S = 15.0
"""The longest that a request may take, the look-up of the name and the answer included."""
MAX_ANSWER = 4096
"""Bytes of an answer that are read, so that its connection can be used again. They are ignored."""
_MAX_CONNECTIONS = 64
_KEEP_S = 30.0
_RESOLVERS = 4
FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError, UnicodeError)
"""A request raises them if the other server cannot be reached, or answers with nonsense."""
TIMEOUTS = (TimeoutError, httpcore.TimeoutException)


class DeliveryOutcome(StrEnum):
    DELIVERED = "delivered"
    REFUSED = "refused"
    """The answer was not 2xx; redirects are not followed."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"
    """Its address is not public, or its URL is not https."""


class DeliveryResult(NamedTuple):
    outcome: DeliveryOutcome
    reason: str
    status: int | None = None
    retry_after: float | None = None
    """Seconds, if the answer names them."""

    @property
    def delivered(self) -> bool:
        return self.outcome is DeliveryOutcome.DELIVERED


class AddressForbidden(Exception):
    """No address of the host is public."""


def check_url(url: str, *, private: bool, allowed_by: str, field: str = "url") -> str:
    """A URL as a request may have it. Raises `invalid` for the field.

    Args:
        private: whether it may be http, and in a private network.
        allowed_by: the setting that allows that.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0 or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise invalid(field, "give an address like https://example.org/hook; international names in ASCII (xn--…)")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise invalid(field, "no user, password or fragment")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise invalid(field, "only https" + (" and http" if private else ""))
    if not private and _is_forbidden(host):
        raise invalid(field, f"not a public address ({allowed_by})")
    return url


def _is_forbidden(address: str) -> bool:
    """Whether it is an IP address that is not public."""
    try:
        return not is_public_address(address)
    except ValueError:
        return False


class OutgoingHttp:
    """A pool of connections to public addresses. Redirects are not followed. Call `close` after use."""

    def __init__(self, name: str, *, private: bool, max_connections: int, keep_s: float) -> None:
        """
        Args:
            name: of the threads that look names up.
            private: whether addresses in private networks are allowed.
            keep_s: how long an idle connection is kept; 0: not at all.
        """
        self._backend = _CheckedBackend(name, private)
        self._max_connections = max_connections
        self._keep_s = keep_s
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], content: bytes | None = None
    ) -> AsyncIterator[httpcore.Response]:
        """Send a request. Raises `AddressForbidden`, `TIMEOUTS` or `FAILURES`; set a timeout around it."""
        async with self._opening:
            if self._pool is None:
                self._pool = httpcore.AsyncConnectionPool(
                    ssl_context=await asyncio.to_thread(_tls_context),
                    max_connections=self._max_connections,
                    max_keepalive_connections=self._max_connections if self._keep_s else 0,
                    keepalive_expiry=self._keep_s,
                    network_backend=self._backend,
                )
        async with self._pool.stream(method, url, headers=headers, content=content) as response:
            yield response

    async def close(self) -> None:
        self._backend.close()
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None


class OutgoingRequests:
    """Sends POST requests. Its connections are kept open for a while; call `close` after use."""

    def __init__(self, *, private: bool, allowed_by: str, answer_s: float = ANSWER_S) -> None:
        """
        Args:
            private: whether URLs may be http, and addresses in private networks.
            allowed_by: the setting that allows that.
            answer_s: the longest that a request may take.
        """
        self.private = private
        self._allowed_by = allowed_by
        self._answer_s = answer_s
        self._http = OutgoingHttp(
            "tidings.outgoing", private=private, max_connections=_MAX_CONNECTIONS, keep_s=_KEEP_S
        )

    async def post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> DeliveryResult:
        """Send a request. Failures are results, not errors. `headers`: without `host` and `content-length`."""
        if not (self.private or url.startswith("https:")):
            return DeliveryResult(DeliveryOutcome.FORBIDDEN, "only https")
        try:
            async with asyncio.timeout(self._answer_s):
                status, retry_after = await self._post(url, headers, body)
        except AddressForbidden as error:
            return DeliveryResult(DeliveryOutcome.FORBIDDEN, f"{error} ({self._allowed_by})")
        except TIMEOUTS:
            return DeliveryResult(DeliveryOutcome.TIMEOUT, f"no answer within {self._answer_s:g} s")
        except FAILURES as error:
            return DeliveryResult(DeliveryOutcome.UNREACHABLE, str(error) or type(error).__name__)
        outcome = DeliveryOutcome.DELIVERED if 200 <= status < 300 else DeliveryOutcome.REFUSED
        return DeliveryResult(outcome, f"answered {status}", status, retry_after)

    async def _post(self, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> tuple[int, float | None]:
        sent = [("host", urlsplit(url).netloc), ("content-length", str(len(body))), *headers]
        async with self._http.stream("POST", url, sent, body) as response:
            size = 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > MAX_ANSWER:
                    break
            status: int = response.status
            return status, _retry_after(response.headers)

    async def close(self) -> None:
        await self._http.close()


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """The seconds of `Retry-After`; its other form, a date, is ignored."""
    found = (value for name, value in headers if name.lower() == b"retry-after")
    value = next(found, b"").strip()
    return float(value) if value.isdigit() and len(value) < 10 else None


def _tls_context() -> ssl.SSLContext:
    """Trusts the machine's certificates as well as certifi's, since an image may have none."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses: to the very address that was checked, so that a name cannot change."""

    def __init__(self, name: str, private: bool) -> None:
        self._private = private
        self._network = httpcore.AnyIOBackend()
        # Threads of its own: slow look-ups must not hold up what else runs in threads.
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix=name)

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        allowed = [address for address in addresses if self._private or is_public_address(address)]
        if not allowed:
            raise AddressForbidden(f"{host} is not a public address")
        for address in allowed[:-1]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(allowed[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AddressForbidden("no Unix sockets")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
