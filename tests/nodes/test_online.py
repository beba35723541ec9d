"""A user is online while any connection on any live node lives, and members hear of it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.support import make_topic, rest
from tests.nodes.conftest import Registry
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import SECRET_KEY, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings.actions import context
from tidings.cluster import online, room_counts
from tidings.fanout import presence
from tidings_db.queries import nodes as registered
from tidings_db.queries import users

LEASE_S = 1.0


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[list[RunningNode]]:
    """Two nodes that know of each other."""
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(running_node(postgresql_url, tmp_path, options={"lease_s": LEASE_S}))
            for _ in range(2)
        ]
        async with asyncio.timeout(DEADLINE_S):
            while not all(node.node.cluster.registry.others for node in running):
                await running[0].node.database.read(registered.listed)
        yield running


def told(client: Client, username: str) -> list[bool]:
    return [event["online"] for event in client.of("presence") if event["username"] == username]


async def flips(client: Client, username: str, *, online: bool) -> None:
    """Wait until a client is told that a user came online or went offline."""
    await client.event("presence", lambda event: event["username"] == username and event["online"] is online)


async def known(client: Client, username: str, *, online: bool) -> None:
    """Wait until a client's node has a user online or offline."""
    async with asyncio.timeout(DEADLINE_S):
        while (await client.ask("get_profile", username=username))["online"] is not online:
            pass


async def test_a_user_is_online_on_every_node_while_any_connection_lives(nodes: list[RunningNode]) -> None:
    first, second = nodes
    omar, diego, eva = [await first.register(name) for name in ("omar", "diego", "eva")]
    await make_topic(first.url, omar, "noticias", diego, eva)
    async with connected(first.url, omar, device="o1") as here, connected(second.url, omar, device="o2") as there:
        async with connected(first.url, diego, device="d1"):
            for client in (here, there):
                await flips(client, "diego", online=True)
            async with connected(second.url, diego, device="d2"):
                await known(here, "diego", online=True)
            async with connected(second.url, eva):  # what is told of eva comes after what was told of diego
                for client in (here, there):
                    await flips(client, "eva", online=True)
        for client in (here, there):
            await flips(client, "diego", online=False)
            await flips(client, "eva", online=False)
            assert told(client, "diego") == [True, False]
            await known(client, "diego", online=False)


async def test_a_profile_reaches_members_and_the_own_connections_on_every_node_but_no_blocked_one(
    nodes: list[RunningNode],
) -> None:
    first, second = nodes
    omar, diego, eva = [await first.register(name) for name in ("omar", "diego", "eva")]
    await make_topic(first.url, omar, "noticias", diego, eva)
    async with AsyncExitStack() as stack:
        there = [await stack.enter_async_context(connected(second.url, token)) for token in (omar, diego, eva)]
        async with rest(first.url, omar) as http:  # without a connection to its node
            await http.post("/api/blocks", json={"username": "eva"})
            await there[2].event("profile")
            await http.put("/api/me", json={"status": {"text": "here"}})
            await http.put("/api/me", json={"status": {"text": "there"}})
        for client in there[:2]:
            await client.event("profile", lambda event: (event["status"] or {}).get("text") == "there")
        async with rest(first.url, diego) as http:
            await http.put("/api/me", json={"display_name": "Diego"})
        await there[2].event("profile", lambda event: event["username"] == "diego")
        assert [event["username"] for event in there[2].of("profile")] == ["omar", "diego"]
        assert there[2].of("profile")[0]["status"] is None


async def test_a_user_who_moves_to_another_node_is_told_at_most_once(nodes: list[RunningNode]) -> None:
    first, second = nodes
    omar, diego, eva = [await first.register(name) for name in ("omar", "diego", "eva")]
    await make_topic(first.url, omar, "noticias", diego, eva)
    async with connected(first.url, omar, device="o1") as here, connected(second.url, omar, device="o2") as there:
        async with connected(first.url, diego, device="d1"):
            for client in (here, there):
                await flips(client, "diego", online=True)
        async with connected(second.url, diego, device="d1"):
            async with connected(second.url, eva):  # who leaves after diego
                for client in (here, there):
                    await flips(client, "eva", online=True)
            for client in (here, there):
                await flips(client, "eva", online=False)
                assert told(client, "diego") in ([True], [True, True])


async def test_a_user_who_joins_on_one_node_is_shown_online_to_the_members_on_another(
    nodes: list[RunningNode],
) -> None:
    first, second = nodes
    omar, diego = [await first.register(name) for name in ("omar", "diego")]
    await make_topic(first.url, omar, "noticias")
    async with connected(first.url, diego) as joining, connected(second.url, omar) as member:
        await known(member, "diego", online=True)
        assert told(member, "diego") == []
        await joining.ask("subscribe", topic_name="noticias")
        await flips(member, "diego", online=True)


