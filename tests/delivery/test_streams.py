"""Messages that stream over bad networks, to slow readers and between nodes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.delivery.brokers import FaultyPublisher
from tests.delivery.support import BAD, TRANSPORTS, clients_over, make_topic, reader, rest, seqs
from tests.support.client import Client, LiveClient, PlainClient, Refused, connected
from tests.support.network import network
from tests.support.node import RunningNode, running_node
from tests.support.redis import redis_server
from tests.support.streams import texts
from tidings.log.notices import Piece

TEXT = "".join(random.Random(1).choice("añ🐙 lorem ") for _ in range(100_000))
LENGTH = 3000
LOST = (socketio.exceptions.SocketIOError, AssertionError, OSError, ConnectionError)


class Author:
    """Appends `TEXT` piece by piece, and goes on from where the server says."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.offset = 0

    async def append(self, client: LiveClient, upto: int, size: int = 17) -> None:
        """Append up to an offset. Raises one of `LOST` if the connection is lost."""
        while self.offset < upto:
            text = TEXT[self.offset : min(self.offset + size, upto)]
            try:
                answer = await asyncio.wait_for(
                    client.ask("append", message_id=self.message_id, offset=self.offset, text=text), 3
                )
            except Refused as error:
                answer = {"offset": error.details["offset"]}
            self.offset = answer["offset"]


@pytest.mark.parametrize("door", [*TRANSPORTS, "plain"])
async def test_author_and_readers_whose_links_are_cut_have_the_same_text_in_the_end(
    sqlite_url: str, tmp_path: Path, door: str
) -> None:
    """No piece leaves a gap on any connection, and none comes after the end."""
    make = PlainClient if door == "plain" else clients_over(TRANSPORTS[door])["Client"]
    async with running_node(sqlite_url, tmp_path) as server, network(server.url, BAD, BAD, seed=1) as bad:
        omar, diego = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, omar, "cuentos", diego)
        async with rest(server.url, omar) as http:
            sent = await http.post("/api/messages", json={"room_id": room_id, "content": "", "stream": True})
        author = Author(sent.json()["id"])
        for upto in (700, 1500, 2300, LENGTH):
            writer: LiveClient = make(bad.url, omar, device="desk")
            watcher: LiveClient = make(bad.url, diego, device="phone", cursors={room_id: 0})
            await writer.connect()
            await watcher.connect()
            await author.append(writer, upto - 150)
            cut = asyncio.create_task(author.append(writer, upto))
            if upto < LENGTH:
                await watcher.event("message_append", lambda e, upto=upto: e["offset"] >= upto - 500)
                assert bad.cut() > 0
                watched = texts(watcher)  # a polling client may go on without the answer that was cut
                await asyncio.wait([cut], timeout=4)
                cut.cancel()
            else:
                await cut
                finished = await writer.ask("finish", message_id=author.message_id, offset=LENGTH)
                assert finished["content"] == TEXT[:LENGTH]
                await watcher.event("message_finished")
                watched = texts(watcher)
                assert watched == {author.message_id: TEXT[:LENGTH]}
            assert TEXT.startswith(watched[author.message_id])
            with contextlib.suppress(*LOST):
                await asyncio.gather(cut, return_exceptions=True)
            for client in (writer, watcher):
                with contextlib.suppress(Exception):  # closing over a cut link may fail in any way
                    await client.close()


async def test_a_reader_that_does_not_read_gets_longer_pieces_and_is_not_closed(
    server: RunningNode,
) -> None:
    omar, diego = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, omar, "cuentos", diego)
    async with (
        connected(server.url, omar) as author,
        connected(server.url, diego, device="good") as good,
        reader(server.url, diego, device="slow") as slow,
    ):
        messages = [(await author.ask("message", room_id=room_id, content="", stream=True))["id"] for _ in range(40)]
        for offset in range(0, 120_000, 4000):
            for message_id in messages:
                await author.ask("append", message_id=message_id, offset=offset, text="x" * 4000)
        await good.until(lambda: all(len(text) == 120_000 for text in texts(good).values()))
        while not all(
            any(
                e == "message_append" and p["message_id"] == m and p["offset"] + len(p["text"]) == 120_000
                for e, p in slow.events
            )
            for m in messages
        ):
            await slow.next()
        pieces = [payload for name, payload in slow.events if name == "message_append"]
        assert len(pieces) < len(good.of("message_append"))
        assert max(len(piece["text"]) for piece in pieces) > 4000
        for message_id in messages:
            await author.ask("finish", message_id=message_id)
        await slow.until_event("message_finished")


