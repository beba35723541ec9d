"""Edits, deletions, reactions and removals are entries: delivered in order and once, also after being offline."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.brokers import DeafPublisher, FaultyPublisher
from tests.delivery.support import fill, make_topic, principal, reader, seqs
from tests.support.client import Client, LiveClient, connected
from tests.support.node import RunningNode, running_node
from tests.support.process import ServerProcess
from tidings.contract.errors import ActionError
from tidings.fanout.pages import PAGE_BYTES, WRITE_BYTES, read_page
from tidings.fanout.repair import REPAIR_BYTES, REPAIR_PAGE
from tidings.log.memberships import BanFromRoom, KickMember, Leave
from tidings.log.messages import AppendMessage, ChangeReaction, DeleteMessage, EditMessage
from tidings.log.notices import Appended
from tidings.log.views import RoomName
from tidings.transport.socketio_codecs import TextCodec
from tidings_db.engine import Database
from tidings_db.queries import consumers, log, rooms, users
from tidings_db.queries.log import Span
from tidings_db.queries.rows import EntryRow, RoomRow, entry_bytes
from tidings_db.queries.search import CONSUMER

MB = 1024 * 1024
CHANGES = ("message_edited", "message_deleted", "reaction")


def entry_events(client: LiveClient, room_id: str) -> list[tuple[str, int]]:
    """The entries of a room received so far: event name and seq."""
    return [(name, p["seq"]) for name, p in client.events if p.get("seq") and p["room_id"] == room_id]


def known_messages(client: LiveClient, before: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The messages that a client knows, by id; it began with those of `before`."""
    known = dict(before)
    for name, payload in client.events:
        message = payload if name == "message" else payload["message"] if name in CHANGES else None
        if message is not None:
            known[message["id"]] = message
    return known


def shown_client_ids(client: LiveClient) -> set[str]:
    """Every `client_id` that this client received."""
    client_ids = {m["client_id"] for m in client.of("message")}
    client_ids |= {p["message"]["client_id"] for name in CHANGES for p in client.of(name)}
    client_ids |= {
        p["room"]["last_message"]["client_id"] for p in client.of("room_added") if p["room"]["last_message"]
    }
    return client_ids - {None}


async def test_a_returning_device_gets_each_missed_change_exactly_once_from_any_cursor(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other, is_private=False)
    history: list[dict[str, dict[str, Any]]] = [{}]
    """history[n]: the messages that a device knows after n entries."""
    async with connected(server.url, token) as omar, connected(server.url, other, device="stays") as diego:
        first, second = [await omar.ask("message", room_id=room_id, content=content) for content in ("uno", "dos")]
        await omar.ask("edit", message_id=first["id"], content="uno!")
        await diego.ask("react", message_id=second["id"], emoji="👍")
        third = await diego.ask("message", room_id=room_id, content="tres", reply_to=first["id"])
        await omar.ask("edit", message_id=first["id"], content="uno!!")
        await omar.ask("delete", message_id=second["id"])
        await omar.ask("react", message_id=third["id"], emoji="👍")
        await omar.ask("react", message_id=third["id"], emoji="👍", remove=True)
        await diego.until(lambda: seqs(diego, room_id) == list(range(1, 10)))
        live = entry_events(diego, room_id)
        for name, payload in diego.events:
            if name == "message" or name in CHANGES:
                message = payload if name == "message" else payload["message"]
                history.append(history[-1] | {message["id"]: message})
        fresh = (await diego.ask("history", room_id=room_id))["messages"]
    assert [name for name, _ in live].count("message") == 3
    for position in range(10):
        async with connected(server.url, other, device="phone", cursors={room_id: position}) as phone:
            assert entry_events(phone, room_id) == live[position:]
            known = known_messages(phone, history[position])
            assert sorted(known.values(), key=lambda m: m["seq"]) == fresh


