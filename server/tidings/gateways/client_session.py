"""One client of a live connection, the same for every gateway.

A gateway translates frames. The rest is here: signing in, requesting actions, entering and leaving rooms, the
heartbeat that proves delivery, and the end.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tidings.actions.context import Parts
from tidings.actions.dispatch import Dispatcher
from tidings.auth.limits import Limit
from tidings.auth.sessions import Auth
from tidings.auth.tokens import unauthenticated
from tidings.contract.actions import ConnectAuth
from tidings.contract.errors import ActionError, CloseReason, Error, ErrorCode
from tidings.fanout.catchup import CatchUp
from tidings.fanout.connection import Connection
from tidings.gateways.action_queue import ActionQueue
from tidings.gateways.links import BaseLink
from tidings.log.devices import NameDevice
from tidings.supervision import spawn
from tidings.transport.timers import Timers

MAX_EARLY, MAX_EARLY_BYTES = 256, 256 * 1024
"""The most frames, and their bytes, that wait for the sign-in of their sender."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of the node that client sessions work with."""

    parts: Parts
    dispatcher: Dispatcher
    catch_up: CatchUp


class ClientSession(ABC):
    """A client, from its first frame to its end. Implements the transport's `Heartbeat`.

    A gateway subclasses it to translate each step for its clients: `accepted`, `refused`, `received`.
    """

    purpose: ClassVar[str] = ""
    """The purpose of the tickets that are accepted instead of a token; empty if none are."""
    accepts_keys: ClassVar[bool] = True
    """Whether a key may sign in: the documents of the dialects know users only."""

    def __init__(self, backend: Backend, link: BaseLink[Any, Any], address: str) -> None:
        """`address`: the client's, for the log and the limits."""
        self.parts = backend.parts
        self.connection: Connection | None = None
        """None until the client has signed in."""
        self.actions: ActionQueue
        """The client's actions; set when it has signed in."""
        self._backend = backend
        self._link = link
        self._address = address
        self._sign_in_task: asyncio.Task[None] | None = None
        self._sign_in_timeout: asyncio.TimerHandle | None = None
        self._early: list[str | bytes] = []
        self._early_bytes = 0

    # -- for subclasses ------------------------------------------------------------------------------------------

    @abstractmethod
    def accepted(self, connection: Connection) -> None:
        """The client has signed in; the replay follows. Starts the heartbeat."""

    @abstractmethod
    def refused(self, error: Error) -> None:
        """The client is refused: a bad token, no token in time, too many early frames."""

    async def prepare(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Load data that `accepted` and the first events need. An exception refuses the client."""

    def entered(self) -> None:  # noqa: B027 - optional
        """The client is in its rooms; none of their events has been sent yet."""

    def received(self, data: str | bytes) -> None:  # noqa: B027 - a gateway without `receive` has none
        """A frame has arrived, before or after the sign-in."""

    # -- signing in ----------------------------------------------------------------------------------------------

    @property
    def signing_in(self) -> bool:
        return self._sign_in_task is not None and self.connection is None

    def expect_sign_in(self, seconds: float, timers: Timers) -> None:
        """Refuse the client if it has not signed in by then."""
        self._sign_in_timeout = timers.call_at(timers.time() + seconds, self._sign_in_timed_out)

    def sign_in(self, credentials: Callable[[], ConnectAuth]) -> None:
        """Start to sign in; ends in `accepted` or `refused`. `credentials` may raise, which refuses the client."""
        assert self._sign_in_task is None, "a client signs in once"
        self._sign_in_task = spawn(self._sign_in(credentials), "sign-in")

    def receive(self, data: str | bytes) -> None:
        """Pass a frame to `received`; during the sign-in, keep it until then."""
        if not self.signing_in:
            self.received(data)
            return
        if self._link.has_ended:  # refused, and its last words are being sent
            return
        self._early.append(data)
        self._early_bytes += len(data)
        if len(self._early) > MAX_EARLY or self._early_bytes > MAX_EARLY_BYTES:
            self.refused(ActionError(ErrorCode.RATE_LIMITED, "too many requests before the authentication").error)

    def _sign_in_timed_out(self) -> None:
        if self.signing_in:  # the store is slow, which is not the client's fault
            self.refused(ActionError(ErrorCode.UNAVAILABLE, "the store cannot be reached now").error)
        elif self.connection is None:
            self.refused(unauthenticated("no token in time").error)

    async def _sign_in(self, credentials: Callable[[], ConnectAuth]) -> None:
        backend, connection = self._backend, None
        try:
            auth = credentials()
            connection = await self._register(auth)
            if connection.principal.scopes is not None and not self.accepts_keys:
                raise ActionError(ErrorCode.FORBIDDEN, "a key signs in over Socket.IO, /ws and REST only")
            await self.prepare(connection)
            if self._link.has_ended:
                self.parts.hub.remove(connection)
                return
            self.actions = self._link.actions = ActionQueue(backend.dispatcher, self.parts, connection, self._address)
            self.connection = connection
            self._cancel_sign_in_timeout()
            self.accepted(connection)
            backend.catch_up.start(connection, auth.cursors, self.entered)
            early, self._early = self._early, []
            for data in early:
                self.received(data)
        except Exception as problem:
            if connection is not None:
                self.parts.hub.remove(connection)
            self._sign_in_task = None
            self.refused(backend.dispatcher.describe(problem, "connect"))

    async def _register(self, auth: ConnectAuth) -> Connection:
        """Authenticate the client, look up its device or name it, and register its connection with the hub.

        A session that is revoked meanwhile is noticed by the catch-up, which checks it again after the registration.

        Raises:
            ActionError: `unauthenticated`, `token_expired`, `token_revoked` or `rate_limited`.
        """
        parts = self.parts
        principal, device = await parts.auth.arrive(auth.token, auth.device, self.purpose)
        if parts.limits is not None:
            parts.limits.take(Limit.CONNECTS, principal.user_key)
        if device is None:
            if parts.limits is not None:
                parts.limits.take(Limit.DEVICES, principal.user_key)
            connected = parts.hub.devices_of(principal.user_key)
            device = await parts.journal.write(NameDevice(principal, None, auth.device, connected))
        connection = Connection(self._link, principal, auth.device)
        connection.device_key, connection.seen_at, connection.epoch = device
        parts.hub.add(connection)
        return connection

    def _cancel_sign_in_timeout(self) -> None:
        if self._sign_in_timeout is not None:
            self._sign_in_timeout.cancel()

    # -- rooms ---------------------------------------------------------------------------------------------------

    async def enter_room(self, room_id: str, *, since: int | None = None) -> bool:
        """Deliver another room to a connection that shows only some. See `CatchUp.enter`."""
        assert self.connection is not None, "not signed in"
        return await self._backend.catch_up.enter(self.connection, room_id, since=since)

    def leave_room(self, room_id: str) -> None:
        """Stop delivering a room. See `CatchUp.leave`."""
        assert self.connection is not None, "not signed in"
        self._backend.catch_up.leave(self.connection, room_id)

    # -- heartbeat -----------------------------------------------------------------------------------------------

    def ping_written(self) -> None:
        assert self.connection is not None
        self.connection.ping_written()

    def pong_received(self) -> None:
        """A PONG proves that everything written before its PING has arrived: it moves the device's cursors."""
        connection = self.connection
        assert connection is not None
        arrived = connection.pong_received()
        if arrived:
            self.parts.hub.confirm(connection, arrived)
        if epoch := connection.epoch_arrived():
            self.parts.cursors.learned(connection.device_key, epoch)
        if connection.when_confirmed is not None and connection.is_confirmed():
            connection.when_confirmed(connection)

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, reason: CloseReason) -> None:
        """Send `closing` with the reason, then close."""
        self._link.close(reason)

    def ended(self) -> None:
        """The transport's session is over."""
        self._early.clear()
        self._cancel_sign_in_timeout()
        connection, parts = self.connection, self.parts
        if connection is not None:
            parts.hub.remove(connection)
            user_key, device_key = connection.principal.user_key, connection.device_key
            parts.cursors.ended(user_key, device_key)
            if device_key not in parts.hub.devices_of(user_key):
                parts.journal.write_cursors_soon()
            # They reference each other: only the garbage collector would free them.
            self._link.actions = None


def read_credentials(data: object, auth: Auth) -> ConnectAuth:
    """Parse what a client sends when it connects. The token's signature is checked before anything else is parsed.

    Raises `unauthenticated`, `token_expired` or `ValidationError`.
    """
    token = data.get("token") if isinstance(data, Mapping) else None
    if token is None:
        raise unauthenticated("give a token")
    if not isinstance(token, str):
        raise unauthenticated()
    auth.check_signature(token)
    assert isinstance(data, Mapping)
    return ConnectAuth.model_validate(data, strict=True)
