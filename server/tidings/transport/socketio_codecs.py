"""Socket.IO packets on python-socketio's classes, and their encodings: text with binary attachments, or msgpack.

Protocol: https://socket.io/docs/v4/socket-io-protocol/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgpack  # type: ignore[import-untyped]
import orjson
from socketio import packet as sio
from socketio.msgpack_packet import MsgPackPacket

from tidings.transport.engine_session import ProtocolError
from tidings.transport.input_limits import BoundedJson, msgpack_bounds
from tidings.transport.websocket_frames import BINARY, TEXT, frame, joined

CONNECT: Final[int] = sio.CONNECT
DISCONNECT: Final[int] = sio.DISCONNECT
EVENT: Final[int] = sio.EVENT
ACK: Final[int] = sio.ACK
CONNECT_ERROR: Final[int] = sio.CONNECT_ERROR
BINARY_EVENT: Final[int] = sio.BINARY_EVENT
BINARY_ACK: Final[int] = sio.BINARY_ACK

MAX_PAYLOAD: Final = 1_000_000
"""Bytes of one packet; its attachments together may have as many."""
MAX_ATTACHMENTS: Final = 10
"""Attachments of one packet, as in Node's server."""


class _PacketJson(BoundedJson):
    @staticmethod
    def dumps(value: object, **_options: Any) -> str:
        """Escape what orjson refuses, such as a surrogate without its pair, as `JSON.stringify` does."""
        try:
            return orjson.dumps(value).decode()
        except TypeError:  # also of an application: large integers, keys that are not strings
            return json.dumps(value, separators=(",", ":"))


class _Unused(dict[Any, bytes]):
    """The attachments that no placeholder has taken yet, by number."""

    def __getitem__(self, number: Any) -> bytes:
        return self.pop(number)


class TextPacket(sio.Packet):  # type: ignore[misc]
    """Socket.IO's own packets: text, with binary attachments."""

    json = _PacketJson

    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: Sequence[bytes]) -> Any:
        """Insert each attachment at its placeholder. Raises LookupError unless each has exactly one.

        Otherwise a small packet could hold one attachment thousands of times.
        """
        unused = _Unused(enumerate(attachments))
        data = super().reconstruct_binary(data, unused)
        if unused:
            raise LookupError("an attachment without a placeholder")
        return data


def _extension(code: int, data: bytes) -> Any:
    """Decode `undefined` as notepack.io, the JavaScript parser's library, encodes it; in JSON it would be null."""
    return None if (code, data) == (0, b"\x00") else msgpack.ExtType(code, data)


class MsgpackPacket(MsgPackPacket):  # type: ignore[misc]
    """The packets of `socket.io-msgpack-parser`."""

    ext_hook = staticmethod(_extension)

    def decode(self, encoded_packet: bytes) -> None:
        """Decode within limits."""
        decoded = msgpack.loads(encoded_packet, ext_hook=self.ext_hook, **msgpack_bounds(encoded_packet))
        self.packet_type = decoded["type"]
        self.data = decoded.get("data")
        self.id = decoded.get("id")
        self.namespace = decoded["nsp"]


def read_text(data: str | bytes) -> Any:
    """A packet of the default parser, perhaps still without its attachments. Raises `ProtocolError`."""
    if not isinstance(data, str) or not "0" <= data[:1] <= "6":
        raise ProtocolError("not a Socket.IO packet")
    try:
        return TextPacket(encoded_packet=data)
    except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
        raise ProtocolError(type(error).__name__) from error  # not its text, which may quote the packet


def read_msgpack(data: str | bytes) -> Any:
    """A packet of `socket.io-msgpack-parser`. Raises `ProtocolError`."""
    if not isinstance(data, bytes):
        raise ProtocolError("not a msgpack packet")
    try:
        packet = MsgpackPacket(encoded_packet=data)
    except Exception as error:  # msgpack raises kinds of its own, not all of them ValueErrors
        raise ProtocolError("undecodable") from error
    if not isinstance(packet.namespace, str) or not isinstance(packet.id, int | None):
        raise ProtocolError("not a Socket.IO packet")
    return packet


