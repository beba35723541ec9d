"""A connection that is gone is in no room, and nothing holds it: wherever its client left.

A client that leaves is noticed while something it asked for is still being read. Each test holds one access to the
database after the other, has the client leave meanwhile, and looks at what is left of the connection afterwards.
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

from server.fanout.connection import Connection
from server.gateways.client_session import ClientSession
from server.gateways.links import BaseLink
from server.log.notices import Joined, Left
from server.principal import Principal
from server.transport.buffered_session import BufferedSession
from server.transport.uvicorn_server import UvicornHttp, UvicornWebSocket
from server.transport.websocket_wire import Wire
from tests.delivery.gate import Gate
from tests.delivery.support import RecordingLink, make_topic, rest
from tests.support.client import DEADLINE_S
from tests.support.node import RunningNode

ONLY_SOCKETIO = True  # the ways in are parameters here


class Ways:
    """A raw client for each way in. It goes without a word."""

    def __init__(self, node: RunningNode, token: str) -> None:
        self._node = node
        self._token = token
        self._address = node.url.replace("http", "ws", 1)

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[ClientConnection]:
        socket = await connect(self._address + path, compression=None, ping_interval=None, proxy=None)
        try:
            yield socket
            await until(self._is_in)
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

    def _is_in(self) -> bool:
        """The replay is over."""
        found = self._node.node.hub.connections
        return any(one.replay is not None and one.replay.done() for one in found)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody is told of."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def nobody_is_there(node: RunningNode) -> None:
    """Wait until the server has noticed that every client is gone."""
    dialects = [gateway.server for gateway in node.node.dialects.gateways]
    plain = (node.node.websocket.server, *dialects)
    await until(lambda: not node.node.socketio.eio.sockets and not any(server.sessions for server in plain))


async def nobody_is_registered(node: RunningNode) -> None:
    hub = node.node.hub
    try:
        await until(lambda: not hub.connections and not hub.live_rooms)
    except TimeoutError:
        pytest.fail(f"left are the connections {hub.connections}, and {hub.live_rooms} rooms that somebody is in")


def alive() -> list[Connection]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Connection]


async def nothing_is_left(node: RunningNode, before: Collection[Connection]) -> None:
    """Fails unless, in the end, no connection is registered, in a room, or held by anything but those of `before`."""
    await nobody_is_registered(node)
    try:
        await until(lambda: all(one in before for one in alive()))
    except TimeoutError:
        pytest.fail(f"alive, held by {[gc.get_referrers(one) for one in alive() if one not in before]}")


async def leave_at_each(
    node: RunningNode,
    gate: Gate,
    visit: Callable[[], Awaitable[None]],
    meanwhile: Callable[[int], Awaitable[object]] | None = None,
) -> int:
    """Visit again and again, and leave while one access after the other is held; returns how many there were."""
    before = alive()
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
        await nobody_is_there(node)
        gate.release()
        await nobody_is_registered(node)
        if not gate.held.is_set():
            problem = results[0]
            assert problem is None, problem
            await nothing_is_left(node, before)
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
async def test_who_leaves_while_they_come_is_in_no_room_afterwards(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, door: str, accesses: int
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Ways(server, token), door)
    await visit()  # devices and the public channel are there
    await nobody_is_there(server)
    gate = Gate(server.node.database, monkeypatch, "read")

    async def come_and_go(nth: int) -> None:
        """Memberships of theirs begin, end, and begin again meanwhile."""
        await make_topic(server.url, other, f"topic{nth}", token)
        async with rest(server.url, token) as http:
            await http.request("DELETE", "/api/subscriptions", params={"topic_name": "noticias"})
            again = await http.post("/api/subscriptions", json={"topic_name": "noticias"})
            assert again.status_code == 201, again.text

    assert await leave_at_each(server, gate, visit, come_and_go) >= accesses


@pytest.mark.parametrize("ends", [False, True], ids=["leaves the room", "disconnects"])
async def test_a_room_that_is_left_while_it_is_entered_is_not_entered(
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


async def test_a_connection_that_ends_while_it_enters_a_room_learns_of_no_membership_after_that(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user leaves the room and comes back while it reads: both notices wait for the end of the read."""
    node, token, other = server.node, await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    (omar, _), link = await node.auth.arrive(token, "recorded"), RecordingLink()
    connection = Connection(link, omar, "recorded")
    connection.only, connection.deferred = set(), None
    await node.hub.add(connection)
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
    assert await leave_at_each(server, gate, getattr(Ways(server, token), door)) >= 1


@pytest.mark.parametrize("path", ["/socket.io/?EIO=4&transport=websocket", "/ws"])
async def test_a_connection_that_ends_during_authenticate_is_not_kept_until_the_token_expires(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    token = await server.register("omar")
    gate, before = Gate(server.node.database, monkeypatch, "read"), alive()

    async def say(socket: ClientConnection, action: str, data: object) -> None:
        if path == "/ws":
            await socket.send(orjson.dumps({"id": 1, "action": action, "data": data}).decode())
        else:
            await socket.send("420" + orjson.dumps([action, data]).decode())

    async with connect(
        server.url.replace("http", "ws", 1) + path, compression=None, ping_interval=None, proxy=None
    ) as socket:
        if path == "/ws":
            await say(socket, "authenticate", {"token": token})
        else:
            await socket.send("40" + orjson.dumps({"token": token}).decode())
        while "ready" not in str(await socket.recv()):
            pass
        gate.hold(1)
        await say(socket, "authenticate", {"token": token})
        await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
        socket.transport.abort()
    await nobody_is_there(server)
    gate.release()
    await nothing_is_left(server, before)


def held_objects() -> int:
    """How many objects of connections there are, garbage that the collector has not found yet included."""
    kinds = Connection, ClientSession, BaseLink, BufferedSession, UvicornHttp, UvicornWebSocket, Wire
    return sum(issubclass(type(one), kinds) for one in gc.get_objects())


@pytest.mark.parametrize("door", ["socketio", "websocket", "topics"])
async def test_a_closed_connection_is_freed_without_the_collector(server: RunningNode, door: str) -> None:
    """Its garbage would wait for a collection of the old objects, which comes late."""
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Ways(server, token), door)
    await visit()  # devices and the public channel are there
    await nobody_is_there(server)
    gc.collect()
    gc.disable()
    try:
        before = held_objects()
        await visit()
        assert held_objects() > before
        await nobody_is_there(server)
        await until(lambda: held_objects() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize("door", ["socketio", "websocket", "topics"])
async def test_a_connection_that_is_closed_during_its_replay_is_freed_without_the_collector(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    """Its garbage would hold the page that was just read."""
    token, other = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, other, "noticias", token)
    visit = getattr(Ways(server, token), door)
    await visit()  # devices and the public channel are there
    await nobody_is_there(server)
    gate = Gate(server.node.database, monkeypatch, "read")
    gc.collect()
    gc.disable()
    try:
        before = held_objects()
        for nth in itertools.count(1):
            gate.hold(nth)
            visiting = asyncio.ensure_future(visit())
            holding = asyncio.ensure_future(gate.held.wait())
            await asyncio.wait([visiting, holding], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            left_at_once = holding.done()
            visiting.cancel()
            holding.cancel()
            await asyncio.wait([visiting, holding])
            del visiting, holding
            await nobody_is_there(server)
            gate.release()
            await until(lambda: held_objects() <= before)
            if not left_at_once:
                assert nth > 2, "it was not closed during its replay"
                break
    finally:
        gc.enable()