async def test_changes_of_one_batch_are_delivered_in_order_each_with_its_own_state(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, token, "noticias", other)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        sent = await omar.ask("message", room_id=room_id, content="0", client_id="c1")
        me, key, journal = principal(server, "omar"), server.node.hub.key(room_id), server.node.journal
        assert key is not None
        # Handed over in one step of the event loop, so they are in one batch.
        futures = [
            journal.hand_over(EditMessage(me, key, 1, 100, "1")),
            journal.hand_over(AppendMessage(me, key, "next")),
            journal.hand_over(ChangeReaction(me, key, 1, 100, "👍", False)),
            journal.hand_over(EditMessage(me, key, 1, 100, "2")),
            journal.hand_over(AppendMessage(me, key, "again", "c1")),
            journal.hand_over(DeleteMessage(me, key, 1, 100)),
            journal.hand_over(AppendMessage(me, key, "again", "c1")),
            journal.hand_over(AppendMessage(me, key, "last")),
        ]
        answers = await asyncio.gather(*futures)
        for client in (omar, diego):
            await client.until(lambda c=client: "last" in c.contents())
            assert [name for name, _ in entry_events(client, room_id)] == [
                "message",
                "message_edited",
                "message",
                "reaction",
                "message_edited",
                "message_deleted",
                "message",
            ]
            assert seqs(client, room_id) == list(range(1, 8))
            changed = [p["message"] for name, p in client.events if name in CHANGES]
            assert [m["content"] for m in changed] == ["1", "1", "2", ""]
            assert [m["reactions"] for m in changed] == [{}, {"👍": ["omar"]}, {"👍": ["omar"]}, {}]
            assert {m["id"] for m in changed} == {sent["id"]}
        # A retry is answered with the message as it is at that position of the log.
        assert [answers[4]["content"], answers[6]["content"], answers[6]["deleted"]] == ["2", "", True]


async def test_a_client_id_is_shown_only_to_its_sender_whoever_changes_the_message(
    database_url: str, tmp_path: Path
) -> None:
    """Covers live, repaired and replayed events and reads. The sender sees it in all of them."""
    publisher = DeafPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 3600}) as server:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        async with connected(server.url, token) as omar, connected(server.url, other) as diego:
            sent = [
                await omar.ask("message", room_id=room_id, content=str(n), client_id=f"mine-{n}") for n in range(4)
            ]

            async def change(first: dict[str, Any], second: dict[str, Any]) -> None:
                await omar.ask("edit", message_id=first["id"], content="changed")
                await diego.ask("react", message_id=first["id"], emoji="👍")
                await diego.ask("delete", message_id=second["id"])  # diego owns the room

            await change(*sent[:2])
            await diego.until(lambda: seqs(diego, room_id) == list(range(1, 8)))
            publisher.deaf = True
            await change(*sent[2:])
            publisher.deaf = False
            await diego.ask("message", room_id=room_id, content="the next notice")
            for client, mine in ((omar, {f"mine-{n}" for n in range(4)}), (diego, set())):
                await client.until(lambda c=client: seqs(c, room_id) == list(range(1, 12)))
                assert shown_client_ids(client) == mine
                changes = [p["message"]["client_id"] for name in CHANGES for p in client.of(name)]
                assert all(changes) is bool(mine)
        for reader_token, mine in ((token, {f"mine-{n}" for n in range(4)}), (other, set())):
            async with connected(server.url, reader_token, device="late", cursors={room_id: 0}) as late:
                assert seqs(late, room_id) == list(range(1, 12))
                assert shown_client_ids(late) == mine
                read = (await late.ask("history", room_id=room_id))["messages"]
                assert {m["client_id"] for m in read} - {None} == mine
                (room,) = (await late.ask("get_rooms"))["rooms"]
                assert room["last_message"]["client_id"] is None


