"""Every wait for the transport ends, even if the queue is dropped; and packets taken for a poll are not lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.wire import DEADLINE_S, Endpoint, eventually, plain, received, serving, upgrade_request
from tidings.transport.engine_session import SEPARATOR, EngineSession
from tidings.transport.uvicorn_server import UvicornWebSocket

CARRIERS = {"taken over": UvicornWebSocket, "over ASGI": "websockets-sansio"}
SMALL = {"max_buffered": 40_000, "linger": 30.0}
"""`drain` waits while more than a fourth of it is queued."""
PACKET = "4" + "x" * 999


def session_of(server: Endpoint) -> EngineSession:
    (session,) = server.engine.sockets.values()
    assert isinstance(session, EngineSession)
    return session


async def waiting(session: EngineSession) -> asyncio.Task[None]:
    """A pending `drain` of a session: a queue of 30 packets is too long."""
    assert session.put([PACKET] * 30, 30 * len(PACKET))
    drained = asyncio.create_task(session.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    return drained


async def assert_ends(drained: asyncio.Task[None]) -> None:
    await asyncio.wait_for(drained, DEADLINE_S)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_drain_ends_when_the_session_moves_to_a_websocket(carrier: str) -> None:
    async with serving("engineio", CARRIERS[carrier], **SMALL) as server:
        sid = await server.open()
        drained = await waiting(session_of(server))
        async with server.upgrading(sid) as socket:
            await socket.send("5")
            await assert_ends(drained)
            assert [await received(socket) for _ in range(30)] == [PACKET] * 30


async def test_a_drain_ends_as_polls_fetch_the_queue() -> None:
    async with serving("engineio", UvicornWebSocket, **SMALL) as server:
        sid = await server.open()
        drained = await waiting(session_of(server))
        assert await server.packets(sid, 15) == [PACKET] * 15  # with a PING, which is not queued
        assert not drained.done()
        assert await server.packets(sid, 15) == [PACKET] * 15
        await assert_ends(drained)


@pytest.mark.parametrize("politely", [True, False])
async def test_a_drain_ends_when_the_session_ends(*, politely: bool) -> None:
    async with serving("engineio", UvicornWebSocket, **SMALL) as server:
        sid = await server.open()
        session = session_of(server)
        drained = await waiting(session)
        session.end("the test ends it", politely=politely)
        if politely:
            assert await server.packets(sid, 15) == [PACKET] * 15
            assert await server.packets(sid, 16) == [PACKET] * 15 + ["1"]
        await assert_ends(drained)


async def test_a_drain_ends_when_the_queue_is_dropped() -> None:
    async with serving("engineio", UvicornWebSocket, **SMALL) as server:
        await server.open()
        session = session_of(server)
        drained = await waiting(session)
        session.end("the test ends it", politely=True, last=["4bye"], drop=True)
        await assert_ends(drained)


async def test_a_drain_ends_when_the_upgraded_websocket_is_lost() -> None:
    async with serving("engineio", UvicornWebSocket, **SMALL) as server:
        sid = await server.open()
        session = session_of(server)
        async with plain(server, 65_536) as wire:
            await wire.send(upgrade_request(server, sid))
            assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
            for packet in (b"2probe", b"5"):
                await wire.send(b"\x81" + bytes((0x80 | len(packet),)) + bytes(4) + packet)
            await eventually(lambda: session.wire is not None)
            packets = ["4" + "x" * 100_000] * 10
            drained = None
            while drained is None or drained.done():
                session.put(packets, 10 * 100_001)
                drained = asyncio.create_task(session.drain())
                await asyncio.sleep(0)
            wire.abort()
            await assert_ends(drained)


async def test_a_queue_of_non_ascii_text_is_counted_in_bytes() -> None:
    packet = "4" + "ñ" * 500
    size = len(packet.encode())
    async with serving("engineio", UvicornWebSocket, **SMALL) as server:
        sid = await server.open()
        session = session_of(server)
        session.put([packet] * 20, 20 * size)
        await server.packets(sid, 16)
        assert session.buffered == 4 * size


# -- polls -----------------------------------------------------------------------------------------------------------


class Poll:
    """A poll as an ASGI server passes it on; it can be left or cancelled in any step of the loop."""

    def __init__(self, server: Endpoint, sid: str, *, sends: bool = True) -> None:
        self.messages: list[dict[str, Any]] = []
        self._left: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._requested = False
        self._sends = sends
        scope = {
            "type": "http",
            "method": "GET",
            "query_string": f"EIO=4&transport=polling&sid={sid}".encode(),
            "headers": [],
            "client": ("127.0.0.1", 1),
        }
        self.task = asyncio.create_task(server.engine.handle_request(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._requested:
            self._requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self._left

    async def _send(self, message: Any) -> None:
        if not self._sends:
            raise OSError("the client is gone")
        self.messages.append(message)

    def leave(self) -> None:
        self._left.set_result({"type": "http.disconnect"})

    @property
    def packets(self) -> list[str]:
        body: bytes = self.messages[-1]["body"]
        return body.decode().split(SEPARATOR)


async def test_a_session_ends_if_a_poll_took_packets_and_its_client_left() -> None:
    """Otherwise the client's next poll would continue behind a gap."""
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        session = session_of(server)
        poll = Poll(server, sid)
        await eventually(lambda: session.polling)
        for _ in range(3):
            await asyncio.sleep(0)
        session.put(["4taken"], 6)
        poll.leave()
        await asyncio.wait_for(poll.task, DEADLINE_S)
        assert session.closing
        assert await server.is_gone(sid)


