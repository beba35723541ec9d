"""Events, keys and `app.tidings` on two nodes, joined by PostgreSQL alone and by Redis too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.extending.conftest import joined
from tests.support.client import connected, plainly_connected
from tests.support.node import RunningNode, running_node
from tests.support.redis import redis_server
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope
from tidings_db.queries.keys import listed

pytestmark = pytest.mark.long

Two = tuple[RunningNode, RunningNode]


@pytest.fixture(params=["postgresql", "redis"])
async def two(request: pytest.FixtureRequest, postgresql_url: str, tmp_path: Path) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        url = ""
        if request.param == "redis":
            url = (await stack.enter_async_context(redis_server())).url
        here = await stack.enter_async_context(running_node(postgresql_url, tmp_path, redis_url=url))
        there = await stack.enter_async_context(running_node(postgresql_url, tmp_path, redis_url=url))
        await joined(here, there)
        yield here, there


async def test_events_of_both_nodes_reach_the_clients_of_both_once_in_one_order_also_those_who_were_away(
    two: Two,
) -> None:
    here, there = two
    omar, diego = await here.register("omar"), await there.register("diego")
    room = await here.app.tidings.create_room("orders", usernames=["omar", "diego"])
    async with connected(here.url, omar) as a, connected(there.url, diego) as b:
        for number in range(30):
            node = two[number % 2]
            await node.app.tidings.publish("orders", "tick", number, client_id=f"t{number}")
            await a.ask("message", room_id=room.room_id, content=str(number))
        await there.app.tidings.publish("orders", "tick", "repeated", client_id="t3")
        for client in (a, b):
            await client.until(lambda client=client: len(client.of("tick")) == 30)
            await client.until(lambda client=client: len(client.of("message")) == 30)
            assert [event["data"] for event in client.of("tick")] == list(range(30))
            seqs = [payload["seq"] for name, payload in client.events if name in ("tick", "message")]
            assert seqs == sorted(set(seqs))
        assert {event.get("client_id") for event in b.of("tick")} == {None}
    for number in range(3):
        await here.app.tidings.publish("orders", "while.away", number)
    async with plainly_connected(there.url, diego) as back:
        assert [event["data"] for event in back.of("while.away")] == [0, 1, 2]


async def test_a_key_works_on_both_nodes_until_it_is_revoked_on_one(two: Two) -> None:
    here, there = two
    await here.app.tidings.create_room("orders")
    key = await here.node.database.write(
        lambda conn: keys.create(conn, "desk", [KeyScope.PUBLISH, KeyScope.READ], None, now_ms())
    )
    async with connected(here.url, key, device="a") as a, connected(there.url, key, device="b") as b:
        for client in (a, b):
            await client.ask("publish", topic_name="orders", event="tick", data=1)
        (row,) = await here.node.database.read(listed)
        await here.node.database.write(lambda conn: keys.revoke(conn, row.key_id, now_ms()))
        for client in (a, b):
            assert (await client.event("closing"))["reason"] == "token_revoked"


async def test_posting_and_display_names_hold_on_the_other_node(two: Two) -> None:
    here, there = two
    diego = await there.register("diego")
    await here.app.tidings.user("ana", create=True)
    await here.app.tidings.user("omar", create=True, display_name="Omar García")
    room = await here.app.tidings.create_room("news", usernames=["diego", "omar"], owner="ana")
    async with connected(there.url, diego) as client:
        await client.ask("message", room_id=room.room_id, content="before")
        async with asyncio.timeout(30):
            token = (await here.app.tidings.token("ana")).token
            async with connected(here.url, token) as owner:
                await owner.ask("set_posting", room_id=room.room_id, posting="moderators")
        assert (await client.event("room_changed"))["posting"] == "moderators"
        answer = await client.call("message", {"room_id": room.room_id, "content": "after"})
        assert answer["error"]["code"] == "forbidden"
        token = (await here.app.tidings.token("omar")).token
        async with connected(here.url, token):
            presence = await client.event("presence", lambda event: event["username"] == "omar")
            assert presence["display_name"] == "Omar García"
