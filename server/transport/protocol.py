"""Socket.IO protocol v5 on the Engine.IO sessions: packets, namespaces, acknowledgements.

python-socketio's server is subclassed where a client's packets come in. Events never reach its handlers: a client
may name an event `connect` or `disconnect`, and those are not theirs to call.

Protocol: https://socket.io/docs/v4/socket-io-protocol/.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgpack  # type: ignore[import-untyped]
import orjson
import socketio
from socketio import packet as sio
from socketio.msgpack_packet import MsgPackPacket

from server.transport.frames import BINARY, TEXT, frame, joined
from server.transport.server import EngineServer
from server.transport.session import EngineSession, ProtocolError

logger = logging.getLogger("tidings.transport")

DISCONNECT: int = sio.DISCONNECT
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


class TextPacket(sio.Packet):  # type: ignore[misc]
    """Socket.IO's own packets: text, with binary attachments."""

    json = Json


class Codec(Protocol):
    """One way to put packets on the wire; the whole server speaks one."""

    packet_class: type[Any]
    plain: bool

    def encode(self, event: str, payload: Any) -> bytes:
        """An event with one argument, to the namespace `/`, as an Engine.IO message."""

    def answer(self, ack_id: int, payload: Any) -> bytes:
        """An acknowledgement with one argument, to the namespace `/`, as an Engine.IO message."""

    def accept(self, sid: str) -> bytes:
        """That the client is in the namespace `/`, as an Engine.IO message."""

    def packet(self, message: bytes) -> str | bytes:
        """Such a message as an Engine.IO packet."""

    def value(self, value: Any) -> bytes:
        """A value as it stands in the argument of an event."""

    def frame(self, message: bytes) -> bytes:
        """Such a message as a WebSocket frame."""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Such messages as WebSocket frames in one buffer."""

    def packets(self, packet: Any) -> list[str | bytes]:
        """Any packet as Engine.IO packets."""


class TextCodec:
    """The default parser."""

    plain = True

    packet_class = TextPacket
    value = staticmethod(orjson.dumps)

    def encode(self, event: str, payload: Any) -> bytes:
        return b'42["%b",%b]' % (event.encode(), orjson.dumps(payload))

    def answer(self, ack_id: int, payload: Any) -> bytes:
        return b"43%d[%b]" % (ack_id, orjson.dumps(payload))

    def accept(self, sid: str) -> bytes:
        return b'40{"sid":"%b"}' % sid.encode()

    def packet(self, message: bytes) -> str:
        return message.decode()

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, messages)

    def packets(self, packet: Any) -> list[str | bytes]:
        encoded = packet.encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        return ["4" + part if isinstance(part, str) else part for part in parts]


def _extension(code: int, data: bytes) -> Any:
    """notepack.io, which the JavaScript parser is made of, writes `undefined` so; in JSON it would be null."""
    return None if (code, data) == (0, b"\x00") else msgpack.ExtType(code, data)


class MsgpackPacket(MsgPackPacket):  # type: ignore[misc]
    """The packets of `socket.io-msgpack-parser`."""

    ext_hook = staticmethod(_extension)


class MsgpackCodec:
    """`socket.io-msgpack-parser`: every packet is one binary message."""

    packet_class = MsgpackPacket
    plain = True
    value = staticmethod(msgpack.packb)

    def encode(self, event: str, payload: Any) -> bytes:
        return self._one(sio.EVENT, [event, payload], None)

    def answer(self, ack_id: int, payload: Any) -> bytes:
        return self._one(sio.ACK, [payload], ack_id)

    def accept(self, sid: str) -> bytes:
        return self._one(sio.CONNECT, {"sid": sid}, None)

    def _one(self, kind: int, data: Any, ack_id: int | None) -> bytes:
        encoded: bytes = MsgpackPacket(kind, data=data, namespace="/", id=ack_id).encode()
        return encoded

    def packet(self, message: bytes) -> bytes:
        return message

    def frame(self, message: bytes) -> bytes:
        return frame(BINARY, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(BINARY, messages)

    def packets(self, packet: Any) -> list[str | bytes]:
        return [packet.encode()]


D = TypeVar("D")


class NamespaceSocket(Generic[D]):
    """One client in one namespace. `data` is the listener's."""

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
        """The client is in."""
        self.accepted = True
        self.peer.server.accepted(self.peer)
        if self.namespace == "/":
            codec = self.peer.server.codec
            message = codec.accept(self.sid)
            self.session.put([codec.packet(message)], len(message))
        else:
            self.send(sio.CONNECT, {"sid": self.sid})

    def refuse(self, error: dict[str, Any]) -> None:
        """The client stays out of the namespace: `connect_error`."""
        self.peer.sockets.pop(self.namespace, None)
        self.send(sio.CONNECT_ERROR, error)

    def emit(self, event: str, *args: Any) -> bool:
        """Send an event; False if there is no room for it."""
        return self.send(sio.EVENT, [event, *args])

    def acknowledge(self, ack_id: int, args: Sequence[Any]) -> bool:
        return self.send(sio.ACK, list(args), ack_id)

    def send(self, kind: int, data: Any, ack_id: int | None = None) -> bool:
        codec = self.peer.server.codec
        packets = codec.packets(codec.packet_class(kind, data=data, namespace=self.namespace, id=ack_id))
        return self.session.put(packets, sum(map(len, packets)))


