"""The room that a user of the chat rooms is in, over connections to several nodes and over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.dialects.rooms_client import chatting
from tests.support.client import DEADLINE_S, connected
from tests.support.locks import locked
from tests.support.node import SECRET_KEY, RunningNode, running_node
from tests.support.process import ServerProcess

FOLDER = Path(__file__).parent
Nodes = tuple[RunningNode, RunningNode]


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[Nodes]:
    async with (
        running_node(postgresql_url, tmp_path / "first") as first,
        running_node(postgresql_url, tmp_path / "second") as second,
    ):
        yield first, second


async def make_rooms(node: RunningNode) -> None:
    """Make three rooms without members."""
    async with connected(node.url, await node.register("host")) as host:
        for name in ("room one", "room two", "room three"):
            await host.ask("create", topic_name=name)
            await host.ask("unsubscribe", topic_name=name)


async def topics_of(node: RunningNode, token: str) -> set[str]:
    """The topics that a user is a member of."""
    async with connected(node.url, token, device="other") as other:
        return {room["topic_name"] for room in (await other.ask("get_rooms", member=True))["rooms"]}


@pytest.mark.long
async def test_a_user_who_reconnects_to_another_node_is_in_the_room_again_and_gets_what_was_missed(
    nodes: Nodes,
) -> None:
    first, second = nodes
    await make_rooms(first)
    token = await first.register("ana")
    async with chatting(first, "ben") as ben:
        await ben.connect_to("room one")
        async with chatting(first, "ana", token) as ana:
            await ana.connect_to("room one")
        for number in range(5):
            await ben.ok("send_message", message=f"{number}")
        async with chatting(second, "ana", token) as ana:
            await ana.counts()
            assert [(await ana.push("message"))["message"] for _ in range(5)] == [*map(str, range(5))]
            await ana.ok("send_message", message="back")
            assert (await ana.push("message"))["message"] == "back"
            await ana.connect_to("room two")
    assert await topics_of(first, token) == {"room two"}


@pytest.mark.long
@pytest.mark.parametrize("owner", [False, True], ids=["brought in", "owner"])
async def test_connecting_to_a_room_on_another_node_leaves_the_former_one(nodes: Nodes, *, owner: bool) -> None:
    first, second = nodes
    await make_rooms(first)
    token = await first.register("ana")
    if owner:
        async with connected(first.url, token) as client:
            await client.ask("create", topic_name="mine")
    former = "mine" if owner else "room one"
    async with (
        chatting(first, "ana", token) as here,
        chatting(second, "ana", token) as there,
        chatting(first, "ben") as ben,
    ):
        await here.connect_to(former)
        await ben.connect_to(former)
        await there.connect_to("room two")
        async with asyncio.timeout(10):
            assert await here.push("user_left") == {"roomName": former, "username": "ana"}
        await ben.ok("send_message", message="not for ana")
        await ben.push("message")
        assert await here.code("send_message", message="where am I?") == "forbidden"
        await here.connect_to("room two")
        await there.ok("send_message", message="here")
        assert (await here.push("message"))["message"] == "here"
    assert await topics_of(second, token) == ({"mine", "room two"} if owner else {"room two"})


@pytest.mark.long
async def test_a_user_who_enters_rooms_on_two_nodes_at_once_ends_up_in_one(nodes: Nodes) -> None:
    first, second = nodes
    await make_rooms(first)
    token = await first.register("ana")
    async with chatting(first, "ana", token) as here, chatting(second, "ana", token) as there:
        for _ in range(10):
            await asyncio.gather(here.connect_to("room one"), there.connect_to("room two"))
            async with asyncio.timeout(10):
                while len(await topics_of(first, token)) != 1:
                    pass
            await asyncio.gather(here.connect_to("room three"), there.connect_to("room three"))
            assert await topics_of(first, token) == {"room three"}


@pytest.mark.parametrize("entered", ["room one", "room two"])
async def test_a_node_that_is_killed_after_any_commit_leaves_the_user_in_one_room(
    postgresql_url: str, tmp_path: Path, entered: str
) -> None:
    kill = tmp_path / "kill"
    killed = ServerProcess(
        tmp_path / "killed",
        PYTHONPATH=f"{FOLDER / 'killed'}:{FOLDER.parents[1]}",
        TEST_KILL=str(kill),
        TIDINGS_DATABASE_URL=postgresql_url,
        TIDINGS_SECRET_KEY=SECRET_KEY,
    )
    async with running_node(postgresql_url, tmp_path / "other") as other:
        await make_rooms(other)
        token = await other.register("ana")
        try:
            await killed.start()
            async with chatting(killed, "ana", token) as ana:
                if entered == "room two":
                    await ana.connect_to("room one")
                kill.touch()
                with pytest.raises(ConnectionClosed):
                    await ana.connect_to(entered)
        finally:
            await killed.kill()
        assert await topics_of(other, token) == {entered}
        async with chatting(other, "ana", token) as ana:
            assert await ana.connect_to(entered) == ["ana"]
            await ana.connect_to("room three")
        assert await topics_of(other, token) == {"room three"}


async def test_a_locked_former_room_holds_up_the_change_and_nobody_in_the_room_to_enter(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with running_node(postgresql_url, tmp_path) as node:
        await make_rooms(node)
        token = await node.register("ana")
        async with chatting(node, "ana", token) as ana, chatting(node, "ben") as ben:
            await ana.connect_to("room one")
            await ben.connect_to("room two")
            async with connected(node.url, token, device="other") as other:
                (room,) = (await other.ask("get_rooms", member=True))["rooms"]
            async with locked(postgresql_url, room["room_id"]):
                entering = asyncio.ensure_future(ana.connect_to("room two"))
                while not node.node.journal.held:
                    await ben.ok("send_message", message="meanwhile")
                await ben.ok("send_message", message="and still")
                assert not entering.done()
            async with asyncio.timeout(DEADLINE_S):
                assert await entering == ["ana", "ben"]
        assert await topics_of(node, token) == {"room two"}


async def test_a_user_is_in_the_room_again_after_a_restart(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        await make_rooms(node)
        token = await node.register("ana")
        async with chatting(node, "ana", token) as ana:
            await ana.connect_to("room one")
        await node.stop()
        await node.start()
        async with chatting(node, "ben") as ben:
            await ben.connect_to("room one")
            await ben.ok("send_message", message="missed")
            async with chatting(node, "ana", token) as ana:
                await ana.counts()
                assert (await ana.push("message"))["message"] == "missed"
                await ana.connect_to("room two")
        assert await topics_of(node, token) == {"room two"}


async def test_entering_another_room_ends_no_membership_that_began_otherwise(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        await make_rooms(node)
        token = await node.register("ana")
        async with chatting(node, "ana", token) as ana:
            await ana.connect_to("room one")
        async with connected(node.url, token) as client:
            await client.ask("unsubscribe", topic_name="room one")
            await client.ask("subscribe", topic_name="room one")
        async with chatting(node, "ana", token) as ana:
            await ana.connect_to("room two")
        assert await topics_of(node, token) == {"room one", "room two"}


async def test_other_connections_of_an_owner_leave_the_room_that_the_owner_has_left(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        await make_rooms(node)
        token = await node.register("ana")
        async with connected(node.url, token) as client:
            await client.ask("create", topic_name="mine")
        async with chatting(node, "ana", token) as laptop, chatting(node, "ana", token) as phone:
            await laptop.connect_to("mine")
            await phone.connect_to("room one")
            assert await laptop.push("user_left") == {"roomName": "mine", "username": "ana"}
            assert await laptop.code("send_message", message="hello?") == "forbidden"
