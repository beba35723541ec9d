"""The broker is only a hint: entries whose notices were lost are read from the database."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.brokers import DeafPublisher, FaultyPublisher
from tests.delivery.support import RecordingLink, fill, make_topic, principal, seqs
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.commits import commits
from tests.support.node import RunningNode, running_node
from tidings.auth.principal import Principal
from tidings.contract.errors import CloseReason
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.repair import REPAIR_BYTES, read_missed
from tidings.log.notices import Appended
from tidings_db.engine import StoreUnavailable
from tidings_db.queries import rooms


@pytest.mark.parametrize("seed", [1])
async def test_every_connection_gets_every_entry_once_and_in_order_over_a_faulty_broker(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    publisher = FaultyPublisher(seed)
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 0.05}) as server:
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
            if n == 30:  # one connection begins in the middle
                clients.append(await Client(server.url, tokens[1], device="late").connect())
        assert publisher.harm[Appended] > 30
        total = 60 * 3 + 29
        for client in clients:
            for room_id in room_ids:
                await client.until(lambda c=client, r=room_id: bool(seqs(c, r)) and seqs(c, r)[-1] >= total)
                received = seqs(client, room_id)
                assert received == list(range(received[0], total + 1))
                assert client.auth.get("device") == "late" or received[0] == 1
        for client in clients:
            await client.close()


async def test_a_lost_notice_is_found_by_the_next_one(database_url: str, tmp_path: Path) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            await server.node.hub.repairs.settled()  # a room that is new to this node is checked once
            publisher.deaf = True
            for n in range(1, 4):
                await omar.ask("message", room_id=room_id, content=str(n))
            publisher.deaf = False
            assert omar.of("message") == []
            await omar.ask("message", room_id=room_id, content="4")
            await omar.until(lambda: len(omar.of("message")) == 4)
            assert seqs(omar, room_id) == [1, 2, 3, 4]


async def test_a_lost_notice_is_found_by_the_periodic_check(database_url: str, tmp_path: Path) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 0.05}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            publisher.deaf = True
            await omar.ask("message", room_id=room_id, content="1")
            await omar.until(lambda: omar.contents() == ["1"])


async def test_a_large_gap_is_repaired_in_pieces_no_faster_than_its_readers_read(
    database_url: str, tmp_path: Path
) -> None:
    """Otherwise the repair would overflow the queue of readers that keep up."""
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            hub, link = server.node.hub, RecordingLink()
            connection = Connection(link, principal(server, "omar"), "recorded")
            room = await server.node.database.read(partial(rooms.find, room_id=room_id))
            assert room is not None
            assert hub.attach(connection, room, 0)
            await hub.repairs.settled()  # a room that is new to this node is checked once
            publisher.deaf = True
            sent = [omar.send("message", {"room_id": room_id, "content": "x" * 16_000}) for _ in range(64)]
            assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            publisher.deaf = False
            await omar.ask("message", room_id=room_id, content="last")
            read = 0
            while len(link.written) < 65:
                await asyncio.wait_for(link.waiting.wait(), 30)
                assert 0 < len(link.written) - read <= REPAIR_BYTES // 16_000 + 1
                read = len(link.written)
                link.read()
                if read < 65:
                    await link.until(read + 1)
            assert [payload["seq"] for _, payload in link.written] == list(range(1, 66))
            await omar.until(lambda: seqs(omar, room_id) == list(range(1, 66)))
            hub.detach(connection, room.key)


async def test_a_reader_that_does_not_read_delays_a_repair_for_a_bounded_time(
    database_url: str, tmp_path: Path
) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, token, "noticias", other)
        async with connected(server.url, token) as omar:
            hub, link = server.node.hub, RecordingLink()
            connection = Connection(link, principal(server, "omar"), "recorded")
            room = await server.node.database.read(partial(rooms.find, room_id=room_id))
            assert room is not None
            hub.attach(connection, room, 0)
            publisher.deaf = True
            sent = [omar.send("message", {"room_id": room_id, "content": "x" * 16_000}) for _ in range(24)]
            assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            publisher.deaf = False
            await omar.ask("message", room_id=room_id, content="last")
            await omar.until(lambda: seqs(omar, room_id) == list(range(1, 26)), deadline=5)
            assert link.waiting.is_set()
            hub.detach(connection, room.key)


async def test_a_room_whose_head_moved_before_its_first_reader_entered_is_repaired(
    database_url: str, tmp_path: Path
) -> None:
    """No periodic check is needed: the next one is an hour away."""
    async with running_node(database_url, tmp_path, options={"head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        room = await server.node.database.read(partial(rooms.find, room_id=room_id))
        assert room is not None
        await fill(server.node.database, "omar", {room_id: ["1"]})  # after the room was read
        omar, link = await server.node.auth.user("omar"), RecordingLink()
        connection = Connection(link, Principal(omar.key, omar.username, 0, "", 0), "recorded")
        assert server.node.hub.attach(connection, room, room.last_seq)
        await link.until(1)
        assert link.written[0][1]["content"] == "1"
        server.node.hub.detach(connection, room.key)


async def test_a_commit_whose_answer_was_lost_is_delivered_immediately(postgresql_url: str, tmp_path: Path) -> None:
    """Its sender gets `unavailable` and may not retry; no notice was published."""
    async with (
        commits(postgresql_url) as (link, url),
        running_node(url, tmp_path, options={"head_check_s": 3600}) as server,
    ):
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, token, "noticias", other)
        async with connected(server.url, token) as omar, connected(server.url, other) as diego:
            await server.node.hub.repairs.settled()
            link.lose_answer(b"lost")
            with pytest.raises(Refused) as refused:
                await omar.ask("message", room_id=room_id, content="lost", client_id="1")
            assert refused.value.code == "unavailable"
            await asyncio.wait_for(link.lost.wait(), DEADLINE_S)
            for client in (omar, diego):
                await client.event("message", lambda m: m["content"] == "lost")
            await omar.ask("message", room_id=room_id, content="lost", client_id="1")
            await omar.ask("message", room_id=room_id, content="2")
            await diego.until(lambda: diego.contents() == ["lost", "2"])


@pytest.mark.parametrize("error", [StoreUnavailable("away"), LookupError("unexpected")], ids=str)
async def test_a_repair_that_fails_is_logged_and_tried_again(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            await server.node.hub.repairs.settled()
            monkeypatch.setattr(server.node.hub.repairs, "_retry_s", 0.01)
            read, failures = server.node.database.read, 2

            async def fail_first(query: Any) -> Any:
                nonlocal failures
                if getattr(query, "func", None) is read_missed and failures:
                    failures -= 1
                    raise error
                return await read(query)

            monkeypatch.setattr(server.node.database, "read", fail_first)
            publisher.deaf = True
            await omar.ask("message", room_id=room_id, content="1")
            publisher.deaf = False
            await omar.ask("message", room_id=room_id, content="2")
            await omar.until(lambda: omar.contents() == ["1", "2"])
            assert [record.name for record in caplog.records] == ["tidings.repair"] * 2


async def test_a_room_suspected_while_the_store_is_away_is_repaired_when_it_returns(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            hub, database = server.node.hub, server.node.database
            await hub.repairs.settled()
            monkeypatch.setattr(hub.repairs, "_retry_s", 0.01)
            publisher.deaf = True
            await omar.ask("message", room_id=room_id, content="1")
            read, failures = database.read, 2

            async def fail_first(query: Any) -> Any:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise StoreUnavailable("away")
                return await read(query)

            monkeypatch.setattr(database, "read", fail_first)
            key = hub.key(room_id)
            assert key is not None
            hub.suspect([key])
            await omar.until(lambda: omar.contents() == ["1"])


class BrokenLink(RecordingLink):
    """Every write fails."""

    def write(self, batch: Batch) -> None:
        raise LookupError("a bug")


async def test_a_connection_that_missed_a_delivery_is_told_to_reconnect(server: RunningNode) -> None:
    """A failing connection leaves no unnoticed gap on the others."""
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.url, token, device=str(n))) for n in range(8)]
        hub, room = server.node.hub, await server.node.database.read(partial(rooms.find, room_id=room_id))
        assert room is not None
        broken = Connection(BrokenLink(), principal(server, "omar"), "broken")
        assert hub.attach(broken, room, 0)
        await clients[0].ask("message", room_id=room_id, content="1")
        for client in clients:
            await client.until(lambda client=client: bool(client.contents() or client.of("closing")))
            assert client.contents() or client.of("closing") == [{"reason": "shutdown", "reconnect": True}]
        assert broken.link.closed is CloseReason.SHUTDOWN
        hub.detach(broken, room.key)
