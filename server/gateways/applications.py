"""Connects applications on `app.sio` with Tidings: its users in their namespaces, and its rooms in `/`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, Final

import orjson

from db.engine import Database
from db.queries import users
from server.context import Parts
from server.contract.events import EVENTS
from server.dispatch import Dispatcher
from server.fanout.broker import Broker
from server.fanout.connection import Batch, Connection
from server.gateways.client_session import read_credentials
from server.limits import Limit
from server.log.notices import RoomChannel, Transient
from server.principal import Principal
from server.supervision import Periodic
from server.transport.socketio_server import NamespaceSocket, SocketIOServer

RESERVED: Final = frozenset(("connect", "connect_error", "disconnect"))

logger = logging.getLogger("tidings.applications")

Socket = NamespaceSocket[Any]


def connection_of(socket: Socket) -> Connection | None:
    """The connection of a client in `/`; None before it is signed in."""
    connection: Connection | None = None if socket.data is None else socket.data.connection
    return connection


class RoomsOfHub:
    """A `transport.socketio_server.CoreRooms`: the rooms of `/` are the hub's topics and conversations."""

    def __init__(self, parts: Parts, broker: Broker) -> None:
        self._hub = parts.hub
        self._broker = broker

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

    def emit(self, event: str, data: Any, room: str | Socket | None, skip: Socket | None) -> None:
        """Send a transient event to the members of a room, over every gateway. Raises `ValueError`."""
        _check_event(event, data)
        skipped = None if skip is None else connection_of(skip)
        if isinstance(room, str):
            room_key = self._hub.key(room)
            if room_key is not None:  # else no member is connected
                notice = Transient(room_key, event, data, None if skipped is None else skipped.id)
                self._broker.publish(RoomChannel(room_key), notice)
            return
        to: Iterable[Connection | None] = self._hub.connections if room is None else [connection_of(room)]
        batch = Batch([(event, data)], transient=True)
        for connection in to:
            if connection is not None and connection is not skipped and not connection.closed:
                connection.link.write(batch)


def _check_event(event: str, data: Any) -> None:
    """Raise ValueError for an event that cannot be sent to clients in `/`."""
    if event in EVENTS or event in RESERVED:
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
        self._signed_in: dict[Socket, Principal] = {}
        self.server: SocketIOServer[Any]

    async def sign_in(self, socket: Socket, auth: Any) -> Principal:
        """Sign a client in as in `/`, without naming a device. Raises `ActionError` or `ValidationError`."""
        credentials = read_credentials(auth, self._parts.auth)
        principal, _ = await self._parts.auth.arrive(credentials.token, credentials.device)
        if self._parts.limits is not None:
            self._parts.limits.take(Limit.CONNECTS, principal.user_key)
        self._signed_in[socket] = principal
        return principal

    def refusal(self, problem: Exception) -> dict[str, Any]:
        """The data of `connect_error`, as in `/`."""
        error = self._dispatcher.describe(problem, "connect")
        return {"message": error.message, "data": error.model_dump(mode="json")}

    async def _round(self) -> None:
        for socket in [
            socket for socket in self._signed_in if socket.peer.sockets.get(socket.namespace) is not socket
        ]:
            del self._signed_in[socket]
        if not self._signed_in:
            return
        checked = dict(self._signed_in)  # not those who sign in during the read
        keys = {principal.session_key for principal in checked.values()}
        valid = await self._db.read(lambda conn: users.valid_sessions(conn, keys))
        now_ms = time.time() * 1000
        expired = [
            socket
            for socket, principal in checked.items()
            if principal.session_key not in valid or self._expires_at(socket, principal) <= now_ms
        ]
        await asyncio.gather(*(self.server.disconnect(socket.sid, socket.namespace) for socket in expired))

    def _expires_at(self, socket: Socket, principal: Principal) -> int:
        """The expiry (ms) of the sign-in, or of a fresh token that the same session has sent in `/`."""
        core = socket.peer.sockets.get("/")
        connection = None if core is None else connection_of(core)
        if connection is not None and connection.principal.session_key == principal.session_key:
            return max(principal.expires_at, connection.principal.expires_at)
        return principal.expires_at
