"""Connects applications on `app.sio` with Tidings: its users in their namespaces, and its rooms in `/`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from tidings.actions.context import Parts
from tidings.actions.dispatch import Dispatcher
from tidings.auth.limits import Limit
from tidings.auth.principal import Principal
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.events import is_reserved
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.hub import CONNECTIONS_PER_USER
from tidings.fanout.publisher import Publisher
from tidings.gateways.client_session import read_credentials
from tidings.log.notices import Transient
from tidings.supervision import Periodic
from tidings.transport.addresses import source_of
from tidings.transport.socketio_server import NamespaceSocket, SocketIOServer
from tidings_db.engine import Database
from tidings_db.queries import users

logger = logging.getLogger("tidings.applications")

Socket = NamespaceSocket[Any]


def connection_of(socket: Socket) -> Connection | None:
    """The connection of a client in `/`; None before it is signed in."""
    connection: Connection | None = None if socket.data is None else socket.data.connection
    return connection


class RoomsOfHub:
    """A `transport.socketio_server.CoreRooms`: the rooms of `/` are the hub's topics and conversations."""

    def __init__(self, parts: Parts, publisher: Publisher) -> None:
        self._hub = parts.hub
        self._publisher = publisher

    def rooms_of(self, socket: Socket) -> list[str]:
        connection = connection_of(socket)
        if connection is None:
            return []
        return [
            self._hub.name(room_key).room_id
            for room_key in connection.rooms
            if room_key not in connection.unannounced_rooms
        ]

    def is_in(self, socket: Socket, room: str) -> bool:
        connection, room_key = connection_of(socket), self._hub.key(room)
        return (
            connection is not None and room_key in connection.rooms and room_key not in connection.unannounced_rooms
        )

    def emit(self, event: str, data: Any, to: Sequence[str | Socket] | None, skip: Socket | None) -> None:
        """Send a transient event to this node's members of rooms, over every gateway, and clients; None: to all.

        Each gets it once, a member of several of the rooms in the first one. Raises `ValueError`.
        """
        _check_event(event, data)
        skipped = None if skip is None else connection_of(skip)
        keys = [self._hub.key(room) for room in to or () if isinstance(room, str)]
        rooms = dict.fromkeys(key for key in keys if key is not None)  # of the others, no member is connected
        reached: set[int] = set()
        for room_key in rooms:
            notice = Transient(room_key, event, data, None if skipped is None else skipped.id, frozenset(reached))
            self._publisher.deliver(notice)
            reached.update(self._hub.users_in(room_key))
        clients = dict.fromkeys(socket for socket in to or () if not isinstance(socket, str))
        connections = self._hub.connections if to is None else map(connection_of, clients)
        batch = Batch([(event, data)], transient=True)
        for connection in connections:
            if (
                connection is not None
                and connection is not skipped
                and not connection.closed
                and rooms.keys().isdisjoint(connection.rooms)
            ):
                connection.link.write(batch)


def _check_event(event: str, data: Any) -> None:
    """Raise ValueError for an event that cannot be sent to clients in `/`."""
    if is_reserved(event):
        raise ValueError(f"`{event}` is an event of Tidings: an application cannot emit it in `/`")
    if isinstance(data, tuple):
        raise ValueError("an event in `/` has one argument")
    try:
        orjson.dumps(data)
    except TypeError as error:
        raise ValueError(f"data emitted in `/` must be JSON: {error}") from None


class ApplicationUsers(Periodic):
    """A `transport.socketio_server.Admission`: signs users in to the namespaces of applications.

    Every `interval_s` seconds it disconnects those whose token has expired, or whose session was withdrawn.
    """

    def __init__(self, parts: Parts, dispatcher: Dispatcher, database: Database, interval_s: float) -> None:
        super().__init__(interval_s, logger, "the users of applications could not be checked")
        self._parts = parts
        self._dispatcher = dispatcher
        self._db = database
        self._signed_in: dict[int, dict[Socket, Principal]] = {}
        """By user, the oldest first; some may have left."""
        self._known_admins: set[tuple[str, str]] = set()
        """Namespaces with a password, and sources that have signed in by it."""
        self.server: SocketIOServer[Any]

    async def sign_in(self, socket: Socket, auth: Any) -> Principal:
        """Sign a client in as in `/`, without naming a device. Raises `ActionError` or `ValidationError`.

        A user with too many clients loses the oldest.
        """
        credentials = read_credentials(auth, self._parts.auth)
        principal, _ = await self._parts.auth.arrive(credentials.token, credentials.device)
        if self._parts.limits is not None:
            self._parts.limits.take(Limit.CONNECTS, principal.user_key)
        self._forget_absent(principal.user_key)
        clients = self._signed_in.setdefault(principal.user_key, {})
        clients[socket] = principal
        sessions = dict.fromkeys(client.peer for client in clients)
        excess = list(sessions)[:-CONNECTIONS_PER_USER]
        await self._disconnect([client for client in clients if client.peer in excess])
        return principal

    async def count_attempt(self, socket: Socket) -> Callable[[], Awaitable[None]] | None:
        """Count a sign-in by the password of a namespace like one to an account. Raises `ActionError`."""
        attempts = self._parts.auth.attempts
        if attempts is None:
            return None
        account = f"the namespace {socket.namespace}"  # no username has a space
        admin = account, source_of(socket.peer.address)
        attempt = await attempts.sign_in(account, socket.peer.address, known=admin in self._known_admins)

        async def succeeded() -> None:
            self._known_admins.add(admin)
            await attempt.succeeded()

        return succeeded

    async def _disconnect(self, clients: Sequence[Socket]) -> None:
        for client in clients:
            if not client.accepted and not client.has_left():
                client.refuse(self.refusal(ActionError(ErrorCode.RATE_LIMITED, "too many connections of this user")))
        await asyncio.gather(*(self.server.disconnect(client.sid, client.namespace) for client in clients))

    def _forget_absent(self, user_key: int) -> None:
        """Forget the clients of a user that have left their namespace."""
        clients = self._signed_in.get(user_key, {})
        present = {socket: principal for socket, principal in clients.items() if not socket.has_left()}
        if present:
            self._signed_in[user_key] = present
        else:
            self._signed_in.pop(user_key, None)

    def refusal(self, problem: Exception) -> dict[str, Any]:
        """The data of `connect_error`, as in `/`."""
        error = self._dispatcher.describe(problem, "connect")
        return {"message": error.message, "data": error.model_dump(mode="json")}

    async def _round(self) -> None:
        for user_key in list(self._signed_in):
            self._forget_absent(user_key)
        # Not those who sign in during the read.
        checked = {socket: principal for clients in self._signed_in.values() for socket, principal in clients.items()}
        if not checked:
            return
        keys = {principal.session_key for principal in checked.values()}
        valid = await self._db.read(lambda conn: users.valid_sessions(conn, keys))
        now_ms = time.time() * 1000
        await self._disconnect(
            [
                socket
                for socket, principal in checked.items()
                if principal.session_key not in valid or self._expires_at(socket, principal) <= now_ms
            ]
        )

    def _expires_at(self, socket: Socket, principal: Principal) -> int:
        """The expiry (ms) of the sign-in, or of a fresh token that the same session has sent in `/`."""
        core = socket.peer.sockets.get("/")
        connection = None if core is None else connection_of(core)
        if connection is not None and connection.principal.session_key == principal.session_key:
            return max(principal.expires_at, connection.principal.expires_at)
        return principal.expires_at
