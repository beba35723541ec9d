"""What the stock clients of other languages send, and the JavaScript client does not, is understood.

Each row of the tables names the client, and the place in its source.
"""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from tests.conformance.conftest import Starting
from tests.conformance.wire import SEPARATOR, Endpoint, eventually, handshake, received, until_closed
from tests.support.timers import Timers

BYTES = bytes(range(256))
PLACEHOLDER = '{"_placeholder":true,"num":0}'
TOKEN = '{"token":"123"}'
AUTH = f'42["auth",{TOKEN}]'


def wrapped(data: bytes) -> str:
    """Base64 in lines of 76 characters, the last one ended as well."""
    return base64.encodebytes(data).decode()


CONNECTS = {
    # SocketManager.swift, `connectSocket`: "0\(socket.nsp),\(payloadStr)", also for the default namespace
    "swift: the default namespace has a slash": (f"40/,{TOKEN}", AUTH),
    # SocketManager.swift, `connectSocket`: without a payload
    "swift: the default namespace has a slash, and there is no payload": ("40/,", '42["auth",{}]'),
    # lib/src/socket.dart, `sendConnectPacket(Map? data)`: null is no data; the token comes with `authenticate`
    "dart: no auth": ("40", '42["auth",{}]'),
    # client/Socket.java, `onopen`: new JSONObject(auth) of an empty map
    "java: an empty auth": ("40{}", '42["auth",{}]'),
    # socketio/src/asynchronous/client/client.rs, `connect`: serde_json's text of the auth
    "rust: auth as serde_json writes it": ('40{"token": "123"}', AUTH),
}

POLLING = {
    # SocketEngine.swift, `createURLs`: "transport=polling&b64=1", then EIO; no `t`
    "swift": {"transport": "polling", "b64": "1", "EIO": "4"},
    # polling_transport.dart, `uri`: `t` only with `timestampRequests`
    "dart": {"EIO": "4", "transport": "polling"},
    # engineio/src/client/builder.rs: EIO before the transport
    "rust": {"EIO": "4", "transport": "polling", "x": "a parameter of the application"},
}

BODIES = {
    # Polling.java, `PollingXHR.create`: the text type, in this spelling
    "java": "text/plain;charset=UTF-8",
    # SocketEnginePollable.swift, `createRequestForPostWithPostWait`
    "swift": "text/plain; charset=UTF-8",
    # engineio/src/transports/polling.rs, `emit`: reqwest sets none for bytes
    "rust": None,
    # an HTTP library's default for bytes, as in C# and Go
    "others": "application/octet-stream",
}

ENDS = {
    # SocketManager.swift, `disconnectSocket`: "1\(socket.nsp),", then the engine's close
    "swift": ("41/,", "1"),
    # socketio/src/client/raw_client.rs, `disconnect`: the packet, then the engine's
    "rust": ("41", "1"),
    # engine/transport/polling_transport.dart, `doClose`: a close packet while polling
    "dart": ("1",),
}


@pytest.mark.parametrize("name", CONNECTS)
async def test_every_form_of_connect_is_understood(socketio: Endpoint, name: str) -> None:
    packet, greeting = CONNECTS[name]
    async with socketio.session() as socket:
        await socket.send(packet)
        answer = await received(socket)
        assert isinstance(answer, str)
        assert json.loads(answer[2:]).keys() == {"sid"}
        assert await received(socket) == greeting
        await socket.send('42["message","hola"]')
        assert await received(socket) == '42["message-back","hola"]'


@pytest.mark.parametrize("client", POLLING)
async def test_the_first_poll_is_accepted_with_any_parameters_and_moves_to_a_websocket(
    socketio: Endpoint, client: str
) -> None:
    """The same address is polled again and again."""
    query = httpx.QueryParams(POLLING[client])
    opened = await socketio.http.get(f"{socketio.path}?{query}")
    sid = str(handshake(opened.text)["sid"])
    assert "websocket" in handshake(opened.text)["upgrades"]
    address = f"{socketio.path}?{query}&sid={sid}"
    assert (await socketio.http.post(address, content=b"40")).text == "ok"
    for n in range(3):
        assert (await socketio.http.post(address, content=f'42["message",{n}]'.encode())).text == "ok"
    arrived: list[str] = []
    while len(arrived) < 5:
        answer = await socketio.http.get(address)
        assert (answer.status_code, bool(answer.text)) == (200, True)
        arrived += answer.text.split(SEPARATOR)
    assert arrived[1:] == ['42["auth",{}]', *(f'42["message-back",{n}]' for n in range(3))]
    # SocketEngineSpec.swift, `urlWebSocketWithSid`: the sid, then EIO
    async with socketio.websocket(query={"transport": "websocket", "sid": sid, "EIO": "4"}) as socket:
        await socket.send("2probe")
        assert await received(socket) == "3probe"
        await socket.send("5")
        await socket.send('427["message-with-ack"]')
        assert await received(socket) == "437[]"


