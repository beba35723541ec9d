"""Engine.IO v4, point by point, over polling and WebSocket. `docs/conformance.md` lists the points."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conformance.conftest import Starting
from tests.conformance.wire import DEADLINE_S, Endpoint, eventually, handshake, received, until_closed
from tests.support.timers import Timers
from tidings.transport.engine_session import Transport

# -- handshake ---------------------------------------------------------------------------------------------------


async def test_the_handshake_announces_times_in_milliseconds_even_below_a_second(engineio_with: Starting) -> None:
    announced = {"pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}
    async with engineio_with(ping_interval=0.3, ping_timeout=0.2) as server:
        answer = await server.request("GET", EIO="4", transport="polling")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        polling = handshake(answer.text)
        assert {**polling, "sid": ""} == {"sid": "", "upgrades": ["websocket"], **announced}
        async with server.websocket() as socket:
            websocket = handshake(await received(socket))
            assert {**websocket, "sid": ""} == {"sid": "", "upgrades": [], **announced}
            assert len({polling["sid"], websocket["sid"]}) == 2


WRONG = {
    "no transport": {"EIO": "4"},
    "an unknown transport": {"EIO": "4", "transport": "abc"},
    "no version": {"transport": "{}"},
    "an unknown version": {"EIO": "abc", "transport": "{}"},
    "an old version": {"EIO": "3", "transport": "{}"},
    "an unknown session": {"EIO": "4", "transport": "{}", "sid": "nobody"},
}


async def test_a_request_without_a_known_transport_version_and_session_is_refused(engineio: Endpoint) -> None:
    for fault, wrong in WRONG.items():
        for transport in ("polling", "websocket"):
            query = {name: value.format(transport) for name, value in wrong.items()}
            for method in ("GET", "POST"):
                assert (await engineio.request(method, **query)).status_code == 400, fault
            with pytest.raises(InvalidStatus) as refusal:
                async with engineio.websocket(query=query):
                    pass
            assert refusal.value.response.status_code == 400, fault
    assert not engineio.engine.sockets


async def test_a_handshake_over_the_wrong_transport_is_refused(engineio: Endpoint) -> None:
    assert (await engineio.request("GET", EIO="4", transport="websocket")).status_code == 400
    with pytest.raises(InvalidStatus):
        async with engineio.websocket(query={"EIO": "4", "transport": "polling"}):
            pass
    assert not engineio.engine.sockets


async def test_methods_outside_the_protocol_are_refused(engineio: Endpoint) -> None:
    sid = await engineio.open()
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await engineio.request(method, EIO="4", transport="polling")).status_code == 400
        assert (await engineio.request(method, EIO="4", transport="polling", sid=sid)).status_code == 400
    assert (await engineio.request("POST", EIO="4", transport="polling")).status_code == 400
    assert list(engineio.engine.sockets) == [sid]
    assert (await engineio.post(sid, "4still here")).text == "ok"
    assert (await engineio.poll(sid)).text == "4still here"


async def test_every_origin_is_allowed_if_the_settings_say_so(engineio: Endpoint) -> None:
    origin = {"Origin": "https://chat.example"}
    for method in ("OPTIONS", "GET"):
        answer = await engineio.http.request(method, engineio.address(), headers=origin)
        assert answer.status_code in (200, 204)
        assert answer.headers["access-control-allow-origin"] in ("*", "https://chat.example")


# -- messages ----------------------------------------------------------------------------------------------------


async def test_packets_are_sent_and_received_by_polling(engineio: Endpoint) -> None:
    sid = await engineio.open()
    for packets in (
        ["4hello"],
        ["4test1", "4test2", "4test3"],
        ["4ñ 漢字 🦉", "bAQIDBA==", "4"],
        ["4" + "x" * 100_000],
    ):
        posted = await engineio.post(sid, *packets)
        assert (posted.status_code, posted.text) == (200, "ok")
        assert await engineio.packets(sid, len(packets)) == packets


async def test_no_packet_of_a_long_payload_is_dropped(engineio: Endpoint) -> None:
    sid = await engineio.open()
    packets = [f"4{n}" for n in range(100)]
    assert (await engineio.post(sid, *packets)).text == "ok"
    packets_received: list[str] = []
    while len(packets_received) < 100:
        packets_received += (await engineio.poll(sid)).text.split("\x1e")
    assert packets_received == packets


async def test_packets_are_sent_and_received_by_websocket(engineio: Endpoint) -> None:
    async with engineio.session() as socket:
        for packet in ("4hello", "4ñ 漢字 🦉", b"\x01\x02\x03\x04", "4", "4" + "x" * 100_000, b"\x00" * 100_000):
            await socket.send(packet)
            assert await received(socket) == packet


BODIES = {
    "a packet without a type": b"abc",
    "nothing": b"",
    "an empty packet": b"4a\x1e\x1e4b",
    "not UTF-8": b"4\xff",
    "not base64": b"b!",
    "a PING": b"2",
    "an OPEN": b"0{}",
}


async def test_an_invalid_payload_gets_a_400_and_closes_the_session(engineio: Endpoint) -> None:
    for fault, body in BODIES.items():
        sid = await engineio.open()
        answer = await engineio.http.post(engineio.address(sid=sid), content=body)
        assert answer.status_code == 400, fault
        assert await engineio.is_gone(sid), fault


async def test_an_invalid_packet_closes_the_websocket(engineio: Endpoint) -> None:
    for packet in ("abc", "", "0{}", "2", "b!", "7", "8", "3probe"):
        async with engineio.session() as socket:
            await socket.send(packet)
            assert await until_closed(socket) == [], packet
    await eventually(lambda: not engineio.engine.sockets)


async def test_a_payload_over_the_limit_is_refused_and_closes_the_session(engineio: Endpoint) -> None:
    sid = await engineio.open()
    assert (await engineio.post(sid, "4" * 1_000_000)).status_code == 200
    assert (await engineio.post(sid, "4" * 1_000_001)).status_code == 413
    assert await engineio.is_gone(sid)


async def test_a_message_over_the_limit_closes_the_websocket(engineio: Endpoint) -> None:
    async with engineio.session() as socket:
        await socket.send("4" + "x" * 999_999)
        assert len(await received(socket)) == 1_000_000
        with contextlib.suppress(ConnectionClosed):
            await socket.send("4" + "x" * 1_000_000)
        assert await until_closed(socket) == []
    await eventually(lambda: not engineio.engine.sockets)


# -- polling -----------------------------------------------------------------------------------------------------


async def test_a_second_concurrent_poll_closes_the_session(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as first:
        second = await engineio.poll(sid)
        assert second.status_code == 400
        answer = await first
        assert (answer.status_code, answer.text) == (200, "1")
    assert await engineio.is_gone(sid)


async def test_a_cancelled_poll_closes_the_session(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as polling:
        polling.cancel()
    await eventually(lambda: not engineio.engine.sockets)
    assert await engineio.is_gone(sid)


async def test_a_pending_poll_does_not_delay_another_session(engineio: Endpoint) -> None:
    waiting, other = await engineio.open(), await engineio.open()
    async with engineio.waiting_poll(waiting) as poll:
        await engineio.post(other, "4other")
        assert (await engineio.poll(other)).text == "4other"
        assert not poll.done()
        await engineio.post(waiting, "4mine")
        assert (await poll).text == "4mine"


# -- heartbeat ---------------------------------------------------------------------------------------------------


HEARTBEAT = {"ping_interval": 25, "ping_timeout": 20}


async def test_pings_are_sent_at_the_announced_interval_by_polling(engineio_with: Starting) -> None:
    timers = Timers()
    async with engineio_with(**HEARTBEAT, timers=timers) as server:
        sid = await server.open()
        for _ in range(3):
            timers.advance(24)
            await server.post(sid, "4no PING is due")
            assert (await server.poll(sid)).text == "4no PING is due"
            async with server.waiting_poll(sid) as polling:
                timers.advance(1)
                assert (await polling).text == "2"
            assert (await server.post(sid, "3")).text == "ok"


async def test_pings_are_sent_at_the_announced_interval_by_websocket(engineio_with: Starting) -> None:
    timers = Timers()
    async with engineio_with(**HEARTBEAT, timers=timers) as server, server.session() as socket:
        for _ in range(3):
            timers.advance(24)
            await check_echo(socket)
            timers.advance(1)
            assert await next_packet(socket) == "2"
            await socket.send("3")
            await check_echo(socket)  # the server has read the PONG


async def test_a_polling_session_answers_400_after_its_ping_timeout(engineio_with: Starting) -> None:
    timers = Timers()
    async with engineio_with(**HEARTBEAT, timers=timers) as server:
        silent, polling = await server.open(), await server.open()
        timers.advance(25)
        assert (await server.poll(polling)).text == "2"
        async with server.waiting_poll(polling) as last:  # a poll, but no PONG
            timers.advance(19)
            assert set(server.engine.sockets) == {silent, polling}
            timers.advance(1)
            assert ((await last).status_code, (await last).text) == (200, "6")
        await eventually(lambda: not server.engine.sockets)
        assert await server.is_gone(polling)
        assert await server.is_gone(silent)


async def test_a_websocket_is_closed_after_its_ping_timeout(engineio_with: Starting) -> None:
    timers = Timers()
    async with engineio_with(**HEARTBEAT, timers=timers) as server, server.session() as socket:
        timers.advance(25)
        assert await next_packet(socket) == "2"
        timers.advance(19)
        assert server.engine.sockets
        timers.advance(1)
        with pytest.raises(ConnectionClosed):
            await next_packet(socket)
        await eventually(lambda: not server.engine.sockets)


async def test_unsolicited_pongs_do_not_delay_the_next_ping(engineio_with: Starting) -> None:
    timers = Timers()
    async with engineio_with(**HEARTBEAT, timers=timers) as server, server.session() as socket:
        for _ in range(3):
            timers.advance(8)
            await socket.send("3")
            await check_echo(socket)
        timers.advance(1)
        assert await next_packet(socket) == "2"


async def next_packet(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), DEADLINE_S)


async def check_echo(socket: ClientConnection) -> None:
    """The server has read everything sent before, and has sent no PING."""
    await socket.send("4echo")
    assert await next_packet(socket) == "4echo"


# -- close -------------------------------------------------------------------------------------------------------


async def test_a_close_packet_ends_the_waiting_poll_with_a_noop(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as polling:
        posted = await engineio.post(sid, "1")
        assert (posted.status_code, posted.text) == (200, "ok")
        answer = await polling
        assert (answer.status_code, answer.text) == (200, "6")
    assert await engineio.is_gone(sid)


async def test_packets_after_a_close_packet_are_ignored(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as polling:
        await engineio.post(sid, "1", "4late")
        assert (await polling).text == "6"


async def test_a_close_packet_closes_the_websocket(engineio: Endpoint) -> None:
    async with engineio.session() as socket:
        await socket.send("1")
        assert await until_closed(socket) == []
    await eventually(lambda: not engineio.engine.sockets)


# -- upgrade -----------------------------------------------------------------------------------------------------


async def test_an_upgrade_sends_one_noop_and_only_to_the_pending_poll(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.waiting_poll(sid) as polling, engineio.upgrading(sid) as socket:
        answer = await polling
        assert (answer.status_code, answer.text) == (200, "6")
        await socket.send("5")
        await socket.send("4hello")
        assert await received(socket) == "4hello", "no packet precedes it"


async def test_an_upgrade_loses_nothing_and_keeps_the_order(engineio: Endpoint) -> None:
    sid = await engineio.open()
    await engineio.post(sid, "4before")
    async with engineio.upgrading(sid) as socket:
        await engineio.post(sid, "4during 1", "4during 2")
        assert (await engineio.poll(sid)).text == "6"
        await socket.send("5")
        await socket.send("4after")
        assert [await received(socket) for _ in range(4)] == ["4before", "4during 1", "4during 2", "4after"]


async def test_other_requests_of_a_session_are_refused_after_its_upgrade(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.upgrading(sid) as socket:
        await socket.send("5")
        await eventually(lambda: engineio.engine.sockets[sid].transport is Transport.WEBSOCKET)
        assert (await engineio.poll(sid)).status_code == 400
        assert (await engineio.post(sid, "4late")).status_code == 400
        async with engineio.websocket(sid) as second:
            assert await until_closed(second) == []
            assert second.close_code == 1000
        await socket.send("4still here")
        assert await received(socket) == "4still here"


async def test_an_invalid_probe_leaves_the_polling_session_unchanged(engineio: Endpoint) -> None:
    sid = await engineio.open()
    for wrong in (["4hello"], ["2"], ["2probe", "4hello"], ["2probe", "2probe"], [b"2probe"]):
        async with engineio.websocket(sid) as socket:
            for packet in wrong:
                await socket.send(packet)
            assert await until_closed(socket) == (["3probe"] if wrong[0] == "2probe" else []), wrong
        await eventually(lambda: engineio.engine.sockets[sid].transport is Transport.POLLING)
        await engineio.post(sid, "4still here")
        assert (await engineio.poll(sid)).text == "4still here", wrong


async def test_an_abandoned_probe_leaves_the_polling_session_unchanged(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.upgrading(sid):
        pass
    await eventually(lambda: engineio.engine.sockets[sid].transport is Transport.POLLING)
    await engineio.post(sid, "4still here")
    assert (await engineio.poll(sid)).text == "4still here"


async def test_a_session_accepts_one_probe_at_a_time(engineio: Endpoint) -> None:
    sid = await engineio.open()
    async with engineio.upgrading(sid) as first:
        async with engineio.websocket(sid) as second:
            assert await until_closed(second) == []
        await first.send("5")
        await first.send("4hello")
        assert await received(first) == "4hello"


async def test_a_stalled_probe_is_closed_and_the_session_keeps_polling(engineio_with: Starting) -> None:
    async with engineio_with(upgrade_timeout=0.2) as server:
        sid = await server.open()
        async with server.websocket(sid) as silent:
            assert await until_closed(silent) == []
        server.engine.upgrade_timeout = 2  # long enough for the probe
        async with server.upgrading(sid) as probed:
            assert await until_closed(probed) == []
        await eventually(lambda: server.engine.sockets[sid].transport is Transport.POLLING)
        await server.post(sid, "4still here")
        assert (await server.poll(sid)).text == "4still here"


async def test_a_probe_ends_with_its_session(engineio: Endpoint) -> None:
    for begin in (engineio.websocket, engineio.upgrading):
        sid = await engineio.open()
        async with begin(sid) as socket:
            await eventually(lambda sid=sid: engineio.engine.sockets[sid].transport is not Transport.POLLING)
            await engineio.post(sid, "1")
            assert await until_closed(socket) == []
