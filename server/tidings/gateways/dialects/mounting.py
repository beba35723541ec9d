"""The mounted dialects: their WebSockets by path, their HTTP routes, and their preparations at the start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from fastapi import FastAPI

from tidings.actions.dispatch import Dispatcher
from tidings.auth.sessions import Auth
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.base import PING_SOON_S, DialectClient
from tidings.gateways.websocket_client import WebSocketGateway
from tidings.supervision import Periodic, spawn
from tidings.transport.admission import HalfOpen
from tidings.transport.buffered_session import Scope
from tidings.transport.websocket_server import WebSocketSession

PREPARE_S: Final = 1.0
"""The longest that the start waits for preparations; they continue in the background."""

Admit = Callable[[Scope], Awaitable[tuple[int, str] | None]]
"""Checks the handshake of a WebSocket: returns the status and text of a refusal, or None."""
ClientFactory = Callable[[Backend, WebSocketSession], DialectClient]


def admit_by_token(
    auth: Auth, dispatcher: Dispatcher, name: str, token_of: Callable[[Scope], str], purpose: str = ""
) -> Admit:
    """A check that refuses a handshake without a valid token, or a ticket for `purpose`.

    Args:
        name: of the action, for the log.
        token_of: returns the token in a request, or raises `ActionError`.
    """

    async def admit(scope: Scope) -> tuple[int, str] | None:
        try:
            await auth.authenticate(token_of(scope), purpose)
        except Exception as problem:
            error = dispatcher.describe(problem, name)
            return error.code.http_status, error.message
        return None

    return admit


class Dialects:
    """The WebSockets, routes and preparations of the dialects. Calls the function `mount` of each dialect."""

    def __init__(
        self,
        mounts: Iterable[Callable[[Dialects], None]],
        backend: Backend,
        half_open: HalfOpen,
        *,
        dev_tokens: bool = False,
        public_channel: bool = True,
        public_since: Callable[[], int],
        public_url: str = "",
        **transport: Any,
    ) -> None:
        """
        Args:
            mounts: the function of each dialect.
            dev_tokens: hand out tokens to programs of this machine (`GET /token`).
            public_channel: create the public channel at the start, not when somebody enters it.
            public_since: returns the time (ms) from which on a newcomer gets the messages of the public channel.
            public_url: the start of every link; empty for the host that a request names.
            transport: options of every `WebSocketGateway`.
        """
        self.backend = backend
        self.dev_tokens = dev_tokens
        self.public_channel = public_channel
        self.public_since = public_since
        self.public_url = public_url
        self._half_open = half_open
        self._transport = transport
        self._by_path: dict[str, WebSocketGateway] = {}
        self._by_rule: list[tuple[Callable[[str], object], WebSocketGateway]] = []
        self._routes: list[Callable[[FastAPI], None]] = []
        self._preparations: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._preparing: list[asyncio.Task[None]] = []
        self._checks: list[Periodic] = []
        for mount in mounts:
            mount(self)

    # -- called by the dialects ----------------------------------------------------------------------------------

    def add_websocket(self, path: str, client: ClientFactory, admit: Admit | None = None) -> None:
        """Serve a WebSocket at a path."""
        self._by_path[path] = self._gateway(client, admit)

    def add_websockets(
        self, matches: Callable[[str], object], client: ClientFactory, admit: Admit | None = None
    ) -> None:
        """Serve WebSockets at each path that matches and is not another dialect's own."""
        self._by_rule.append((matches, self._gateway(client, admit)))

    def add_routes(self, install: Callable[[FastAPI], None]) -> None:
        """Add HTTP routes to the application."""
        self._routes.append(install)

    def add_preparation(self, prepare: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function at the start of the server."""
        self._preparations.append(prepare)

    def add_check(self, check: Periodic) -> None:
        """Run it from the start of the server to its end."""
        self._checks.append(check)

    def _gateway(self, client: ClientFactory, admit: Admit | None) -> WebSocketGateway:
        return WebSocketGateway(
            client, self.backend, self._half_open, admit=admit, **{"ping_soon": PING_SOON_S, **self._transport}
        )

    # -- called by the application -------------------------------------------------------------------------------

    @property
    def gateways(self) -> list[WebSocketGateway]:
        return [*self._by_path.values(), *(gateway for _, gateway in self._by_rule)]

    def find(self, path: str) -> WebSocketGateway | None:
        """Return the gateway of a WebSocket on this path."""
        return self._by_path.get(path) or next((gateway for matches, gateway in self._by_rule if matches(path)), None)

    def install(self, web: FastAPI) -> None:
        """Add the HTTP routes of all dialects."""
        for install in self._routes:
            install(web)

    async def start(self) -> None:
        """Start the checks; run the preparations, and wait for them up to `PREPARE_S`."""
        for check in self._checks:
            await check.start()
        self._preparing = [spawn(prepare(), "preparation of a dialect") for prepare in self._preparations]
        if self._preparing:
            await asyncio.wait(self._preparing, timeout=PREPARE_S)

    async def stop(self) -> None:
        for task in self._preparing:
            task.cancel()
        await asyncio.gather(
            *(gateway.stop() for gateway in self.gateways), *(check.stop() for check in self._checks)
        )
