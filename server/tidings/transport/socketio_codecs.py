"""The encodings of Socket.IO packets: text with binary attachments (the default parser), or msgpack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgpack  # type: ignore[import-untyped]
import orjson

from tidings.transport.socketio_packets import (
    ACK,
    CONNECT,
    EVENT,
    MsgpackPacket,
    TextPacket,
    read_msgpack,
    read_text,
)
from tidings.transport.websocket_frames import BINARY, TEXT, frame, joined


class SocketIOCodec(Protocol):
    """An encoding of packets; the whole server uses one."""

    packet_class: type[Any]
    plain: bool
    json: bool

    def encode(self, event: str, payload: Any) -> bytes:
        """An event with one argument, to the namespace `/`, as an Engine.IO message."""

    def answer(self, ack_id: int, payload: Any) -> bytes:
        """An acknowledgement with one argument, to the namespace `/`, as an Engine.IO message."""

    def accept(self, sid: str) -> bytes:
        """The packet that accepts a client in the namespace `/`, as an Engine.IO message."""

    def packet(self, message: bytes) -> str | bytes:
        """A message of this codec as an Engine.IO packet."""

    def value(self, value: Any) -> bytes:
        """The encoding of a value within the argument of an event."""

    def frame(self, message: bytes) -> bytes:
        """A message of this codec as a WebSocket frame."""

    def frames(self, messages: Iterable[bytes]) -> bytes:
        """Messages of this codec as WebSocket frames in one buffer."""

    def packets(self, packet: Any) -> list[str | bytes]:
        """Any packet as Engine.IO packets."""

    def read(self, data: str | bytes) -> Any:
        """The packet in an Engine.IO message, without its attachments. Raises `ProtocolError`."""


class TextCodec:
    """The default parser."""

    plain = True
    json = True

    packet_class = TextPacket
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

    def frame(self, message: bytes) -> bytes:
        return frame(TEXT, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(TEXT, messages)

    def packets(self, packet: Any) -> list[str | bytes]:
        encoded = packet.encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        return ["4" + part if isinstance(part, str) else part for part in parts]


class MsgpackCodec:
    """`socket.io-msgpack-parser`: every packet is one binary message."""

    packet_class = MsgpackPacket
    plain = True
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

    def frame(self, message: bytes) -> bytes:
        return frame(BINARY, message)

    def frames(self, messages: Iterable[bytes]) -> bytes:
        return joined(BINARY, messages)

    def packets(self, packet: Any) -> list[str | bytes]:
        return [packet.encode()]
