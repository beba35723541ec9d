"""Clients count the members of a public topic by its `member` events, whichever node they and the others are on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.brokers import SilentBroker
from tests.delivery.gate import Gate
from tests.delivery.support import make_topic
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import RunningNode, running_node

DEAF = {"poll_s": 3600.0, "head_check_s": 3600.0, "session_check_s": 3600.0}
"""Options of a node that is not told by others when to read the feed."""


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes, of which the second reads the feed only when it needs it."""
    async with (
        running_node(postgresql_url, tmp_path / "1") as first,
        running_node(postgresql_url, tmp_path / "2", options=DEAF | {"broker": SilentBroker()}) as second,
    ):
        yield first, second


def changes(client: Client) -> list[tuple[str, str]]:
    return [(event["username"], event["change"]) for event in client.of("member")]


async def members_in_answer(client: Client, room_id: str) -> int:
    rooms = (await client.ask("get_rooms", member=True))["rooms"]
    count: int = next(room["members"] for room in rooms if room["room_id"] == room_id)
    return count


async def test_an_own_change_is_sent_after_the_earlier_ones_of_another_node(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    tokens = {name: await first.register(name) for name in ("omar", "diego", "eva")}
    room_id = await make_topic(first.url, tokens["omar"], "noticias")
    async with (
        connected(second.url, tokens["omar"]) as omar,
        connected(first.url, tokens["eva"]) as eva,
        connected(second.url, tokens["diego"]) as diego,
    ):
        await eva.ask("subscribe", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        added = await diego.event("room_added")
        await omar.until(lambda: len(changes(omar)) == 2)
        assert changes(omar) == [("eva", "joined"), ("diego", "joined")]
        await eva.ask("unsubscribe", room_id=room_id)
        assert await members_in_answer(diego, room_id) == 2
        assert (added["room"]["members"], changes(diego)) == (3, [("eva", "left")])


@pytest.mark.parametrize("action", ["get_rooms", "get_members"])
async def test_an_answer_comes_after_the_changes_that_it_shows(
    nodes: tuple[RunningNode, RunningNode], action: str
) -> None:
    first, second = nodes
    tokens = {name: await first.register(name) for name in ("omar", "diego", "eva")}
    room_id = await make_topic(first.url, tokens["omar"], "noticias", tokens["diego"])
    async with connected(second.url, tokens["omar"]) as omar, connected(first.url, tokens["eva"]) as eva:
        await eva.ask("subscribe", topic_name="noticias")
        answer: dict[str, Any] = await omar.ask(action, {"room_id": room_id} if action == "get_members" else {})
        assert changes(omar) == [("eva", "joined")]
        shown = answer["rooms"][0]["members"] if action == "get_rooms" else len(answer["members"])
        assert shown == 3


async def test_roles_that_two_nodes_change_end_as_they_are_stored(nodes: tuple[RunningNode, RunningNode]) -> None:
    first, second = nodes
    tokens = {name: await first.register(name) for name in ("omar", "diego", "eva")}
    room_id = await make_topic(first.url, tokens["omar"], "noticias", tokens["diego"], tokens["eva"])
    async with (
        connected(first.url, tokens["omar"], device="1") as here,
        connected(second.url, tokens["omar"], device="2") as there,
        connected(second.url, tokens["eva"]) as eva,
    ):
        for _ in range(6):
            await here.ask("set_role", room_id=room_id, username="diego", role="moderator")
            await there.ask("set_role", room_id=room_id, username="diego", role="member")
        for client in (here, there, eva):
            await client.until(lambda client=client: len(changes(client)) == 12)
            roles = [event["role"] for event in client.of("member")]
            assert roles == ["moderator", "member"] * 6


async def test_a_change_while_a_returning_device_learns_of_a_new_room_reaches_it(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has read how many members the room has, and is about to tell the device."""
    tokens = {name: await server.register(name) for name in ("omar", "diego", "eva")}
    async with connected(server.url, tokens["omar"]):
        pass
    room_id = await make_topic(server.url, tokens["omar"], "noticias", tokens["diego"])
    gate = Gate(server.node.database, monkeypatch, "read")
    async with connected(server.url, tokens["eva"]) as eva:
        omar = Client(server.url, tokens["omar"])
        entered = asyncio.Event()
        reading = server.node.catch_up._emit_added

        async def held(*args: Any) -> Any:
            gate.hold(1)
            entered.set()
            return await reading(*args)

        monkeypatch.setattr(server.node.catch_up, "_emit_added", held)
        arriving = asyncio.ensure_future(omar.connect())
        await entered.wait()
        await gate.held.wait()
        await eva.ask("subscribe", topic_name="noticias")
        gate.release()
        await arriving
        count = next(added["room"]["members"] for added in omar.of("room_added"))
        assert count + len(changes(omar)) == 3
        assert await members_in_answer(omar, room_id) == 3
        await omar.close()


async def test_changes_during_a_cut_of_the_feed_are_sent_when_it_is_read_again(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    feed = second.node.cluster.feed
    tokens = {name: await first.register(name) for name in ("omar", "eva")}
    room_id = await make_topic(first.url, tokens["omar"], "noticias")
    async with connected(second.url, tokens["omar"]) as omar, connected(first.url, tokens["eva"]) as eva:
        await eva.ask("subscribe", topic_name="noticias")
        assert feed._connection is not None
        cut = feed._connection
        await cut.close()
        feed.wake()
        async with asyncio.timeout(DEADLINE_S):
            while feed._connection is cut:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await eva.ask("message", room_id=room_id, content="hola")
        feed.wake()
        await omar.until(lambda: changes(omar) == [("eva", "joined")] and bool(omar.of("message")))
        assert not omar.of("closing")
