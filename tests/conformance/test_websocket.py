"""WebSocket frames (RFC 6455) on a real server, however TCP segments them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.servers import Application, DirectApplication
from tests.conformance.wire import (
    Endpoint,
    eventually,
    frame,
    handshake,
    plain,
    serving,
    text,
    upgrade_request,
    wired,
)
from tidings.transport import websocket_wire
from tidings.transport.uvicorn_server import UvicornWebSocket

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture(params=[DirectApplication, Application], ids=["direct", "taken over"])
async def engineio(request: pytest.FixtureRequest, quiet_log: None) -> AsyncIterator[Endpoint]:
    """Not over ASGI, where the server below handles the frames."""
    async with serving("engineio", UvicornWebSocket, request.param) as endpoint:
        yield endpoint


async def test_the_answer_to_the_opening_handshake_follows_the_rfc(engineio: Endpoint) -> None:
    async with plain(engineio) as wire:
        await wire.send(upgrade_request(engineio))
        head = (await wire.head()).decode().lower()
        assert head.startswith("http/1.1 101 ")
        assert "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head  # section 1.3
        assert "sec-websocket-extensions" not in head


NOT_AN_OPENING = {
    "no key": ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
    "a short key": ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", 400),
    "a key that is not Base64": ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j*Q==", 400),
    "two keys": ("Upgrade: websocket", "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
    "no version": ("Sec-WebSocket-Version: 13\r\n", "", 400),
    "another version": ("Version: 13", "Version: 8", 400),
    "from a page of another origin": (
        "Upgrade: websocket",
        "Upgrade: websocket\r\nOrigin: http://elsewhere.example",
        403,
    ),
    "another protocol version": ("EIO=4", "EIO=3", 400),
    "an unknown session": ("EIO=4", "EIO=4&sid=none", 400),
}


@pytest.mark.parametrize("fault", NOT_AN_OPENING)
async def test_an_invalid_opening_handshake_is_refused_and_opens_no_session(fault: str, quiet_log: None) -> None:
    original, replacement, status = NOT_AN_OPENING[fault]
    for application in (DirectApplication, Application):
        async with serving("engineio", UvicornWebSocket, application, cors_allowed_origins=[]) as endpoint:
            request = upgrade_request(endpoint).decode()
            assert original in request
            async with plain(endpoint) as wire:
                await wire.send(request.replace(original, replacement).encode())
                assert (await wire.head()).split()[1] == str(status).encode(), application
            assert not endpoint.engine.sockets


UNUSUAL_OPENINGS = {
    "names and tokens in another case": (
        "Connection: Upgrade\r\nUpgrade: websocket",
        "CONNECTION: x, UPGRADE\r\nuPgRaDe: WebSocket",
    ),
    "more headers": ("Upgrade: websocket", "Upgrade: websocket" + "".join(f"\r\nX-{n}: {n}" for n in range(80))),
    "a header twice": ("Upgrade: websocket", "Upgrade: websocket\r\nCookie: a=1\r\nCookie: b=2"),
    "extensions and protocols offered": (
        "Upgrade: websocket",
        "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b",
    ),
}


@pytest.mark.parametrize("form", UNUSUAL_OPENINGS)
async def test_an_unusual_but_valid_opening_handshake_is_accepted(engineio: Endpoint, form: str) -> None:
    original, replacement = UNUSUAL_OPENINGS[form]
    async with plain(engineio) as wire:
        await wire.send(upgrade_request(engineio).decode().replace(original, replacement).encode())
        head = (await wire.head()).decode().lower()
        assert head.startswith("http/1.1 101 ")
        assert "sec-websocket-extensions" not in head
        assert ("sec-websocket-protocol: a\r\n" in head) == ("protocols offered" in form)
        kind, opened = await wire.frame()
        assert kind == TEXT
        assert handshake(opened.decode())["upgrades"] == []


async def test_the_client_address_is_the_one_that_a_proxy_forwards(engineio: Endpoint) -> None:
    request = upgrade_request(engineio)
    proxied = request.replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nX-Forwarded-For: 192.0.2.7")
    for sent, address in ((request, "127.0.0.1"), (proxied, "192.0.2.7")):
        async with plain(engineio) as wire:
            await wire.send(sent)
            assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
            await wire.frame()
            assert engineio.engine.half_open.sources() == [address]
        await eventually(lambda: not engineio.engine.half_open)


async def test_messages_in_fragments_are_joined_with_control_frames_in_between(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        whole = "4ñ 漢字 🦉".encode()
        parts = [whole[at : at + 1] for at in range(len(whole))]  # also cut within characters
        await wire.send(frame(0x01, parts[0]) + frame(0x89, b"between"))
        assert await wire.frame() == (PONG, b"between")
        await wire.send(b"".join(frame(0x00, part) for part in parts[1:-1]) + frame(0x80, parts[-1]))
        assert await wire.frame() == (TEXT, whole)
        await wire.send(frame(0x02, b"\x00") + frame(0x00) + frame(0x80, b"\xff"))
        assert await wire.frame() == (BINARY, b"\x00\xff")


async def test_a_ping_is_answered_with_its_payload_and_a_pong_is_not_answered(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        for payload in (b"", b"hello", bytes(range(125))):
            await wire.send(frame(0x8A, payload) + frame(0x89, payload))
            assert await wire.frame() == (PONG, payload)
        await wire.echo()


@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("segments", ["one", "many"])
async def test_a_flood_of_control_frames_closes_the_connection(
    engineio: Endpoint, opcode: int, segments: str
) -> None:
    """1 MB of them would be half a second of work."""
    flood = frame(0x80 | opcode) * 300
    async with wired(engineio) as wire, wired(engineio) as bystander:
        if segments == "one":
            await wire.send(flood)
        else:
            for at in range(0, len(flood), 100):
                await wire.send_in_two(flood[at : at + 100], 50)
        if opcode == PING:
            assert [await wire.frame() for _ in range(300)] == [(PONG, b"")] * 300
        await wire.echo()
        await wire.send(frame(0x80 | opcode))
        assert await wire.close_code() == 1008
        await eventually(lambda: len(engineio.engine.sockets) == 1)
        await bystander.echo()


async def test_control_frames_over_a_long_time_are_answered(
    engineio: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_wire, "CONTROL_FRAMES_S", 0)
    async with wired(engineio) as wire:
        for _ in range(5):
            await wire.send(frame(0x89) * 500)
            assert [await wire.frame() for _ in range(500)] == [(PONG, b"")] * 500
        await wire.echo()


SIZES = (125, 126, 127, 65_535, 65_536, 1_000_000)


async def test_frames_with_lengths_of_every_width_are_echoed(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        for size in SIZES:
            await wire.send(frame(0x82, bytes(size)))
            assert await wire.frame() == (BINARY, bytes(size))


BROKEN = {
    "a frame that is not masked": (frame(0x81, b"4hello", masked=False), 1002),
    "a ping that is not masked": (frame(0x89, b"", masked=False), 1002),
    "reserved bit 1": (frame(0xC1, b"4hello"), 1002),
    "reserved bit 2": (frame(0xA1, b"4hello"), 1002),
    "reserved bit 3": (frame(0x91, b"4hello"), 1002),
    "a reserved opcode": (frame(0x83, b"4hello"), 1002),
    "a reserved control opcode": (frame(0x8B, b"hello"), 1002),
    "a long ping": (frame(0x89, bytes(126)), 1002),
    "a ping in fragments": (frame(0x09, b"hello"), 1002),
    "a continuation of nothing": (frame(0x80, b"4hello"), 1002),
    "a message within a message": (frame(0x01, b"4hel") + frame(0x81, b"4lo"), 1002),
    "a close of one byte": (frame(0x88, b"\x03"), 1002),
    "a close code that is not sent": (frame(0x88, b"\x03\xed"), 1002),
    "a close reason that is not UTF-8": (frame(0x88, b"\x03\xe8\xff"), 1007),
    "text that is not UTF-8": (frame(0x81, b"4\xc3\x28"), 1007),
    "text that ends within a character": (frame(0x81, b"4\xf0\x9f\xa6"), 1007),
    "fragments that are not UTF-8": (frame(0x01, b"4\xc3") + frame(0x80, b"\x28"), 1007),
    "surrogates": (frame(0x81, b"4\xed\xa0\x80"), 1007),
    "a message over the limit": (frame(0x82, size=1_000_001), 1009),
    "fragments over the limit": (frame(0x02, bytes(600_000)) + frame(0x80, size=400_001), 1009),
    "a message beyond counting": (b"\x82\xff" + b"\xff" * 8 + b"mask", 1009),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_an_invalid_frame_fails_the_connection_with_its_code(engineio: Endpoint, fault: str) -> None:
    broken, code = BROKEN[fault]
    async with wired(engineio) as wire, wired(engineio) as bystander:
        await wire.send(text("4before") + broken)
        assert await wire.frame() == (TEXT, b"4before"), "the message before it is delivered"
        assert await wire.close_code() == code
        await eventually(lambda: len(engineio.engine.sockets) == 1)
        await bystander.echo()


CLOSES = {
    "nothing": b"",
    "normal": b"\x03\xe8",
    "going away, with a reason": b"\x03\xe9adi\xc3\xb3s",
    "a code of a library": b"\x0b\xb8",
    "a code of an application": b"\x13\x87bye",
}


@pytest.mark.parametrize("payload", CLOSES)
async def test_a_close_is_answered_and_ends_the_connection_and_the_session(engineio: Endpoint, payload: str) -> None:
    async with wired(engineio) as wire:
        await wire.send(frame(0x88, CLOSES[payload]) + text("4late"))
        assert await wire.close_code() == (int.from_bytes(CLOSES[payload][:2], "big") or 1000)
        await eventually(lambda: not engineio.engine.sockets)


async def test_a_lost_connection_ends_the_session(engineio: Endpoint) -> None:
    for sent in (b"", text("4hello")[:3], frame(0x01, b"4hel"), b"\x82\xff"):
        async with wired(engineio) as wire:
            await wire.send(sent)
            wire.abort()
            await eventually(lambda: not engineio.engine.sockets)


STREAM = (
    text("4one")
    + frame(0x89, b"ping")
    + frame(0x01, b"4frag")
    + frame(0x8A, b"nobody asked")
    + frame(0x80, "mented ñ".encode())
    + frame(0x82, bytes(300))
    + text("4last")
)
ANSWER = [
    (TEXT, b"4one"),
    (PONG, b"ping"),
    (TEXT, "4fragmented ñ".encode()),
    (BINARY, bytes(300)),
    (TEXT, b"4last"),
]


async def test_many_frames_in_one_segment_are_processed_in_order(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        await wire.send(STREAM * 20)
        frames = [await wire.frame() for _ in range(20 * len(ANSWER))]
        # A PONG may overtake messages, so PONGs are compared apart.
        assert sorted(frames, key=_is_pong) == sorted(ANSWER * 20, key=_is_pong)


def _is_pong(received: tuple[int, bytes]) -> bool:
    return received[0] == PONG


async def test_frames_in_segments_of_one_byte_are_processed(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        await wire.send_bytewise(STREAM)
        assert [await wire.frame() for _ in ANSWER] == ANSWER


async def test_frames_split_at_every_byte_are_processed(engineio: Endpoint) -> None:
    stream = text("4first") + frame(0x82, bytes(130)) + text("4last")
    async with wired(engineio) as wire:
        for at in range(1, len(stream)):
            await wire.send_in_two(stream, at)
            assert [await wire.frame() for _ in range(3)] == [
                (TEXT, b"4first"),
                (BINARY, bytes(130)),
                (TEXT, b"4last"),
            ]


@pytest.mark.parametrize("segments", ["one", "two", "bytes"])
async def test_frames_right_after_the_opening_handshake_are_processed(engineio: Endpoint, segments: str) -> None:
    """A client has to wait for the answer (section 4.1); a client that does not wait loses nothing."""
    request, behind = upgrade_request(engineio), text("4one") + frame(0x89, b"ping") + text("4two")
    async with plain(engineio) as wire:
        if segments == "one":
            await wire.send(request + behind)
        elif segments == "two":
            await wire.send_in_two(request + behind, len(request))
        else:
            await wire.send_bytewise(request + behind)
        assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
        opcode, packet = await wire.frame()
        assert (opcode, handshake(packet.decode())["upgrades"]) == (TEXT, [])
        frames = [await wire.frame() for _ in range(3)]
        assert sorted(frames) == [(TEXT, b"4one"), (TEXT, b"4two"), (PONG, b"ping")]
        assert frames.index((TEXT, b"4one")) < frames.index((TEXT, b"4two"))
        await wire.echo()


async def test_an_upgrade_right_after_the_opening_handshake_loses_nothing(engineio: Endpoint) -> None:
    sid = await engineio.open()
    await engineio.post(sid, "4before")
    request = upgrade_request(engineio, sid)
    async with plain(engineio) as wire:
        await wire.send_in_two(request + text("2probe") + text("5") + text("4after"), len(request))
        assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
        assert [await wire.frame() for _ in range(3)] == [(TEXT, b"3probe"), (TEXT, b"4before"), (TEXT, b"4after")]


async def test_a_closing_server_waits_for_the_clients_close(engineio: Endpoint) -> None:
    """Otherwise its last frames might be lost (section 7.1.1)."""
    async with wired(engineio) as wire:
        (session,) = engineio.engine.sockets.values()
        session.put(["4last words"], 11)
        session.end("the test says so", politely=True)
        assert await wire.frame() == (TEXT, b"4last words")
        opcode, payload = await wire.frame()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xe8")
        assert has_session(engineio)
        await wire.send(frame(0x88, payload))
        assert await wire.bytes_until_end() == b""
        await eventually(lambda: not has_session(engineio))


def has_session(server: Endpoint) -> bool:
    return bool(server.engine.sockets)


@pytest.mark.parametrize("begin", [frame(0x01, b"4a"), frame(0x81, b"4a")[:5], frame(0x81, b"4a") + b"\x81"])
async def test_a_message_that_never_ends_closes_the_connection(
    engineio: Endpoint, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """PINGs between the fragments do not extend the limit, or a client could hold a message in memory forever."""
    monkeypatch.setattr(websocket_wire, "MESSAGE_S", 0.3)
    async with wired(engineio) as wire:
        await wire.send(begin)
        if begin[0] == 0x01:
            await wire.send(frame(0x89, b"more"))
            assert await wire.frame() == (PONG, b"more")
        elif len(begin) > 5:
            assert await wire.frame() == (TEXT, b"4a")
        assert await wire.close_code() == 1001
    await eventually(lambda: not engineio.engine.sockets)


async def test_the_time_limit_of_a_message_is_extended_while_it_arrives(engineio: Endpoint) -> None:
    message = text("4" + "x" * 60_000)
    async with wired(engineio) as wire:
        (session,) = engineio.engine.sockets.values()
        await wire.send(message[:10])
        await eventually(lambda: session.wire._message_timer is not None)
        await wire.send(message[10:25_000])
        await eventually(lambda: session.wire._parser.pending == 25_000)
        session.wire._message_timer._run()
        assert not session.wire.transport.is_closing()
        session.wire._message_timer._run()
        assert await wire.close_code() == 1001


async def test_a_complete_message_ends_the_time_limit(engineio: Endpoint) -> None:
    async with wired(engineio) as wire:
        (session,) = engineio.engine.sockets.values()
        for piece in (frame(0x01, b"4a"), frame(0x80, b"b")[:3]):
            await wire.send(piece)
            await eventually(lambda: session.wire._message_timer is not None)
        await wire.send(frame(0x80, b"b")[3:])
        assert await wire.frame() == (TEXT, b"4ab")
        assert session.wire._message_timer is None
