"""A node that stops beside others hands over: load balancers turn away first, then its connections move in slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.conformance.wire import eventually
from tests.delivery.support import Nodes, make_topic, rest, seqs, stored_cursors
from tests.nodes.conftest import SOON, Registry
from tests.support.balancer import balanced
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.locks import locked
from tests.support.node import RunningNode, running_node
from tidings.cluster import draining

pytestmark = pytest.mark.long

NEVER_S = 3600.0


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    """Two nodes. The parameter is `drain_wait` of the first."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            running_node(postgresql_url, tmp_path, options=SOON, drain_wait=request.param, drain_s=NEVER_S)
        )
        second = await stack.enter_async_context(running_node(postgresql_url, tmp_path, options=SOON))
        async with asyncio.timeout(DEADLINE_S):
            while not first.node.cluster.registry.staying:
                await first.node.cluster.registry._round()
        yield first, second


async def ready(node: RunningNode) -> httpx.Response:
    async with httpx.AsyncClient(base_url=node.url) as http:
        return await http.get("/health/ready")


@pytest.mark.parametrize("nodes", [NEVER_S], indirect=True)
async def test_a_node_says_that_it_leaves_and_serves_until_no_other_stays(nodes: Nodes, registry: Registry) -> None:
    first, second = nodes
    tokens = [await second.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(second.url, tokens[0], "noticias", tokens[1])
    assert (await ready(first)).status_code == 200
    async with connected(first.url, tokens[0]) as omar:
        left = first.leave()
        rows = await registry.until(lambda rows: rows[first.node.id].leaving)
        assert not rows[second.node.id].leaving
        refusal = await ready(first)
        assert refusal.status_code == 503
        assert "the server is shutting down" in refusal.text
        async with connected(first.url, tokens[1]) as diego:  # from a load balancer that has not noticed yet
            await diego.ask("message", room_id=room_id, content="still here")
            await omar.until(lambda: omar.contents() == ["still here"])
        assert omar.of("closing") == []
        await second.stop()
        assert await omar.event("closing") == {"reason": "shutdown", "reconnect": True}
    await asyncio.wait_for(left, DEADLINE_S)


@pytest.mark.parametrize("nodes", [0.0], indirect=True)
async def test_connections_move_in_slices_and_cursors_are_written_before(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes
    monkeypatch.setattr(draining, "MIN_RATE", 1)
    monkeypatch.setattr(draining, "SLICE_S", 0.987)
    sleep, pauses = asyncio.sleep, asyncio.Queue[asyncio.Event]()

    async def pause(seconds: float) -> None:
        """The pause between two slices lasts until the test ends it."""
        if seconds != draining.SLICE_S:
            await sleep(seconds)
            return
        end = asyncio.Event()
        pauses.put_nowait(end)
        await end.wait()

    monkeypatch.setattr("tidings.cluster.draining.asyncio.sleep", pause)
    omar = await first.register("omar")
    room_id = await make_topic(first.url, omar, "noticias")
    async with AsyncExitStack() as stack:
        clients: list[Client] = [
            await stack.enter_async_context(connected(first.url, omar, device=f"device {n}")) for n in range(3)
        ]
        left = first.leave()
        for number in range(1, 4):
            await eventually(lambda number=number: sum(client.closed.is_set() for client in clients) == number)
            await eventually(lambda number=number: number == 3 or not pauses.empty())
            assert len(first.node.hub.connections) == 3 - number
            for client in clients:
                if not client.closed.is_set():
                    await client.ask("message", room_id=room_id, content=f"{number}")
                    await client.event("message")
                    break
            if number < 3:
                (await pauses.get()).set()
        await asyncio.wait_for(left, DEADLINE_S)
        heads = sorted(seqs(client, room_id)[-1] for client in clients if seqs(client, room_id))
        assert heads == [1, 2]
        assert sorted(await stored_cursors(second, room_id))[-2:] == heads


@pytest.mark.parametrize("nodes", [0.0], indirect=True)
async def test_running_actions_are_answered_before_their_connection_moves(
    nodes: Nodes, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = nodes
    monkeypatch.setattr(draining, "SETTLE_S", NEVER_S)
    token = await first.register("omar")
    room_id = await make_topic(first.url, token, "noticias")
    async with connected(first.url, token) as omar:
        (connection,) = first.node.hub.connections
        async with locked(postgresql_url, room_id):
            sent = omar.send("message", {"room_id": room_id, "content": "held"})
            await eventually(lambda: first.node.journal.age > 0)
            left = first.leave()
            await eventually(lambda: connection.link.actions._settled is not None)  # type: ignore[attr-defined]
            late = omar.send("message", {"room_id": room_id, "content": "late"})
            await eventually(lambda: len(connection.link.actions._slots) == 2)  # type: ignore[attr-defined]
        assert (await asyncio.wait_for(sent, DEADLINE_S))["ok"]
        assert (await asyncio.wait_for(late, DEADLINE_S))["error"]["code"] == "unavailable"
        await omar.event("closing")
    await asyncio.wait_for(left, DEADLINE_S)


@pytest.mark.parametrize("nodes", [NEVER_S], indirect=True)
async def test_a_node_with_a_successor_stops_accepting_connections_before_its_own_move(
    nodes: Nodes, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = nodes
    monkeypatch.setattr(draining, "SETTLE_S", NEVER_S)
    token = await first.register("omar")
    room_id = await make_topic(first.url, token, "noticias")
    async with connected(first.url, token) as omar:
        async with locked(postgresql_url, room_id):
            sent = omar.send("message", {"room_id": room_id, "content": "held"})
            await eventually(lambda: first.node.journal.age > 0)
            left = first.leave(replaced=True)
            await eventually(lambda: first.node.cluster.registry.leaving)
            with pytest.raises(httpx.ConnectError):
                await ready(first)
            assert omar.of("closing") == []
        assert (await asyncio.wait_for(sent, DEADLINE_S))["ok"]
        await omar.event("closing")
    await asyncio.wait_for(left, DEADLINE_S)


async def test_the_only_node_on_its_database_does_not_wait(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path, drain_wait=NEVER_S, drain_s=NEVER_S) as node:
        token = await node.register("omar")
        async with connected(node.url, token) as omar:
            left = node.leave()
            await omar.event("closing")
        await asyncio.wait_for(left, DEADLINE_S)


@pytest.mark.parametrize("transports", [["polling", "websocket"], ["polling"]], ids="-".join)
@pytest.mark.parametrize("nodes", [0.0], indirect=True)
async def test_nothing_comes_twice_to_a_client_whose_session_is_on_another_node_than_the_one_that_stops(
    nodes: Nodes, transports: list[str]
) -> None:
    stopping, owner = nodes
    token = await owner.register("omar")
    room_id = await make_topic(owner.url, token, "noticias")
    sent: list[str] = []

    async def send() -> None:
        async with rest(owner.url, token) as http:
            sent.append(str(len(sent)))
            answer = await http.post("/api/messages", json={"room_id": room_id, "content": sent[-1]})
            assert answer.status_code == 201, answer.text

    async def send_until(done: asyncio.Future[None]) -> None:
        while not done.done():
            await send()

    async with balanced([owner.url, stopping.url]) as balancer:
        client = await Client(balancer.url, token, device="phone").connect(transports)
        assert client.sio.transport() == transports[-1]
        for _ in range(20):
            await send()
        await client.until(lambda: client.contents() == sent)
        left = stopping.leave()
        await asyncio.wait_for(send_until(left), DEADLINE_S)
        await send()
        await client.until(lambda: client.closed.is_set() or client.contents() == sent)
        received = client.contents()
        if client.closed.is_set():
            assert client.of("closing") == [{"reason": "shutdown", "reconnect": True}]
            client = await Client(balancer.url, token, device="phone").connect(transports)
            await send()
            await client.until(lambda: sent[-1] in client.contents())
            received += client.contents()
        else:
            assert transports == ["polling"], "its WebSocket came through the node that has stopped"
        await client.close()
        assert received == sent
