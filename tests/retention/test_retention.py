"""Expired entries are deleted; counts stay right, and no device misses entries without a `reset`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.delivery.brokers import DeafPublisher
from tests.delivery.support import fill, make_topic, rest
from tests.retention.conftest import Kept
from tests.support.client import Client, Refused, connected
from tests.support.locks import locked
from tests.support.node import running_node
from tidings.fanout import catchup
from tidings.fanout.pages import Page, PageRequest, Pages
from tidings.log import retention
from tidings.node import NodeOptions
from tidings_db.models import search_documents


async def topic(kept: Kept, count: int) -> tuple[str, str, str]:
    """Create a topic of omar and diego with `count` messages; returns its id and their tokens."""
    omar, diego = await kept.server.register("omar"), await kept.server.register("diego")
    room_id = await make_topic(kept.server.url, omar, "noticias", diego)
    if count:
        await fill(kept.server.node.database, "omar", {room_id: [str(n) for n in range(1, count + 1)]})
        await kept.age(room_id, count, 0)
    return room_id, omar, diego


async def room_of(client: Client, room_id: str) -> dict[str, Any]:
    return next(room for room in (await client.ask("get_rooms"))["rooms"] if room["room_id"] == room_id)


async def test_only_expired_entries_at_the_beginning_of_the_log_are_deleted(kept: Kept) -> None:
    room_id, omar, _ = await topic(kept, 6)
    await kept.age(room_id, 4, 11)
    await kept.age(room_id, 2, 9)  # the clock went back: an entry behind a newer one stays, too
    await kept.run_retention()
    assert await kept.stored(room_id) == [1, 2, 3, 4, 5, 6]
    await kept.age(room_id, 4, 11)
    await kept.run_retention()
    assert await kept.stored(room_id) == [5, 6]
    async with connected(kept.server.url, omar) as client:
        page = await client.ask("history", room_id=room_id)
        assert ([m["seq"] for m in page["messages"]], page["has_more"]) == ([5, 6], False)
        sent = await client.ask("message", room_id=room_id, content="next")
        assert sent["seq"] == 7


async def test_a_log_continues_after_all_its_entries_were_deleted(kept: Kept) -> None:
    room_id, omar, _ = await topic(kept, 3)
    await kept.trim(room_id, 3)
    assert await kept.stored(room_id) == []
    async with connected(kept.server.url, omar) as client:
        room = await room_of(client, room_id)
        assert (room["last_seq"], room["last_message"], room["unread"]) == (3, None, 0)
        assert (await client.ask("history", room_id=room_id))["messages"] == []
        assert (await client.ask("message", room_id=room_id, content="next"))["seq"] == 4
        await client.event("message", lambda m: m["seq"] == 4)
    await kept.run_retention(days=1)
    assert await kept.stored(room_id) == [4]


async def test_without_a_setting_everything_stays(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path) as server:
        kept = Kept(server)
        room_id, _, _ = await topic(kept, 3)
        await kept.trim(room_id, 3)
        assert await kept.stored(room_id) == [1, 2, 3]


async def test_each_kind_of_room_has_its_own_retention_time(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, retention_direct_days=10, retention_group_days=30) as server:
        kept = Kept(server)
        room_id, omar, _ = await topic(kept, 1)
        async with connected(server.url, omar) as client:
            direct = (await client.ask("message", username="diego", content="x"))["room_id"]
            group = (await client.ask("create_conversation", usernames=["diego"], title="t"))["room_id"]
            await client.ask("message", room_id=group, content="x")
        rooms = (room_id, direct, group)
        for each in rooms:
            await kept.age(each, 1, 20)
        await kept.run_retention()
        assert [await kept.stored(each) for each in rooms] == [[1], [], [1]]
        await kept.run_retention(days=11)
        assert [await kept.stored(each) for each in rooms] == [[1], [], []]


async def test_unread_counts_only_kept_messages_after_the_read_marker(kept: Kept) -> None:
    room_id, omar, diego = await topic(kept, 10)
    async with connected(kept.server.url, diego) as client:
        assert await client.ask("read", room_id=room_id, seq=2) == {"unread": 8}
        await kept.trim(room_id, 4)
        assert (await room_of(client, room_id))["unread"] == 6
        assert await client.ask("read", room_id=room_id, seq=3) == {"unread": 6}  # a deleted one
        assert (await room_of(client, room_id))["unread"] == 6
        assert await client.ask("read", room_id=room_id, seq=7) == {"unread": 3}
        await kept.trim(room_id, 10)
        assert (await room_of(client, room_id))["unread"] == 0
        async with rest(kept.server.url, omar) as http:
            await http.post("/api/messages", json={"room_id": room_id, "content": "next"})
        assert (await room_of(client, room_id))["unread"] == 1
        assert await client.ask("read", room_id=room_id, seq=9) == {"unread": 1}
        assert await client.ask("read", room_id=room_id, seq=11) == {"unread": 0}


async def test_deleted_messages_are_not_found_and_their_words_are_removed(kept: Kept) -> None:
    room_id, omar, _ = await topic(kept, 3)
    async with connected(kept.server.url, omar) as client:
        for n in range(3):
            await client.ask("message", room_id=room_id, content=f"palabra {n}")
        await kept.server.node.indexer.caught_up()
        assert len((await client.ask("search", query="palabra"))["messages"]) == 3
        await kept.trim(room_id, 5)
        results = (await client.ask("search", query="palabra"))["messages"]
        assert [message["content"] for message in results] == ["palabra 2"]
    assert await kept.count(search_documents) == 1


async def test_a_change_of_a_deleted_message_is_replayed_with_a_tombstone(kept: Kept) -> None:
    room_id, omar, diego = await topic(kept, 1)
    async with connected(kept.server.url, diego):
        pass
    async with connected(kept.server.url, omar) as client:
        message = (await client.ask("history", room_id=room_id))["messages"][0]
        await client.ask("react", message_id=message["id"], emoji="👍")
        await kept.trim(room_id, 1)
        with pytest.raises(Refused) as refused:
            await client.ask("edit", message_id=message["id"], content="new")
        assert refused.value.code == "not_found"
    async with connected(kept.server.url, diego) as returned:
        (reaction,) = returned.of("reaction")
        assert (reaction["seq"], reaction["message"]["id"], reaction["message"]["content"]) == (2, message["id"], "")


@pytest.mark.parametrize("sends_cursors", [True, False])
async def test_a_device_behind_the_first_kept_entry_gets_a_reset_and_the_kept_entries(
    kept: Kept, *, sends_cursors: bool
) -> None:
    room_id, _, diego = await topic(kept, 0)
    async with connected(kept.server.url, diego, device="phone"):
        pass
    await fill(kept.server.node.database, "omar", {room_id: [str(n) for n in range(1, 11)]})
    await kept.age(room_id, 10, 0)
    await kept.trim(room_id, 6)
    cursors = {"cursors": {room_id: 2}} if sends_cursors else {}
    async with connected(kept.server.url, diego, device="phone", **cursors) as phone:
        assert phone.contents() == ["7", "8", "9", "10"]
        assert phone.of("ready")[0]["reset"] == [room_id]
        await phone.ask("delivered", cursors={room_id: 10})
    cursors = {"cursors": {room_id: 10}} if sends_cursors else {}
    async with connected(kept.server.url, diego, device="phone", **cursors) as phone:
        assert (phone.contents(), phone.of("ready")[0]["reset"]) == ([], [])


async def test_a_device_at_the_last_deleted_entry_is_not_reset(kept: Kept) -> None:
    room_id, _, diego = await topic(kept, 5)
    await kept.trim(room_id, 3)
    async with connected(kept.server.url, diego, device="phone", cursors={room_id: 3}) as phone:
        assert (phone.contents(), phone.of("ready")[0]["reset"]) == (["4", "5"], [])
    await kept.trim(room_id, 5)
    async with connected(kept.server.url, diego, device="phone", cursors={room_id: 5}) as phone:
        assert (phone.contents(), phone.of("ready")[0]["reset"]) == ([], [])


async def test_a_device_that_is_new_to_a_room_gets_the_kept_entries(kept: Kept) -> None:
    room_id, _, diego = await topic(kept, 0)
    async with connected(kept.server.url, diego, device="phone"):
        pass
    async with rest(kept.server.url, diego) as http:
        await http.delete("/api/subscriptions", params={"room_id": room_id})
        await http.post("/api/subscriptions", json={"topic_name": "noticias"})
    await fill(kept.server.node.database, "omar", {room_id: ["1", "2", "3", "4"]})
    await kept.age(room_id, 4, 0)
    await kept.trim(room_id, 2)
    async with connected(kept.server.url, diego, device="phone") as phone:
        assert phone.contents() == ["3", "4"]
        assert phone.of("ready")[0]["reset"] == []
        assert [event["room"]["room_id"] for event in phone.of("room_added")] == [room_id]


@pytest.mark.parametrize("upto", [30, 40], ids=["some left", "none left"])
async def test_a_replay_that_retention_overtakes_is_closed_and_the_next_is_complete(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, upto: int
) -> None:
    """The replay neither hangs nor continues behind a gap."""
    room_id, omar, diego = await topic(kept, 0)
    async with connected(kept.server.url, diego, device="phone"):
        pass
    await fill(kept.server.node.database, "omar", {room_id: [str(n) for n in range(1, 41)]})
    await kept.age(room_id, 40, 0)
    monkeypatch.setattr(catchup, "FIRST_PAGE", 10)
    read, reads = Pages.read, 0

    async def read_slowly(self: Pages, wanted: PageRequest) -> Page:
        nonlocal reads
        page = await read(self, wanted)
        reads += 1
        if reads == 1:
            await kept.trim(room_id, upto)
        return page

    monkeypatch.setattr(Pages, "read", read_slowly)
    phone = Client(kept.server.url, diego, device="phone")
    await phone.connect(ready=False)
    closing = await phone.event("closing")
    assert closing == {"reason": "shutdown", "reconnect": True}
    await asyncio.wait_for(phone.closed.wait(), 30)
    assert phone.contents() == [str(n) for n in range(1, 11)]
    async with connected(kept.server.url, diego, device="phone", cursors={room_id: 10}) as phone:
        assert phone.contents() == [str(n) for n in range(upto + 1, 41)]
        assert phone.of("ready")[0]["reset"] == [room_id]
        async with rest(kept.server.url, omar) as http:
            await http.post("/api/messages", json={"room_id": room_id, "content": "live"})
        await phone.event("message", lambda m: m["content"] == "live")


async def test_a_connection_that_missed_a_deleted_entry_is_closed_to_reconnect(
    database_url: str, tmp_path: Path
) -> None:
    publisher = DeafPublisher()
    async with running_node(
        database_url, tmp_path, options={"publisher": publisher}, retention_topic_days=10
    ) as server:
        kept = Kept(server)
        room_id, omar, diego = await topic(kept, 0)
        async with connected(server.url, diego, device="phone") as phone, rest(server.url, omar) as http:
            await server.node.hub.repairs.settled()  # a room that is new to this node is checked once
            publisher.deaf = True
            for n in range(4):
                await http.post("/api/messages", json={"room_id": room_id, "content": str(n)})
            await kept.trim(room_id, 2)
            publisher.deaf = False
            await http.post("/api/messages", json={"room_id": room_id, "content": "4"})
            assert (await phone.event("closing"))["reason"] == "shutdown"
            assert phone.contents() == []
        async with connected(server.url, diego, device="phone", cursors={room_id: 0}) as phone:
            assert phone.contents() == ["2", "3", "4"]
            assert phone.of("ready")[0]["reset"] == [room_id]


async def test_no_transaction_deletes_more_than_a_step(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other changes are committed in between."""
    room_id, _, _ = await topic(kept, 25)
    monkeypatch.setattr(retention, "STEP", 10)
    write, deleted = kept.server.node.database.write, []

    async def counted(change: Any, **options: Any) -> Any:
        before = len(await kept.stored(room_id))
        result = await write(change, **options)
        if getattr(change, "func", None) is not None:
            deleted.append(before - len(await kept.stored(room_id)))
        return result

    await kept.age(room_id, 25)
    monkeypatch.setattr(kept.server.node.database, "write", counted)
    await kept.run_retention()
    assert deleted == [10, 10, 5]


