"""Members of shared rooms get presence in order, even if an announcement needs two attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.support import make_topic, rest
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import RunningNode, running_node
from tidings.fanout import presence
from tidings_db.engine import StoreUnavailable


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node that announces presence every 10 ms."""
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 0.01}) as node:
        yield node


async def before_omar_is_announced(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]
) -> asyncio.Event:
    """Run `do` the next time that omar is about to be announced; the returned event is set when it runs."""
    read, reached = node.node.database.read, asyncio.Event()
    omar = (await node.node.auth.user("omar")).key

    async def once(query: Any) -> Any:
        of_omar = getattr(query, "func", None) is presence._read and omar in query.keywords["shown"]
        if of_omar and not reached.is_set():
            reached.set()
            await do()
        return await read(query)

    monkeypatch.setattr(node.node.database, "read", once)
    return reached


def announced(client: Client, username: str) -> list[bool]:
    return [event["online"] for event in client.of("presence") if event["username"] == username]


async def wait_online(client: Client, username: str, *, wanted: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await client.ask("get_profile", username=username))["online"] is not wanted:
            pass


async def test_a_user_who_leaves_while_online_is_being_announced_ends_up_offline(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
    await make_topic(server.url, omar, "noticias", diego, satoshi)
    async with connected(server.url, diego) as observer:
        go_on = asyncio.Event()
        announcing = await before_omar_is_announced(server, monkeypatch, go_on.wait)
        async with connected(server.url, omar):
            await asyncio.wait_for(announcing.wait(), DEADLINE_S)
        await wait_online(observer, "omar", wanted=False)
        async with connected(server.url, satoshi):
            await wait_online(observer, "satoshi", wanted=True)  # another announcement may go on meanwhile
            go_on.set()
        await observer.event("presence", lambda e: e["username"] == "satoshi" and not e["online"])
        assert announced(observer, "omar")[-1:] == [False]


async def test_a_user_who_joins_a_room_while_briefly_offline_is_announced_there_too(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Presence is announced only by `announce`, so omar is offline for as long as the test needs."""
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 3600}) as server:
        hub, announce = server.node.hub, server.node.hub.presence._begin_publishing
        omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        await make_topic(server.url, diego, "noticias", omar)
        await make_topic(server.url, satoshi, "otras")
        async with connected(server.url, diego) as near, connected(server.url, satoshi) as far:
            async with connected(server.url, omar):
                announce()
                await near.event("presence", lambda e: e["username"] == "omar" and e["online"])
            await wait_online(near, "omar", wanted=False)
            async with rest(server.url, omar) as http:
                assert (await http.post("/api/subscriptions", json={"topic_name": "otras"})).status_code == 201
            async with connected(server.url, omar):
                assert hub.users == 3
                announce()
                for client in (near, far):
                    await client.event("presence", lambda e: e["username"] == "omar" and e["online"])
                assert announced(near, "omar") == [True, True]


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), LookupError("unexpected"), asyncio.CancelledError("of a scope within")],
    ids=str,
)
async def test_a_failed_announcement_of_presence_is_repeated(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    monkeypatch.setattr(server.node.hub.presence, "_retry_s", 0.01)
    omar, diego = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, omar, "noticias", diego)

    async def fail() -> None:
        raise error

    async with connected(server.url, diego) as observer:
        async with connected(server.url, omar):
            await observer.event("presence", lambda e: e["username"] == "omar" and e["online"])
            failed = await before_omar_is_announced(server, monkeypatch, fail)
        await asyncio.wait_for(failed.wait(), DEADLINE_S)
        await observer.event("presence", lambda e: e["username"] == "omar" and not e["online"])
    logged = [record.exc_info for record in caplog.records if record.name == "tidings.presence"]
    if isinstance(error, StoreUnavailable):
        assert not logged
    else:
        ((_, raised, place),) = logged
        assert (raised, place is not None) == (error, True)