@pytest.mark.parametrize("client", BODIES)
async def test_a_body_is_understood_whatever_its_type(socketio: Endpoint, client: str) -> None:
    sid = await socketio.open()
    kind = BODIES[client]
    headers = {} if kind is None else {"Content-Type": kind}
    body = SEPARATOR.join(["40", '42["message","ñ 🦉"]', '420["message-with-ack",1]'])
    answer = await socketio.http.post(socketio.address(sid=sid), content=body.encode(), headers=headers)
    assert (answer.status_code, answer.text) == (200, "ok")
    assert (await socketio.packets(sid, 4))[1:] == ['42["auth",{}]', '42["message-back","ñ 🦉"]', "430[1]"]


@pytest.mark.parametrize("size", [0, 1, 57, 58, 256])
async def test_base64_in_lines_is_understood(socketio: Endpoint, size: int) -> None:
    """engineio/parser/Parser.java, `encodePacketAsBase64`: Base64.DEFAULT breaks lines, and ends the last one."""
    sid, data = await socketio.open(), BYTES[:size]
    assert (await socketio.post(sid, "40")).text == "ok"
    await socketio.packets(sid, 2)
    answer = await socketio.post(sid, f'451-["message",{PLACEHOLDER}]', "b" + wrapped(data))
    assert answer.text == "ok"
    back = await socketio.packets(sid, 2)
    assert back == [f'451-["message-back",{PLACEHOLDER}]', "b" + base64.b64encode(data).decode()]


async def test_events_right_after_connect_wait_for_nothing(socketio: Endpoint) -> None:
    """socketio/src/client/raw_client.rs, `emit`: it does not wait for the answer to CONNECT."""
    async with socketio.session() as socket:
        for packet in (
            f"40{TOKEN}",
            '42["message",1]',
            '421["message-with-ack",2]',
            f'451-["message",{PLACEHOLDER}]',
        ):
            await socket.send(packet)
        await socket.send(BYTES)
        assert [await received(socket) for _ in range(4)][1:] == [AUTH, '42["message-back",1]', "431[2]"]
        assert [await received(socket) for _ in range(2)] == [f'451-["message-back",{PLACEHOLDER}]', BYTES]


@pytest.mark.parametrize("ack", ["430[]", "430[null]", '430["x",1]', "43/custom,5[]"])
async def test_an_ack_that_nobody_asked_for_is_ignored(socketio: Endpoint, ack: str) -> None:
    """SocketIOClient.swift, `emitAck`: a handler may answer twice, or after a reconnect."""
    async with socketio.session() as socket:
        for packet in ("40", "40/custom,", ack, '42["message","hola"]'):
            await socket.send(packet)
        arrived = [await received(socket) for _ in range(5)]
        assert arrived[-1] == '42["message-back","hola"]'


async def test_a_refused_namespace_takes_nothing_from_the_default_one(socketio: Endpoint) -> None:
    """SocketManager.swift, `engineDidOpen`: each socket of a manager connects by itself, in any order."""
    async with socketio.session() as socket:
        for packet in (f"40/nowhere,{TOKEN}", f"40/,{TOKEN}", '42["message","hola"]'):
            await socket.send(packet)
        assert await received(socket) == '44/nowhere,{"message":"Invalid namespace"}'
        assert [await received(socket) for _ in range(3)][1:] == [AUTH, '42["message-back","hola"]']


async def test_a_late_pong_is_in_time_until_the_timeout(socketio_with: Starting) -> None:
    """SocketEngine.swift, `handlePing`: it answers on a queue that an application in the background has stopped."""
    timers = Timers()
    options = {"ping_interval": 25, "ping_timeout": 20, "timers": timers, "connect_timeout": 60}
    async with socketio_with(**options) as server, server.session() as socket:
        await socket.send("40")
        assert [await received(socket) for _ in range(2)][1] == '42["auth",{}]'
        for _ in range(3):
            timers.advance(25)
            assert await socket.recv() == "2"
            timers.advance(19)
            await socket.send("3")
            await socket.send('42["message",1]')
            assert await socket.recv() == '42["message-back",1]'


@pytest.mark.parametrize("client", ENDS)
@pytest.mark.parametrize("carrier", ["websocket", "polling"])
async def test_a_goodbye_of_any_form_ends_the_session_and_a_new_one_begins_without_its_sid(
    socketio: Endpoint, client: str, carrier: str
) -> None:
    if carrier == "websocket":
        async with socketio.session() as socket:
            for packet in ("40", *ENDS[client]):
                await socket.send(packet)
            await until_closed(socket)
    else:
        sid = await socketio.open()
        assert (await socketio.post(sid, "40", *ENDS[client])).text == "ok"
    await eventually(lambda: not socketio.engine.sockets)
    async with socketio.session() as socket:
        await socket.send("40")
        assert isinstance(await received(socket), str)
        assert await received(socket) == '42["auth",{}]'
