"""A slow consumer is bounded in bytes, gets `closing`, is closed within seconds and loses nothing, over every
transport."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bench.servers import Tidings
from bench.slow_consumers import Plan, measure, world
from tests.conformance.wire import frame, running, serving, wired
from tests.delivery.support import small_socket
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import PASSWORD, settings_for
from tidings.app import create_app
from tidings.node import Node
from tidings.transport import websocket_wire
from tidings.transport.buffered_session import MAX_BUFFERED, BufferedSession
from tidings.transport.engine_session import SEPARATOR
from tidings.transport.listening import listen
from tidings.transport.uvicorn_server import UvicornWebSocket
from tidings.transport.websocket_wire import HIGH_WATER, State

WAYS: dict[str, Any] = {
    "taken over": UvicornWebSocket,
    "over ASGI": "websockets-sansio",
    "polling": UvicornWebSocket,
    "plain, taken over": UvicornWebSocket,
    "plain, over ASGI": "websockets-sansio",
}
EVERY_WAY = [pytest.param(way, marks=pytest.mark.long if way.endswith("over ASGI") else ()) for way in WAYS]
LINGER = {"linger": 1.0}
SOON_S = 20.0
"""Less than the heartbeat, and than half of a linger time of a minute: neither closes a connection by then."""
BATCH = 20
LONG = "x" * 16_000


class World:
    """A node with a topic of diego, who writes and reads, and omar, whose client reads on request."""

    def __init__(self, url: str, node: Node, tokens: dict[str, str]) -> None:
        self.url = url
        self.node = node
        self.tokens = tokens
        self.room_id = ""
        self.sent = 0
        self.diego: Client

    @property
    def session(self) -> BufferedSession | None:
        """The session of omar, while the server has one."""
        sessions: list[tuple[BufferedSession, Any]] = [
            *((socket.session, socket.data) for socket in self.node.socketio.server.sockets),
            *((session, session.client) for session in self.node.websocket.server.sessions),
        ]
        for session, client in sessions:
            connection = None if client is None else client.connection
            if connection is not None and connection.principal.username == "omar":
                return session
        return None

    async def send(self, content: str = LONG, number: int = BATCH) -> None:
        """Send messages of diego; returns when he has received all of them."""
        sent = [self.diego.send("message", {"room_id": self.room_id, "content": content}) for _ in range(number)]
        assert all(answer["ok"] for answer in await asyncio.gather(*sent))
        self.sent += number
        await self.diego.until(lambda: len(self.diego.of("message")) == self.sent)

    async def send_until(self, buffered: int) -> BufferedSession:
        """Send until that many bytes wait for omar in the server."""
        while True:
            session = self.session
            assert session is not None, "closed too early"
            if session.buffered >= buffered:
                return session
            await self.send(number=2)


@asynccontextmanager
async def a_world(way: str, sqlite_url: str, data_dir: Path) -> AsyncIterator[World]:
    app = create_app(settings_for(sqlite_url, data_dir), bcrypt_rounds=4, engine=LINGER, websocket=LINGER)
    async with running(app, ws=WAYS[way], lifespan="on") as port:
        url = f"http://127.0.0.1:{port}"
        tokens = {}
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http:
            for name in ("diego", "omar"):
                answer = await http.post("/api/register", json={"username": name, "password": PASSWORD})
                tokens[name] = answer.json()["token"]
            made = World(url, app.node, tokens)
            bearer = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
            room = await http.post("/api/topics", json={"topic_name": "noticias"}, headers=bearer["diego"])
            made.room_id = room.json()["room_id"]
            await http.post("/api/subscriptions", json={"topic_name": "noticias"}, headers=bearer["omar"])
        async with connected(url, tokens["diego"]) as made.diego:
            yield made


class Omar(ABC):
    """The client of omar. `packets` holds the received packets without PINGs, which are answered."""

    def __init__(self) -> None:
        self.packets: list[str] = []

    @abstractmethod
    async def send(self, packet: str) -> None: ...

    @abstractmethod
    async def read(self) -> bool:
        """Read the next packets; False if the server has closed."""

    async def until(self, prefix: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not any(packet.startswith(prefix) for packet in self.packets):
                assert await self.read(), "closed"

    async def until_closed(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.read():
                pass

    def of(self, event: str) -> list[dict[str, Any]]:
        events = [json.loads(packet[2:]) for packet in self.packets if packet.startswith("42[")]
        return [payload for name, payload in events if name == event]


class OverWebSocket(Omar):
    def __init__(self, ws: ClientConnection) -> None:
        super().__init__()
        self._ws = ws

    async def send(self, packet: str) -> None:
        await self._ws.send(packet)

    async def read(self) -> bool:
        try:
            packet = await self._ws.recv()
        except ConnectionClosed:
            return False
        assert isinstance(packet, str)
        if packet == "2":
            await self._ws.send("3")
        else:
            self.packets.append(packet)
        return True


class OverPlain(Omar):
    """A client of `/ws`; packets are translated from and to those of Socket.IO."""

    def __init__(self, ws: ClientConnection) -> None:
        super().__init__()
        self._ws = ws

    async def send(self, packet: str) -> None:
        if packet.startswith("40"):
            frame = {"action": "authenticate", "data": json.loads(packet[2:])}
        else:
            head, _, event = packet.partition("[")
            action, data = json.loads("[" + event)
            frame = {"id": int(head[2:]), "action": action, "data": data}
        await self._ws.send(json.dumps(frame))

    async def read(self) -> bool:
        try:
            frame = json.loads(await self._ws.recv())
        except ConnectionClosed:
            return False
        if "event" in frame:
            packet = "42" + json.dumps([frame["event"], frame["data"]], separators=(",", ":"))
        elif "id" in frame:
            packet = f"43{frame.pop('id')}" + json.dumps([frame])
        else:
            packet = "40" + json.dumps(frame)
        self.packets.append(packet)
        return True


class OverPolling(Omar):
    def __init__(self, http: httpx.AsyncClient, address: str) -> None:
        super().__init__()
        self._http = http
        self._address = address

    async def send(self, packet: str) -> None:
        answer = (await self._http.post(self._address, content=packet)).text
        if "Session ID unknown" in answer:
            raise ConnectionResetError(answer)
        assert answer == "ok"

    async def read(self) -> bool:
        answer = await self._http.get(self._address)
        if answer.status_code != 200:
            return False
        packets = answer.text.split(SEPARATOR)
        if "2" in packets:
            await self.send("3")
        self.packets += [packet for packet in packets if packet not in ("2", "1")]
        return True


@asynccontextmanager
async def omar(way: str, world: World, **auth: Any) -> AsyncIterator[Omar]:
    """The client of omar after `ready`; from then on it reads on request."""
    made: Omar
    async with httpx.AsyncClient(base_url=world.url, timeout=DEADLINE_S) as http:
        if way == "polling":
            address = "/socket.io/?EIO=4&transport=polling"
            opened = json.loads((await http.get(address)).text[1:])
            made = OverPolling(http, f"{address}&sid={opened['sid']}")
            yield await _entered(made, world, auth)
            return
        plain = way.startswith("plain")
        path = "/ws" if plain else "/socket.io/?EIO=4&transport=websocket"
        async with small_socket(world.url, path) as ws:
            made = OverPlain(ws) if plain else OverWebSocket(ws)
            yield await _entered(made, world, auth)


async def _entered(made: Omar, world: World, auth: dict[str, Any]) -> Omar:
    await made.send("40" + json.dumps({"token": world.tokens["omar"], **auth}))
    await made.until('42["ready",')
    return made


@contextmanager
def lingering(session: BufferedSession) -> Iterator[None]:
    """A session that closes meanwhile gives its client time to read the remaining packets and `closing`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.server, "linger", 60.0)
        yield


