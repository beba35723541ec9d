"""Private rooms without members are removed once the devices that knew them are notified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection as Transaction

from db.models import (
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
from server.log import retention
from tests.delivery.support import fill, rest
from tests.retention.conftest import Kept
from tests.support.client import Client, connected
from tests.support.node import RunningNode, running_node

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
    """A node that keeps everything for ever."""
    async with running_node(database_url, tmp_path) as server:
        yield Kept(server)


async def left(server: RunningNode, room_id: str) -> dict[str, int]:
    """How many rows the database still has of a room, by table."""

    def read(conn: Transaction) -> dict[str, int]:
        key = conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).scalar()
        found = {"room": int(key is not None)}
        for table in OF_A_ROOM:
            count = select(func.count()).select_from(table).where(table.c.room_id == key)
            found[table.name] = conn.execute(count).scalar_one()
        return {name: count for name, count in found.items() if count}

    return await server.node.database.read(read)


async def private_topic(omar: Client, diego: Client) -> str:
    """A private topic with somebody banned, somebody muted, a link and some messages."""
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


async def test_a_room_that_everybody_left_goes_with_all_that_is_of_it(
    plain: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        room_id = await private_topic(omar, diego)
        await omar.ask("create", topic_name="later")
        await fill(server.node.database, "omar", {room_id: [str(n) for n in range(25)]})
        await diego.ask("unsubscribe", room_id=room_id)
        await plain.pass_over()
        before = await left(server, room_id)
        assert before["room"] == 1
        assert before["entry"] > 25  # omar is still in
        await omar.ask("unsubscribe", room_id=room_id)
        monkeypatch.setattr(retention, "STEP", 10)
        await plain.pass_over()
        rest_of_it = await left(server, room_id)
        # Until the devices have been told.
        assert rest_of_it.keys() == {
            "room",
            "cursor",
            "ban",
            "mute",
            "consumer_cursor",
        }
        created = await omar.ask("create", topic_name="secreta")  # the name is free
        assert created["room_id"] != room_id
    for name in ("omar", "diego"):  # each device that was in is told, once
        async with connected(server.url, tokens[name]) as client:
            assert [one["room_id"] for one in client.of("room_removed")] == [room_id]
        await plain.pass_over()
        async with connected(server.url, tokens[name]) as client:
            assert client.of("room_removed") == []
    await plain.pass_over()
    assert await left(server, room_id) == {}


async def test_devices_that_never_come_back_do_not_keep_a_room(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego", "satoshi")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        room_id = await private_topic(omar, diego)
        await omar.ask("create", topic_name="later")
        await diego.ask("unsubscribe", room_id=room_id)
        await omar.ask("unsubscribe", room_id=room_id)
    await plain.pass_over(days=29)
    assert "cursor" in await left(server, room_id)
    await plain.pass_over(days=31)
    assert await left(server, room_id) == {}
    async with connected(server.url, tokens["omar"], cursors={room_id: 1}) as omar:
        assert [one["room_id"] for one in omar.of("room_removed")] == [room_id]  # who asks is told all the same


async def test_a_topic_that_was_deleted_goes(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    await server.node.database.write(lambda conn: conn.execute(update(users).values(admin=True)))
    async with connected(server.url, tokens["diego"]) as diego, rest(server.url, tokens["omar"]) as omar:
        room_id = (await diego.ask("create", topic_name="noticias"))["room_id"]
        await diego.ask("message", room_id=room_id, content="x")
        await diego.ask("create", topic_name="later")
        assert (await omar.delete(f"/api/admin/topics/{room_id}")).is_success
        await diego.event("room_removed")
    await plain.pass_over(days=31)
    await plain.pass_over(days=31)
    assert await left(server, room_id) == {}


async def test_rooms_that_somebody_is_in_or_may_come_to_stay(plain: Kept) -> None:
    server = plain.server
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    async with connected(server.url, tokens["omar"]) as omar:
        public = (await omar.ask("create", topic_name="noticias"))["room_id"]
        await omar.ask("message", room_id=public, content="x")
        await omar.ask("unsubscribe", room_id=public)  # anyone may come and take it over
        private = (await omar.ask("create", topic_name="secreta", is_private=True))["room_id"]
        await omar.ask("message", room_id=private, content="x")
        direct = (await omar.ask("message", username="diego", content="x"))["room_id"]
        await omar.ask("create", topic_name="later")
    await plain.pass_over(days=1000)
    for room_id in (public, private, direct):
        assert (await left(server, room_id))["entry"] >= 1
    async with rest(server.url, tokens["diego"]) as http:
        assert (await http.post("/api/subscriptions", json={"topic_name": "noticias"})).status_code == 201


async def test_the_key_of_a_room_is_never_given_to_another(plain: Kept) -> None:
    """Whoever knows a room by its key, a cache or a notice on its way, must not mean another one."""
    server = plain.server
    token = await server.register("omar")

    async def key(room_id: str) -> int:
        return await server.node.database.read(
            lambda conn: conn.execute(select(rooms.c.id).where(rooms.c.room_id == room_id)).scalar_one()
        )

    async with connected(server.url, token) as omar:
        first = (await omar.ask("create", topic_name="a", is_private=True))["room_id"]
        was = await key(first)
        await omar.ask("unsubscribe", room_id=first)
        await plain.pass_over(days=31)
        await plain.pass_over(days=31)
        second = (await omar.ask("create", topic_name="b", is_private=True))["room_id"]
        assert await key(second) > was
        assert await plain.count(names) == 2  # omar and b
        await plain.pass_over(days=31)
        assert await left(server, first) == {}
