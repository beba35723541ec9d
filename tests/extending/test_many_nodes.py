"""An application on two nodes: each row of the table in docs/extending.md, with stock clients on both nodes.

The nodes are joined by PostgreSQL alone, and by Redis too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.e2e.javascript import run
from tests.extending.application import GAME, LOBBY, Game, install
from tests.extending.conftest import joined
from tests.support.client import DEADLINE_S, Client
from tests.support.node import RunningNode, running_node
from tests.support.redis import redis_server
from tidings.cluster import applications

pytestmark = pytest.mark.long

Sio = socketio.AsyncServer


class Player:
    """A stock client in `/game`, and what it has heard."""

    def __init__(self, name: str, node: RunningNode) -> None:
        self.name = name
        self.node = node
        self.client = socketio.AsyncClient(reconnection=False)
        self.heard: list[tuple[Any, ...]] = []
        self.client.on("*", self._hear, namespace=GAME)
        self.client.on("question", lambda question: (self.name, question), namespace=GAME)
        self._changed = asyncio.Event()

    async def connect(self, token: str) -> Player:
        auth = {"token": token, "as": self.name}
        await self.client.connect(
            self.node.url, namespaces=[GAME, LOBBY], auth=auth, headers={"X-Game": "1"}, wait_timeout=10
        )
        return self

    @property
    def sid(self) -> str:
        return str(self.client.get_sid(GAME))

    async def _hear(self, event: str, *data: Any) -> None:
        self.heard.append((event, *data))
        self._changed.set()

    async def until(self, event: str, count: int = 1) -> None:
        """Wait until an event has come so many times."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.of(event)) < count:
                self._changed.clear()
                await self._changed.wait()

    def of(self, event: str) -> list[tuple[Any, ...]]:
        return [heard[1:] for heard in self.heard if heard[0] == event]


class Table:
    """Two nodes with the application, and a player on each."""

    def __init__(self, nodes: list[RunningNode], games: list[Game], players: list[Player]) -> None:
        self.nodes = nodes
        self.games = games
        self.ana, self.bob = players
        self.here: Sio = nodes[0].app.sio
        self.there: Sio = nodes[1].app.sio

    async def settle(self) -> None:
        """Everything that was emitted on either node before has reached both players."""
        for number, sio in enumerate((self.here, self.there)):
            await sio.emit(f"settled {number}", namespace=GAME)
            for player in (self.ana, self.bob):
                await player.until(f"settled {number}", 1 + self.settled)
        self.settled += 1

    settled = 0


@asynccontextmanager
async def table(database_url: str, data_dir: Path, redis_url: str = "") -> AsyncIterator[Table]:
    async with AsyncExitStack() as stack:
        nodes, games, players = [], [], []
        for _ in range(2):
            node = await stack.enter_async_context(running_node(database_url, data_dir, redis_url=redis_url))
            nodes.append(node)
            games.append(install(node.app.sio))
        await joined(*nodes)
        for name, node in zip(("ana", "bob"), nodes, strict=True):
            player = await Player(name, node).connect(await node.register(name))
            stack.push_async_callback(player.client.disconnect)
            players.append(player)
        yield Table(nodes, games, players)


@pytest.fixture(params=["postgresql", "redis"])
async def two(request: pytest.FixtureRequest, postgresql_url: str, tmp_path: Path) -> AsyncIterator[Table]:
    async with AsyncExitStack() as stack:
        url = ""
        if request.param == "redis":
            url = (await stack.enter_async_context(redis_server())).url
        yield await stack.enter_async_context(table(postgresql_url, tmp_path, url))


