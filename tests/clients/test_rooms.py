"""Rooms and their timelines, with a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import tidings_client
from tests.clients.support import until
from tests.support.network import network
from tests.support.node import RunningNode
from tidings_client import Closed, NotFound, Refused, Room, StoreOfAnother, Timeline, Unsent

DEADLINE_S = 60.0


async def consumed(room: Room, count: int, consumer: str = "default") -> list[str]:
    """The contents of the next messages; the last one counts as processed."""
    contents: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        async for message in room.messages(consumer=consumer):
            if len(contents) == count:
                break
            contents.append(message.content)
    return contents


def contents(timeline: Timeline) -> list[tuple[str, str]]:
    return [(item.state, item.content) for item in timeline.items]


async def test_consumers_of_different_names_each_get_all_messages(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, omar) as client:
        room = await client.join("noticias")
        for content in ("uno", "dos", "tres", "end"):
            await room.send(content)
        assert await consumed(room, 3, "mail") == ["uno", "dos", "tres"]
        assert await consumed(room, 2, "log") == ["uno", "dos"]
        assert await consumed(room, 1, "log") == ["tres"]


async def test_a_consumer_that_breaks_gets_the_message_in_its_hands_again(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, omar) as client:
        room = await client.join("noticias")
        await room.send("uno")
        for _ in range(2):
            async for message in room.messages():
                assert message.content == "uno"
                break


async def test_a_timeline_shows_messages_as_they_are_now_and_the_unsent_ones_last(
    server: RunningNode, omar: str
) -> None:
    async with network(server.url) as net, tidings_client.connect(net.url, omar) as client:
        room = await client.join("noticias")
        first, second = await room.send("uno"), await room.send("dos")
        timeline = await room.timeline()
        assert contents(timeline) == [("complete", "uno"), ("complete", "dos")]
        await room.edit(first.id, "uno!")
        await room.delete(second.id)
        await until(client, "*", lambda: contents(timeline) == [("complete", "uno!"), ("complete", "")])
        net.refuse()
        net.cut()
        await until(client, "status", lambda: client.status.state == "offline")
        three, four = await room.enqueue("tres"), await room.enqueue("cuatro")
        assert [item.content for item in timeline.items[2:]] == ["tres", "cuatro"]
        assert await four.edit("4")
        assert await three.withdraw()
        assert (three.state, contents(timeline)[2:]) == ("withdrawn", [("waiting", "4")])
        net.heal()
        assert (await four.sent())["content"] == "4"
        await until(client, "*", lambda: contents(timeline)[2:] == [("complete", "4")])
        assert not await four.withdraw()
        timeline.close()


async def test_a_timeline_loads_what_is_older(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, omar, device="one") as client:
        room = await client.join("noticias")
        for n in range(60):
            await room.send(f"{n}")
    async with tidings_client.connect(server.url, omar, device="two") as client:
        timeline = await (await client.join("noticias")).timeline()
        assert [item.content for item in timeline.items] == [f"{n}" for n in range(10, 60)]
        await timeline.load_older()
        assert [item.content for item in timeline.items] == [f"{n}" for n in range(60)]
        assert not timeline.has_more


async def test_a_refused_message_raises_its_error_and_does_not_hold_up_the_next(
    server: RunningNode, omar: str
) -> None:
    refused: list[tuple[str, str]] = []

    def note(unsent: Unsent, error: Refused) -> None:
        refused.append((unsent.content, error.code))

    async with tidings_client.connect(server.url, omar) as client:
        client.on("refused", note)
        with pytest.raises(NotFound):
            await client.room(topic_name="nowhere").send("uno")
        await client.room(topic_name="noticias").send("dos")
        assert refused == [("uno", "not_found")]
        assert client.unsent == []


async def test_a_client_that_ends_says_so_to_whoever_waits(server: RunningNode, omar: str) -> None:
    async with network(server.url) as net:
        client = await tidings_client.connect(net.url, omar)
        room = await client.join("noticias")
        consuming = asyncio.create_task(consumed(room, 1))
        net.refuse()
        net.cut()
        await until(client, "status", lambda: client.status.state == "offline")
        sending = asyncio.create_task(room.send("uno"))
        await until(client, "outbox", lambda: client.unsent)
        await client.close()
        for task in (consuming, sending):
            with pytest.raises(Closed):
                await task
        with pytest.raises(Closed):
            await room.send("dos")


async def test_logging_out_ends_the_client_for_good(server: RunningNode, omar: str) -> None:
    async with tidings_client.connect(server.url, lambda: omar) as client:
        await client.actions.logout()
        await until(client, "status", lambda: client.status.state == "closed")
        assert "token_revoked" in client.status.reason


async def test_a_store_of_another_user_is_refused(server: RunningNode, omar: str, tmp_path: Path) -> None:
    async with tidings_client.connect(server.url, omar, store=tmp_path / "state.db"):
        pass
    diego = await server.register("diego")
    with pytest.raises(StoreOfAnother):
        await tidings_client.connect(server.url, diego, store=tmp_path / "state.db")


async def test_a_direct_conversation_is_named_by_the_other_user(server: RunningNode, omar: str) -> None:
    diego = await server.register("diego")
    async with (
        tidings_client.connect(server.url, omar) as ours,
        tidings_client.connect(server.url, diego) as theirs,
    ):
        await ours.room(username="diego").send("hola")
        await ours.room(username="diego").send("end")
        assert await consumed(theirs.room(username="omar"), 1) == ["hola"]
