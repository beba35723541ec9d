"""WebSocket frames, sans I/O: the parser compared with the `websockets` library's, however the stream is cut."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from tests.support.depth import examples
from tests.support.yardstick import slowdown
from tidings.transport import websocket_frames as frames
from tidings.transport.websocket_frames import MAX_FRAGMENTS, FrameError, FrameParser, WebSocketMessage

LIMIT = 70_000
"""Maximum bytes of a message: some lengths need more than two bytes."""

Outcome = tuple[list[tuple[int, bytes]], int | None]
"""The messages, and the close code if the connection fails after them."""


def ours(chunks: Iterable[bytes], limit: int = LIMIT) -> Outcome:
    parser = FrameParser(limit)
    received: list[tuple[int, bytes]] = []
    try:
        for chunk in chunks:
            for opcode, data in parser.feed(chunk):
                received.append((opcode, bytes(data)))
    except FrameError as error:
        return received, error.code
    return received, None


def theirs(stream: bytes, limit: int = LIMIT) -> Outcome:
    """The outcome by the library: its frames, with fragments joined."""
    protocol = ServerProtocol(state=OPEN, max_size=limit)
    protocol.receive_data(stream)
    received: list[tuple[int, bytes]] = []
    begun: list[Frame] = []
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            begun.append(event)
            if event.fin:
                received.append((int(begun[0].opcode), b"".join(bytes(frame.data) for frame in begun)))
                begun = []
        else:
            received.append((int(event.opcode), bytes(event.data)))
    failed = protocol.parser_exc is not None
    return received, protocol.close_sent.code if failed and protocol.close_sent else None


def sent(*parts: Frame) -> bytes:
    """Masked frames, as a client of the library sends them."""
    return b"".join(part.serialize(mask=True) for part in parts)


def cut(stream: bytes, at: Sequence[int]) -> Iterator[bytes]:
    """The stream in pieces, cut at these positions."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in at), len(stream)]
    return (stream[begin:end] for begin, end in pairwise(edges))


_sizes = st.integers(0, 300) | st.sampled_from([125, 126, 127, 65_535, 65_536, LIMIT])
_payloads = st.builds(lambda size, seed: random.Random(seed).randbytes(size), _sizes, st.integers(0, 9))
_controls = st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125))


@st.composite
def _messages(draw: st.DrawFn) -> list[Frame]:
    """A message in one or more frames, control frames in between."""
    opcode, payload = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY])), draw(_payloads)
    cuts = draw(st.lists(st.integers(0, LIMIT), max_size=3))
    pieces = list(cut(payload, cuts))
    message = []
    # The library counts a control frame towards the message that it interrupts; ours does not.
    controls = st.lists(_controls, max_size=1 if len(payload) + 125 <= LIMIT else 0)
    for at, piece in enumerate(pieces):
        message.append(Frame(opcode if at == 0 else Opcode.CONT, piece, fin=at == len(pieces) - 1))
        message += draw(controls)
    return message


_closes = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.integers(0, 5001) | st.sampled_from([999, 1000, 1004, 1005, 1006, 1007, 1014, 1015, 1016, 2999, 3000]),
        st.sampled_from([b"", b"bye", "adiós".encode(), b"\xff"]),
    ),
    st.binary(min_size=1, max_size=1),
).map(lambda payload: [Frame(Opcode.CLOSE, payload)])


def masked(head: int, payload: bytes = b"", *, size: bytes | None = None, mask_bit: bool = True) -> bytes:
    """A frame built by hand, possibly invalid; its mask is zero."""
    length = bytes((len(payload) | (0x80 if mask_bit else 0),)) if size is None else size
    return bytes((head,)) + length + (bytes(4) if mask_bit else b"") + payload


FAULTS: dict[str, tuple[bytes, int]] = {
    "not masked": (masked(0x81, b"hello", mask_bit=False), 1002),
    "reserved bit 1": (masked(0xC1, b"x"), 1002),
    "reserved bit 2": (masked(0xA1, b"x"), 1002),
    "reserved bit 3": (masked(0x91, b"x"), 1002),
    "an opcode that is not one": (masked(0x83, b"x"), 1002),
    "a control opcode that is not one": (masked(0x8B, b"x"), 1002),
    "a fragmented ping": (masked(0x09, b"x"), 1002),
    "a fragmented close": (masked(0x08, b"\x03\xe8"), 1002),
    "a long ping": (masked(0x89, bytes(126), size=b"\xfe\x00\x7e"), 1002),
    "a continuation of nothing": (masked(0x80, b"x"), 1002),
    "a message within a message": (masked(0x01, b"x") + masked(0x81, b"y"), 1002),
    "a message too big": (masked(0x82, size=b"\xff" + (LIMIT + 1).to_bytes(8, "big")) + bytes(4), 1009),
    "a message beyond counting": (masked(0x82, size=b"\xff" + b"\xff" * 8) + bytes(4), 1009),
    "fragments too big together": (
        masked(0x02, bytes(LIMIT), size=b"\xff" + LIMIT.to_bytes(8, "big")) + masked(0x80, b"x"),
        1009,
    ),
}


