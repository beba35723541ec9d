"""HTTP requests to other servers, whose URLs come from users. They may go to public addresses only."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import certifi
import httpcore

from tidings.transport.addresses import is_public_address

_RESOLVERS = 4
FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError, UnicodeError)
"""A request raises them if the other server cannot be reached, or answers with nonsense."""
TIMEOUTS = (TimeoutError, httpcore.TimeoutException)


class AddressForbidden(Exception):
    """No address of the host is public."""


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
