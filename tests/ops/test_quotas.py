"""Quotas of a user (connections, devices, sessions, rooms, links): beyond them, a request fails or the oldest is
replaced."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import func, select
from websockets.frames import Frame, Opcode

from tests.delivery.support import rest
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import RunningNode, running_node
from tidings.auth.limits import QUOTAS
from tidings.fanout.hub import CONNECTIONS_PER_USER
from tidings_db.models import cursors, devices


async def _too_large(request: Awaitable[Any]) -> int:
    """The limit that the refusal of a request names."""
    with pytest.raises(Refused) as refused:
        await request
    assert (refused.value.code, refused.value.error["retryable"]) == ("too_large", False)
    limit = refused.value.details["limit"]
    assert isinstance(limit, int)
    return limit


async def _devices(node: RunningNode) -> set[str]:
    names = select(devices.c.name)
    return set(await node.node.database.read(lambda conn: conn.scalars(names).all()))


async def _silent(stack: AsyncExitStack, node: RunningNode, token: str, device: str) -> asyncio.StreamReader:
    """An authenticated connection that then neither reads nor answers."""
    address = urlsplit(node.url)
    assert address.hostname is not None
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    stack.callback(writer.close)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    hello = json.dumps({"id": 1, "action": "authenticate", "data": {"token": token, "device": device}})
    writer.write(Frame(Opcode.TEXT, hello.encode()).serialize(mask=True))
    await reader.readuntil(b'"ready"')
    return reader


async def test_the_oldest_connections_are_replaced_even_if_they_do_not_answer(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, quotas="devices=0") as node, AsyncExitStack() as stack:
        token = await node.register("omar")
        crowd = [await _silent(stack, node, token, f"device {n}") for n in range(CONNECTIONS_PER_USER + 3)]
        async with asyncio.timeout(DEADLINE_S):
            for reader in crowd[:3]:
                await reader.readuntil(b'"replaced"')
        async with connected(node.url, token) as client:
            await client.ask("get_rooms")
            async with asyncio.timeout(DEADLINE_S):
                await crowd[3].readuntil(b'"replaced"')


async def test_a_new_device_replaces_the_least_recently_seen_disconnected_one(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, quotas="devices=3") as node:
        token, other = await node.register("omar"), await node.register("diego")
        async with connected(node.url, token, device="oldest, connected") as stays:
            await stays.ask("create", topic_name="noticias")
            for name in ("second", "third"):
                async with connected(node.url, token, device=name):
                    pass
            async with connected(node.url, other, device="diego's"):
                pass
            for name in ("second", "fourth"):  # so the third is the least recently seen
                async with connected(node.url, token, device=name) as client:
                    await client.ask("get_rooms")
            assert await _devices(node) == {"diego's", "oldest, connected", "second", "fourth"}
            orphans = (
                select(func.count()).select_from(cursors).where(cursors.c.device_id.not_in(select(devices.c.id)))
            )
            assert await node.node.database.read(lambda conn: conn.execute(orphans).scalar()) == 0
            sent = await stays.ask("message", topic_name="noticias", content="hola")
            async with connected(
                node.url, token, device="third"
            ) as returned:  # like a new device, it starts at the furthest cursor
                assert returned.of("message") in ([], [sent])
                await stays.ask("message", topic_name="noticias", content="otra")
                await returned.event("message", lambda message: message["content"] == "otra")
                await returned.ask("delivered", cursors={sent["room_id"]: 2})
            await stays.ask("message", topic_name="noticias", content="tercera")
            async with connected(node.url, token, device="third") as returned:
                assert returned.contents() == ["tercera"]


async def test_a_new_session_beyond_the_quota_ends_the_oldest(database_url: str, tmp_path: Path) -> None:
    options = {"session_check_s": 600}  # the notice closes it, not the periodic check
    async with (
        running_node(database_url, tmp_path, options=options, quotas="sessions=3") as node,
        httpx.AsyncClient() as http,
    ):
        await node.register("diego")
        first, second = await node.register("omar"), await node.login("omar")

        async def status(token: str) -> int:
            return (await http.get(f"{node.url}/api/me", headers={"Authorization": f"Bearer {token}"})).status_code

        async with connected(node.url, first) as old, connected(node.url, second) as newer:
            await node.login("omar")
            assert [await status(token) for token in (first, second)] == [200, 200]
            last = await node.login("omar")
            assert await old.event("closing") == {"reason": "token_revoked", "reconnect": False}
            assert [await status(token) for token in (first, second, last)] == [401, 200, 200]
            assert len((await newer.ask("get_sessions"))["sessions"]) == 3


async def test_a_user_owns_no_more_topics_and_groups_than_the_quota(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, quotas="topics=2,groups=1") as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        async with connected(node.url, omar) as client, connected(node.url, diego) as other:
            await client.ask("create", topic_name="one")
            await client.ask("create", topic_name="two", is_private=True)
            assert await _too_large(client.ask("create", topic_name="three")) == 2
            await client.ask("create_conversation", usernames=["diego"], title="us")
            assert await _too_large(client.ask("create_conversation", usernames=["diego"], title="again")) == 1
            await client.ask("create_conversation", usernames=["diego"])
            await other.ask("create", topic_name="three")  # the name is free: the refused request created nothing
            await other.ask("subscribe", topic_name="one")
            await client.ask("set_role", topic_name="one", username="diego", role="owner")
            await client.ask("create", topic_name="four")


@pytest.mark.long
async def test_creating_topics_on_two_nodes_does_not_exceed_the_quota(postgresql_url: str, tmp_path: Path) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "1", quotas="topics=10") as first,
        running_node(postgresql_url, tmp_path / "2", quotas="topics=10") as second,
    ):
        token = await first.register("omar")
        async with rest(first.url, token) as one, rest(second.url, token) as two:
            creates = [
                http.post("/api/topics", json={"topic_name": f"{n} {http.base_url}"})
                for n in range(24)
                for http in (one, two)
            ]
            statuses = Counter(answer.status_code for answer in await asyncio.gather(*creates))
        assert statuses == {201: 10, 413: 38}


async def test_a_user_is_in_no_more_rooms_than_the_quota(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, quotas="rooms=3") as node:
        tokens = [await node.register(name) for name in ("omar", "diego", "ana")]
        async with AsyncExitStack() as stack:
            omar, diego, ana = [await stack.enter_async_context(connected(node.url, token)) for token in tokens]
            for client, name in ((diego, "one"), (diego, "two"), (ana, "three"), (ana, "four")):
                await client.ask("create", topic_name=name, is_private=name == "two")
            code = (await diego.ask("create_invitation_link", topic_name="two"))["code"]
            for name in ("one", "three", "four"):
                await omar.ask("subscribe", topic_name=name)
            for ask in (
                omar.ask("create", topic_name="five"),
                omar.ask("create_conversation", usernames=["diego"]),
                omar.ask("create_conversation", usernames=["diego", "ana"]),
                omar.ask("message", username="diego", content="hola"),
                omar.ask("join_by_link", code=code),
                diego.ask("invite", topic_name="two", username="omar"),
                diego.ask("create_conversation", usernames=["omar", "ana"]),
            ):
                assert await _too_large(ask) == 3
            await omar.ask("unsubscribe", topic_name="four")
            await omar.ask("join_by_link", code=code)
            # A user at the quota can still be written to.
            await ana.ask("message", username="omar", content="hola")
            assert (await omar.event("message"))["content"] == "hola"


async def test_a_member_has_no_more_invitation_links_to_a_room_than_the_quota(
    database_url: str, tmp_path: Path
) -> None:
    async with running_node(database_url, tmp_path, quotas="links=2") as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        async with connected(node.url, omar) as client, connected(node.url, diego) as other:
            for name in ("one", "two"):
                await client.ask("create", topic_name=name, is_private=True)
                await client.ask("invite", topic_name=name, username="diego")
            codes = [(await client.ask("create_invitation_link", topic_name="one"))["code"] for _ in range(2)]
            assert await _too_large(client.ask("create_invitation_link", topic_name="one")) == 2
            await client.ask("create_invitation_link", topic_name="two")
            await other.ask("create_invitation_link", topic_name="one")
            await client.ask("delete_invitation_link", code=codes[0])
            await client.ask("create_invitation_link", topic_name="one")


async def test_a_quota_of_0_is_unlimited(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, quotas=",".join(f"{bound}=0" for bound in QUOTAS)) as node:
        await node.register("diego")
        token = await node.register("omar")
        async with connected(node.url, token) as client:
            await client.ask("create", topic_name="one", is_private=True)
            await client.ask("create_invitation_link", topic_name="one")
            await client.ask("create_conversation", usernames=["diego"], title="us")
            await client.ask("echo", content="hola")
        client = Client(node.url, token, device="another")
        await client.connect()
        await client.close()
        assert await _devices(node) == {"default", "another"}
