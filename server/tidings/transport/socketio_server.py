"""Socket.IO protocol v5 on the Engine.IO sessions: packets, namespaces, acknowledgements.

The listener handles packets to the namespaces of the core, `ApplicationServer` those to applications.

Protocol: https://socket.io/docs/v4/socket-io-protocol/.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from tidings.contract.errors import CloseReason
from tidings.transport.engine_server import EngineServer
from tidings.transport.engine_session import EngineSession, ProtocolError
from tidings.transport.handshake import Handshake
from tidings.transport.namespace_socket import MAX_REFUSED, NamespaceSocket, Peer
from tidings.transport.python_socketio import Admission, ApplicationServer
from tidings.transport.socketio_codecs import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    MAX_ATTACHMENTS,
    MAX_PAYLOAD,
    MsgpackCodec,
    PartialPacket,
    SocketIOCodec,
    TextCodec,
)
from tidings.transport.websocket_frames import PROTOCOL_ERROR, packet_frames

__all__ = ["CONNECT_TIMEOUT_S", "MAX_ATTACHMENTS", "MAX_PAYLOAD", "MAX_REFUSED", "NamespaceSocket", "SocketIOServer"]

logger = logging.getLogger("tidings.transport")

CONNECT_TIMEOUT_S = 10.0
ATTACHMENTS_S = 60.0
"""Seconds that the attachments of a packet may take to arrive."""

D = TypeVar("D")


class NamespaceListener(Protocol[D]):
    """Receives the events of clients in the core's namespaces."""

    def connect(self, socket: NamespaceSocket[D], auth: Any) -> None:
        """A client connects to a namespace: call `accept` or `refuse`, now or later."""

    def event(self, socket: NamespaceSocket[D], data: list[Any], ack_id: int | None, size: int) -> None:
        """An event of `size` bytes. `data` is [name, argument, …]; answer it if there is an `ack_id`."""

    def disconnected(self, socket: NamespaceSocket[D]) -> None:
        """A client for which `connect` was called, and that was not refused, has left the namespace."""

    def close(self, socket: NamespaceSocket[D], reason: CloseReason) -> None:
        """End the session of an accepted client.

        `protocol_error`: it has violated the protocol. `shutdown`: a packet could not be handled because of a bug.
        `slow_consumer`: its buffer has no room for an application's packet.
        """


class CoreRooms(Protocol[D]):
    """The rooms of the core's namespaces, which are stored elsewhere and changed by actions."""

    def rooms_of(self, socket: NamespaceSocket[D]) -> list[str]:
        """The rooms whose events a client gets."""

    def is_in(self, socket: NamespaceSocket[D], room: str) -> bool:
        """Whether a client gets the events of a room."""

    def emit(
        self,
        event: str,
        data: Any,
        to: Sequence[str | NamespaceSocket[D]] | None,
        skip: NamespaceSocket[D] | None,
    ) -> None:
        """Send a transient event to the live members of rooms and to clients, once to each; None: to all.

        Raises ValueError if the application may not send the event.
        """


