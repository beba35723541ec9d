"""WebSocket frames (RFC 6455, section 5) of a server, sans I/O, without extensions.

A server's frames are not masked, so one buffer serves every client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the C extension
    from websockets.utils import apply_mask

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_CONTINUATION: Final = 0x0
MAX_FRAGMENTS: Final = 1000
"""The most fragments of a message: each costs as much time as a small message."""

NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, POLICY, TOO_BIG, RESTART, TRY_LATER = (
    1000,
    1001,
    1002,
    1007,
    1008,
    1009,
    1012,
    1013,
)
"""Close codes (RFC 6455, section 7.4.1; 1012 and 1013 from its registry)."""
_CLOSE_CODES: Final = frozenset((*range(1000, 1004), *range(1007, 1015)))
"""Close codes below 3000 that a peer may send (section 7.4.2)."""


class FrameError(Exception):
    """The peer has violated the protocol; the connection fails with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class WebSocketMessage(NamedTuple):
    """A complete text or binary message, or a control frame."""

    opcode: int
    data: bytes


def frame(opcode: int, payload: bytes) -> bytes:
    """A complete message in one unmasked frame."""
    return _head(opcode, len(payload)) + payload


def joined(opcode: int, payloads: Iterable[bytes]) -> bytes:
    """Complete messages as consecutive unmasked frames, in one buffer."""
    parts: list[bytes] = []
    medium_head = ((0x80 | opcode) << 8 | 126) << 16
    for payload in payloads:
        size = len(payload)
        # The most common kind of head, without a call.
        parts.append((medium_head | size).to_bytes(4, "big") if 126 <= size < 65536 else _head(opcode, size))
        parts.append(payload)
    return b"".join(parts)


def _head(opcode: int, size: int) -> bytes:
    """The header of a frame with a payload of that many bytes."""
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 65536:
        return bytes((0x80 | opcode, 126, size >> 8, size & 0xFF))
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")


def packet_frame(packet: str | bytes) -> bytes:
    """An Engine.IO packet as a frame: text, or the bytes of a binary message."""
    return frame(TEXT, packet.encode()) if isinstance(packet, str) else frame(BINARY, packet)


def packet_frames(packets: Iterable[str | bytes]) -> bytes:
    """Engine.IO packets as consecutive frames, in one buffer."""
    return b"".join(map(packet_frame, packets))


def close_frame(code: int, reason: str = "") -> bytes:
    shortened = reason.encode()[:123].decode(errors="ignore")
    return frame(CLOSE, code.to_bytes(2, "big") + shortened.encode())


class FrameParser:
    """Parses a client's stream into messages; joins fragments and limits sizes.

    The messages and the cost do not depend on how the stream is split into reads.
    """

    __slots__ = ("_buffer", "_fragment_count", "_fragments", "_max_size", "_needed", "_opcode")

    def __init__(self, max_size: int) -> None:
        """`max_size`: bytes of one message."""
        self._max_size = max_size
        self._buffer: bytes | bytearray = b""
        self._needed = 0
        """Size of the first frame in the buffer, if known."""
        self._opcode = 0
        self._fragments: bytearray | None = None
        self._fragment_count = 0

    @property
    def pending(self) -> int:
        """Bytes received of an incomplete message or frame, at least 1; 0 if there is none."""
        if self._fragments is None:
            return len(self._buffer)
        return len(self._buffer) + len(self._fragments) + 1

    def feed(self, data: bytes) -> Iterator[WebSocketMessage]:
        """Yield the messages that `data` completes, in order. Raises `FrameError` at an invalid frame."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
        at, end = 0, len(data)
        needed = 0
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
                if size < (126 if width == 2 else 65_536):  # section 5.2 requires the shortest form
                    raise FrameError(PROTOCOL_ERROR, "a length in more bytes than it needs")
                start += width
            if size > self._max_size or (self._fragments and self._too_big(opcode, size)):
                raise FrameError(TOO_BIG, "message too big")
            stop = start + 4 + size
            if end < stop:
                needed = stop - at
                break
            payload = apply_mask(data[start + 4 : stop], data[start : start + 4])
            at = stop
            if opcode in (TEXT, BINARY) and first & 0x80 and self._fragments is None:
                yield WebSocketMessage(opcode, payload)
            else:
                message = self._complete(opcode, bool(first & 0x80), payload)
                if message is not None:
                    yield message
        self._buffer = bytearray(data[at:]) if at < end else b""
        self._needed = needed

    def _too_big(self, opcode: int, size: int) -> bool:
        """Whether a fragment makes its message too big; control frames in between do not count."""
        return not opcode & 0x8 and self._fragments is not None and len(self._fragments) + size > self._max_size

    def _complete(self, opcode: int, final: bool, payload: bytes) -> WebSocketMessage | None:
        """The message completed by a control frame or a fragment (section 5.4); None if incomplete."""
        if opcode in (CLOSE, PING, PONG):
            if not final:
                raise FrameError(PROTOCOL_ERROR, "fragmented control frame")
            if opcode == CLOSE:
                _check_close(payload)
            return WebSocketMessage(opcode, payload)
        if (opcode == _CONTINUATION) != (self._fragments is not None) or opcode not in (_CONTINUATION, TEXT, BINARY):
            raise FrameError(PROTOCOL_ERROR, "unexpected opcode")
        if self._fragments is None:
            self._opcode, self._fragments, self._fragment_count = opcode, bytearray(), 0
        self._fragments += payload
        self._fragment_count += 1
        if self._fragment_count > MAX_FRAGMENTS:
            raise FrameError(TOO_BIG, "too many fragments")
        if not final:
            return None
        message = WebSocketMessage(self._opcode, bytes(self._fragments))
        self._fragments = None
        return message


def _check_close(payload: bytes) -> None:
    """Check that a CLOSE payload is empty, or a valid code and text (sections 5.5.1 and 7.4). Raises `FrameError`."""
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_DATA, "not UTF-8") from None
    code = int.from_bytes(payload[:2], "big")
    if payload and (len(payload) == 1 or not (code in _CLOSE_CODES or 3000 <= code < 5000)):
        raise FrameError(PROTOCOL_ERROR, "not a close code")