async def test_a_session_ends_if_a_poll_took_packets_and_was_cancelled() -> None:
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        session = session_of(server)
        poll = Poll(server, sid)
        await eventually(lambda: session.polling)
        session.put(["4taken"], 6)
        await eventually(lambda: not session.polls._out)
        poll.task.cancel()
        await asyncio.wait([poll.task])
        assert session.closing
        assert await server.is_gone(sid)


async def test_a_session_ends_if_a_poll_took_packets_and_cannot_be_answered() -> None:
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        session = session_of(server)
        session.put(["4taken"], 6)
        poll = Poll(server, sid, sends=False)
        with pytest.raises(OSError, match="gone"):
            await poll.task
        assert session.closing
        assert await server.is_gone(sid)


async def test_a_session_ends_if_a_poll_is_cancelled_before_it_took_packets() -> None:
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        session = session_of(server)
        poll = Poll(server, sid)
        await eventually(lambda: session.polling)
        poll.task.cancel()
        await asyncio.wait([poll.task])
        assert session.closing


async def test_a_websocket_behind_an_unread_answer_is_full_from_its_beginning() -> None:
    """Otherwise writes would be unbounded: the transport was paused before, and does not announce it again."""
    async with serving("engineio", UvicornWebSocket, max_buffered=400_000) as server, plain(server, 4096) as wire:
        sid = await server.open()
        polled = session_of(server)
        polled.put(["4" + "x" * 5_000_000], 400_000)
        await wire.send(f"GET {server.address(sid=sid)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await eventually(lambda: not polled.polling and not polled.buffered)
        await wire.send(upgrade_request(server))
        await eventually(lambda: len(server.engine.sockets) == 2)
        session = next(each for each in server.engine.sockets.values() if each is not polled)
        await eventually(lambda: session.wire is not None)
        drained = asyncio.create_task(session.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        assert not session.put(["4" + "x" * 400_000], 400_001)
        while not drained.done():
            assert await wire.read()
        await assert_ends(drained)
        assert session.put(["4more"], 5)


# -- last events -----------------------------------------------------------------------------------------------------


async def test_over_polling_the_last_events_and_the_close_are_answers_to_different_polls() -> None:
    """A stock client closes on these packets before it passes the earlier packets of the same answer on."""
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        session = session_of(server)
        session.put(["4answer", "4closing"], 15)
        session.end("the test ends it", politely=True, farewell=["41", "1"])
        assert (await server.poll(sid)).text == f"4answer{SEPARATOR}4closing"
        posted = await server.post(sid, "4ignored")
        assert (posted.status_code, posted.text) == (200, "ok"), "otherwise the client would drop the last events"
        assert (await server.poll(sid)).text == "41"
        assert (await server.poll(sid)).text == "1"
        assert await server.is_gone(sid)


async def test_a_session_without_a_farewell_refuses_the_poll_after_the_last_events() -> None:
    """python-engineio's client does not reconnect after a CLOSE packet."""
    async with serving("engineio", UvicornWebSocket) as server:
        sid = await server.open()
        async with server.waiting_poll(sid) as polling:
            session = session_of(server)
            session.put(["4closing"], 8)
            session.end("the test ends it", politely=True, farewell=[])
            assert (await polling).text == "4closing"
        assert await server.is_gone(sid)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_last_events_of_a_session_in_an_upgrade_go_over_the_websocket(carrier: str) -> None:
    """The client no longer polls."""
    async with serving("engineio", CARRIERS[carrier], **SMALL) as server:
        sid = await server.open()
        session = session_of(server)
        async with server.upgrading(sid) as socket:
            session.put(["4closing"], 8)
            session.end("the test ends it", politely=True, farewell=["41", "1"])
            await socket.send("5")
            assert [await received(socket) for _ in range(2)] == ["4closing", "41"]
            with pytest.raises(ConnectionClosed):
                await received(socket)
        assert await server.is_gone(sid)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_websocket_that_does_not_finish_its_upgrade_ends_with_the_session(carrier: str) -> None:
    async with serving("engineio", CARRIERS[carrier], linger=0.1) as server:
        sid = await server.open()
        async with server.upgrading(sid) as socket:
            session_of(server).end("the test ends it", politely=True)
            with pytest.raises(ConnectionClosed):
                await received(socket)
        assert await server.is_gone(sid)


# -- bodies ----------------------------------------------------------------------------------------------------------


def post_of(server: Endpoint, sid: str, body: str, length: int) -> bytes:
    head = f"POST {server.address(sid=sid)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
    return (head + body).encode()


async def test_a_pending_body_ends_with_its_session() -> None:
    """Otherwise the server would keep it as long as the client wants."""
    async with serving("engineio", UvicornWebSocket) as server, plain(server) as wire:
        sid = await server.open()
        await wire.send(post_of(server, sid, "4" * 1000, 2000))
        await eventually(lambda: session_of(server).posting is not None)
        session_of(server).end("the test ends it")
        assert (await wire.head()).startswith(b"HTTP/1.1 400 ")


async def test_two_concurrent_bodies_of_a_session_end_it() -> None:
    async with serving("engineio", UvicornWebSocket) as server, plain(server) as first, plain(server) as second:
        sid = await server.open()
        await first.send(post_of(server, sid, "4" * 1000, 2000))
        await eventually(lambda: session_of(server).posting is not None)
        await second.send(post_of(server, sid, "4", 2000))
        for wire in (first, second):
            assert (await wire.head()).startswith(b"HTTP/1.1 400 ")
        assert await server.is_gone(sid)
