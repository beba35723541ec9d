"""The public channel: who sees what, who owns it, and when it exists."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.engine import Connection as Transaction
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.dialects.channels_client import bearer, entered, link, opened
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.gateways.dialects.channels import PublicChannel
from tidings_db.models import users

# -- the public channel ----------------------------------------------------------------------------------------------


async def test_a_newcomer_gets_all_messages_since_the_start_and_then_new_ones(gateway: RunningNode) -> None:
    async with entered(gateway, "ana", "pub_ws") as ana:
        for number in range(250):
            await ana.say(f"{number}")
        messages = [await ana.message() for _ in range(250)]
        assert messages == [("ana", f"{number}") for number in range(250)]
        async with entered(gateway, "ben", "pub_ws") as ben:
            await ana.say("welcome")
            assert [await ben.message() for _ in range(251)] == [*messages, ("ana", "welcome")]
            await ben.say("thanks")
            assert await ana.message() == ("ana", "welcome")
            assert await ana.message() == ("ben", "thanks")
            assert await ben.message() == ("ben", "thanks")


async def test_messages_from_before_the_start_are_not_repeated(gateway: RunningNode) -> None:
    token = await gateway.register("ana")
    async with opened(await link(gateway.url, token, "pub_ws")) as ana:
        await ana.say("old")
        await ana.message()
    await gateway.stop()
    await gateway.start()
    async with connected(gateway.url, await gateway.register("ben")) as ben:
        await ben.ask("subscribe", topic_name="public")
        await ben.ask("message", topic_name="public", content="new")
        async with opened(await link(gateway.url, token, "pub_ws")) as ana:
            assert await ana.message() == ("ben", "new")


async def test_newcomers_miss_and_repeat_nothing_while_messages_are_sent(gateway: RunningNode) -> None:
    """Each joins at another moment, while messages are sent."""
    number = 400
    async with entered(gateway, "ana", "pub_ws") as ana:

        async def talk() -> None:
            for at in range(number):
                await ana.say(f"{at}")
                await ana.message()

        async def listen(name: str, after: int) -> list[str]:
            async with entered(gateway, name, "pub_ws") as channel:
                return [(await channel.message())[1] for _ in range(number)]

        talking = asyncio.create_task(talk())
        received = await asyncio.gather(*(listen(f"user{at}", at) for at in range(8)))
        await talking
    assert all(contents == [*map(str, range(number))] for contents in received)


async def test_no_visitor_owns_the_public_channel(gateway: RunningNode) -> None:
    async with (
        entered(gateway, "ana", "pub_ws"),
        connected(gateway.url, await gateway.login("ana")) as ana,
        connected(gateway.url, await gateway.register("ben")) as ben,
    ):
        await ben.ask("subscribe", topic_name="public")
        members = (await ana.ask("get_members", topic_name="public"))["members"]
        assert {(member["username"], member["role"]) for member in members} == {
            ("ana", "member"),
            ("ben", "member"),
            ("channels", "owner"),
        }
        with pytest.raises(Refused, match="forbidden"):
            await ana.ask("kick", topic_name="public", username="ben")
        for client in (ana, ben):
            await client.ask("unsubscribe", topic_name="public")
        await ben.ask("subscribe", topic_name="public")
        assert (await ben.ask("get_rooms", member=True))["rooms"][0]["role"] == "member"
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        for password in ("", "!", PASSWORD):
            answer = await http.post("/login", json={"username": "channels", "password": password})
            assert answer.status_code in (401, 422)


async def test_concurrent_first_visitors_create_one_channel(gateway: RunningNode) -> None:
    tokens = await asyncio.gather(*(gateway.register(f"user{number}") for number in range(6)))
    links = await asyncio.gather(*(link(gateway.url, token, "pub_ws") for token in tokens))
    assert len(set(links)) == 6
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(tokens[0]), timeout=30) as http:
        members = (await http.get("/api/members", params={"topic_name": "public"})).json()["members"]
    assert [member["username"] for member in members] == ["channels", *(f"user{number}" for number in range(6))]


async def test_a_banned_user_is_disconnected_and_gets_no_link(gateway: RunningNode) -> None:
    async with connected(gateway.url, await gateway.register("mod")) as moderator:
        await moderator.ask("create", topic_name="public")  # a user who creates it first owns it
        token = await gateway.register("ana")
        address = await link(gateway.url, token, "pub_ws")
        async with opened(address) as ana:
            await ana.say("hi")
            await ana.message()
            await moderator.ask("mute", topic_name="public", username="ana", duration=60)
            await ana.say("hi again")
            assert await ana.refusal() == "forbidden"
            await moderator.ask("ban", topic_name="public", username="ana")
            assert (await ana.refusal(), await ana.until_closed()) == ("forbidden", 1008)
        async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(token), timeout=30) as http:
            assert (await http.get("/pub_ws")).status_code == 403
        async with opened(address) as ana:
            assert (await ana.refusal(), await ana.until_closed()) == ("forbidden", 1008)


async def test_the_public_channel_is_a_conflict_if_a_user_has_its_name(gateway: RunningNode) -> None:
    token = await gateway.register("public")
    before = len(await _usernames(gateway))
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(token), timeout=30) as http:
        for _ in range(3):
            assert (await http.get("/pub_ws")).status_code == 409
    async with opened(gateway.url.replace("http", "ws", 1) + f"/pub_ws?token={token}") as channel:
        assert (await channel.refusal(), await channel.until_closed()) == ("conflict", 1008)
    assert len(await _usernames(gateway)) == before + 1


async def test_a_user_with_the_owners_name_does_not_own_the_channel(gateway: RunningNode) -> None:
    token = await gateway.register("channels")
    async with (
        entered(gateway, "ana", "pub_ws"),
        connected(gateway.url, token) as channels,
    ):
        room = await channels.ask("subscribe", topic_name="public")
        assert room["role"] == "member"


async def _usernames(gateway: RunningNode) -> list[str]:
    def load(conn: Transaction) -> list[str]:
        return list(conn.scalars(select(users.c.username)))

    return await gateway.node.database.read(load)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["subscribe", "connect_to_room"])
async def test_the_public_channel_exists_before_its_first_link(gateway: RunningNode, action: str) -> None:
    ana, ben = await gateway.register("ana"), await gateway.register("ben")
    async with connected(gateway.url, ana) as first, connected(gateway.url, ben) as second:
        await asyncio.gather(first.ask(action, topic_name="public"), second.ask(action, topic_name="Public"))
        members = (await first.ask("get_members", topic_name="public"))["members"]
        assert {(member["username"], member["role"]) for member in members} == {
            ("ana", "member"),
            ("ben", "member"),
            ("channels", "owner"),
        }
        with pytest.raises(Refused) as refused:
            await first.ask(action, topic_name="publicity")
        assert refused.value.code == "not_found"


# -- browser extensions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["chrome-extension", "moz-extension"])
async def test_a_browser_extension_is_accepted_by_its_origin(
    quiet_log: None, sqlite_url: str, tmp_path: Path, scheme: str
) -> None:
    extension, other = (f"{scheme}://{letter * 32}" for letter in "ab")
    async with running_node(sqlite_url, tmp_path, cors_origins=extension) as node:
        token = await node.register("ana")
        for channel in ("echo_ws", "pub_ws"):
            address = await link(node.url, token, channel)
            options: dict[str, Any] = {"compression": None, "ping_interval": None, "proxy": None}
            async with connect(address, origin=Origin(extension), **options) as socket:
                await socket.send("hello")
                assert "hello" in str(await asyncio.wait_for(socket.recv(), DEADLINE_S))
            with pytest.raises(InvalidStatus) as refused:
                await connect(address, origin=Origin(other), **options)
            assert refused.value.response.status_code == 403
            assert b"TIDINGS_CORS_ORIGINS" in refused.value.response.body


async def test_the_public_channel_is_listed_before_its_first_visitor(database_url: str, tmp_path: Path) -> None:
    """The first start creates it; the next one finds it and writes nothing."""
    rooms, statuses = [], []
    for _ in range(2):
        async with running_node(database_url, tmp_path, public_channel="start") as node:
            token = (await node.node.auth.token_for("ana"))[0]
            async with httpx.AsyncClient(base_url=node.url, headers=bearer(token), timeout=30) as http:
                (room,) = (await http.get("/api/rooms")).json()["rooms"]
                rooms.append((room["room_id"], room["topic_name"], room["is_private"], room["role"]))
                link = await http.get("/pub_ws")
                assert link.status_code == 200
                statuses.append((await http.get("/api/users/channels")).status_code)
    assert rooms[0][1:] == ("public", False, None)
    assert rooms[1][:2] == rooms[0][:2]
    assert statuses == [200, 200]


async def test_a_server_that_cannot_create_the_public_channel_creates_it_on_the_first_visit(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as store:
        refuse = "BEGIN SELECT RAISE(ABORT, 'no users now'); END"
        store.execute(f"CREATE TRIGGER refusing BEFORE INSERT ON {users.name} {refuse}")
        async with running_node(sqlite_url, tmp_path, public_channel="start") as node:
            store.execute("DROP TRIGGER refusing")
            token = await node.register("ana")
            async with httpx.AsyncClient(base_url=node.url, headers=bearer(token), timeout=30) as http:
                assert (await http.get("/api/rooms")).json()["rooms"] == []
                assert (await http.get("/pub_ws")).status_code == 200
                assert [room["topic_name"] for room in (await http.get("/api/rooms")).json()["rooms"]] == ["public"]


async def test_a_store_that_cannot_be_written_does_not_delay_the_start(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.gateways.dialects.mounting.PREPARE_S", 0.01)
    prepare = PublicChannel.prepare
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as store:

        async def locked(channel: PublicChannel) -> None:
            store.execute("BEGIN IMMEDIATE")
            await prepare(channel)

        monkeypatch.setattr(PublicChannel, "prepare", locked)
        async with running_node(sqlite_url, tmp_path, public_channel="start") as node:
            assert store.in_transaction
            store.execute("ROLLBACK")
            headers = bearer(await node.register("ana"))
            async with (
                httpx.AsyncClient(base_url=node.url, headers=headers, timeout=30) as http,
                asyncio.timeout(DEADLINE_S),
            ):
                while [room["topic_name"] for room in (await http.get("/api/rooms")).json()["rooms"]] != ["public"]:
                    pass
