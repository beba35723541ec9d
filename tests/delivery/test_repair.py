"""A broker is a hint, the database is the truth: what a notice did not tell is found."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.delivery.brokers import DeafBroker, FaultyBroker
from tests.delivery.support import make_topic, reader, seqs
from tests.support.client import Client, connected
from tests.support.node import running_node


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


async def test_a_large_gap_is_repaired_for_who_reads_although_another_does_not(
    database_url: str, tmp_path: Path
) -> None:
    broker = DeafBroker()
    async with running_node(database_url, tmp_path, options={"broker": broker, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, token, "noticias", other)
        async with connected(server.url, token) as omar, reader(server.url, other) as slow:
            broker.deaf = True
            for _ in range(10):
                sent = [omar.send("message", {"room_id": room_id, "content": "x" * 16_000}) for _ in range(50)]
                assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            broker.deaf = False
            await omar.ask("message", room_id=room_id, content="last")
            await omar.until(lambda: len(omar.of("message")) == 501)
            assert seqs(omar, room_id) == list(range(1, 502))
            # The other may have been closed for not reading; what it has is the beginning.
            with contextlib.suppress(ConnectionClosed):
                while len(slow.seqs(room_id)) < 501:
                    await slow.next()
            got = slow.seqs(room_id)
            assert got == list(range(1, len(got) + 1))