async def test_an_emit_to_all_a_room_rooms_or_a_sid_reaches_the_clients_of_every_node_once_in_order(
    two: Table,
) -> None:
    ana, bob, here = two.ana, two.bob, two.here
    for number in range(20):
        await here.emit("all", number, namespace=GAME)
    await ana.client.call("join", "red", namespace=GAME)
    await bob.client.call("join", "red", namespace=GAME)
    await bob.client.call("join", "blue", namespace=GAME)
    await here.emit("red", ("two", {"arguments": 2}), room="red", namespace=GAME)
    await here.emit("both", b"bytes", room=["red", "blue"], namespace=GAME)
    await here.emit("both", {"a": [b"x"]}, room=("blue", "red"), namespace=GAME)
    await here.emit("without ana", room="red", skip_sid=ana.sid, namespace=GAME)
    await here.emit("without bob", None, room="red", skip_sid=[bob.sid], namespace=GAME)
    await here.emit("you", "\ud800 ¡hola!", to=bob.sid, namespace=GAME)
    await two.settle()
    for player in (ana, bob):
        assert player.of("all") == [(number,) for number in range(20)]
        assert player.of("red") == [("two", {"arguments": 2})]
        assert player.of("both") == [(b"bytes",), ({"a": [b"x"]},)]
    assert (ana.of("without ana"), bob.of("without ana")) == ([], [()])
    assert (ana.of("without bob"), bob.of("without bob")) == ([()], [])
    assert (ana.of("you"), bob.of("you")) == ([], [("\ud800 ¡hola!",)])


async def test_a_client_of_another_node_acknowledges_events_and_answers_calls(two: Table) -> None:
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    await two.here.emit(
        "question", "who?", to=two.bob.sid, namespace=GAME, callback=lambda *a: answered.set_result(a)
    )
    assert await asyncio.wait_for(answered, DEADLINE_S) == ("bob", "who?")
    for sio in (two.here, two.there):
        for player in (two.ana, two.bob):
            answer = await sio.call("question", {"n": 1}, to=player.sid, namespace=GAME, timeout=10)
            assert answer == (player.name, {"n": 1})
    with pytest.raises(ValueError, match="to one client"):
        await two.here.emit("question", namespace=GAME, callback=print)


async def test_rooms_have_clients_of_other_nodes_from_the_moment_of_the_call(two: Table) -> None:
    here, bob = two.here, two.bob
    for number in range(5):
        await here.enter_room(bob.sid, "green", namespace=GAME)
        await here.emit("in", number, room="green", namespace=GAME)
        assert sorted(await here.participants("green", GAME)) == [bob.sid]
        await here.leave_room(bob.sid, "green", namespace=GAME)
        await here.emit("out", number, room="green", namespace=GAME)
    for sid in (two.ana.sid, bob.sid):
        await here.enter_room(sid, "closing", namespace=GAME)
    assert sorted(await two.there.participants("closing", GAME)) == sorted([two.ana.sid, bob.sid])
    await two.there.close_room("closing", namespace=GAME)
    await here.emit("out", "closed", room="closing", namespace=GAME)
    await two.settle()
    assert bob.of("in") == [(number,) for number in range(5)]
    assert bob.of("out") == two.ana.of("out") == []
    with pytest.raises(ValueError, match="no client nobody"):
        await here.enter_room("nobody", "green", namespace=GAME)
    await here.leave_room("nobody", "green", namespace=GAME)


async def test_a_client_of_another_node_is_disconnected_there_with_its_handler(two: Table) -> None:
    await two.here.disconnect(two.bob.sid, namespace=GAME)
    await two.games[1].until(1)
    assert two.games[1].notes[0][:2] == ("gone", "bob")
    assert await two.here.participants(namespace=GAME) == [two.ana.sid]
    await two.here.disconnect("nobody", namespace=GAME)


