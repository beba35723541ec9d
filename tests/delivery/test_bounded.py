"""A long replay is complete, uses bounded memory, and delays nobody else."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.brokers import NotingPublisher
from tests.delivery.support import RecordingLink, fill, make_topic, principal, reader
from tests.support.client import connected
from tests.support.node import RunningNode, running_node
from tests.support.process import ServerProcess
from tests.support.yardstick import slowdown
from tidings.fanout.connection import Batch, Connection
from tidings.fanout.pages import PAGE_BYTES, WRITE_BYTES, read_page
from tidings.log.journal import MAX_BATCH_BYTES
from tidings.log.messages import AppendMessage
from tidings.log.views import RoomName
from tidings.transport.socketio_codecs import TextCodec
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.queries import log, rooms, users
from tidings_db.queries.log import Span
from tidings_db.queries.rows import entry_bytes

MB = 1024 * 1024


async def test_ten_thousand_messages_are_replayed_in_bounded_memory_while_others_are_served(
    database_url: str, tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path, TIDINGS_DATABASE_URL=database_url)
    await server.start()
    try:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        small = await make_topic(server.url, other, "otras", token)
        database = Database(database_url, checkpoints=False)
        await database.start()
        try:
            for _ in range(10):
                await fill(database, "diego", {room_id: ["x" * 4000] * 1000}, indexed=True)  # 40 MB
        finally:
            await database.stop()
        process = psutil.Process(server.pid)
        async with connected(server.url, other, cursors={room_id: 10_000, small: 0}) as diego:
            before = process.memory_info().rss
            async with reader(server.url, token, ready=False, cursors={room_id: 0, small: 0}) as slow:
                most, ready = 0, False
                while not ready:
                    await diego.ask("message", room_id=small, content="served")
                    ready = await slow.read_until_ready(500)
                    slow.frames.clear()
                    most = max(most, process.memory_info().rss)
                assert slow.seqs(room_id) == list(range(1, 10_001))
                assert slow.events[-1][1]["replayed"] >= 10_000
                assert most - before < 25 * MB
    finally:
        await server.terminate()


async def test_a_thousand_rooms_with_one_message_each_are_replayed(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    async with connected(server.url, token, device="phone"):
        pass
    room_ids = await many_rooms(server, 1000)
    async with connected(server.url, other) as diego:
        async with reader(server.url, token, ready=False, device="phone", cursors={}) as phone:
            # The rooms are new to the device, which does not read yet: the writer does not wait for it.
            await phone.until_event("room_added")
            await diego.ask("message", room_id=room_ids[-1], content="live")
            assert (await phone.until_event("ready"))["replayed"] in (999, 1000)
            added = [payload["room"]["room_id"] for name, payload in phone.events if name == "room_added"]
            assert added == room_ids
            names = [name for name, payload in phone.events if room_ids[-1] in str(payload)]
            assert names == ["room_added", "message"]
            assert all(phone.seqs(room_id) == [1] for room_id in room_ids)
        async with connected(server.url, token, device="phone", cursors=dict.fromkeys(room_ids, 0)) as phone:
            assert list(dict.fromkeys(m["room_id"] for m in phone.of("message"))) == room_ids
            assert len(phone.of("message")) == 1000
            await diego.ask("message", room_id=room_ids[7], content="live")
            await phone.until(lambda: phone.contents(room_ids[7]) == ["y" * 3000, "live"])


async def test_a_device_gets_new_rooms_no_faster_than_it_reads(server: RunningNode) -> None:
    """A thousand rooms with long messages must not overflow the queue of a device that learns of them."""
    token, _ = await server.register("omar"), await server.register("diego")
    async with connected(server.url, token, device="phone"):
        pass
    room_ids = await many_rooms(server, 60)
    async with connected(server.url, token, device="pc"):
        me, link = principal(server, "omar"), RecordingLink()
        device = await server.node.database.read(partial(users.device, user_key=me.user_key, name="phone"))
        assert device is not None
        connection = Connection(link, me, "phone")
        connection.device_key = device.key
        server.node.catch_up.start(connection, {})
        assert connection.replay is not None
        read = 0
        while not link.written or link.written[-1][0] != "ready":
            new = link.written[read:]
            assert [name for name, _ in new].count("room_added") <= 20
            assert sum(len(str(payload)) for _, payload in new) <= WRITE_BYTES + PAGE_BYTES
            read = len(link.written)
            link.read()
            waits = asyncio.ensure_future(link.waiting.wait())
            await asyncio.wait([connection.replay, waits], timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert waits.done() or connection.replay.done()
            waits.cancel()
        names = [
            (name, payload.get("room_id") or payload["room"]["room_id"])
            for name, payload in link.written[:-1]
            if name != "receipt"  # the other device may confirm messages before this replay ends
        ]
        assert names == [("room_added", added) for added in room_ids] + [
            ("message", filled) for filled in room_ids[:-1]
        ]
        server.node.hub.remove(connection)


async def many_rooms(server: RunningNode, count: int) -> list[str]:
    """Topics of diego and omar with one message each, except the last, which is empty."""
    diego, omar = [await server.node.auth.user(name) for name in ("diego", "omar")]

    def make(conn: Transaction) -> list[str]:
        room_ids = [f"{n:024x}" for n in range(count)]
        new = [{"room_id": name, "kind": "topic", "is_private": False, "topic_name": name} for name in room_ids]
        conn.execute(
            insert(models.rooms),
            [room | {"name_key": room["room_id"], "members": 2, "created_at": 0} for room in new],
        )
        keys = dict(conn.execute(select(models.rooms.c.room_id, models.rooms.c.id)).all())
        conn.execute(
            insert(models.members),
            [
                {"room_id": keys[room_id], "user_id": user.key, "role": "member", "joined_at": 0, "joined_seq": 0}
                for room_id in room_ids
                for user in (diego, omar)
            ],
        )
        return room_ids

    room_ids = await server.node.database.write(make)
    await fill(server.node.database, "diego", {room_id: ["y" * 3000] for room_id in room_ids[:-1]})
    return room_ids


async def test_a_replay_of_the_longest_messages_fits_the_connection(server: RunningNode) -> None:
    """A page of entries of 64 KB each (UTF-8) must not overflow the queue of a reader that keeps up."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    await fill(server.node.database, "diego", {room_id: ["1"] * 300 + ["🦉" * 16_384] * 100})
    async with connected(server.url, token, cursors={room_id: 0}) as omar:
        assert [m["seq"] for m in omar.of("message")] == list(range(1, 401))