class PartialPacket:
    """A packet that waits for its attachments."""

    __slots__ = ("_packet", "size")

    def __init__(self, packet: Any) -> None:
        """Raises `ProtocolError` unless it may have so many."""
        if not 1 <= packet.attachment_count <= MAX_ATTACHMENTS:
            raise ProtocolError(f"a binary packet has 1 to {MAX_ATTACHMENTS} attachments")
        self._packet = packet
        self.size = 0
        """Bytes of its attachments so far."""

    def add(self, data: str | bytes) -> Any:
        """Add an attachment; returns the packet if it is complete, otherwise None. Raises `ProtocolError`."""
        if not isinstance(data, bytes):
            raise ProtocolError("an attachment was expected")
        self.size += len(data)
        if self.size > MAX_PAYLOAD:
            raise ProtocolError("attachments too large")
        try:
            return self._packet if self._packet.add_attachment(data) else None
        except (LookupError, TypeError, RecursionError) as error:
            raise ProtocolError("each attachment needs exactly one placeholder") from error


class SocketIOCodec(Protocol):
    """An encoding of packets; the whole server uses one."""

    packet_class: type[Any]
    opcode: int
    plain: bool = True
    json: bool

    def encode(self, event: str, payload: Any) -> bytes:
        """An event with one argument, to the namespace `/`, as an Engine.IO message."""

    def answer(self, ack_id: int, payload: Any) -> bytes:
        """An acknowledgement with one argument, to the namespace `/`, as an Engine.IO message."""

    def accept(self, sid: str) -> bytes:
        """The packet that accepts a client in the namespace `/`, as an Engine.IO message."""

    def packet(self, message: bytes) -> str | bytes:
        """A message of this codec as an Engine.IO packet."""

    def value(self, value: Any, /) -> bytes:
        """The encoding of a value within the argument of an event."""

    def frame(self, message: bytes) -> bytes:
        """A message of this codec as a WebSocket frame."""
        return frame(self.opcode, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Messages of this codec as WebSocket frames in one buffer."""
        return joined(self.opcode, messages)

    def packets(self, packet: Any) -> list[str | bytes]:
        """Any packet as Engine.IO packets."""

    def read(self, data: str | bytes) -> Any:
        """The packet in an Engine.IO message, without its attachments. Raises `ProtocolError`."""


class TextCodec(SocketIOCodec):
    """The default parser."""

    packet_class = TextPacket
    opcode = TEXT
    json = True
    value = staticmethod(orjson.dumps)
    read = staticmethod(read_text)

    def encode(self, event: str, payload: Any) -> bytes:
        return b'42["%b",%b]' % (event.encode(), orjson.dumps(payload))

    def answer(self, ack_id: int, payload: Any) -> bytes:
        return b"43%d[%b]" % (ack_id, orjson.dumps(payload))

    def accept(self, sid: str) -> bytes:
        return b'40{"sid":"%b"}' % sid.encode()

    def packet(self, message: bytes) -> str:
        return message.decode()

    def packets(self, packet: Any) -> list[str | bytes]:
        encoded = packet.encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        return ["4" + part if isinstance(part, str) else part for part in parts]


class MsgpackCodec(SocketIOCodec):
    """`socket.io-msgpack-parser`: every packet is one binary message."""

    packet_class = MsgpackPacket
    opcode = BINARY
    json = False
    value = staticmethod(msgpack.packb)
    read = staticmethod(read_msgpack)

    def encode(self, event: str, payload: Any) -> bytes:
        return self._encode_packet(EVENT, [event, payload], None)

    def answer(self, ack_id: int, payload: Any) -> bytes:
        return self._encode_packet(ACK, [payload], ack_id)

    def accept(self, sid: str) -> bytes:
        return self._encode_packet(CONNECT, {"sid": sid}, None)

    def _encode_packet(self, kind: int, data: Any, ack_id: int | None) -> bytes:
        encoded: bytes = MsgpackPacket(kind, data=data, namespace="/", id=ack_id).encode()
        return encoded

    def packet(self, message: bytes) -> bytes:
        return message

    def packets(self, packet: Any) -> list[str | bytes]:
        return [packet.encode()]
