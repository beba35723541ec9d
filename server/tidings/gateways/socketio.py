"""The Socket.IO gateway: actions are events with an acknowledgement, in the namespace `/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tidings.actions.dispatch import Answer, payload_of
from tidings.contract.errors import ActionError, CloseReason, Error
from tidings.fanout.connection import Connection
from tidings.gateways.applications import ApplicationUsers, RoomsOfHub
from tidings.gateways.client_session import Backend, ClientSession, read_credentials
from tidings.gateways.links import BaseLink
from tidings.transport.engine_server import EngineServer
from tidings.transport.engine_session import CLOSE, EngineSession, Transport
from tidings.transport.socketio_codecs import DISCONNECT, MsgpackCodec, SocketIOCodec, TextCodec
from tidings.transport.socketio_server import NamespaceSocket, SocketIOServer

CODECS: dict[str, Callable[[], SocketIOCodec]] = {"json": TextCodec, "msgpack": MsgpackCodec}


class SocketIOLink(BaseLink[EngineSession, SocketIOCodec]):
    gateway = "socketio"

    @property
    def transport(self) -> str:
        return "websocket" if self._session.transport is Transport.WEBSOCKET else "polling"

    def close(self, reason: CloseReason) -> None:
        if self.has_ended:
            return
        if self.actions is not None:
            self.actions.stop()
        codec = self.codec
        closing = codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        # A stock client reconnects by itself, unless the server disconnects its namespace. python-socketio's does not
        # after Engine.IO's CLOSE either, which only polling has.
        farewell: list[str | bytes] = []
        if not reason.reconnect:
            farewell = [*codec.packets(codec.packet_class(DISCONNECT, namespace="/")), CLOSE]
        drop = reason is CloseReason.SLOW_CONSUMER
        self._session.end(reason, politely=True, last=[codec.packet(closing)], drop=drop, farewell=farewell)


class SocketIOClient(ClientSession):
    """A client in the namespace `/`."""

    def __init__(
        self, backend: Backend, socket: NamespaceSocket[SocketIOClient], codec: SocketIOCodec, auth: object
    ) -> None:
        """Start to sign in. `auth`: the data of the CONNECT packet."""
        self.link = SocketIOLink(socket.session, codec)
        super().__init__(backend, self.link, socket.peer.address)
        self._socket = socket
        self.sign_in(lambda: read_credentials(auth, self.parts.auth))

    def accepted(self, connection: Connection) -> None:
        self._socket.session.heartbeat.listener = self
        self._socket.accept()

    def refused(self, error: Error) -> None:
        self._socket.refuse({"message": error.message, "data": error.model_dump(mode="json")})


class SocketIOGateway:
    """A `transport.socketio_server.NamespaceListener`. The application mounts its `server`."""

    def __init__(
        self,
        backend: Backend,
        rooms: RoomsOfHub,
        users: ApplicationUsers,
        *,
        parser: str = "json",
        **transport: Any,
    ) -> None:
        """`rooms` and `users` are for applications on the server.

        `parser`: "json" or "msgpack". `transport`: options of `SocketIOServer` and `EngineServer`.
        """
        self._backend = backend
        self.server: SocketIOServer[SocketIOClient] = SocketIOServer(
            self, rooms=rooms, admission=users, codec=CODECS[parser](), **transport
        )
        live = (action for action in backend.dispatcher.registry if action.live)
        self.server.list_actions({action.name: action.handler for action in live})
        users.server = self.server

    @property
    def eio(self) -> EngineServer:
        """The Engine.IO server underneath."""
        engine: EngineServer = self.server.eio
        return engine

    def connections_of(self, session_ids: Iterable[str]) -> list[Connection]:
        """The connections of Engine.IO sessions. Ends those sessions that have none."""
        connections = []
        for session in filter(None, map(self.eio.session_of, session_ids)):
            client = session.heartbeat.listener
            if isinstance(client, SocketIOClient) and client.connection is not None:
                connections.append(client.connection)
            else:
                session.end(CloseReason.SHUTDOWN, politely=True, farewell=())
        return connections

    async def stop(self) -> None:
        """Close all connections with the reason `shutdown`."""
        for socket in self.server.sockets:
            if socket.data is not None and socket.data.connection is not None:
                socket.data.close(CloseReason.SHUTDOWN)
        await self.eio.end_all(CloseReason.SHUTDOWN)
        await self.server.end_handlers()

    # -- called by the transport ---------------------------------------------------------------------------------

    def connect(self, socket: NamespaceSocket[SocketIOClient], auth: Any) -> None:
        socket.data = SocketIOClient(self._backend, socket, self.server.codec, auth)

    def event(self, socket: NamespaceSocket[SocketIOClient], data: list[Any], ack_id: int | None, size: int) -> None:
        client = socket.data
        assert client is not None
        link = client.link

        def reply(answer: Answer) -> None:
            if ack_id is not None:
                link.send(link.codec.answer(ack_id, answer.wire()))

        try:
            payload = payload_of(data[1:])
        except ActionError as error:
            client.actions.refuse(error, reply)
        else:
            client.actions.push(data[0], payload, size, reply)

    def disconnected(self, socket: NamespaceSocket[SocketIOClient]) -> None:
        socket.session.heartbeat.listener = None
        if socket.data is not None:
            socket.data.ended()
            socket.data = None  # they reference each other: only the garbage collector would free them

    def close(self, socket: NamespaceSocket[SocketIOClient], reason: CloseReason) -> None:
        if socket.data is not None:
            socket.data.close(reason)
