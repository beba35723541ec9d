"""The Socket.IO gateway: actions are events with an acknowledgement, in the namespace `/`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from server.context import Context, Parts
from server.contract.errors import ActionError, CloseReason
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.dispatch import Answer, Dispatcher, payload_of
from server.gateways.inbox import Inbox
from server.gateways.live import CursorHeartbeat, LiveLink, ended, read_auth
from server.opening import open_connection
from server.transport.protocol import DISCONNECT, Codec, MsgpackCodec, NamespaceSocket, SocketIOServer, TextCodec
from server.transport.server import EngineServer
from server.transport.session import EngineSession

logger = logging.getLogger("tidings.socketio")

CODECS: dict[str, Callable[[], Codec]] = {"json": TextCodec, "msgpack": MsgpackCodec}


class SocketIOLink(LiveLink[EngineSession, Codec]):
    gateway = "socketio"

    @property
    def transport(self) -> str:
        return "websocket" if self._session.upgraded else "polling"

    def answer(self, ack_id: int, answer: Answer) -> None:
        """Acknowledge an action."""
        self.send(self.codec.answer(ack_id, answer.wire()))

    def close(self, reason: CloseReason) -> None:
        if self._session.closing or self._session.sealed:
            return
        if self.inbox is not None:
            self.inbox.stop()
        codec = self.codec
        closing = codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        last = [codec.packet(closing)]
        if not reason.reconnect:
            # A stock client comes back by itself, unless the server disconnects its namespace.
            last += codec.packets(codec.packet_class(DISCONNECT, namespace="/"))
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
            ended(self._parts, connection)

    def broken(self, socket: NamespaceSocket[_Client]) -> None:
        assert socket.data is not None
        socket.data.link.close(CloseReason.PROTOCOL_ERROR)

    # -- connections ---------------------------------------------------------------------------------------------

    async def _connect(self, socket: NamespaceSocket[_Client], client: _Client, data: Any) -> None:
        connection: Connection | None = None
        try:
            auth = read_auth(data)
            client.link = link = SocketIOLink(socket.session, self.server.codec)
            opened = connection = await open_connection(self._parts, link, auth)
            address = socket.peer.address
            client.inbox = link.inbox = Inbox(
                self._dispatcher, lambda: Context(self._parts, opened.principal, opened, address)
            )
            if socket.session.closing or socket.session.sealed:
                self._parts.hub.remove(connection)
                return
            client.connection = connection
            socket.session.heartbeat = CursorHeartbeat(connection, self._parts)
            socket.accept()
            self._catch_up.start(connection, auth.cursors)
        except Exception as problem:
            if connection is not None:
                self._parts.hub.remove(connection)
            error = self._dispatcher.describe(problem, "connect")
            socket.refuse({"message": error.message, "data": error.model_dump(mode="json")})
        finally:
            client.connecting = None
