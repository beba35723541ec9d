"""The Socket.IO gateway: Socket.IO protocol v5 on the transport's sessions, namespace `/`.

python-socketio's server is subclassed where a client's packets come in. Events never reach its handlers: a client
may name an event `connect` or `disconnect`, and those are not theirs to call.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import socketio
from pydantic import ValidationError
from socketio import packet as sio

from server.auth import unauthenticated
from server.context import Context, Parts
from server.contract.actions import ConnectAuth
from server.contract.errors import ActionError, CloseReason
from server.delivery.catchup import CatchUp
from server.delivery.connection import Connection
from server.delivery.frames import Batch, Codec
from server.dispatch import Answer, Dispatcher, payload_of
from server.gateways.inbox import Inbox
from server.gateways.sessions import open_device
from server.transport.frames import packet_frames
from server.transport.server import EngineServer
from server.transport.session import EngineSession, ProtocolError

logger = logging.getLogger("tidings.socketio")

CONNECT_TIMEOUT_S = 10.0
MAX_PAYLOAD = 1_000_000
MAX_ATTACHMENTS = 8


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class Json:
    """orjson, and the standard library for what orjson refuses but a field's own check can explain."""

    @staticmethod
    def dumps(value: object, **_options: Any) -> str:
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            try:
                return json.loads(text, parse_constant=_no_constant)
            except RecursionError:
                raise ValueError("nested too deeply") from None


class Packet(sio.Packet):  # type: ignore[misc]
    """Socket.IO's text packets."""

    json = Json


class TextCodec:
    """Events as Engine.IO messages that hold Socket.IO EVENT packets, in text."""

    def encode(self, event: str, payload: Any) -> tuple[str, int]:
        body = orjson.dumps(payload)
        return f'42["{event}",{body.decode()}]', len(body) + len(event) + 8

    def frames(self, packets: Sequence[str]) -> bytes:
        return packet_frames(packets)


TEXT = TextCodec()


