"""A broker is a hint, the database is the truth: what a notice did not tell is found."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from db.queries import rooms
from server.delivery.connection import Connection, Principal
from server.delivery.hub import REPAIR_BYTES
from tests.delivery.brokers import DeafBroker, FaultyBroker
from tests.delivery.support import RecordingLink, fill, make_topic, principal, seqs
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node


@pytest.mark.parametrize("seed", [1])
async def test_every_connection_gets_every_entry_once_and_in_order_whatever_the_broker_does(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    broker = FaultyBroker(seed)
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 0.05}) as server:
        tokens = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        room_ids = [await make_topic(server.url, tokens[0], name, *tokens[1:]) for name in ("one", "two")]
        clients = [await Client(server.url, token).connect() for token in tokens]
        for n in range(60):
            await asyncio.gather(
                *(
                    client.send("message", {"room_id": room_id, "content": str(n)})
                    for client in clients
                    for room_id in room_ids
                )
            )
            if n == 30:  # and who comes in the middle of it
                clients.append(await Client(server.url, tokens[1], device="late").connect())
        assert broker.harm > 30
        total = 60 * 3 + 29
        for client in clients:
            for room_id in room_ids:
                await client.until(lambda c=client, r=room_id: bool(seqs(c, r)) and seqs(c, r)[-1] >= total)
                got = seqs(client, room_id)
                assert got == list(range(got[0], total + 1))
                assert client.auth.get("device") == "late" or got[0] == 1
        for client in clients:
            await client.close()


async def test_a_lost_notice_is_found_by_the_next_one(database_url: str, tmp_path: Path) -> None:
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            await asyncio.gather(*server.node.hub._background)  # a room that is new here is looked at once
            broker.deaf = True
            for n in range(1, 4):
                await omar.ask("message", room_id=room_id, content=str(n))
            broker.deaf = False
            assert omar.of("message") == []
            await omar.ask("message", room_id=room_id, content="4")
            await omar.until(lambda: len(omar.of("message")) == 4)
            assert seqs(omar, room_id) == [1, 2, 3, 4]


async def test_a_lost_notice_is_found_by_the_periodic_check(database_url: str, tmp_path: Path) -> None:
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 0.05}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            broker.deaf = True
            await omar.ask("message", room_id=room_id, content="1")
            await omar.until(lambda: omar.contents() == ["1"])


async def test_a_large_gap_is_repaired_in_pieces_as_its_readers_take_them(database_url: str, tmp_path: Path) -> None:
    """Else the repair would overflow the queue of every reader, however well they keep up."""
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            hub, link = server.node.hub, RecordingLink()
            connection = Connection(link, principal(server, "omar"), "recorded")
            room = await server.node.database.read(partial(rooms.find, room_id=room_id))
            assert room is not None
            assert hub.attach(connection, room, 0)
            await asyncio.gather(*hub._background)  # a room that is new here is looked at once
            broker.deaf = True
            sent = [omar.send("message", {"room_id": room_id, "content": "x" * 16_000}) for _ in range(64)]
            assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            broker.deaf = False
            await omar.ask("message", room_id=room_id, content="last")
            read = 0
            while len(link.written) < 65:
                await asyncio.wait_for(link.waiting.wait(), 5)
                assert 0 < len(link.written) - read <= REPAIR_BYTES // 16_000 + 1
                read = len(link.written)
                link.read()
                if read < 65:
                    await link.until(read + 1)
            assert [payload["seq"] for _, payload in link.written] == list(range(1, 66))
            await omar.until(lambda: seqs(omar, room_id) == list(range(1, 66)))
            hub.detach(connection, room.key)


async def test_a_reader_that_does_not_read_holds_up_a_repair_no_longer_than_it_must(
    database_url: str, tmp_path: Path
) -> None:
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, token, "noticias", other)
        async with connected(server.url, token) as omar:
            hub, link = server.node.hub, RecordingLink()
            connection = Connection(link, principal(server, "omar"), "recorded")
            room = await server.node.database.read(partial(rooms.find, room_id=room_id))
            assert room is not None
            hub.attach(connection, room, 0)
            broker.deaf = True
            sent = [omar.send("message", {"room_id": room_id, "content": "x" * 16_000}) for _ in range(24)]
            assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            broker.deaf = False
            await omar.ask("message", room_id=room_id, content="last")
            await omar.until(lambda: seqs(omar, room_id) == list(range(1, 26)), deadline=5)
            assert link.waiting.is_set()
            hub.detach(connection, room.key)


async def test_a_room_whose_head_moved_before_its_first_reader_was_there_is_looked_at_again(
    server: RunningNode,
) -> None:
    """Not only at the next periodic check: that is far away."""
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    room = await server.node.database.read(partial(rooms.find, room_id=room_id))
    assert room is not None
    await fill(server.node.database, "omar", {room_id: ["1"]})  # after the room was read
    omar, link = await server.node.auth.user("omar"), RecordingLink()
    connection = Connection(link, Principal(omar.key, omar.username, 0, "", 0), "recorded")
    assert server.node.hub.attach(connection, room, room.last_seq)
    await asyncio.wait_for(link.until(1), 5)
    assert link.written[0][1]["content"] == "1"
    server.node.hub.detach(connection, room.key)
