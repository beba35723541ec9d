"""Socket.IO protocol v5 on the Engine.IO sessions: packets, namespaces, acknowledgements.

The listener handles packets to the namespaces of the core, `ApplicationServer` those to applications.

Protocol: https://socket.io/docs/v4/socket-io-protocol/.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from server.transport.engine_server import EngineServer
from server.transport.engine_session import EngineSession, ProtocolError
from server.transport.handshake import Handshake
from server.transport.python_socketio import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    ApplicationServer,
    MsgpackPacket,
    TextPacket,
)
from server.transport.socketio_codecs import SocketIOCodec, TextCodec
from server.transport.websocket_frames import packet_frames

logger = logging.getLogger("tidings.transport")

CONNECT_TIMEOUT_S = 10.0
MAX_PAYLOAD = 1_000_000
MAX_ATTACHMENTS = 8
MAX_REFUSED = 8
"""Refusals after which a session that is in no namespace is closed. An unknown namespace counts 1, others 4."""

D = TypeVar("D")


class NamespaceSocket(Generic[D]):
    """One client in one namespace. `data` belongs to the listener."""

    __slots__ = ("accepted", "data", "namespace", "peer", "sid")

    def __init__(self, peer: Peer[D], namespace: str) -> None:
        self.peer = peer
        self.namespace = namespace
        self.sid = secrets.token_urlsafe(15)
        self.accepted = False
        self.data: D | None = None

    @property
    def session(self) -> EngineSession:
        return self.peer.session

    def accept(self) -> None:
        """Accept the client in the namespace."""
        self.accepted = True
        self.peer.server.accepted(self)
        if self.namespace == "/":
            codec = self.peer.server.codec
            message = codec.accept(self.sid)
            self.session.put([codec.packet(message)], len(message))
        else:
            self.send(CONNECT, {"sid": self.sid})

    def refuse(self, error: dict[str, Any], weight: int = MAX_REFUSED // 2) -> None:
        """Refuse the client with `connect_error`. `weight`: counts as this many refusals."""
        self.peer.sockets.pop(self.namespace, None)
        self.send(CONNECT_ERROR, error)
        if not any(socket.accepted for socket in self.peer.sockets.values()):
            self.peer.refusals += weight
            if self.peer.refusals >= MAX_REFUSED:
                self.session.end("connect refused", politely=True)

    def emit(self, event: str, *args: Any) -> bool:
        """Send an event; False if there is no room for it."""
        return self.send(EVENT, [event, *args])

    def acknowledge(self, ack_id: int, args: Sequence[Any]) -> bool:
        return self.send(ACK, list(args), ack_id)

    def send(self, kind: int, data: Any, ack_id: int | None = None) -> bool:
        codec = self.peer.server.codec
        packets = codec.packets(codec.packet_class(kind, data=data, namespace=self.namespace, id=ack_id))
        return self.session.put(packets, sum(map(len, packets)))


class Peer(Generic[D]):
    """The state of the protocol for one Engine.IO session."""

    __slots__ = (
        "address",
        "overflowed",
        "partial",
        "partial_bytes",
        "refusals",
        "server",
        "session",
        "sockets",
        "timeout",
    )

    def __init__(self, server: SocketIOServer[D], session: EngineSession, address: str) -> None:
        self.server = server
        self.session = session
        self.address = address
        self.sockets: dict[str, NamespaceSocket[D]] = {}
        self.timeout: asyncio.TimerHandle | None = None
        self.overflowed = False
        self.partial: Any = None
        self.partial_bytes = 0
        self.refusals = 0
        """Refusals while the session was in no namespace; see `MAX_REFUSED`."""


class NamespaceListener(Protocol[D]):
    """Receives the events of clients in the core's namespaces."""

    def connect(self, socket: NamespaceSocket[D], auth: Any) -> None:
        """A client connects to a namespace: call `accept` or `refuse`, now or later."""

    def event(self, socket: NamespaceSocket[D], data: list[Any], ack_id: int | None, size: int) -> None:
        """An event of `size` bytes. `data` is [name, argument, …]; answer it if there is an `ack_id`."""

    def disconnected(self, socket: NamespaceSocket[D]) -> None:
        """A client for which `connect` was called, and that was not refused, has left the namespace."""

    def broken(self, socket: NamespaceSocket[D]) -> None:
        """An accepted client has violated the protocol; end its session."""

    def failed(self, socket: NamespaceSocket[D]) -> None:
        """A packet of an accepted client could not be handled because of a bug; end its session."""

    def overflowed(self, socket: NamespaceSocket[D]) -> None:
        """The buffer of an accepted client has no room for an application's packet; end its session."""