def test_a_step_is_small() -> None:
    assert retention.STEP <= 100


async def test_retention_waits_for_no_locked_room(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path, retention_topic_days=10) as server:
        kept = Kept(server)
        omar = await server.register("omar")
        busy, free = [await make_topic(server.url, omar, name) for name in ("busy", "free")]
        for room_id in (busy, free):
            await fill(server.node.database, "omar", {room_id: ["1", "2", "3"]})
            await kept.age(room_id, 3, 0)
            await kept.age(room_id, 2)
        async with locked(postgresql_url, busy):
            await kept.run_retention()
            assert (await kept.stored(busy), await kept.stored(free)) == ([1, 2, 3], [3])
        await kept.run_retention()
        assert await kept.stored(busy) == [3]


async def test_retention_never_queues_behind_the_lock_of_a_room(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever locks the room next would have to wait behind it."""
    monkeypatch.setattr(retention, "LOCKED_S", 0.0)
    async with running_node(postgresql_url, tmp_path, retention_topic_days=10) as server:
        kept = Kept(server)
        busy = await make_topic(server.url, await server.register("omar"), "busy")
        await fill(server.node.database, "omar", {busy: ["1", "2"]})
        await kept.age(busy, 2)
        watching = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
        try:
            async with locked(postgresql_url, busy):
                round_ = asyncio.ensure_future(kept.run_retention())
                while not round_.done():
                    assert await watching.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
                await round_
        finally:
            await watching.close()
        assert await kept.stored(busy) == [1, 2]


async def test_a_node_deletes_expired_entries_periodically(sqlite_url: str, tmp_path: Path) -> None:
    options = {"retention_s": 0.05}
    async with running_node(sqlite_url, tmp_path, options=options, retention_topic_days=10) as server:
        kept = Kept(server)
        room_id, omar, _ = await topic(kept, 0)  # `fill` would add old entries
        async with rest(server.url, omar) as http:
            for n in range(3):
                await http.post("/api/messages", json={"room_id": room_id, "content": str(n)})
        await kept.age(room_id, 2)
        async with asyncio.timeout(30):
            while await kept.stored(room_id) != [3]:
                pass
    assert NodeOptions().retention_s == retention.RETENTION_S
