"""Private rooms without members are removed once the devices that knew them are notified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.support import fill, rest
from tests.retention.conftest import Kept
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node
from tidings.log import retention
from tidings_db.models import (
    bans,
    consumer_cursors,
    cursors,
    entries,
    invitation_links,
    mutes,
    names,
    read_markers,
    rooms,
    search_documents,
    users,
)

OF_A_ROOM = (
    entries,
    cursors,
    bans,
    mutes,
    read_markers,
    invitation_links,
    consumer_cursors,
    search_documents,
)


@pytest.fixture
async def plain(database_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    """A node without retention times."""
    async with running_node(database_url, tmp_path) as server:
        yield Kept(server)


async def remaining_rows(server: RunningNode, room_id: str) -> dict[str, int]:
    """The number of rows of a room that remain in the database, by table."""

    def read(conn: Transaction) -> dict[str, int]:
        key = conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).scalar()
        counts = {"room": int(key is not None)}
        for table in OF_A_ROOM:
            count = select(func.count()).select_from(table).where(table.c.room_id == key)
            counts[table.name] = conn.execute(count).scalar_one()
        return {name: count for name, count in counts.items() if count}

    return await server.node.database.read(read)


async def private_topic(omar: Client, diego: Client) -> str:
    """A private topic with a ban, a mute, a link and a message."""
    room_id: str = (await omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
    for name in ("diego", "satoshi"):
        await omar.ask("invite", room_id=room_id, username=name)
    await omar.ask("mute", room_id=room_id, username="diego")
    await omar.ask("ban", room_id=room_id, username="satoshi")
    await omar.ask("create_invitation_link", room_id=room_id)
    sent = await omar.ask("message", room_id=room_id, content="x")
    for client in (omar, diego):
        await client.event("message")
        await client.ask("delivered", cursors={room_id: sent["seq"]})
    return room_id


async def test_a_room_without_members_is_removed_with_all_its_rows(
    plain: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        room_id = await private_topic(omar, diego)
        await server.node.indexer.caught_up()  # stores the cursor of the index
        await omar.ask("create", topic_name="later")
        await fill(server.node.database, "omar", {room_id: [str(n) for n in range(25)]})
        await diego.ask("unsubscribe", room_id=room_id)
        await plain.run_retention()
        before = await remaining_rows(server, room_id)
        assert before["room"] == 1
        assert before["entry"] > 25  # omar is still a member
        await omar.ask("unsubscribe", room_id=room_id)
        monkeypatch.setattr(retention, "STEP", 10)
        await plain.run_retention()
        kept_rows = await remaining_rows(server, room_id)
        # These stay until the devices have been notified.
        assert kept_rows.keys() == {
            "room",
            "cursor",
            "ban",
            "mute",
            "consumer_cursor",
        }
        created = await omar.ask("create", topic_name="secreta")  # the name is free
        assert created["room_id"] != room_id
    for name in ("omar", "diego"):  # each device that knew the room is notified once
        async with connected(server.url, tokens[name]) as client:
            assert [event["room_id"] for event in client.of("room_removed")] == [room_id]
        await plain.run_retention()
        async with connected(server.url, tokens[name]) as client:
            assert client.of("room_removed") == []
    await plain.run_retention()
    assert await remaining_rows(server, room_id) == {}


async def test_devices_that_never_return_do_not_keep_a_room(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        room_id = await private_topic(omar, diego)
        await omar.ask("create", topic_name="later")
        await diego.ask("unsubscribe", room_id=room_id)
        await omar.ask("unsubscribe", room_id=room_id)
    await plain.run_retention(days=29)
    assert "cursor" in await remaining_rows(server, room_id)
    await plain.run_retention(days=31)
    assert await remaining_rows(server, room_id) == {}
    async with connected(server.url, tokens["omar"], cursors={room_id: 1}) as omar:
        assert [event["room_id"] for event in omar.of("room_removed")] == [
            room_id
        ]  # a device that sends a cursor is notified all the same


async def test_a_deleted_topic_is_removed(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    await server.node.database.write(lambda conn: conn.execute(update(users).values(admin=True)))
    async with connected(server.url, tokens["diego"]) as diego, rest(server.url, tokens["omar"]) as omar:
        room_id = (await diego.ask("create", topic_name="noticias"))["room_id"]
        await diego.ask("message", room_id=room_id, content="x")
        await diego.ask("create", topic_name="later")
        assert (await omar.delete(f"/api/admin/topics/{room_id}")).is_success
        await diego.event("room_removed")
    await plain.run_retention(days=31)
    await plain.run_retention(days=31)
    assert await remaining_rows(server, room_id) == {}


async def test_rooms_with_members_and_public_topics_stay(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    async with connected(server.url, tokens["omar"]) as omar:
        public = (await omar.ask("create", topic_name="noticias"))["room_id"]
        await omar.ask("message", room_id=public, content="x")
        await omar.ask("unsubscribe", room_id=public)  # anyone may join and become its owner
        private = (await omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
        await omar.ask("message", room_id=private, content="x")
        direct = (await omar.ask("message", username="diego", content="x"))["room_id"]
        await omar.ask("create", topic_name="later")
    await plain.run_retention(days=1000)
    for room_id in (public, private, direct):
        assert (await remaining_rows(server, room_id))["entry"] >= 1
    async with rest(server.url, tokens["diego"]) as http:
        assert (await http.post("/api/subscriptions", json={"topic_name": "noticias"})).status_code == 201


async def test_the_key_of_a_room_is_never_reused(plain: Kept) -> None:
    """A cache or a delayed notice that holds the key must not refer to another room."""
    server = plain.server
    token = await server.register("omar")

    async def key(room_id: str) -> int:
        return await server.node.database.read(
            lambda conn: conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).scalar_one()
        )

    async with connected(server.url, token) as omar:
        first = (await omar.ask("create", topic_name="a", is_private=True))["room_id"]
        first_key = await key(first)
        await omar.ask("unsubscribe", room_id=first)
        await plain.run_retention(days=31)
        await plain.run_retention(days=31)
        second = (await omar.ask("create", topic_name="b", is_private=True))["room_id"]
        assert await key(second) > first_key
        assert await plain.count(names) == 2  # omar and b
        await plain.run_retention(days=31)
        assert await remaining_rows(server, first) == {}