class SocketIOServer(ApplicationServer, Generic[D]):
    def __init__(
        self,
        listener: NamespaceListener[D],
        *,
        namespaces: Collection[str] = ("/",),
        rooms: CoreRooms[D] | None = None,
        admission: Admission | None = None,
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
            admission=admission,
            **{"max_http_buffer_size": MAX_PAYLOAD, **engine},
        )
        self._listener = listener
        self._rooms = rooms
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
        peer.cancel_timeout()
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
            if not self.broken(session):
                session.close_code = PROTOCOL_ERROR  # the only reason that clients of applications get
                raise  # to the transport, which logs it
            logger.info("a client broke the protocol: %s", error)
        except Exception:
            logger.exception("a packet could not be handled")
            accepted = self._accepted(peer)
            for socket in accepted:
                self._listener.close(socket, CloseReason.SHUTDOWN)
            if not accepted:
                session.end("internal error", politely=True)

    def broken(self, session: EngineSession) -> bool:
        peer = self._peers.get(session.sid)
        accepted = [] if peer is None else self._accepted(peer)
        for socket in accepted:
            self._listener.close(socket, CloseReason.PROTOCOL_ERROR)
        return bool(accepted)

    def _accepted(self, peer: Peer[D]) -> list[NamespaceSocket[D]]:
        """The peer's accepted sockets in the core's namespaces."""
        core = self.core_namespaces
        return [socket for socket in peer.sockets.values() if socket.accepted and socket.namespace in core]

    def ended(self, session: EngineSession, reason: str) -> None:
        peer = self._peers.pop(session.sid, None)
        if peer is not None:
            peer.cancel_timeout()
            self._end_partial(peer)
            for namespace in list(peer.sockets):
                self._leave_namespace(peer.sockets.pop(namespace), reason)
            self.session_ended(session.sid, reason)

    def _leave_namespace(self, socket: NamespaceSocket[D], reason: str) -> None:
        """A client has left a namespace. Applications are notified by the packet, or by the session's end."""
        socket.held.clear()
        if socket.namespace in self.core_namespaces:
            if self._core_sockets.pop(socket.sid, None) is not None:
                self.announce("disconnect", socket.namespace, socket.sid, reason)
            self._listener.disconnected(socket)

    # -- packets -------------------------------------------------------------------------------------------------

    def _handle_message(self, peer: Peer[D], data: str | bytes) -> None:
        size = len(data)
        if peer.partial is not None:
            packet = peer.partial.add(data)
            if packet is None:
                return
            size = max(size, peer.partial.size)
            self._end_partial(peer)
        else:
            if not peer.sockets and self._refuse_parser(peer, data):
                return
            packet = self.codec.read(data)
            if packet.packet_type in (BINARY_EVENT, BINARY_ACK) and isinstance(data, str):
                if not peer.sockets:
                    raise ProtocolError("attachments not expected")
                peer.partial = PartialPacket(packet)
                end = partial(self._attachments_late, peer)
                timers = self.eio.timers()
                peer.partial_timeout = timers.call_at(timers.time() + ATTACHMENTS_S, end)
                return
        self._receive(peer, packet, size)

    def _end_partial(self, peer: Peer[D]) -> None:
        peer.partial = None
        if peer.partial_timeout is not None:
            peer.partial_timeout.cancel()
            peer.partial_timeout = None

    def _attachments_late(self, peer: Peer[D]) -> None:
        if not self.broken(peer.session):
            peer.session.end("attachments timeout", politely=True)

    def _refuse_parser(self, peer: Peer[D], data: str | bytes) -> bool:
        """Refuse a client that uses the other parser, in its own words. Returns False if it does not."""
        if isinstance(data, str) is self.codec.json:
            return False
        other: SocketIOCodec = MsgpackCodec() if self.codec.json else TextCodec()
        packet = other.read(data)
        if packet.packet_type != CONNECT:
            return False
        wanted = "the default parser" if self.codec.json else "`socket.io-msgpack-parser`"
        error = {"message": f"this server needs {wanted}"}
        refusal = other.packets(other.packet_class(CONNECT_ERROR, data=error, namespace=packet.namespace))
        peer.session.put(refusal, sum(map(len, refusal)))
        peer.session.end("connect refused", politely=True)
        return True

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
            elif self.has_namespace(namespace):
                peer.sockets[namespace] = socket
                self.receive(socket, kind, None, packet.data, size)
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
            self.receive(socket, kind, packet.id, packet.data, size)

    # -- for `ApplicationServer` ---------------------------------------------------------------------------------

    def _socket(self, eio_sid: str, namespace: str) -> NamespaceSocket[D] | None:
        peer = self._peers.get(eio_sid)
        return None if peer is None else peer.sockets.get(namespace)

    def write(self, eio_sid: str, packet: Any) -> None:
        kind, socket = packet.packet_type, self._socket(eio_sid, packet.namespace)
        if socket is None:
            return
        # A client that has left, and connects again meanwhile, gets nothing that was meant for its former self.
        if socket is not self.connecting(eio_sid) if kind in (CONNECT, CONNECT_ERROR) else not socket.accepted:
            return
        if kind == CONNECT_ERROR:
            socket.refuse(packet.data)
            return
        peer = socket.peer
        if kind == CONNECT:
            socket.accepted = True
            self.accepted(socket)
            held, socket.held = socket.held, []
            for packets in held:
                self._write(peer, packets)
        self._write(peer, self.codec.packets(packet))
        if kind == DISCONNECT:
            del peer.sockets[packet.namespace]
            self._leave_namespace(socket, self.reason.SERVER_DISCONNECT)
            if not peer.sockets:
                self._expect_connect(peer)

    def write_all(self, recipients: Sequence[tuple[str, str]], packet: Any) -> None:
        packets = self.codec.packets(packet)
        size, limit = sum(map(len, packets)), self.eio.max_buffered
        if size > limit:
            raise ValueError(f"an event of {size:,} bytes is larger than the buffer of a client, {limit:,} bytes")
        buffer = packet_frames(packets) if len(recipients) > 1 else b""
        for sid, eio_sid in recipients:
            socket = self._socket(eio_sid, packet.namespace)
            if socket is None or socket.sid != sid:
                continue
            if socket.accepted:
                self._write(socket.peer, packets, buffer)
            else:
                socket.held.append(packets)
                socket.held_bytes += size
                if socket.held_bytes > limit:
                    self._overflow(socket.peer)

    def _write(self, peer: Peer[D], packets: Sequence[str | bytes], buffer: bytes = b"") -> None:
        session = peer.session
        if peer.overflowed:
            return
        if buffer and session.wire is not None:
            accepted = session.put_frames(buffer)
        else:
            accepted = session.put(packets, sum(map(len, packets)))
        if not accepted:
            self._overflow(peer)

    def _overflow(self, peer: Peer[D]) -> None:
        """End a session soon, and send nothing more before: an application could not detect the gap."""
        if not peer.overflowed:
            peer.overflowed = True
            asyncio.get_running_loop().call_soon(self._end_overflowed, peer)

    def _end_overflowed(self, peer: Peer[D]) -> None:
        for socket in self._accepted(peer):
            self._listener.close(socket, CloseReason.SLOW_CONSUMER)
        peer.session.end("slow consumer")

    async def drained(self, eio_sid: str, namespace: str) -> None:
        socket = self._socket(eio_sid, namespace)
        if socket is not None and socket.accepted:
            await socket.session.drain()

    def core_sid(self, eio_sid: str, namespace: str) -> str | None:
        socket = self._socket(eio_sid, namespace)
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

    def core_emit(
        self, event: str, data: Any, rooms: Sequence[str] | None, skip: Collection[str], namespace: str
    ) -> None:
        if self._rooms is None:
            raise ValueError(f"`{namespace}` has no rooms here")
        if len(skip) > 1:
            raise ValueError(f"an emit in `{namespace}` can skip one client")
        skipped = next((self._core_sockets[sid] for sid in skip if sid in self._core_sockets), None)
        to = None if rooms is None else [self._core_sockets.get(room, room) for room in rooms]
        self._rooms.emit(event, data, to, skipped)
