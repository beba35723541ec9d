"""A closed connection is in no room and is freed, at whatever point its client left.

The server may notice that a client left while a database access for it is still pending. Each test holds one access
after the other, lets the client leave meanwhile, and checks what remains of the connection afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.delivery.gate import Gate
from tests.delivery.support import RecordingLink, make_topic, rest
from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode
from tidings.auth.principal import Principal
from tidings.contract.errors import CloseReason
from tidings.fanout.connection import Connection
from tidings.fanout.hub import CONNECTIONS_PER_DEVICE
from tidings.gateways.client_session import ClientSession
from tidings.gateways.links import BaseLink
from tidings.log.notices import Joined, Left
from tidings.transport.buffered_session import BufferedSession
from tidings.transport.uvicorn_server import UvicornHttp, UvicornWebSocket
from tidings.transport.websocket_wire import Wire

ONLY_SOCKETIO = True  # the gateways are parameters here


class Visits:
    """A raw client for each gateway. It aborts its connection without a CLOSE."""

    def __init__(self, node: RunningNode, token: str) -> None:
        self._node = node
        self._token = token
        self._address = node.url.replace("http", "ws", 1)

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[ClientConnection]:
        socket = await connect(self._address + path, compression=None, ping_interval=None, proxy=None)
        try:
            yield socket
            await until(self._is_ready)
        finally:
            socket.transport.abort()

    async def socketio(self) -> None:
        async with self._open("/socket.io/?EIO=4&transport=websocket") as socket:
            await socket.send("40" + orjson.dumps({"token": self._token, "device": "phone"}).decode())

    async def websocket(self) -> None:
        async with self._open("/ws") as socket:
            auth = {"token": self._token, "device": "phone"}
            await socket.send(orjson.dumps({"action": "authenticate", "data": auth}).decode())

    async def websocket_by_address(self) -> None:
        async with self._open(f"/ws?token={self._token}"):
            pass

    async def topics(self) -> None:
        async with self._open(f"/{self._token}"):
            pass

    async def rooms(self) -> None:
        async with self._open("/") as socket:
            await socket.send('{"username": "omar"}')
            entering = {"token": self._token, "action": "connect_to_room", "args": {"roomName": "noticias"}}
            await socket.send(orjson.dumps(entering).decode())
            while b"connect_to_room" not in orjson.dumps(orjson.loads(await socket.recv())):
                pass

    async def public_channel(self) -> None:
        async with rest(self._node.url, self._token) as http:
            link = (await http.get("/pub_ws")).json()["link"]
        async with self._open("/" + link.partition("://")[2].partition("/")[2]):
            await until(lambda: bool(self._node.node.hub.live_rooms))

    def _is_ready(self) -> bool:
        """Whether a replay has finished."""
        connections = self._node.node.hub.connections
        return any(each.replay is not None and each.replay.done() for each in connections)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event announces."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def all_sessions_closed(node: RunningNode) -> None:
    """Wait until the server has noticed that every client has left."""
    dialects = [gateway.server for gateway in node.node.dialects.gateways]
    plain = (node.node.websocket.server, *dialects)
    await until(lambda: not node.node.socketio.eio.sockets and not any(server.sessions for server in plain))


async def no_client_served() -> None:
    """Wait for the end of the handshakes, sign-ins and replays: they may outlast the sessions of their clients."""
    serving = {"run_asgi", "_sign_in", "_guard"}
    async with asyncio.timeout(DEADLINE_S):
        while tasks := [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") in serving]:
            await asyncio.wait(tasks)


async def no_connection_registered(node: RunningNode) -> None:
    hub = node.node.hub
    try:
        await until(lambda: not hub.connections and not hub.live_rooms)
    except TimeoutError:
        pytest.fail(f"still registered: connections {hub.connections}, live rooms {hub.live_rooms}")


def live_connections() -> list[Connection]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is Connection]


async def no_connection_left(node: RunningNode, before: Collection[Connection]) -> None:
    """Fail unless every connection except those of `before` is unregistered, in no room, and freed."""
    await no_connection_registered(node)
    try:
        await until(lambda: all(connection in before for connection in live_connections()))
    except TimeoutError:
        pytest.fail(
            f"not freed, held by {[gc.get_referrers(kept) for kept in live_connections() if kept not in before]}"
        )


async def leave_at_each(
    node: RunningNode,
    gate: Gate,
    visit: Callable[[], Awaitable[None]],
    meanwhile: Callable[[int], Awaitable[object]] | None = None,
) -> int:
    """Visit repeatedly, and leave while the nth access is held, for each n; returns the number of accesses."""
    before = live_connections()
    for nth in itertools.count(1):
        gate.hold(nth)
        visiting = asyncio.ensure_future(visit())
        held = asyncio.ensure_future(gate.held.wait())
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([visiting, held], return_when=asyncio.FIRST_COMPLETED)
        if gate.held.is_set() and meanwhile is not None:
            await meanwhile(nth)
        visiting.cancel()
        held.cancel()
        results = await asyncio.gather(visiting, held, return_exceptions=True)
        await all_sessions_closed(node)
        gate.release()
        await no_connection_registered(node)
        if not gate.held.is_set():
            problem = results[0]
            assert problem is None, problem
            await no_connection_left(node, before)
            return nth - 1
    raise AssertionError


@pytest.mark.parametrize(
    ("door", "accesses"),
    [
        ("socketio", 4),
        ("websocket", 4),
        ("websocket_by_address", 4),
        ("topics", 4),
        ("rooms", 8),
        ("public_channel", 6),
    ],
)
async def test_a_client_that_leaves_while_it_connects_is_ready_no_room_afterwards(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, door: str, accesses: int
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Visits(server, token), door)
    await visit()  # creates the device and the public channel
    await all_sessions_closed(server)
    gate = Gate(server.node.database, monkeypatch, "read")

    async def change_memberships(nth: int) -> None:
        """Let memberships of the visitor begin, end, and begin again."""
        await make_topic(server.url, other, f"topic{nth}", token)
        async with rest(server.url, token) as http:
            await http.request("DELETE", "/api/subscriptions", params={"topic_name": "noticias"})
            joined = await http.post("/api/subscriptions", json={"topic_name": "noticias"})
            assert joined.status_code == 201, joined.text

    assert await leave_at_each(server, gate, visit, change_memberships) >= accesses


@pytest.mark.parametrize("ends", [False, True], ids=["leaves the room", "disconnects"])
async def test_a_connection_that_leaves_or_closes_while_it_enters_a_room_is_not_in_it(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    node, token = server.node, await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    omar, link = await node.auth.user("omar"), RecordingLink()
    connection = Connection(link, Principal(omar.key, omar.username, 0, "", 0), "recorded")
    connection.only, connection.deferred = set(), None
    gate = Gate(node.database, monkeypatch, "read")
    gate.hold(1)
    entering = asyncio.create_task(node.catch_up.enter(connection, room_id))
    await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
    if ends:
        node.hub.remove(connection)
    else:
        node.catch_up.leave(connection, room_id)
    gate.release()
    assert await entering is False
    assert (connection.rooms, node.hub.live_rooms) == ({}, {})
    assert link.written == []


async def test_a_connection_that_closes_while_it_enters_a_room_gets_no_membership_event(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user leaves the room and rejoins during the read: both notices are deferred until the read ends."""
    node, token, other = server.node, await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    (omar, _), link = await node.auth.arrive(token, "recorded"), RecordingLink()
    connection = Connection(link, omar, "recorded")
    connection.only, connection.deferred = set(), None
    node.hub.add(connection)
    gate = Gate(node.database, monkeypatch, "read")
    gate.hold(1)
    entering = asyncio.create_task(node.catch_up.enter(connection, room_id))
    await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
    async with rest(server.url, token) as http:
        await http.request("DELETE", "/api/subscriptions", params={"room_id": room_id})
        assert (await http.post("/api/subscriptions", json={"topic_name": "noticias"})).status_code == 201
    assert [type(notice) for notice in connection.deferred or ()] == [Left, Joined]
    node.hub.remove(connection)
    gate.release()
    assert await entering is False
    assert (connection.rooms, len(node.hub.live_rooms)) == ({}, 0)
    assert link.written == []


