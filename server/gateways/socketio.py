"""The Socket.IO gateway: actions are events with an acknowledgement, in the namespace `/`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from server.auth import unauthenticated
from server.context import Context, Parts
from server.contract.actions import ConnectAuth
from server.contract.errors import ActionError, CloseReason
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.delivery.frames import Batch
from server.dispatch import Answer, Dispatcher, payload_of
from server.gateways.inbox import Inbox
from server.opening import open_connection
from server.transport.protocol import DISCONNECT, Codec, MsgpackCodec, NamespaceSocket, SocketIOServer, TextCodec
from server.transport.server import EngineServer
from server.transport.session import EngineSession

logger = logging.getLogger("tidings.socketio")

CODECS: dict[str, Callable[[], Codec]] = {"json": TextCodec, "msgpack": MsgpackCodec}


class SocketIOLink:
    """A connection's way out: a `delivery.connection.Link`."""

    gateway = "socketio"

    def __init__(self, session: EngineSession, server: EngineServer, codec: Codec) -> None:
        self.codec = codec
        self.inbox: Inbox | None = None
        self._session = session
        self._server = server
        self._overflowed = False

    @property
    def transport(self) -> str:
        return "websocket" if self._session.upgraded else "polling"

    @property
    def buffered(self) -> int:
        return self._session.buffered

    @property
    def reason(self) -> str:
        return self._session.ended_for.replace(" ", "_") or "left"  # the namespace, not the session

    def write(self, batch: Batch) -> None:
        if self._overflowed:
            return
        session = self._session
        if batch.transient and not session.has_room(self._server.max_buffered // 2):
            return
        if session.wire is not None:
            sent = session.put_frames(batch.frames(self.codec))
        else:
            sent = session.put(*batch.packets(self.codec))
        if not sent and not batch.transient:
            self._overflow()

    def answer(self, ack_id: int, answer: Answer) -> None:
        """Acknowledge an action."""
        if self._overflowed:
            return
        message, session = self.codec.answer(ack_id, answer.wire()), self._session
        if session.wire is not None:
            sent = session.put_frames(self.codec.frame(message))
        else:
            sent = session.put([self.codec.packet(message)], len(message))
        if not sent:
            self._overflow()

    def _overflow(self) -> None:
        """The client does not read. Not closed now: whoever writes is going through the connections of a room.

        Nothing goes out from here on: after what was dropped, it would leave a gap that no cursor tells of.
        """
        self._overflowed = True
        asyncio.get_running_loop().call_soon(self.close, CloseReason.SLOW_CONSUMER)

    async def drain(self) -> None:
        await self._session.drain()

    def close(self, reason: CloseReason) -> None:
        if self._session.closing or self._session.sealed:
            return
        if self.inbox is not None:
            self.inbox.stop()
        closing = self.codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        last = [self.codec.packet(closing)]
        if not reason.reconnect:
            # A stock client comes back by itself, unless the server disconnects its namespace.
            last += self.codec.packets(self.codec.packet_class(DISCONNECT, namespace="/"))
        self._session.seal(last, drop=reason is CloseReason.SLOW_CONSUMER)
        self._session.end(reason, politely=True)


class _Client:
    """What the gateway knows of one client in the namespace."""

    __slots__ = ("connecting", "connection", "inbox", "link")

    def __init__(self) -> None:
        self.connecting: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.inbox: Inbox
        self.link: SocketIOLink


class _CursorHeartbeat:
    """A PONG proves that everything written before its PING has arrived."""

    def __init__(self, connection: Connection, parts: Parts) -> None:
        self._connection = connection
        self._parts = parts

    def ping_written(self) -> None:
        self._connection.ping_written()

    def pong_received(self) -> None:
        arrived = self._connection.pong_received()
        if arrived:
            self._parts.cursors.advance(self._connection, arrived)


class SocketIOGateway:
    """A `transport.protocol.Listener`. `server` is the Socket.IO server, for the application to mount."""

    def __init__(
        self, parts: Parts, dispatcher: Dispatcher, catch_up: CatchUp, *, parser: str = "json", **transport: Any
    ) -> None:
        """`parser`: "json" or "msgpack". `transport`: options of `SocketIOServer` and `EngineServer`."""
        self._parts = parts
        self._dispatcher = dispatcher
        self._catch_up = catch_up
        self.server: SocketIOServer[_Client] = SocketIOServer(self, codec=CODECS[parser](), **transport)

    @property
    def eio(self) -> EngineServer:
        """The Engine.IO server underneath."""
        engine: EngineServer = self.server.eio
        return engine

    async def stop(self) -> None:
        """Tell every connection that the server goes away, and close it."""
        for socket in self.server.sockets:
            if socket.data is not None and socket.data.connection is not None:
                socket.data.connection.link.close(CloseReason.SHUTDOWN)
        await self.eio.end_all(CloseReason.SHUTDOWN)

    # -- called by the transport ---------------------------------------------------------------------------------

    def connect(self, socket: NamespaceSocket[_Client], auth: Any) -> None:
        socket.data = client = _Client()
        client.connecting = asyncio.create_task(self._connect(socket, client, auth))

    def event(self, socket: NamespaceSocket[_Client], data: list[Any], ack_id: int | None, size: int) -> None:
        client = socket.data
        assert client is not None

        def reply(answer: Answer) -> None:
            if ack_id is not None:
                client.link.answer(ack_id, answer)

        try:
            raw = payload_of(data[1:])
        except ActionError as error:
            room = client.inbox.refuse(error, reply)
        else:
            room = client.inbox.push(data[0], raw, size, reply)
        if not room:
            client.link.close(CloseReason.PROTOCOL_ERROR)

    def disconnected(self, socket: NamespaceSocket[_Client]) -> None:
        socket.session.heartbeat = None
        connection = socket.data.connection if socket.data is not None else None
        if connection is not None:
            self._parts.typists.ended(connection)
            self._parts.hub.remove(connection)
            self._parts.cursors.ended(connection)

    def broken(self, socket: NamespaceSocket[_Client]) -> None:
        assert socket.data is not None
        socket.data.link.close(CloseReason.PROTOCOL_ERROR)

    # -- connections ---------------------------------------------------------------------------------------------

    async def _connect(self, socket: NamespaceSocket[_Client], client: _Client, data: Any) -> None:
        connection: Connection | None = None
        try:
            auth = _read_auth(data)
            client.link = link = SocketIOLink(socket.session, self.eio, self.server.codec)
            opened = connection = await open_connection(self._parts, link, auth)
            address = socket.peer.address
            client.inbox = link.inbox = Inbox(
                self._dispatcher, lambda: Context(self._parts, opened.principal, opened, address)
            )
            if socket.session.closing or socket.session.sealed:
                self._parts.hub.remove(connection)
                return
            client.connection = connection
            socket.session.heartbeat = _CursorHeartbeat(connection, self._parts)
            socket.accept()
            self._catch_up.start(connection, auth.cursors)
        except Exception as problem:
            if connection is not None:
                self._parts.hub.remove(connection)
            error = self._dispatcher.describe(problem, "connect")
            socket.refuse({"message": error.message, "data": error.model_dump(mode="json")})
        finally:
            client.connecting = None


def _read_auth(data: object) -> ConnectAuth:
    if data is None or not isinstance(data, Mapping) or data.get("token") is None:
        raise unauthenticated("give auth.token")
    try:
        return ConnectAuth.model_validate(data, strict=True)
    except ValidationError as error:
        if any(problem["loc"][:1] == ("token",) for problem in error.errors()):
            raise unauthenticated() from None
        raise