async def test_lost_notices_of_changes_are_repaired_in_order_once(database_url: str, tmp_path: Path) -> None:
    publisher = FaultyPublisher(2)
    async with running_node(database_url, tmp_path, options={"publisher": publisher, "head_check_s": 0.05}) as server:
        tokens = [await server.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(server.url, tokens[0], "noticias", tokens[1])
        clients = [await Client(server.url, token).connect() for token in tokens]
        sent = [await clients[0].ask("message", room_id=room_id, content="x") for _ in range(5)]
        for n in range(40):
            message_id = sent[n % 5]["id"]
            answers = await asyncio.gather(
                clients[0].send("edit", {"message_id": message_id, "content": str(n)}),
                clients[1].send("react", {"message_id": message_id, "emoji": f"e{n % 10}", "remove": n % 20 > 10}),
                clients[1].send("message", {"room_id": room_id, "content": str(n)}),
            )
            assert all(answer["ok"] for answer in answers)
        total = (await clients[0].ask("get_rooms"))["rooms"][0]["last_seq"]
        assert publisher.harm[Appended] > 10
        for client in clients:
            await client.until(lambda c=client: seqs(c, room_id)[-1] >= total)
            assert seqs(client, room_id) == list(range(1, total + 1))
            fresh = (await client.ask("history", room_id=room_id, limit=200))["messages"]
            assert sorted(known_messages(client, {}).values(), key=lambda m: m["seq"]) == fresh
            await client.close()


# -- removal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["kicked", "banned", "left"])
@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_removed_member_gets_earlier_entries_of_the_same_batch(
    server: RunningNode, *, is_private: bool, reason: str
) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", is_private=is_private)
    async with connected(server.url, token) as omar, connected(server.url, other) as diego:
        if is_private:
            await diego.ask("invite", room_id=room_id, username="omar")
        else:
            await omar.ask("subscribe", topic_name="noticias")
        await omar.event("room_added")
        at = (await diego.ask("message", room_id=room_id, content="0"))["seq"]
        him, her = principal(server, "omar"), principal(server, "diego")
        key, journal = server.node.hub.key(room_id), server.node.journal
        assert key is not None
        removals = {
            "kicked": KickMember(her, key, him.user_key, "omar"),
            "banned": BanFromRoom(her, key, him.user_key, "omar", None),
            "left": Leave(him, key),
        }
        futures = [
            journal.hand_over(AppendMessage(her, key, "1")),
            journal.hand_over(ChangeReaction(him, key, at, 100, "👍", False)),
            journal.hand_over(removals[reason]),
            journal.hand_over(EditMessage(her, key, at, 100, "secret")),
            journal.hand_over(ChangeReaction(him, key, at, 100, "too late", False)),
            journal.hand_over(AppendMessage(her, key, "3")),
        ]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(outcome, ActionError) for outcome in outcomes] == [False] * 4 + [True, False]
        assert await omar.event("room_removed") == {"room_id": room_id, "reason": reason}
        await omar.ask("get_rooms")
        assert omar.contents() == ["0", "1"]
        assert [p["seq"] for p in omar.of("reaction")] == [at + 2]
        assert omar.of("message_edited") == []
        assert omar.events[-1][0] == "room_removed"
        await diego.until(lambda: diego.contents() == ["0", "1", "3"])
        all_seqs = seqs(diego, room_id)
        assert all_seqs == list(range(1, len(all_seqs) + 1))
    async with connected(server.url, token, cursors={room_id: 0}) as omar:
        assert seqs(omar, room_id) == []
        assert omar.of("room_removed") == [{"room_id": room_id, "reason": "gone"}]


# -- bounded ---------------------------------------------------------------------------------------------------------


async def fill_with_edits(
    database: Database, sender: str, room_id: str, contents: list[str], *, all_of: int | None = None
) -> None:
    """Append messages, then an edit of each, or `all_of` edits of the first. None of them is indexed."""
    await fill(database, sender, {room_id: contents}, indexed=True)

    def append(conn: Transaction) -> None:
        user, room = users.by_key(conn, sender), rooms.find(conn, room_id=room_id)
        assert user is not None
        assert room is not None
        first = room.last_seq - len(contents) + 1
        targets = [first] * all_of if all_of is not None else list(range(first, room.last_seq + 1))
        body = orjson.dumps({"id": "gone", "sender": sender, "created_at": 0}).decode()
        new = [
            EntryRow(
                room_key=room.key,
                seq=room.last_seq + n,
                kind="edit",
                message_id=None,
                sender_key=user.key,
                sender=sender,
                client_id=None,
                content=None,
                reply_to=None,
                body=body,
                messages=room.messages,
                created_at=0,
                edited_at=None,
                deleted=False,
                target_seq=target,
            )
            for n, target in enumerate(targets, 1)
        ]
        log.add(conn, new)
        rooms.save_heads(conn, [room._replace(last_seq=new[-1].seq)])
        consumers.skip(conn, CONSUMER, room.key, room.last_seq + len(targets))

    await database.write(append)


