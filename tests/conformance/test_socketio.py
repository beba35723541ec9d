"""Socket.IO v5, point by point, over WebSocket and polling. `docs/conformance.md` lists the points."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import ClientConnection

from tests.conformance.conftest import Starting
from tests.conformance.wire import Endpoint, eventually, received, until_closed
from tests.support.timers import Timers
from tidings.transport.socketio_codecs import MsgpackCodec

FIRST, SECOND = b"\x01\x02\x03", b"\x04\x00\xff"
PLACEHOLDERS = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'


def sid_of(packet: str | bytes, prefix: str) -> str:
    """The sid in the answer to a CONNECT."""
    assert isinstance(packet, str)
    assert packet.startswith(prefix), packet
    answer = json.loads(packet.removeprefix(prefix))
    assert list(answer) == ["sid"]
    return str(answer["sid"])


@asynccontextmanager
async def connected(server: Endpoint) -> AsyncIterator[ClientConnection]:
    """A client in the namespace `/`, after its greeting."""
    async with server.session() as socket:
        await socket.send("40")
        sid_of(await received(socket), "40")
        assert await received(socket) == '42["auth",{}]'
        yield socket


async def check_echo(socket: ClientConnection) -> None:
    """The connection still answers."""
    await socket.send('42["message","still here"]')
    assert await received(socket) == '42["message-back","still here"]'


# -- connect -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["", '{"token":"123"}', '{"ñ":[1,null,"🦉"]}'])
async def test_a_client_connects_to_each_namespace_with_its_auth(socketio: Endpoint, auth: str) -> None:
    async with socketio.session() as socket:
        await socket.send("40" + auth)
        first = sid_of(await received(socket), "40")
        assert await received(socket) == f'42["auth",{auth or "{}"}]'
        await socket.send("40/custom," + auth)
        second = sid_of(await received(socket), "40/custom,")
        assert await received(socket) == f'42/custom,["auth",{auth or "{}"}]'
        engine = next(iter(socketio.engine.sockets))
        assert len({first, second, engine}) == 3


async def test_an_unknown_namespace_is_refused_with_an_object_and_the_session_continues(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        for packet in ("40/x", "40/x,", '40/x,{"token":"123"}'):
            await socket.send(packet)
            assert await received(socket) == '44/x,{"message":"Invalid namespace"}'
        await check_echo(socket)
    async with socketio.session() as socket:
        await socket.send("40/x")
        assert await received(socket) == '44/x,{"message":"Invalid namespace"}'
        await socket.send("40")
        sid_of(await received(socket), "40")


async def test_a_session_that_connects_to_no_namespace_in_time_is_closed(socketio_with: Starting) -> None:
    timers = Timers()
    async with socketio_with(connect_timeout=60, ping_interval=25, ping_timeout=60, timers=timers) as server:
        async with server.session() as silent, server.session() as refused, connected(server) as in_time:
            await refused.send("40/x")
            await received(refused)
            timers.advance(25)
            for socket in (silent, refused, in_time):
                assert await socket.recv() == "2"
                await socket.send("3")
            timers.advance(34)
            assert len(server.engine.sockets) == 3
            timers.advance(1)
            assert await until_closed(silent) == []
            assert await until_closed(refused) == []
            await check_echo(in_time)
        await eventually(lambda: not server.engine.sockets)


async def test_a_session_whose_first_packet_is_no_connect_is_closed(socketio: Endpoint) -> None:
    for packet in ("4abc", '42["message"]', "41", '43["x"]', '451-["x"]', "40[", '40{"a":'):
        async with socketio.session() as socket:
            await socket.send(packet)
            assert await until_closed(socket) == [], packet
    await eventually(lambda: not socketio.engine.sockets)


# -- disconnect --------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_a_namespace_stays_in_the_others(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        await socket.send("40/custom,")
        sid_of(await received(socket), "40/custom,")
        assert await received(socket) == '42/custom,["auth",{}]'
        await socket.send("41/custom,")
        await check_echo(socket)
        await socket.send('42/custom,["message","x"]')
        assert await until_closed(socket) == []  # an event in a namespace that the client has left


async def test_a_client_that_left_its_last_namespace_can_connect_again(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        await socket.send("41")
        await socket.send("40")
        sid_of(await received(socket), "40")
        assert await received(socket) == '42["auth",{}]'
        await check_echo(socket)


# -- messages ----------------------------------------------------------------------------------------------------


async def test_events_and_acknowledgements_carry_every_kind_of_argument(socketio: Endpoint) -> None:
    arguments = '1,"2",{"3":[false,null,4.5]},"ñ 漢字 🦉"'
    async with connected(socketio) as socket:
        await socket.send(f'42["message",{arguments}]')
        assert await received(socket) == f'42["message-back",{arguments}]'
        await socket.send('42["message"]')
        assert await received(socket) == '42["message-back"]'
        await socket.send(f'42456["message-with-ack",{arguments}]')
        assert await received(socket) == f"43456[{arguments}]"
        await socket.send('420["message-with-ack"]')
        assert await received(socket) == "430[]"


async def test_events_and_acknowledgements_carry_binary_attachments(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        for packet, answer in (
            (f'452-["message",{PLACEHOLDERS}]', f'452-["message-back",{PLACEHOLDERS}]'),
            (f'452-789["message-with-ack",{PLACEHOLDERS}]', f"462-789[{PLACEHOLDERS}]"),
            (f'452-["message",{{"deep":[{PLACEHOLDERS}]}}]', f'452-["message-back",{{"deep":[{PLACEHOLDERS}]}}]'),
        ):
            for part in (packet, FIRST, SECOND):
                await socket.send(part)
            assert [await received(socket) for _ in range(3)] == [answer, FIRST, SECOND]
        await socket.send('451-["message",{"_placeholder":true,"num":0}]')
        await socket.send(b"")
        assert await received(socket) == '451-["message-back",{"_placeholder":true,"num":0}]'
        assert await received(socket) == b""


async def test_acknowledgements_in_a_namespace_carry_binary_attachments(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        await socket.send("40/custom,")
        await received(socket)
        await received(socket)
        for part in (f'452-/custom,7["message-with-ack",{PLACEHOLDERS}]', FIRST, SECOND):
            await socket.send(part)
        assert [await received(socket) for _ in range(3)] == [f"462-/custom,7[{PLACEHOLDERS}]", FIRST, SECOND]


async def test_polling_carries_binary_attachments_in_base64(socketio: Endpoint) -> None:
    sid = await socketio.open()
    await socketio.post(sid, "40")
    assert (await socketio.packets(sid, 2))[1] == '42["auth",{}]'
    encoded = ["b" + base64.b64encode(part).decode() for part in (FIRST, SECOND)]
    assert (await socketio.post(sid, f'452-789["message-with-ack",{PLACEHOLDERS}]', *encoded)).text == "ok"
    assert await socketio.packets(sid, 3) == [f"462-789[{PLACEHOLDERS}]", *encoded]
    # Each part in its own request.
    for part in (f'452-["message",{PLACEHOLDERS}]', *encoded):
        assert (await socketio.post(sid, part)).text == "ok"
    assert await socketio.packets(sid, 3) == [f'452-["message-back",{PLACEHOLDERS}]', *encoded]


async def test_acknowledgements_of_a_client_are_accepted_with_and_without_attachments(socketio: Endpoint) -> None:
    async with connected(socketio) as socket:
        await socket.send("431[1]")
        for part in (f"462-2[{PLACEHOLDERS}]", FIRST, SECOND):
            await socket.send(part)
        await check_echo(socket)


INVALID = {
    "an unknown packet type": "4abc",
    "a type beyond the last": "47",
    "an event that is an object": "42{}",
    "an empty event": "42[]",
    "not JSON": '42["message"',
    "an ack id that is no number": '42abc["message-with-ack",1,"2",{"3":[false]}]',
    "a second connect": "40",
    "a connect error": '44{"message":"no"}',
    "binary out of turn": b"\x01\x02",
    "an attachment that is a text": (f'452-["message",{PLACEHOLDERS}]', '42["message"]'),
    "a placeholder that points nowhere": ('451-["message",{"_placeholder":true,"num":7}]', b"x"),
    "too many attachments": '4599-["message",{"_placeholder":true,"num":0}]',
    "no attachments": '450-["message"]',
    "an unknown namespace's event": '42/x,["message"]',
}


async def test_an_invalid_packet_closes_the_connection(socketio: Endpoint) -> None:
    async with connected(socketio) as bystander:
        for fault, packets in INVALID.items():
            async with connected(socketio) as socket:
                for packet in packets if isinstance(packets, tuple) else (packets,):
                    await socket.send(packet)
                assert await until_closed(socket) == [], fault
            await eventually(lambda: len(socketio.engine.sockets) == 1)
            await check_echo(bystander)


async def test_an_invalid_packet_closes_the_polling_session(socketio: Endpoint) -> None:
    sid = await socketio.open()
    await socketio.post(sid, "40")
    await socketio.packets(sid, 2)
    await socketio.post(sid, "42{}")
    assert await socketio.packets(sid, 1) == ["1"]
    assert await socketio.is_gone(sid)


# -- the msgpack parser ------------------------------------------------------------------------------------------

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = range(5)


async def send(socket: ClientConnection, kind: int, data: Any = None, *, nsp: str = "/", **more: Any) -> None:
    await socket.send(msgpack.packb({"type": kind, "data": data, "nsp": nsp, **more}))


async def unpacked(socket: ClientConnection) -> dict[str, Any]:
    packet = await received(socket)
    assert isinstance(packet, bytes), packet
    unpacked_packet: dict[str, Any] = msgpack.unpackb(packet)
    return unpacked_packet


@asynccontextmanager
async def msgpack_server(socketio_with: Starting) -> AsyncIterator[Endpoint]:
    async with socketio_with(codec=MsgpackCodec(), connect_timeout=20) as server:
        yield server


@asynccontextmanager
async def msgpack_connected(server: Endpoint) -> AsyncIterator[ClientConnection]:
    async with server.session() as socket:
        await send(socket, CONNECT, {"token": "123"})
        answer = await unpacked(socket)
        assert (answer["type"], answer["nsp"], list(answer["data"])) == (CONNECT, "/", ["sid"])
        assert (await unpacked(socket))["data"] == ["auth", {"token": "123"}]
        yield socket


async def test_with_msgpack_every_packet_is_one_binary_message(socketio_with: Starting) -> None:
    arguments = [1, "ñ 🦉", {"3": [False, None, 4.5]}, FIRST, {"deep": [SECOND]}]
    async with msgpack_server(socketio_with) as server, msgpack_connected(server) as socket:
        await send(socket, EVENT, ["message", *arguments])
        answer = await unpacked(socket)
        assert (answer["type"], answer["nsp"], answer["data"]) == (EVENT, "/", ["message-back", *arguments])
        await send(socket, EVENT, ["message-with-ack", *arguments], id=7)
        answer = await unpacked(socket)
        assert (answer["type"], answer["nsp"], answer["id"], answer["data"]) == (ACK, "/", 7, arguments)
        await send(socket, ACK, [1], id=1)
        await send(socket, CONNECT, nsp="/x")
        answer = await unpacked(socket)
        assert answer["type"] == CONNECT_ERROR
        assert (answer["nsp"], answer["data"]) == ("/x", {"message": "Invalid namespace"})
        await send(socket, CONNECT, nsp="/custom")
        assert (await unpacked(socket))["nsp"] == "/custom"
        assert (await unpacked(socket))["data"] == ["auth", {}]
        await send(socket, DISCONNECT, nsp="/custom")
        await send(socket, EVENT, ["message", "still here"])
        assert (await unpacked(socket))["data"] == ["message-back", "still here"]


async def test_undefined_in_msgpack_becomes_null_as_in_json(socketio_with: Starting) -> None:
    async with msgpack_server(socketio_with) as server, msgpack_connected(server) as socket:
        await send(socket, EVENT, ["message", msgpack.ExtType(0, b"\x00"), {"a": msgpack.ExtType(0, b"\x00")}])
        assert (await unpacked(socket))["data"] == ["message-back", None, {"a": None}]
        await send(socket, EVENT, ["message", msgpack.ExtType(7, b"\x00")])
        assert (await unpacked(socket))["data"] == ["message-back", msgpack.ExtType(7, b"\x00")]


async def test_polling_carries_msgpack_in_base64(socketio_with: Starting) -> None:
    def encoded(kind: int, data: Any, **more: Any) -> str:
        packed: bytes = msgpack.packb({"type": kind, "data": data, "nsp": "/", **more})
        return "b" + base64.b64encode(packed).decode()

    async with msgpack_server(socketio_with) as server:
        sid = await server.open()
        await server.post(sid, encoded(CONNECT, None))
        await server.packets(sid, 2)
        await server.post(sid, encoded(EVENT, ["message-with-ack", FIRST], id=3))
        (packet,) = await server.packets(sid, 1)
        answer = msgpack.unpackb(base64.b64decode(packet[1:]))
        assert (answer["type"], answer["id"], answer["data"]) == (ACK, 3, [FIRST])


INVALID_MSGPACK: dict[str, str | bytes] = {
    "text": '42["message"]',
    "a CONNECT in text": "40",
    "nothing": b"",
    "not msgpack": b"\xc1",
    "cut": msgpack.packb({"type": EVENT, "data": ["message", "x" * 100], "nsp": "/"})[:-1],
    "more than one": msgpack.packb({"type": ACK, "data": [], "nsp": "/", "id": 1}) * 2,
    "a number": msgpack.packb(7),
    "a list": msgpack.packb([EVENT, ["message"], "/"]),
    "no type": msgpack.packb({"data": ["message"], "nsp": "/"}),
    "an unknown type": msgpack.packb({"type": 9, "data": ["message"], "nsp": "/"}),
    "a type that is a text": msgpack.packb({"type": "2", "data": ["message"], "nsp": "/"}),
    "a namespace that is a number": msgpack.packb({"type": EVENT, "data": ["message"], "nsp": 1}),
    "an ack id that is a text": msgpack.packb({"type": EVENT, "data": ["message"], "nsp": "/", "id": "1"}),
    "an event that is an object": msgpack.packb({"type": EVENT, "data": {}, "nsp": "/"}),
    "an empty event": msgpack.packb({"type": EVENT, "data": [], "nsp": "/"}),
    "no data": msgpack.packb({"type": EVENT, "nsp": "/"}),
    "nested without end": b"\x91" * 100_000,
    "a size beyond the end": b"\xdd\xff\xff\xff\xff",
    "an extension": msgpack.packb({"type": EVENT, "data": ["message", msgpack.ExtType(5, b"x")], "nsp": "/"})[:-3],
}


async def test_an_invalid_msgpack_packet_closes_the_connection(socketio_with: Starting) -> None:
    async with msgpack_server(socketio_with) as server, msgpack_connected(server) as bystander:
        for fault, packet in INVALID_MSGPACK.items():
            async with msgpack_connected(server) as socket:
                await socket.send(packet)
                assert await until_closed(socket) == [], fault
            await send(bystander, EVENT, ["message", fault])
            assert (await unpacked(bystander))["data"] == ["message-back", fault]
