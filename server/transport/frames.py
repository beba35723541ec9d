"""WebSocket frames (RFC 6455, section 5), sans I/O: what a server reads and writes, without extensions.

A server's frames are not masked, so one buffer serves every client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the C extension
    from websockets.utils import apply_mask

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_CONTINUATION: Final = 0x0

NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, TOO_BIG, RESTART = 1000, 1001, 1002, 1007, 1009, 1012
"""Close codes (RFC 6455, section 7.4.1; 1012 from its registry)."""


class FrameError(Exception):
    """The peer broke the protocol; the connection fails with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Message(NamedTuple):
    """A whole text or binary message, or a control frame."""

    opcode: int
    data: bytes


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message in one unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126, size >> 8, size & 0xFF)) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def packet_frame(packet: str | bytes) -> bytes:
    """An Engine.IO packet as a frame: text, or the bytes of a binary message."""
    return frame(TEXT, packet.encode()) if isinstance(packet, str) else frame(BINARY, packet)


def packet_frames(packets: Iterable[str | bytes]) -> bytes:
    """Engine.IO packets as consecutive frames, in one buffer."""
    return b"".join(map(packet_frame, packets))


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:123])


class Parser:
    """Cuts what a client sends into messages; fragments are joined, sizes are bounded."""

    __slots__ = ("_buffer", "_fragments", "_fragments_size", "_max_size", "_opcode")

    def __init__(self, max_size: int) -> None:
        """`max_size`: bytes of one message."""
        self._max_size = max_size
        self._buffer = b""
        self._opcode = 0
        self._fragments: list[bytes] | None = None
        self._fragments_size = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with `data`, in order. Raises `FrameError`."""
        if self._buffer:
            data = self._buffer + data
        messages: list[Message] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            start, size = at + 2, second & 0x7F
            opcode = first & 0x0F
            if first & 0x70 or not second & 0x80:
                raise FrameError(
                    PROTOCOL_ERROR, "reserved bits set" if first & 0x70 else "a client's frame is masked"
                )
            if size > 125:
                if opcode & 0x8:
                    raise FrameError(PROTOCOL_ERROR, "control frame too long")
                width = 2 if size == 126 else 8
                if end < start + width:
                    break
                size = int.from_bytes(data[start : start + width], "big")
                start += width
            if size + self._fragments_size > self._max_size:
                raise FrameError(TOO_BIG, "message too big")
            stop = start + 4 + size
            if end < stop:
                break
            payload = apply_mask(data[start + 4 : stop], data[start : start + 4])
            at = stop
            if opcode in (TEXT, BINARY) and first & 0x80 and self._fragments is None:
                messages.append(Message(opcode, payload))
            else:
                self._other(messages, opcode, bool(first & 0x80), payload)
        self._buffer = data[at:] if at else data
        return messages

    def _other(self, messages: list[Message], opcode: int, final: bool, payload: bytes) -> None:
        """Control frames and fragments (section 5.4)."""
        if opcode in (CLOSE, PING, PONG):
            if not final:
                raise FrameError(PROTOCOL_ERROR, "fragmented control frame")
            messages.append(Message(opcode, payload))
            return
        if (opcode == _CONTINUATION) != (self._fragments is not None) or opcode not in (_CONTINUATION, TEXT, BINARY):
            raise FrameError(PROTOCOL_ERROR, "unexpected opcode")
        if self._fragments is None:
            self._opcode, self._fragments = opcode, []
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if final:
            messages.append(Message(self._opcode, b"".join(self._fragments)))
            self._fragments, self._fragments_size = None, 0