@pytest.mark.parametrize("door", ["socketio", "websocket", "rooms"])
async def test_a_client_that_disconnects_while_its_device_is_created_leaves_nothing_behind(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    gate = Gate(server.node.database, monkeypatch, "write")
    assert await leave_at_each(server, gate, getattr(Visits(server, token), door)) >= 1


@pytest.mark.parametrize("path", ["/socket.io/?EIO=4&transport=websocket", "/ws"])
async def test_a_connection_that_ends_during_authenticate_is_not_kept_until_the_token_expires(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    token = await server.register("omar")
    gate, before = Gate(server.node.database, monkeypatch, "read"), live_connections()

    async def send(socket: ClientConnection, action: str, data: object) -> None:
        if path == "/ws":
            await socket.send(orjson.dumps({"id": 1, "action": action, "data": data}).decode())
        else:
            await socket.send("420" + orjson.dumps([action, data]).decode())

    async with connect(
        server.url.replace("http", "ws", 1) + path, compression=None, ping_interval=None, proxy=None
    ) as socket:
        if path == "/ws":
            await send(socket, "authenticate", {"token": token})
        else:
            await socket.send("40" + orjson.dumps({"token": token}).decode())
        while "ready" not in str(await socket.recv()):
            pass
        gate.hold(1)
        await send(socket, "authenticate", {"token": token})
        await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
        socket.transport.abort()
    await all_sessions_closed(server)
    gate.release()
    await no_connection_left(server, before)


def held_objects() -> int:
    """The number of objects that belong to connections, including garbage not yet collected."""
    kinds = Connection, ClientSession, BaseLink, BufferedSession, UvicornHttp, UvicornWebSocket, Wire
    return sum(issubclass(type(item), kinds) for item in gc.get_objects())


@pytest.mark.parametrize("door", ["socketio", "websocket", "topics"])
async def test_a_closed_connection_is_freed_without_the_collector(server: RunningNode, door: str) -> None:
    """Otherwise it stays in memory until the collector examines the oldest generation."""
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Visits(server, token), door)
    await visit()  # creates the device and the public channel
    await all_sessions_closed(server)
    gc.collect()
    gc.disable()
    try:
        before = held_objects()
        await visit()
        assert held_objects() > before
        await all_sessions_closed(server)
        await until(lambda: held_objects() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "door",
    ["socketio", pytest.param("websocket", marks=pytest.mark.long), pytest.param("topics", marks=pytest.mark.long)],
)
async def test_a_connection_that_is_closed_during_its_replay_is_freed_without_the_collector(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    """Otherwise its garbage keeps the page that was just read."""
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Visits(server, token), door)
    await visit()  # creates the device and the public channel
    await all_sessions_closed(server)
    gate = Gate(server.node.database, monkeypatch, "read")
    gc.collect()
    gc.disable()
    try:
        before = held_objects()
        for nth in itertools.count(1):
            gate.hold(nth)
            visiting = asyncio.ensure_future(visit())
            holding = asyncio.ensure_future(gate.held.wait())
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait([visiting, holding], return_when=asyncio.FIRST_COMPLETED)
            was_held = holding.done()
            visiting.cancel()
            holding.cancel()
            await asyncio.wait([visiting, holding])
            del visiting, holding
            await all_sessions_closed(server)
            gate.release()
            await no_client_served()  # before the first count: counting keeps the database's threads from running
            await until(lambda: held_objects() <= before)
            if not was_held:
                assert nth > 2, "no visit was closed during its replay"
                break
    finally:
        gc.enable()


async def test_connections_over_the_limit_are_closed_although_earlier_ones_are_still_closing(
    server: RunningNode,
) -> None:
    """A burst: none of the replaced connections has ended when the next one arrives."""
    token, hub = await server.register("omar"), server.node.hub
    links = [RecordingLink() for _ in range(CONNECTIONS_PER_DEVICE + 3)]
    for link in links:
        principal, _ = await server.node.auth.arrive(token, "recorded")
        hub.add(Connection(link, principal, "recorded"))
    assert [link.closed for link in links[:4]] == [CloseReason.REPLACED] * 3 + [None]
    assert {link.closed for link in links[3:]} == {None}
    for connection in hub.connections:
        hub.remove(connection)