class CoreRooms(Protocol[D]):
    """The rooms of the core's namespaces, which are stored elsewhere and changed by actions."""

    def rooms_of(self, socket: NamespaceSocket[D]) -> list[str]:
        """The rooms whose events a client gets."""

    def is_in(self, socket: NamespaceSocket[D], room: str) -> bool:
        """Whether a client gets the events of a room."""

    def emit(
        self, event: str, data: Any, room: str | NamespaceSocket[D] | None, skip: NamespaceSocket[D] | None
    ) -> None:
        """Send a transient event to the live members of a room, to one client, or (None) to all.

        Raises ValueError if the application may not send the event.
        """


class Admission(Protocol[D]):
    """Signs clients in to the namespaces of applications."""

    async def sign_in(self, socket: NamespaceSocket[D], auth: Any) -> Any:
        """The principal of `auth`. Raises if it is not valid."""

    def refusal(self, problem: Exception) -> dict[str, Any]:
        """The error for a client that `sign_in` refuses, or whose connect handler fails."""


class SocketIOServer(ApplicationServer, Generic[D]):
    def __init__(
        self,
        listener: NamespaceListener[D],
        *,
        namespaces: Collection[str] = ("/",),
        rooms: CoreRooms[D] | None = None,
        admission: Admission[D] | None = None,
        codec: SocketIOCodec | None = None,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **engine: Any,
    ) -> None:
        """`namespaces`: those of the core; `listener` gets the events of their clients, `rooms` has their rooms.

        `admission`: for namespaces that applications register; without it there can be none.
        `connect_timeout`: seconds within which a session has to be accepted in a namespace.
        """
        self.codec: SocketIOCodec = TextCodec() if codec is None else codec
        super().__init__(
            core_namespaces=namespaces,
            packet_class=self.codec.packet_class,
            engine_class=EngineServer,
            **{"max_http_buffer_size": MAX_PAYLOAD, **engine},
        )
        self._listener = listener
        self._rooms = rooms
        self._admission = admission
        self._connect_timeout = connect_timeout
        self._peers: dict[str, Peer[D]] = {}
        self._core_sockets: dict[str, NamespaceSocket[D]] = {}
        """The accepted clients, by sid."""
        self.eio.listener = self

    @property
    def sockets(self) -> list[NamespaceSocket[D]]:
        """The accepted clients of all namespaces."""
        return [socket for peer in self._peers.values() for socket in peer.sockets.values() if socket.accepted]

    def accepted(self, socket: NamespaceSocket[D]) -> None:
        """Note that a client was accepted: its session counts as authenticated."""
        peer = socket.peer
        if socket.namespace in self.core_namespaces:
            self._core_sockets[socket.sid] = socket
            self.announce("connect", socket.namespace, socket.sid, {})
        if peer.timeout is not None:
            peer.timeout.cancel()
            peer.timeout = None
        self.eio.authenticated(peer.session.sid)

    # -- called by the transport ---------------------------------------------------------------------------------

    def opened(self, session: EngineSession, handshake: Handshake) -> None:
        peer = self._peers[session.sid] = Peer(self, session, handshake.address)
        self._expect_connect(peer)
        self.session_opened(session.sid, handshake)

    def _expect_connect(self, peer: Peer[D]) -> None:
        """Close the session unless it enters a namespace in time."""
        end = partial(peer.session.end, "connect timeout", politely=True)
        timers = self.eio.timers()
        peer.timeout = timers.call_at(timers.time() + self._connect_timeout, end)

    def message(self, session: EngineSession, data: str | bytes) -> None:
        peer = self._peers.get(session.sid)
        if peer is None:
            return
        try:
            self._handle_message(peer, data)
        except ProtocolError as error:
            logger.info("a client broke the protocol: %s", error)
            if not self.broken(session):
                raise
        except Exception:
            logger.exception("a packet could not be handled")
            accepted = self._accepted(peer)
            for socket in accepted:
                self._listener.failed(socket)
            if not accepted:
                session.end("internal error", politely=True)

    def broken(self, session: EngineSession) -> bool:
        peer = self._peers.get(session.sid)
        accepted = [] if peer is None else self._accepted(peer)
        for socket in accepted:
            self._listener.broken(socket)
        return bool(accepted)

    def _accepted(self, peer: Peer[D]) -> list[NamespaceSocket[D]]:
        """The peer's accepted sockets in the core's namespaces."""
        core = self.core_namespaces
        return [socket for socket in peer.sockets.values() if socket.accepted and socket.namespace in core]

    def ended(self, session: EngineSession, reason: str) -> None:
        peer = self._peers.pop(session.sid, None)
        if peer is not None:
            if peer.timeout is not None:
                peer.timeout.cancel()
            for namespace in list(peer.sockets):
                self._leave_namespace(peer.sockets.pop(namespace), reason)
            self.session_ended(session.sid, reason)

    def _leave_namespace(self, socket: NamespaceSocket[D], reason: str) -> None:
        """A client has left a namespace. Applications are notified by the packet, or by the session's end."""
        if socket.namespace in self.core_namespaces:
            if self._core_sockets.pop(socket.sid, None) is not None:
                self.announce("disconnect", socket.namespace, socket.sid, reason)
            self._listener.disconnected(socket)

    # -- packets -------------------------------------------------------------------------------------------------

    def _handle_message(self, peer: Peer[D], data: str | bytes) -> None:
        try:
            packet = self._assemble(peer, data)
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
            raise ProtocolError(type(error).__name__) from error  # not its text, which may quote the packet
        if packet is not None:
            size, peer.partial_bytes = max(len(data), peer.partial_bytes), 0
            self._receive(peer, packet, size)

    def _assemble(self, peer: Peer[D], data: str | bytes) -> Any:
        """The packet completed by this message, or None. Raises an exception for an invalid one."""
        if peer.partial is not None:
            if not isinstance(data, bytes):
                raise ValueError("an attachment was expected")
            peer.partial_bytes += len(data)
            if peer.partial_bytes > MAX_PAYLOAD:
                raise ValueError("attachments too large")
            if not peer.partial.add_attachment(data):
                return None
            packet, peer.partial = peer.partial, None
            return packet
        if self.codec.packet_class is not TextPacket:
            if not isinstance(data, bytes):
                raise ValueError("not a msgpack packet")
            return self._decode_msgpack(data)
        if not isinstance(data, str) or not "0" <= data[:1] <= "6":
            raise ValueError("not a Socket.IO packet")
        packet = TextPacket(encoded_packet=data)
        if packet.packet_type in (BINARY_EVENT, BINARY_ACK):
            if not peer.sockets or not 1 <= packet.attachment_count <= MAX_ATTACHMENTS:
                raise ValueError("attachments not expected")
            peer.partial, peer.partial_bytes = packet, 0
            return None
        return packet

    def _decode_msgpack(self, data: bytes) -> Any:
        try:
            packet = MsgpackPacket(encoded_packet=data)
        except Exception as error:  # msgpack raises kinds of its own, not all of them ValueErrors
            raise ValueError("undecodable") from error
        if not isinstance(packet.namespace, str) or not isinstance(packet.id, int | None):
            raise ValueError("not a Socket.IO packet")
        return packet

    def _receive(self, peer: Peer[D], packet: Any, size: int) -> None:
        namespace: str = packet.namespace or "/"
        socket = peer.sockets.get(namespace)
        is_core = namespace in self.core_namespaces
        kind = packet.packet_type
        if kind == CONNECT:
            if socket is not None:
                raise ProtocolError("connected already")
            socket = NamespaceSocket(peer, namespace)
            if is_core:
                peer.sockets[namespace] = socket
                self._listener.connect(socket, packet.data)
            elif self._admission is not None and self.has_namespace(namespace):
                peer.sockets[namespace] = socket
                self.receive(peer.session.sid, kind, namespace, None, packet.data, size)
            else:
                socket.refuse({"message": "Invalid namespace"}, weight=1)
            return
        if socket is None or (is_core and not socket.accepted):
            if kind in (DISCONNECT, ACK, BINARY_ACK) and peer.sockets:
                return
            raise ProtocolError("not connected")
        if kind in (EVENT, BINARY_EVENT):
            if not isinstance(packet.data, list) or not packet.data:
                raise ProtocolError("an event is a non-empty array")
            if is_core:
                self._listener.event(socket, packet.data, packet.id, size)
        elif kind == DISCONNECT:
            del peer.sockets[namespace]
            self._leave_namespace(socket, self.reason.CLIENT_DISCONNECT)
            if not peer.sockets:
                self._expect_connect(peer)
        elif kind not in (ACK, BINARY_ACK):
            raise ProtocolError("unexpected packet")
        if not is_core:
            self.receive(peer.session.sid, kind, namespace, packet.id, packet.data, size)

    # -- for `ApplicationServer` ---------------------------------------------------------------------------------

    def write(self, eio_sid: str, packet: Any) -> None:
        peer = self._peers.get(eio_sid)
        socket = None if peer is None else peer.sockets.get(packet.namespace)
        if peer is None or socket is None:
            return
        kind = packet.packet_type
        if kind == CONNECT_ERROR:
            socket.refuse(packet.data)
            return
        if kind == CONNECT:
            socket.sid, socket.accepted = packet.data["sid"], True
            self.accepted(socket)
        self._write(peer, self.codec.packets(packet))
        if kind == DISCONNECT:
            del peer.sockets[packet.namespace]
            self._leave_namespace(socket, self.reason.SERVER_DISCONNECT)
            if not peer.sockets:
                self._expect_connect(peer)

    def write_all(self, eio_sids: Sequence[str], packet: Any) -> None:
        packets = self.codec.packets(packet)
        buffer = packet_frames(packets) if len(eio_sids) > 1 else b""
        for eio_sid in eio_sids:
            peer = self._peers.get(eio_sid)
            if peer is not None and packet.namespace in peer.sockets:
                self._write(peer, packets, buffer)

    def _write(self, peer: Peer[D], packets: Sequence[str | bytes], buffer: bytes = b"") -> None:
        session = peer.session
        if peer.overflowed:
            return
        if buffer and session.wire is not None:
            accepted = session.put_frames(buffer)
        else:
            accepted = session.put(packets, sum(map(len, packets)))
        if not accepted:
            # Send nothing more: an application could not detect the gap.
            peer.overflowed = True
            asyncio.get_running_loop().call_soon(self._end_overflowed, peer)

    def _end_overflowed(self, peer: Peer[D]) -> None:
        for socket in self._accepted(peer):
            self._listener.overflowed(socket)
        peer.session.end("slow consumer")

    async def drained(self, eio_sid: str) -> None:
        peer = self._peers.get(eio_sid)
        if peer is not None:
            await peer.session.drain()

    async def sign_in(self, eio_sid: str, namespace: str, auth: Any) -> Any:
        assert self._admission is not None
        return await self._admission.sign_in(self._peers[eio_sid].sockets[namespace], auth)

    def refusal(self, problem: Exception) -> dict[str, Any]:
        assert self._admission is not None
        return self._admission.refusal(problem)

    def core_sid(self, eio_sid: str, namespace: str) -> str | None:
        peer = self._peers.get(eio_sid)
        socket = None if peer is None else peer.sockets.get(namespace)
        return socket.sid if socket is not None and socket.accepted else None

    def core_eio_sid(self, sid: str, namespace: str) -> str | None:
        socket = self._core_sockets.get(sid)
        return socket.session.sid if socket is not None and socket.namespace == namespace else None

    def core_rooms(self, sid: str, namespace: str) -> list[str]:
        socket = self._core_sockets.get(sid)
        if socket is None or socket.namespace != namespace:
            return []
        return [sid, *([] if self._rooms is None else self._rooms.rooms_of(socket))]

    def core_participants(self, room: str | None, namespace: str) -> list[tuple[str, str]]:
        sockets = [socket for socket in self._core_sockets.values() if socket.namespace == namespace]
        if room is not None:
            rooms = self._rooms
            sockets = [
                socket
                for socket in sockets
                if socket.sid == room or (rooms is not None and rooms.is_in(socket, room))
            ]
        return [(socket.sid, socket.session.sid) for socket in sockets]

    def core_emit(self, event: str, data: Any, room: str | None, skip: Collection[str], namespace: str) -> None:
        if self._rooms is None:
            raise ValueError(f"`{namespace}` has no rooms here")
        if len(skip) > 1:
            raise ValueError(f"an emit in `{namespace}` can skip one client")
        skipped = next((self._core_sockets[sid] for sid in skip if sid in self._core_sockets), None)
        self._rooms.emit(event, data, self._core_sockets.get(room or "", room), skipped)