async def test_the_entries_of_one_batch_fit_the_queue_of_a_connection(database_url: str, tmp_path: Path) -> None:
    publisher = NotingPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher}) as server:
        token = await server.register("omar")
        room_id = await make_topic(server.url, token, "noticias")
        async with connected(server.url, token) as omar:
            me, key = principal(server, "omar"), server.node.hub.key(room_id)
            # All of them are queued before the journal takes the first batch.
            contents = ["🦉" * 16_384, "x" * 16_384, "x"] * 20
            await asyncio.gather(
                *(server.node.journal.hand_over(AppendMessage(me, key, content)) for content in contents)
            )
            sizes = [sum(map(entry_bytes, notice.entries)) for notice in publisher.appended]
            assert max(sizes) <= MAX_BATCH_BYTES
            assert min(sizes[:-1]) > MAX_BATCH_BYTES // 2  # batches are filled
            await omar.until(lambda: omar.contents() == contents)


async def test_a_page_is_bounded_in_bytes_and_misses_nothing(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    first = await make_topic(server.url, other, "first", token)
    second = await make_topic(server.url, other, "second", token)
    foreign = await make_topic(server.url, other, "foreign")
    database = server.node.database
    for n, room_id in enumerate((first, foreign, second)):
        await fill(database, "diego", {room_id: ["é" * (1000 * k * (n + 1)) for k in (1, 3, 16)]})
    omar = await server.node.auth.user("omar")
    keys = [
        (await database.read(lambda conn, r=r: rooms.find(conn, room_id=r))).key for r in (first, foreign, second)
    ]
    names = {key: RoomName(key, str(key), None, False) for key in keys}
    wanted = [Span(key, 0, 3) for key in keys]
    read: list[tuple[int, int]] = []
    while wanted:
        covered, chunks = await database.read(
            partial(read_page, user_key=omar.key, spans=wanted, names=names, codec=TextCodec(), max_bytes=10_000)
        )
        assert covered
        messages = [message for chunk in chunks for message in chunk.messages]
        assert sum(map(len, messages[:-1])) < 10_000
        for chunk in chunks:
            assert len(chunk.messages) == chunk.last - chunk.first + 1
            read += [(chunk.room_key, seq) for seq in range(chunk.first, chunk.last + 1)]
        upto = {span.room_key: span.upto for span in covered}
        wanted = [span._replace(after=upto.get(span.room_key, span.after)) for span in wanted]
        wanted = [span for span in wanted if span.after < span.upto]
    assert sorted(read) == [(key, seq) for key in sorted((keys[0], keys[2])) for seq in (1, 2, 3)]
    seq = 0
    while page := await database.read(partial(log.after, room_key=keys[2], seq=seq, limit=2, max_bytes=10_000)):
        assert [entry.seq for entry in page] in ([seq + 1], [seq + 1, seq + 2])
        seq = page[-1].seq
    assert seq == 3


async def test_a_connection_gets_nothing_after_a_dropped_event(server: RunningNode) -> None:
    """Otherwise the reader's cursor would move past the dropped event."""
    token = await server.register("omar")
    async with reader(server.url, token) as slow:
        (connection,) = server.node.hub.connections
        before = len(slow.events)
        for n in range(2000):  # in one step of the event loop, large and small ones alternating
            connection.link.write(Batch([("message", {"n": n, "content": "x" * (100_000 if n % 2 else 10)})]))
        await slow.until_closed()
        received = [payload["n"] for name, payload in slow.events[before:] if name == "message"]
        assert received == list(range(len(received)))
        assert 0 < len(received) < 2000


async def test_many_cursors_of_missing_rooms_are_answered_quickly(server: RunningNode) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    unknown = {f"{n:064}": 1 for n in range(9_999)}
    async with reader(server.url, token, cursors=unknown | {room_id: 0}) as omar:
        removed = [payload["room_id"] for name, payload in omar.events if name == "room_removed"]
        assert removed == sorted(unknown)
        began = time.process_time()
        assert await omar.ask("delivered", cursors=unknown) == {"ok": True, "data": {}}
        assert (time.process_time() - began) / slowdown() < 2


async def test_readers_that_disconnect_during_a_replay_return_their_database_connections(server: RunningNode) -> None:
    """There are more readers than database connections: an abandoned read has to return its connection."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    await fill(server.node.database, "diego", {room_id: ["x" * 3000] * 1500})
    for n in range(30):
        async with reader(server.url, token, ready=False, cursors={room_id: 0}) as leaving:
            for _ in range(n * 3):
                await leaving.next()
    async with reader(server.url, token, cursors={room_id: 0}) as omar:
        assert omar.seqs(room_id) == list(range(1, 1501))
        assert (await omar.ask("history", room_id=room_id))["ok"]
        assert (await omar.ask("get_profile", username="omar"))["data"]["online"]
