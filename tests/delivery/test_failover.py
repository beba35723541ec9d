"""A replica of PostgreSQL takes over: what it lacks is noticed, and nothing is noticed if it lacks nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.delivery.support import make_topic, seqs, stored
from tests.support.client import Client, connected
from tests.support.failover import Pair, pair
from tests.support.node import RunningNode, running_node
from tidings.testing.postgresql import NoServer
from tidings_db.schema import migrate

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

BY_HAND = {"mark_s": 3600.0}
"""The test calls the rounds in which a node compares the database with what it has written."""


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[Pair, RunningNode, RunningNode]]:
    try:
        async with pair() as servers:
            await asyncio.to_thread(migrate, servers.url)
            async with (
                running_node(servers.url, folder / "first", options=dict(BY_HAND)) as first,
                running_node(servers.url, folder / "second", options=dict(BY_HAND)) as second,
            ):
                yield servers, first, second
    except NoServer as reason:
        pytest.skip(str(reason))


async def send(client: Client, room_id: str, content: str) -> int:
    """Send a message, again while the store is unavailable; returns its seq."""
    while True:
        answer = await client.call("message", {"room_id": room_id, "content": content, "client_id": content})
        if answer["ok"]:
            seq: int = answer["data"]["seq"]
            return seq
        assert answer["error"]["code"] == "unavailable", answer


async def compare(*nodes: RunningNode) -> None:
    for node in nodes:
        await node.node.epochs._round()


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "grown"])
async def test_a_failover_that_loses_messages_is_named_in_reset(tmp_path: Path, *, grown: bool) -> None:
    """Although it has kept the last marks of the nodes, and even if the log has grown past what was lost."""
    async with two_nodes(tmp_path) as (servers, first, second):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id, quiet_id = [await make_topic(first.url, omar, name, diego) for name in ("noticias", "otras")]
        async with (
            connected(first.url, omar) as writer,
            connected(second.url, omar, device="other") as other,
            connected(second.url, diego) as reader,
        ):
            await send(other, quiet_id, "quiet")
            kept = [await send(writer, room_id, f"kept {n}") for n in range(3)]
            await compare(first, second)
            await servers.cut_off_replica()
            lost = [await send(writer, room_id, f"lost {n}") for n in range(4)]
            await reader.until(lambda: seqs(reader, room_id) == kept + lost)
            await servers.fail_over()
            new = [f"new {n}" for n in range(9 if grown else 2)]
            again = [await send(other, room_id, content) for content in new]
            assert again[0] == lost[0], "the seqs of the lost messages are used again"
            await send(other, quiet_id, "new and quiet")
            await compare(first, second)
            for client in (writer, other, reader):
                assert await client.event("closing") == {"reason": "shutdown", "reconnect": True}
        assert [node.node.epochs.current for node in (first, second)] == [1, 1]
        held = {room_id: lost[-1], quiet_id: 1}
        async with connected(first.url, diego, cursors=held) as back:
            assert back.of("ready")[0]["reset"] == [room_id]
            assert back.contents(quiet_id) == ["new and quiet"]
        expected = [f"kept {n}" for n in range(3)] + new
        assert await stored(servers.url, room_id) == expected
        async with connected(second.url, diego, cursors={room_id: 0, quiet_id: 1}, device="fresh") as fresh:
            assert fresh.contents(room_id) == expected
        await compare(first, second)
        assert [node.node.epochs.current for node in (first, second)] == [1, 1]


async def test_a_failover_to_a_synchronous_replica_loses_nothing_and_resets_nothing(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (servers, first, second):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "noticias", diego)
        await servers.wait_for_replica()
        async with (
            connected(first.url, omar) as at_first,
            connected(second.url, omar, device="other") as at_second,
            connected(second.url, diego) as reader,
        ):
            acked: dict[int, str] = {}
            over = False

            async def keep_sending(client: Client, name: str) -> None:
                for n in itertools.count():
                    content = f"{name} {n}"
                    acked[await send(client, room_id, content)] = content
                    if over:
                        return

            sending = [asyncio.create_task(keep_sending(*each)) for each in ((at_first, "a"), (at_second, "b"))]
            await reader.until(lambda: len(seqs(reader, room_id)) >= 40)
            await compare(first, second)
            await servers.fail_over()
            before = len(acked)
            await reader.until(lambda: len(acked) >= before + 40)
            over = True
            await asyncio.gather(*sending)
            await reader.until(lambda: len(seqs(reader, room_id)) >= len(acked))
            await compare(first, second)
            assert not reader.of("closing")
            assert seqs(reader, room_id) == list(range(1, len(acked) + 1)) == sorted(acked)
        assert await stored(servers.url, room_id) == [content for _, content in sorted(acked.items())]
        assert [node.node.epochs.current for node in (first, second)] == [0, 0]
        for brought in ({}, {"cursors": {room_id: len(acked)}}):
            async with connected(first.url, diego, **brought) as back:
                assert back.of("ready")[0]["reset"] == []