async def test_the_users_of_a_node_that_stops_have_the_time_to_come_back_on_another(
    nodes: list[RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "MOVE_S", 0.0)
    first, second = nodes
    omar, diego, eva = [await first.register(name) for name in ("omar", "diego", "eva")]
    await make_topic(first.url, omar, "noticias", diego, eva)
    async with connected(first.url, omar) as member, AsyncExitStack() as stack:
        for username, token in (("diego", diego), ("eva", eva)):
            await stack.enter_async_context(connected(second.url, token))
            await flips(member, username, online=True)
        await second.node.drain()
        while second.node.cluster.online._changed:  # until it would have written who went
            await first.node.database.read(registered.listed)
        await second.stop()
        async with connected(first.url, diego):
            await flips(member, "eva", online=False)
            assert told(member, "diego") == [True]


async def test_the_users_of_a_node_that_was_killed_are_told_offline_once_unless_they_come_back(
    postgresql_url: str, tmp_path: Path
) -> None:
    dying = ServerProcess(
        tmp_path, TIDINGS_DATABASE_URL=postgresql_url, TIDINGS_SECRET_KEY=SECRET_KEY, TIDINGS_LOG_LEVEL="error"
    )
    async with AsyncExitStack() as stack:
        near = await stack.enter_async_context(running_node(postgresql_url, tmp_path))
        far = await stack.enter_async_context(running_node(postgresql_url, tmp_path))
        names = [f"user{n}" for n in range(100)]
        omar, *tokens = [await near.register(name) for name in ("omar", *names)]
        await make_topic(near.url, omar, "noticias", *tokens)
        await dying.start()
        stack.push_async_callback(dying.kill)
        watching = [await stack.enter_async_context(connected(node.url, omar)) for node in (near, far)]
        for token in tokens:
            await Client(dying.url, token).connect()
        for client in watching:
            await client.until(lambda client=client: all(told(client, name) for name in names))
        seen_before = await last_seen(near, names)
        await dying.kill()
        for token in tokens[:80]:
            await stack.enter_async_context(connected(near.url, token))
        async with asyncio.timeout(DEADLINE_S):
            while any(
                len(node.node.cluster.registry.others) > 1 for node in (near, far)
            ):  # until the node is known to be dead
                await near.node.database.read(registered.listed)
        for token in tokens[80:90]:
            await stack.enter_async_context(connected(near.url, token))
        for client in watching:
            await client.until(lambda client=client: all(told(client, name) == [True, False] for name in names[90:]))
            assert all(told(client, name) == [True] for name in names[:90])
        async with asyncio.timeout(DEADLINE_S):
            while any(
                seen <= before for seen, before in zip(*await both(near, names[90:], seen_before), strict=True)
            ):
                pass


async def last_seen(node: RunningNode, names: Sequence[str]) -> dict[str, int]:
    rows = await node.node.database.read(lambda conn: users.by_keys(conn, names))
    return {name: rows[name].last_seen or 0 for name in names}


async def both(node: RunningNode, names: Sequence[str], before: dict[str, int]) -> tuple[list[int], list[int]]:
    now = await last_seen(node, names)
    return [now[name] for name in names], [before[name] for name in names]


async def test_a_node_that_was_taken_for_dead_has_its_users_online_again(
    nodes: list[RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "CHECK_S", 0.1)
    first, second = nodes
    omar, diego = [await first.register(name) for name in ("omar", "diego")]
    await make_topic(first.url, omar, "noticias", diego)
    async with connected(first.url, omar) as member, connected(second.url, diego):
        await flips(member, "diego", online=True)
        renew, second.node.cluster.registry._round = second.node.cluster.registry._round, partial(asyncio.sleep, 0)  # type: ignore[method-assign]
        await flips(member, "diego", online=False)
        attempts: list[str] = []

        def counting(conn: Transaction, node: str, *rest: Any, **more: Any) -> bool:
            attempts.append(node)
            return write(conn, node, *rest, **more)

        write = online.online.write
        monkeypatch.setattr(online.online, "write", counting)
        async with asyncio.timeout(DEADLINE_S):
            while attempts.count(second.node.id) < 3:
                await first.node.database.read(registered.listed)
        assert told(member, "diego") == [True, False]  # without a lease it does not count
        second.node.cluster.registry._round = renew  # type: ignore[method-assign]
        await flips(member, "diego", online=True)


async def test_users_stay_online_although_postgresql_has_lost_who_is(
    nodes: list[RunningNode], postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    first, second = nodes
    omar, diego = [await first.register(name) for name in ("omar", "diego")]
    await make_topic(first.url, omar, "noticias", diego)
    async with connected(first.url, omar) as member, connected(second.url, diego):
        await flips(member, "diego", online=True)
        await registry.database.write(lambda conn: conn.execute(text("TRUNCATE online")))
        for node in nodes:  # as after the feed's connection was lost
            node.node.cluster.online.compare_all()
        async with asyncio.timeout(DEADLINE_S):
            while len(await rows(registry)) < 4:
                pass
        async with running_node(postgresql_url, tmp_path) as third, connected(third.url, omar) as late:
            assert (await late.ask("get_profile", username="diego"))["online"]
        assert told(member, "diego") == [True]


async def rows(registry: Registry) -> Sequence[Any]:
    return await registry.database.read(lambda conn: conn.execute(text("SELECT * FROM online")).all())


async def test_nobody_waits_for_who_is_online(nodes: list[RunningNode], postgresql_url: str) -> None:
    first, second = nodes
    omar, diego = [await first.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(first.url, omar, "noticias", diego)
    conn = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    try:
        async with connected(second.url, diego) as there, conn.transaction():
            await known(there, "diego", online=True)
            await conn.execute("LOCK TABLE online IN ACCESS EXCLUSIVE MODE")
            await first.register("eva")
            token = await first.login("omar")
            async with connected(first.url, token) as here:
                while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await here.ask("get_profile", username="diego")
                await here.ask("message", room_id=room_id, content="x")
                assert (await here.ask("get_rooms"))["rooms"]
                members = (await here.ask("get_members", room_id=room_id))["members"]
                assert {member["username"]: member["online"] for member in members}["omar"]
    finally:
        await conn.close()


async def test_a_user_who_was_blocked_on_one_node_is_not_shown_online_by_another(
    nodes: list[RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node has read who is blocked just before the block, and is about to tell."""
    first, second = nodes
    omar, diego, eva = [await first.register(name) for name in ("omar", "diego", "eva")]
    await make_topic(first.url, omar, "noticias", diego, eva)
    read, omar_key = second.node.database.read, (await first.node.auth.user("omar")).key
    async with (
        connected(second.url, diego) as blocked,
        connected(second.url, eva) as other,
        rest(first.url, omar) as http,
    ):
        reads = 0

        async def then_block(query: Any) -> Any:
            nonlocal reads
            answer = await read(query)
            if getattr(query, "func", None) is presence._read and omar_key in query.keywords["shown"]:
                reads += 1
                if reads == 1:
                    assert (await http.post("/api/blocks", json={"username": "diego"})).is_success
                    await flips(blocked, "omar", online=False)
            return answer

        monkeypatch.setattr(second.node.database, "read", then_block)
        async with connected(second.url, omar):
            await flips(other, "omar", online=True)
        await flips(other, "omar", online=False)
        async with connected(second.url, eva, device="second"):
            pass
        assert told(blocked, "omar") == [False]


@pytest.mark.long
async def test_a_blocked_user_is_never_shown_online_afterwards(nodes: list[RunningNode]) -> None:
    """Omar comes and goes on one node, and blocks and unblocks on the other."""
    first, second = nodes
    omar, diego = [await first.register(name) for name in ("omar", "diego")]
    await make_topic(first.url, omar, "noticias", diego)
    going = True

    async def come_and_go() -> None:
        while going:
            async with connected(second.url, omar):
                pass

    async with (
        connected(second.url, diego) as there,
        connected(first.url, diego, device="elsewhere") as here,
        rest(first.url, omar) as http,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(come_and_go())
        for _ in range(40):
            assert (await http.post("/api/blocks", json={"username": "diego"})).is_success
            starts = {}
            for client in (here, there):
                await client.event("presence", lambda event: not event["online"] and event["last_seen"] is None)
                starts[client] = len(client.events)
            await there.ask("get_profile", username="omar")
            for client, start in starts.items():
                assert not [e for name, e in client.events[start:] if name == "presence" and e["online"]]
            assert (await http.delete("/api/blocks", params={"username": "diego"})).is_success
        going = False


@pytest.mark.parametrize("small", [200, 3], ids=["small", "large"])
async def test_a_room_counts_the_members_who_are_online_on_any_node(
    nodes: list[RunningNode], monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(room_counts, "SMALL", small)
    monkeypatch.setattr(room_counts, "COUNT_S", 0.0)
    first, second = nodes
    omar, diego, eva, ines = [await first.register(name) for name in ("omar", "diego", "eva", "ines")]
    await make_topic(first.url, omar, "noticias", diego, eva, ines)
    async with (
        connected(first.url, omar) as here,
        connected(second.url, omar, device="second"),
        connected(second.url, diego),
        connected(second.url, eva) as there,
    ):
        for client, username in ((here, "diego"), (here, "eva"), (there, "omar")):
            await known(client, username, online=True)
        for client in (here, there):
            async with asyncio.timeout(DEADLINE_S):
                while (online_in := (await client.ask("get_rooms"))["rooms"][0]["online"]) != 3:
                    assert online_in < 3
        monkeypatch.setattr(context, "MAX_ONLINE", 3)  # the topic is a large one
        for client in (here, there):
            entered = await client.ask("connect_to_room", topic_name="noticias")
            assert sorted(entered["usernames"]) == ["diego", "eva", "omar"]
            assert entered["room"]["online"] == 3