async def test_topics_and_conversations_are_the_rooms_of_the_core_on_every_node(two: Table) -> None:
    clients = []
    for name, node in zip(("carla", "diego"), two.nodes, strict=True):
        clients.append(await AnyEvents(node.url, await node.register(name)).connect())
    carla, diego = clients
    rooms = []
    for topic in ("ajedrez", "damas"):
        rooms.append((await carla.ask("create", topic_name=topic))["room_id"])
    await diego.ask("subscribe", topic_name="ajedrez")
    await diego.ask("subscribe", topic_name="damas")
    sids = [client.sio.get_sid("/") for client in clients]
    there: Sio = two.there
    await there.emit("scored", 0, room=rooms)
    await two.here.emit("scored", 1, room=rooms[0], skip_sid=sids[1])
    await two.here.emit("scored", 2, to=sids[1])
    await two.here.emit("scored", 3)
    await there.emit("the end", None)
    for client in clients:
        await client.event("the end")
    await asyncio.gather(carla.event("scored", lambda n: n == 3), diego.event("scored", lambda n: n == 3))
    assert (sorted(carla.of("scored")), sorted(diego.of("scored"))) == ([0, 1, 3], [0, 2, 3])
    for sio in (two.here, two.there):
        assert sorted(await sio.participants(rooms[0])) == sorted(sids)
    await two.here.disconnect(sids[1])
    await diego.until(lambda: not diego.sio.connected)
    for client in clients:
        await client.close()


class AnyEvents(Client):
    """A client that also accepts events outside the contract."""

    async def _event(self, event: str, *args: Any) -> None:
        self.events.append((event, *args))
        self._changed.set()


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]], ids=lambda transports: transports[0])
async def test_a_stock_javascript_client_is_emitted_to_called_moved_and_disconnected_from_another_node(
    two: Table, transports: list[str]
) -> None:
    async def play() -> None:
        (sid,) = set(await two.here.participants("red", GAME))
        await two.here.emit("red", ("two", [1]), room="red", namespace=GAME)
        assert await two.here.call("question", "who?", to=sid, namespace=GAME, timeout=10) == ("js", "who?")
        await two.here.leave_room(sid, "red", namespace=GAME)
        await two.here.enter_room(sid, "blue", namespace=GAME)
        await two.here.emit("red", "again", room="red", namespace=GAME)
        await two.here.emit("blue", {"n": 2}, room="blue", namespace=GAME)
        await two.here.disconnect(sid, namespace=GAME)

    node = two.nodes[1]
    arguments = {"url": node.url, "token": await node.register("javier"), "transports": transports}
    output = await run("game.mjs", arguments, {"play": play})
    heard = [event for event in output["heard"] if event[0] in ("red", "blue", "question")]
    assert heard == [["red", "two", [1]], ["question", "who?"], ["blue", {"n": 2}]]


async def test_what_other_nodes_cannot_get_is_refused_with_nothing_sent(two: Table) -> None:
    here = two.here
    for data in ("x" * applications.LONGEST, object(), 2**70):
        with pytest.raises(ValueError, match="other nodes"):
            await here.emit("refused", data, namespace=GAME)
    await here.emit("long", "x" * (applications.LONGEST - 100), namespace=GAME)
    await two.settle()
    for player in (two.ana, two.bob):
        assert player.of("refused") == []
        assert [len(data) for (data,) in player.of("long")] == [applications.LONGEST - 100]
    with pytest.raises(KeyError, match="connected to this server"):
        await here.get_session(two.bob.sid, GAME)


async def test_a_call_to_a_node_that_is_gone_ends_with_a_timeout(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with table(postgresql_url, tmp_path) as two:
        monkeypatch.setattr(applications, "ANSWER_S", 0.2)
        monkeypatch.setattr(two.nodes[1].node.cluster.applications, "received", lambda part: None)
        with pytest.raises(TimeoutError, match="other nodes have not answered"):
            await two.here.participants(namespace=GAME)
        with pytest.raises(TimeoutError):
            await two.here.enter_room(two.bob.sid, "green", namespace=GAME)


async def test_a_question_or_an_answer_that_is_lost_between_nodes_is_repeated(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with table(postgresql_url, tmp_path) as two:
        for node in two.nodes:
            manager, lost = node.node.cluster.applications, asyncio.Event()
            received = manager.received

            def lossy(part: Any, lost: asyncio.Event = lost, received: Any = received) -> None:
                if lost.is_set():
                    received(part)
                lost.set()

            monkeypatch.setattr(manager, "received", lossy)
            await two.here.enter_room(two.bob.sid, "green", namespace=GAME)
            assert await two.here.participants("green", GAME) == [two.bob.sid]
            assert lost.is_set()