def seqs(client: Omar) -> list[int]:
    return [message["seq"] for message in client.of("message")]


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_a_slow_consumer_gets_closing_is_closed_and_resumes_without_loss(
    way: str, sqlite_url: str, tmp_path: Path
) -> None:
    async with a_world(way, sqlite_url, tmp_path) as world:
        async with omar(way, world) as slow:
            session, most = world.session, 0
            assert session is not None
            with lingering(session):
                while world.session is not None:
                    await world.send()
                    most = max(most, session.buffered)
                    assert world.sent < 2000
            # A batch is written whole to a client whose queue is not full.
            assert most <= MAX_BUFFERED + BATCH * 2 * len(LONG)
            assert most > MAX_BUFFERED // 2
            began = time.monotonic()
            await slow.until_closed()
            assert time.monotonic() - began < SOON_S
            assert slow.of("closing") == [{"reason": "slow_consumer", "reconnect": True}]
            assert slow.packets[-1].startswith('42["closing",')
            received = seqs(slow)
            assert received == list(range(1, len(received) + 1))
            assert len(received) < world.sent
        async with omar(way, world, cursors={world.room_id: len(received)}) as returned:
            assert received + seqs(returned) == list(range(1, world.sent + 1))


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_a_client_that_never_reads_is_closed_within_seconds(way: str, sqlite_url: str, tmp_path: Path) -> None:
    async with a_world(way, sqlite_url, tmp_path) as world, omar(way, world):
        session = world.session
        assert session is not None
        while world.session is not None:
            await world.send()
        async with asyncio.timeout(SOON_S):  # the linger time is one
            while session.state is not State.CLOSED:
                await world.diego.ask("get_rooms")
        if session.wire is not None:
            assert session.wire.transport.is_closing()


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_transient_events_are_dropped_first(way: str, sqlite_url: str, tmp_path: Path) -> None:
    async with a_world(way, sqlite_url, tmp_path) as world, omar(way, world) as slow:
        for typing in (True, False):  # otherwise typing would end after a timeout
            await world.diego.ask("typing", room_id=world.room_id, typing=typing)
        while len(slow.of("typing")) < 2:
            assert await slow.read()
        await world.send_until(MAX_BUFFERED * 6 // 10)
        before = world.session
        assert before is not None
        waiting = before.buffered
        for typing in (True, False, True, False):
            await world.diego.ask("typing", room_id=world.room_id, typing=typing)
        assert before.buffered <= waiting
        await world.send("after", 1)
        while seqs(slow)[-1:] != [world.sent]:
            assert await slow.read()
        assert seqs(slow) == list(range(1, world.sent + 1)), "no message was dropped with them"
        assert len(slow.of("typing")) == 2
        await world.diego.ask("typing", room_id=world.room_id, typing=True)
        slow.packets.clear()
        await slow.until('42["typing",')


@pytest.mark.parametrize("way", EVERY_WAY)
async def test_unread_acknowledgements_count_towards_the_limit(way: str, sqlite_url: str, tmp_path: Path) -> None:
    async with a_world(way, sqlite_url, tmp_path) as world:
        await world.send(number=25)  # a page of 400 KB
        async with omar(way, world) as slow:
            session, requests, most = world.session, 0, 0
            assert session is not None
            with lingering(session):
                while world.session is not None:
                    requests += 1
                    assert requests < 100
                    with suppress(ConnectionClosed, ConnectionResetError):  # closed since the last check
                        await slow.send(f'42{requests}["history",' + json.dumps({"room_id": world.room_id}) + "]")
                    await world.diego.ask("get_rooms")
                    most = max(most, session.buffered)
            assert most <= MAX_BUFFERED + HIGH_WATER
            await slow.until_closed()
            assert [closing["reason"] for closing in slow.of("closing")] == ["slow_consumer"]
            answered = [packet.partition("[")[0] for packet in slow.packets if packet.startswith("43")]
            assert answered == [f"43{n}" for n in range(1, len(answered) + 1)]
            assert len(answered) < requests


async def test_unread_pongs_are_bounded_and_the_session_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_wire, "CONTROL_FRAMES_S", 0)  # or the flood would close the connection
    async with serving("engineio", UvicornWebSocket) as server, wired(server, receive_buffer=65_536) as wire:
        (session,) = server.engine.sockets.values()
        pings = frame(0x89, bytes(125)) * 1000
        most = 0
        for _ in range(200):  # 25 MB of answers
            await wire.send(pings)
            most = max(most, session.buffered)
        assert HIGH_WATER <= most <= HIGH_WATER + 2 * len(pings)
        await wire.send(frame(0x81, b"4still here"))
        while await wire.frame() != (1, b"4still here"):
            pass


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the kernel has no such bound")
def test_the_kernel_buffers_little_for_a_slow_consumer() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as client:
        held, _ = listening.accept()
        with held:
            held.setblocking(False)
            accepted = 0
            with suppress(BlockingIOError):
                while True:
                    accepted += held.send(bytes(2048))
            assert accepted < 1_000_000  # 4 MB without the bound
            client.setblocking(False)
            assert client.recv(1), "the client had unread bytes"


def test_many_clients_that_never_read_cost_little_memory_and_affect_no_other(tmp_path: Path) -> None:
    """A short run of `python -m bench.slow_consumers`, which has 100 connections for a minute."""
    plan = Plan(slow=20, members=3, rate=1500, seconds=3, without=0.1, receive_buffer=4096)
    server = Tidings(world(plan), tmp_path)
    server.start()
    try:
        result = asyncio.run(measure(plan, server))
    finally:
        server.stop()
    assert len(result.closed_after) == plan.slow
    assert result.during.growth < plan.slow * 3e6  # three times as much without a bound
    assert len(result.during.latencies) == plan.members * plan.rate * plan.seconds, (
        "the other members got every message"
    )
    assert result.resumed == list(result.missed), "a returning client gets every missed message"
