"""Several nodes on one PostgreSQL without a broker between them: what one commits, the others deliver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.fanout.broker import MemoryBroker
from tests.delivery.support import make_topic, seqs
from tests.support.client import Refused, connected
from tests.support.node import RunningNode, running_node


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes that know of each other only by the database. Their periodic checks do not run within a test."""
    options = {"head_check_s": 3600.0, "session_check_s": 3600.0}
    async with (
        running_node(postgresql_url, tmp_path, options=dict(options)) as first,
        running_node(postgresql_url, tmp_path, options=dict(options)) as second,
    ):
        yield first, second


async def test_what_two_nodes_append_reaches_the_clients_of_both_in_one_order(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
    async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
        sent = [
            client.send("message", {"room_id": room_id, "content": f"{client is omar} {n}"})
            for n in range(50)
            for client in (omar, diego)
        ]
        assert all(answer["ok"] for answer in await asyncio.gather(*sent))
        for client in (omar, diego):
            await client.until(lambda client=client: len(client.of("message")) == 100)
            assert seqs(client, room_id) == list(range(1, 101))
        assert omar.contents() == diego.contents()


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_member_who_joins_or_is_removed_on_one_node_is_in_the_room_or_not_on_the_other(
    nodes: tuple[RunningNode, RunningNode], *, is_private: bool
) -> None:
    first, second = nodes
    tokens = [await first.register(name) for name in ("omar", "diego")]
    async with (
        connected(first.url, tokens[0]) as omar,
        connected(second.url, tokens[1]) as diego,
        connected(first.url, tokens[1], device="elsewhere") as elsewhere,
    ):
        room = await omar.ask("create", topic_name="noticias", is_private=is_private)
        room_id = room["room_id"]
        for round_ in range(3):
            if is_private:
                await omar.ask("invite", room_id=room_id, username="diego")
            else:
                await elsewhere.ask("subscribe", topic_name="noticias")
            assert (await diego.event("room_added"))["room"]["room_id"] == room_id
            await omar.ask("message", room_id=room_id, content=f"in {round_}")
            await diego.until(lambda round_=round_: diego.contents()[-1:] == [f"in {round_}"])
            await omar.ask("kick", room_id=room_id, username="diego")
            await omar.ask("message", room_id=room_id, content=f"out {round_}")
            assert (await diego.event("room_removed"))["room_id"] == room_id
        with pytest.raises(Refused):
            await diego.ask("history", room_id=room_id)
        assert diego.contents() == [f"in {n}" for n in range(3)]


async def test_a_removed_member_gets_nothing_later_although_the_node_has_not_heard_of_the_removal(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options={"poll_s": 3600.0, "broker": MemoryBroker()}) as deaf,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego", "eva")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1], tokens[2])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(deaf.url, tokens[1]) as diego,
            connected(deaf.url, tokens[2]) as eva,
        ):
            await eva.ask("message", room_id=room_id, content="before")
            await diego.event("message")
            await omar.ask("kick", room_id=room_id, username="diego")
            await eva.ask("message", room_id=room_id, content="after")
            await eva.until(lambda: eva.contents() == ["before", "after"])
            assert (await diego.event("room_removed"))["room_id"] == room_id
            assert diego.contents() == ["before"]


async def test_a_session_that_ends_on_one_node_ends_its_connections_on_the_other(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    token = await first.register("omar")
    async with connected(second.url, token) as there:
        async with connected(first.url, token) as here:
            await here.send("logout", {})
        assert (await there.event("closing"))["reason"] == "token_revoked"


async def test_a_message_that_was_acknowledged_elsewhere_comes_before_ready(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options={"poll_s": 3600.0, "broker": MemoryBroker()}) as deaf,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(deaf.url, tokens[1], device="early"):
            await omar.ask("message", room_id=room_id, content="1")
            async with connected(deaf.url, tokens[1], device="late") as late:
                assert [name for name, _ in late.events if name in ("message", "ready")] == ["message", "ready"]


async def test_typing_on_one_node_is_shown_on_the_other(postgresql_url: str, tmp_path: Path) -> None:
    options = {"lease_s": 1.0}
    async with (
        running_node(postgresql_url, tmp_path, options=dict(options)) as first,
        running_node(postgresql_url, tmp_path, options=dict(options)) as second,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            while not first.node.nodes.others:
                await omar.ask("get_rooms")
            await omar.ask("typing", room_id=room_id, typing=True)
            typing = await diego.event("typing")
            assert (typing["username"], typing["typing"]) == ("omar", True)