class Peer(Generic[D]):
    """What the protocol knows of one Engine.IO session."""

    __slots__ = ("address", "partial", "partial_bytes", "server", "session", "sockets", "timeout")

    def __init__(self, server: SocketIOServer[D], session: EngineSession, address: str) -> None:
        self.server = server
        self.session = session
        self.address = address
        self.sockets: dict[str, NamespaceSocket[D]] = {}
        self.timeout: asyncio.TimerHandle | None = None
        self.partial: Any = None
        self.partial_bytes = 0


class Listener(Protocol[D]):
    """Who the connections belong to."""

    def connect(self, socket: NamespaceSocket[D], auth: Any) -> None:
        """A client asks for a namespace: call `accept` or `refuse`, now or later."""

    def event(self, socket: NamespaceSocket[D], data: list[Any], ack_id: int | None, size: int) -> None:
        """An event of so many bytes, as [name, argument, …]; answer it if it has an `ack_id`."""

    def disconnected(self, socket: NamespaceSocket[D]) -> None:
        """A client that asked for the namespace, and was not refused, has left it."""

    def broken(self, socket: NamespaceSocket[D]) -> None:
        """A client that was accepted has broken the protocol; end its session."""


class SocketIOServer(socketio.AsyncServer, Generic[D]):  # type: ignore[misc]
    def __init__(
        self,
        listener: Listener[D],
        *,
        namespaces: Collection[str] = ("/",),
        codec: Codec | None = None,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        **engine: Any,
    ) -> None:
        """`connect_timeout`: seconds within which a session has to be accepted in a namespace."""
        self.codec: Codec = TextCodec() if codec is None else codec
        super().__init__(
            async_mode="asgi",
            serializer=self.codec.packet_class,
            **{"max_http_buffer_size": MAX_PAYLOAD, **engine},
        )
        self._offered = frozenset(namespaces)
        self._listener = listener
        self._connect_timeout = connect_timeout
        self._peers: dict[str, Peer[D]] = {}
        self.eio.listener = self

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    @property
    def sockets(self) -> list[NamespaceSocket[D]]:
        """Every client that was accepted in a namespace."""
        return [socket for peer in self._peers.values() for socket in peer.sockets.values() if socket.accepted]

    def accepted(self, peer: Peer[D]) -> None:
        """The session is in a namespace: it may stay."""
        if peer.timeout is not None:
            peer.timeout.cancel()
            peer.timeout = None
        self.eio.authenticated(peer.session.sid)

    # -- called by the transport ---------------------------------------------------------------------------------

    def opened(self, session: EngineSession, address: str) -> None:
        peer = self._peers[session.sid] = Peer(self, session, address)
        self._expect_connect(peer)

    def _expect_connect(self, peer: Peer[D]) -> None:
        """A session that is in no namespace in time is closed."""
        end = partial(peer.session.end, "connect timeout", politely=True)
        peer.timeout = asyncio.get_running_loop().call_later(self._connect_timeout, end)

    def message(self, session: EngineSession, data: str | bytes) -> None:
        peer = self._peers.get(session.sid)
        if peer is None:
            return
        try:
            packet = self._assemble(peer, data)
            if packet is not None:
                self._receive(peer, packet, max(len(data), peer.partial_bytes))
                peer.partial_bytes = 0
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
            logger.info("a client broke the protocol: %s", type(error).__name__)  # its text may quote the packet
            accepted = [socket for socket in peer.sockets.values() if socket.accepted]
            if not accepted:
                raise ProtocolError(type(error).__name__) from error
            for socket in accepted:
                self._listener.broken(socket)

    def ended(self, session: EngineSession, reason: str) -> None:
        peer = self._peers.pop(session.sid, None)
        if peer is not None:
            if peer.timeout is not None:
                peer.timeout.cancel()
            for namespace in list(peer.sockets):
                self._listener.disconnected(peer.sockets.pop(namespace))

    # -- packets -------------------------------------------------------------------------------------------------

    def _assemble(self, peer: Peer[D], data: str | bytes) -> Any:
        """The packet that is complete with this message, or None. Raises what makes it none."""
        if peer.partial is not None:
            if not isinstance(data, bytes):
                raise ValueError("an attachment was due")
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
        if packet.packet_type in (sio.BINARY_EVENT, sio.BINARY_ACK):
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
        kind = packet.packet_type
        if kind == sio.CONNECT:
            if socket is not None:
                raise ValueError("connected already")
            socket = NamespaceSocket(peer, namespace)
            if namespace in self._offered:
                peer.sockets[namespace] = socket
                self._listener.connect(socket, packet.data)
            else:
                socket.refuse({"message": "Invalid namespace"})
            return
        if socket is None or not socket.accepted:
            if kind in (sio.DISCONNECT, sio.ACK, sio.BINARY_ACK) and peer.sockets:
                return
            raise ValueError("not connected")
        if kind in (sio.EVENT, sio.BINARY_EVENT):
            if not isinstance(packet.data, list) or not packet.data:
                raise ValueError("an event is a non-empty array")
            self._listener.event(socket, packet.data, packet.id, size)
        elif kind == sio.DISCONNECT:
            del peer.sockets[namespace]
            self._listener.disconnected(socket)
            if not peer.sockets:
                self._expect_connect(peer)
        elif kind not in (sio.ACK, sio.BINARY_ACK):
            raise ValueError("unexpected packet")