@settings(max_examples=examples(150), deadline=None)
@given(
    parts=st.lists(_messages() | _controls.map(lambda frame: [frame]), max_size=4),
    end=st.just([]) | _closes,
    fault=st.none() | st.sampled_from(sorted(FAULTS)),
    at=st.lists(st.integers(0, 200_000), max_size=6),
)
@example(parts=[[Frame(Opcode.TEXT, b"before")]], end=[], fault="not masked", at=[])
def test_every_split_of_a_stream_gives_the_messages_of_the_websockets_library(
    parts: list[list[Frame]], end: list[Frame], fault: str | None, at: list[int]
) -> None:
    whole = sent(*chain(*parts), *end) + (FAULTS[fault][0] if fault and not end else b"")
    expected = theirs(whole)
    assert ours([whole]) == expected
    assert ours(cut(whole, at)) == expected


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(_messages(), min_size=1, max_size=2), fault=st.none() | st.sampled_from(sorted(FAULTS)))
def test_a_stream_that_arrives_byte_by_byte_gives_the_same_messages(
    parts: list[list[Frame]], fault: str | None
) -> None:
    small = [frame for frame in chain(*parts) if len(frame.data) <= 300]
    whole = sent(*small) + (FAULTS[fault][0][:600] if fault else b"")
    assert ours(whole[at : at + 1] for at in range(len(whole))) == ours([whole])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_frame_fails_the_connection_with_its_code_after_earlier_messages(fault: str) -> None:
    stream, code = FAULTS[fault]
    before = sent(Frame(Opcode.TEXT, b"before"))
    assert theirs(before + stream) == ([(frames.TEXT, b"before")], code)
    assert ours([before + stream]) == ([(frames.TEXT, b"before")], code)
    assert ours([before, stream]) == ([(frames.TEXT, b"before")], code)


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, b"\xfe\x00\x00"),
        (125, b"\xfe\x00\x7d"),
        (125, b"\xff" + (125).to_bytes(8, "big")),
        (65_535, b"\xff" + (65_535).to_bytes(8, "big")),
    ],
)
def test_a_length_in_more_bytes_than_it_needs_is_a_protocol_error(size: int, length: bytes) -> None:
    """RFC 6455, section 5.2: the minimal number of bytes must be used. The library takes such lengths."""
    before = sent(Frame(Opcode.TEXT, b"before"))
    assert ours([before + masked(0x82, bytes(size), size=length)]) == ([(frames.TEXT, b"before")], 1002)


def test_a_control_frame_within_a_message_does_not_count_towards_its_size() -> None:
    stream = masked(0x02, bytes(100)) + masked(0x89, bytes(100)) + masked(0x80, bytes(20))
    assert ours([stream], limit=120) == ([(frames.PING, bytes(100)), (frames.BINARY, bytes(120))], None)


@settings(max_examples=examples(100), deadline=None)
@given(
    messages=st.lists(st.text(max_size=200) | _payloads, max_size=5), at=st.lists(st.integers(0, 200_000), max_size=6)
)
def test_the_client_of_the_websockets_library_reads_our_frames(messages: list[str | bytes], at: list[int]) -> None:
    client = ClientProtocol(parse_uri("ws://localhost/"), state=OPEN, max_size=None)
    for chunk in cut(frames.packet_frames(messages) + frames.close_frame(1001, "ñ" * 100), at):
        client.receive_data(chunk)
    assert client.parser_exc is None
    *received, close = client.events_received()
    read = [bytes(frame.data) for frame in received if isinstance(frame, Frame)]
    assert read == [message.encode() if isinstance(message, str) else message for message in messages]
    assert client.close_rcvd is not None
    assert (client.close_rcvd.code, close.opcode) == (1001, Opcode.CLOSE)


@pytest.mark.parametrize("opcode", [frames.TEXT, frames.BINARY])
def test_joined_frames_equal_frames_written_one_by_one(opcode: int) -> None:
    messages = [b"x" * size for size in (0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000, 3)]
    assert frames.joined(opcode, messages) == b"".join(frames.frame(opcode, message) for message in messages)


def test_a_message_in_many_segments_costs_little_more_than_in_one() -> None:
    """Otherwise a client that sends a long message in small segments would hold the loop."""
    size = 1_000_000
    stream = sent(Frame(Opcode.BINARY, bytes(size)))
    parser = FrameParser(size)
    received: list[WebSocketMessage] = []
    gc.disable()
    try:
        began = time.thread_time()
        for at in range(0, len(stream), 50):
            received += parser.feed(stream[at : at + 50])
        spent = time.thread_time() - began
    finally:
        gc.enable()
    assert len(received) == 1
    # In 20,000 pieces; copying the earlier bytes for each piece would copy 10 GB.
    assert spent / slowdown() < 0.5


def test_empty_fragments_use_no_memory() -> None:
    parser = FrameParser(100)
    assert not list(parser.feed(masked(0x01)))
    assert not list(parser.feed(masked(0x00) * (MAX_FRAGMENTS - 2)))
    kept = parser._fragments
    assert kept is not None
    assert len(kept) == 0
    assert list(parser.feed(masked(0x80, b"end"))) == [WebSocketMessage(frames.TEXT, b"end")]


def test_a_message_has_a_bounded_number_of_fragments() -> None:
    """Control frames do not count, and the next message has as many."""
    parser = FrameParser(100_000)
    message = masked(0x01) + masked(0x89) + masked(0x00, b"x") * (MAX_FRAGMENTS - 2) + masked(0x80)
    assert len(list(parser.feed(message * 2))) == 4
    with pytest.raises(FrameError) as error:
        list(parser.feed(masked(0x01) + masked(0x00) * MAX_FRAGMENTS))
    assert error.value.code == frames.TOO_BIG