class SocketIOLink:
    """A connection's way out: a `delivery.connection.Link`."""

    codec: Codec = TEXT

    def __init__(self, session: EngineSession, server: EngineServer, stop: Callable[[], None]) -> None:
        self._session = session
        self._server = server
        self._stop = stop

    def write(self, batch: Batch) -> None:
        session = self._session
        if batch.transient and not session.has_room(self._server.max_buffered // 2):
            return
        if session.wire is not None:
            sent = session.put_frames(batch.frames(self.codec))
        else:
            sent = session.put(*batch.packets(self.codec))
        if not sent and not batch.transient:
            self.overflow()

    def overflow(self) -> None:
        """The client does not read. Not closed now: whoever writes is going through the connections of a room."""
        asyncio.get_running_loop().call_soon(self.close, CloseReason.SLOW_CONSUMER)

    async def drain(self) -> None:
        await self._session.drain()

    def close(self, reason: CloseReason) -> None:
        if self._session.closing or self._session.sealed:
            return
        self._stop()
        closing, _ = self.codec.encode("closing", {"reason": reason, "reconnect": reason.reconnect})
        # A stock client comes back by itself, unless the server disconnects its namespace.
        last = [closing] if reason.reconnect else [closing, f"4{sio.DISCONNECT}"]
        self._session.seal(last, drop=reason is CloseReason.SLOW_CONSUMER)
        self._session.end(reason, politely=True)


class _Client:
    """What the gateway knows of one Engine.IO session."""

    __slots__ = (
        "address",
        "connecting",
        "connection",
        "inbox",
        "link",
        "partial",
        "partial_bytes",
        "session",
        "timeout",
    )

    def __init__(self, session: EngineSession, address: str) -> None:
        self.session = session
        self.address = address
        self.connecting: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.inbox: Inbox | None = None
        self.link: SocketIOLink
        self.timeout: asyncio.TimerHandle | None = None
        self.partial: Packet | None = None
        self.partial_bytes = 0


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


class SocketIOGateway(socketio.AsyncServer):  # type: ignore[misc]
    def __init__(
        self,
        parts: Parts,
        dispatcher: Dispatcher,
        catch_up: CatchUp,
        *,
        cors_origins: list[str],
        per_address: int,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **engine: Any,
    ) -> None:
        """`connect_timeout`: seconds within which a session has to connect to the namespace."""
        super().__init__(
            async_mode="asgi",
            serializer=Packet,
            cors_allowed_origins=cors_origins,
            max_http_buffer_size=MAX_PAYLOAD,
            max_half_open_per_address=per_address,
            **engine,
        )
        self._parts = parts
        self._dispatcher = dispatcher
        self._catch_up = catch_up
        self._clients: dict[str, _Client] = {}
        self._connect_timeout = connect_timeout
        self.eio.listener = self

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    async def stop(self) -> None:
        """Tell every connection that the server goes away, and close it."""
        for client in list(self._clients.values()):
            if client.connection is not None:
                client.connection.link.close(CloseReason.SHUTDOWN)
        await self.eio.end_all(CloseReason.SHUTDOWN)

    # -- called by the transport ---------------------------------------------------------------------------------

    def opened(self, session: EngineSession, address: str) -> None:
        client = self._clients[session.sid] = _Client(session, address)
        self._expect_connect(client)

    def _expect_connect(self, client: _Client) -> None:
        """A session that does not connect to the namespace in time is closed."""
        client.timeout = asyncio.get_running_loop().call_later(
            self._connect_timeout, partial(client.session.end, "connect timeout", politely=True)
        )

    def message(self, session: EngineSession, data: str | bytes) -> None:
        client = self._clients.get(session.sid)
        if client is None:
            return
        try:
            packet = self._assemble(client, data)
            if packet is not None:
                self._receive(client, packet)
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
            if client.connection is None:
                raise ProtocolError(str(error)) from error
            logger.info("protocol error: %s", error)
            client.connection.link.close(CloseReason.PROTOCOL_ERROR)

    def ended(self, session: EngineSession, reason: str) -> None:
        client = self._clients.pop(session.sid, None)
        if client is not None:
            if client.timeout is not None:
                client.timeout.cancel()
            self._leave(client)

    # -- packets -------------------------------------------------------------------------------------------------

    def _assemble(self, client: _Client, data: str | bytes) -> Packet | None:
        """The packet that is complete with this message, if one is."""
        if client.partial is not None:
            if not isinstance(data, bytes):
                raise ValueError("an attachment was due")
            client.partial_bytes += len(data)
            if client.partial_bytes > MAX_PAYLOAD:
                raise ValueError("attachments too large")
            if not client.partial.add_attachment(data):
                return None
            packet, client.partial = client.partial, None
            return packet
        if not isinstance(data, str) or not "0" <= data[:1] <= "6":
            raise ValueError("not a Socket.IO packet")
        packet = Packet(encoded_packet=data)
        if packet.packet_type in (sio.BINARY_EVENT, sio.BINARY_ACK):
            if client.connection is None or not 1 <= packet.attachment_count <= MAX_ATTACHMENTS:
                raise ValueError("attachments not expected")
            client.partial, client.partial_bytes = packet, 0
            return None
        return packet

    def _receive(self, client: _Client, packet: Packet) -> None:
        namespace = packet.namespace or "/"
        kind = packet.packet_type
        if kind == sio.CONNECT:
            if namespace != "/":
                self._send(client, sio.CONNECT_ERROR, {"message": "Invalid namespace"}, namespace=namespace)
            elif client.connection is not None or client.connecting is not None:
                raise ValueError("connected already")
            else:
                client.connecting = asyncio.create_task(self._connect(client, packet.data))
            return
        if client.connection is None or client.inbox is None or namespace != "/":
            raise ValueError("not connected")
        if kind in (sio.EVENT, sio.BINARY_EVENT):
            self._event(client, client.inbox, packet)
        elif kind == sio.DISCONNECT:
            self._leave(client)
            self._expect_connect(client)
        elif kind not in (sio.ACK, sio.BINARY_ACK):
            raise ValueError("unexpected packet")

    def _event(self, client: _Client, inbox: Inbox, packet: Packet) -> None:
        if not isinstance(packet.data, list) or not packet.data:
            raise ValueError("an event is a non-empty array")
        name, *args = packet.data
        link = client.link

        def reply(answer: Answer) -> None:
            if packet.id is not None:
                body = orjson.dumps([answer.wire()])
                if not client.session.put([f"43{packet.id}{body.decode()}"], len(body) + 24):
                    link.overflow()

        try:
            raw = payload_of(args)
        except ActionError as error:
            inbox.refuse(error, reply)
        else:
            inbox.push(name, raw, reply)

    def _send(self, client: _Client, kind: int, data: Any, namespace: str = "/") -> None:
        text = "4" + Packet(kind, data=data, namespace=namespace).encode()
        client.session.put([text], len(text))

    # -- connections ---------------------------------------------------------------------------------------------

    async def _connect(self, client: _Client, data: Any) -> None:
        connection: Connection | None = None
        try:
            auth = _read_auth(data)
            principal = await self._parts.auth.authenticate(auth.token)
            inbox = Inbox(
                self._dispatcher,
                lambda: Context(self._parts, opened.principal, opened, client.address),
            )
            link = SocketIOLink(client.session, self.eio, inbox.stop)
            opened = connection = Connection(link, principal, auth.device)
            await open_device(self._parts, connection)
            if client.session.closing:
                self._parts.hub.remove(connection)
                return
            client.connection, client.inbox, client.link = connection, inbox, link
            client.session.heartbeat = _CursorHeartbeat(connection, self._parts)
            if client.timeout is not None:
                client.timeout.cancel()
            self.eio.authenticated(client.session.sid)
            self._send(client, sio.CONNECT, {"sid": connection.id})
            self._catch_up.start(connection, auth.cursors)
        except Exception as problem:
            if connection is not None:
                self._parts.hub.remove(connection)
            error = self._dispatcher.describe(problem, "connect")
            self._send(client, sio.CONNECT_ERROR, {"message": error.message, "data": error.model_dump(mode="json")})
        finally:
            client.connecting = None

    def _leave(self, client: _Client) -> None:
        connection, client.connection = client.connection, None
        client.session.heartbeat = None
        client.partial = None
        if connection is not None:
            self._parts.typists.ended(connection)
            self._parts.hub.remove(connection)
            self._parts.cursors.ended(connection)


def _read_auth(data: object) -> ConnectAuth:
    if data is None or not isinstance(data, Mapping) or data.get("token") is None:
        raise unauthenticated("give auth.token")
    try:
        return ConnectAuth.model_validate(data, strict=True)
    except ValidationError as error:
        if any(problem["loc"][:1] == ("token",) for problem in error.errors()):
            raise unauthenticated() from None
        raise