async def test_text_is_shown_again_after_a_restart_and_its_author_goes_on(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as server:
        omar = await server.register("omar")
        room_id = await make_topic(server.url, omar, "cuentos")
        async with connected(server.url, omar) as client:
            author = Author((await client.ask("message", room_id=room_id, content="", stream=True))["id"])
            await author.append(client, 1000)
    async with (
        running_node(sqlite_url, tmp_path) as server,
        connected(server.url, omar, cursors={room_id: 0}) as client,
    ):
        await client.event("message_append")
        assert texts(client) == {author.message_id: TEXT[:1000]}, "an orderly stop stores everything"
        await author.append(client, 1500)
        assert (await client.ask("finish", message_id=author.message_id))["content"] == TEXT[:1500]


@pytest.fixture(params=["notify", "redis"])
async def nodes(
    request: pytest.FixtureRequest, postgresql_url: str, tmp_path: Path
) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes; the second one loses, repeats and delays pieces of text."""
    async with AsyncExitStack() as stack:
        redis: dict[str, Any] = {}
        if request.param == "redis":
            redis["redis_url"] = (await stack.enter_async_context(redis_server())).url
        lossy = FaultyPublisher(3, Piece)
        options: dict[str, Any] = {"streams": {"check_s": 0.2}}
        first = await stack.enter_async_context(running_node(postgresql_url, tmp_path, **redis))
        second = await stack.enter_async_context(
            running_node(postgresql_url, tmp_path, options=options | {"publisher": lossy}, **redis)
        )
        yield first, second
        assert lossy.harm[Piece] > 0


@pytest.mark.long
async def test_readers_on_another_node_lack_nothing_if_pieces_between_the_nodes_are_lost(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    omar, diego = await first.register("omar"), await first.register("diego")
    room_id = await make_topic(first.url, omar, "cuentos", diego)
    async with connected(first.url, omar) as writer, connected(second.url, diego) as watcher:
        author = Author((await writer.ask("message", room_id=room_id, content="", stream=True))["id"])
        await watcher.event("message")
        for upto in range(100, 1600, 100):
            await author.append(writer, upto)
            await asyncio.wait_for(_shown(watcher, author.message_id, upto - 100), 10)
        await watcher.close()
        watcher = await Client(second.url, diego, cursors={room_id: 0}).connect()
        await asyncio.wait_for(_shown(watcher, author.message_id, author.offset), 10)
        await watcher.ask("stop", message_id=author.message_id)
        async with asyncio.timeout(10):
            answer: dict[str, Any] = {"stop": False}
            while not answer["stop"]:
                text = TEXT[author.offset - 1]
                answer = await writer.ask("append", message_id=author.message_id, offset=author.offset - 1, text=text)
        async with connected(second.url, omar, device="there") as other:
            await author.append(other, 2000)
            finished = await other.ask("finish", message_id=author.message_id, offset=2000)
            assert finished["content"] == TEXT[:2000]
        for client in (writer, watcher):
            await client.event("message_finished")
            assert texts(client) == {author.message_id: TEXT[:2000]}
            assert seqs(client, room_id) == [1, 2]
        await watcher.close()


async def _shown(client: Client, message_id: str, length: int) -> None:
    await client.until(lambda: len(texts(client)[message_id]) >= length)


@pytest.mark.long
async def test_a_reader_on_another_node_catches_up_while_the_author_goes_on(
    postgresql_url: str, tmp_path: Path
) -> None:
    """What is missing before a piece is read from the database, when the author's node has stored it."""
    lossy = FaultyPublisher(3, Piece)
    options: dict[str, Any] = {"streams": {"check_s": 3600.0}}
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options=options | {"publisher": lossy}) as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "cuentos", diego)
        async with connected(first.url, omar) as writer, connected(second.url, diego) as watcher:
            author = Author((await writer.ask("message", room_id=room_id, content="", stream=True))["id"])
            await watcher.event("message")
            caught_up = 0
            async with asyncio.timeout(30):
                while caught_up < 3:
                    lossy.lose_next = Piece
                    behind = author.offset + 17
                    await author.append(writer, behind)
                    while len(texts(watcher)[author.message_id]) < behind:
                        await author.append(writer, author.offset + 1)
                    caught_up += 1


@pytest.mark.long
async def test_the_text_of_a_node_that_is_gone_is_finished_by_another_one(
    postgresql_url: str, tmp_path: Path
) -> None:
    options = {"streams": {"silence_s": 2.0, "check_s": 0.2}}
    async with running_node(postgresql_url, tmp_path, options=options) as second:
        omar = await second.register("omar")
        room_id = await make_topic(second.url, omar, "cuentos")
        async with connected(second.url, omar, device="watch") as watcher:
            async with running_node(postgresql_url, tmp_path) as first, connected(first.url, omar) as writer:
                author = Author((await writer.ask("message", room_id=room_id, content="", stream=True))["id"])
                await author.append(writer, 500)
                await watcher.until(lambda: texts(watcher).get(author.message_id) == TEXT[:500])
            event = await watcher.event("message_finished")
            assert (event["message"]["state"], event["message"]["content"]) == ("interrupted", TEXT[:500])
            assert texts(watcher) == {author.message_id: TEXT[:500]}