async def test_two_thousand_edited_long_messages_are_replayed_in_bounded_memory(
    database_url: str, tmp_path: Path
) -> None:
    server = ServerProcess(tmp_path, TIDINGS_DATABASE_URL=database_url)
    await server.start()
    try:
        token, other = await server.register("omar"), await server.register("diego")
        room_id = await make_topic(server.url, other, "noticias", token)
        database = Database(database_url, checkpoints=False)
        await database.start()
        try:
            for _ in range(4):
                await fill_with_edits(database, "diego", room_id, ["x" * 16_000] * 500)  # 32 MB, sent twice
        finally:
            await database.stop()
        process = psutil.Process(server.pid)
        async with connected(server.url, other, cursors={room_id: 4000}):
            before = process.memory_info().rss
            async with reader(server.url, token, ready=False, cursors={room_id: 0}) as slow:
                most, ready = 0, False
                while not ready:
                    ready = await slow.read_until_ready(100)
                    slow.frames.clear()
                    most = max(most, process.memory_info().rss)
                assert slow.seqs(room_id) == list(range(1, 4001))
                assert [name for name, _ in slow.events].count("message_edited") == 2000
                assert most - before < 25 * MB
    finally:
        await server.terminate()


async def _room(server: RunningNode, room_id: str) -> RoomRow:
    room = await server.node.database.read(partial(rooms.find, room_id=room_id))
    assert room is not None
    return room


@pytest.mark.parametrize("all_of", [None, 200], ids=["one edit of each", "all of the first"])
async def test_a_page_of_edits_is_bounded_by_their_encoded_size(server: RunningNode, all_of: int | None) -> None:
    """A stored edit is short; its event is as long as the message."""
    token, other = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, other, "noticias", token)
    database = server.node.database
    await fill_with_edits(database, "diego", room_id, ["x" * 16_000] * 200, all_of=all_of)
    omar, room = await server.node.auth.user("omar"), await _room(server, room_id)
    names = {room.key: RoomName(room.key, room_id, None, False)}
    position = 200
    while position < 400:
        wanted = [Span(room.key, position, 400)]
        (covered,), chunks = await database.read(
            partial(read_page, user_key=omar.key, spans=wanted, names=names, codec=TextCodec())
        )
        messages = [message for chunk in chunks for message in chunk.messages]
        assert sum(map(len, messages[:-1])) < PAGE_BYTES
        assert all(sum(map(len, chunk.messages[:-1])) < WRITE_BYTES for chunk in chunks)
        assert [seq for chunk in chunks for seq in range(chunk.first, chunk.last + 1)] == list(
            range(position + 1, covered.upto + 1)
        )
        position = covered.upto
    position = 0
    while position < 400:
        page = await database.read(
            partial(log.after, room_key=room.key, seq=position, limit=REPAIR_PAGE, max_bytes=REPAIR_BYTES)
        )
        assert sum(map(entry_bytes, page)) <= REPAIR_BYTES
        assert [entry.seq for entry in page] == list(range(position + 1, position + 1 + len(page)))
        assert all((entry.target is not None) is (entry.kind == "edit") for entry in page)
        position += len(page)


async def test_a_page_ends_at_its_byte_limit_in_any_chunk(server: RunningNode) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_ids = [await make_topic(server.url, other, name, token) for name in ("one", "two", "three")]
    database, omar = server.node.database, await server.node.auth.user("omar")
    # Two short rooms, and one that fills several chunks.
    await fill(database, "diego", {room_ids[0]: ["x" * 3000], room_ids[1]: ["x" * 3000]})
    await fill(database, "diego", {room_ids[2]: ["x" * 1000] * 400})
    room_rows = [await _room(server, room_id) for room_id in room_ids]
    names = {room.key: RoomName(room.key, room.room_id, None, False) for room in room_rows}
    for max_bytes in (2_000, 5_000, 10_000, WRITE_BYTES + 20_000, 2 * WRITE_BYTES + 20_000):
        wanted = [Span(room.key, 0, room.last_seq) for room in room_rows]
        page = await database.read(
            partial(read_page, user_key=omar.key, spans=wanted, names=names, codec=TextCodec(), max_bytes=max_bytes)
        )
        sizes = [len(message) for chunk in page.chunks for message in chunk.messages]
        assert sum(sizes[:-1]) < max_bytes <= sum(sizes)
        assert page.covered[-1] == Span(page.chunks[-1].room_key, 0, page.chunks[-1].last)
