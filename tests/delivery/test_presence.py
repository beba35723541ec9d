"""Members of shared rooms get presence in order, even if an announcement needs two attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from db.engine import StoreUnavailable
from db.queries import users
from tests.delivery.brokers import HesitantBroker
from tests.delivery.support import make_topic, rest
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.node import RunningNode, running_node


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A node that tells of presence without collecting it for long."""
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 0.01}) as node:
        yield node


async def before_omar_is_told_of(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Any]
) -> asyncio.Event:
    """Do something the next time that others are about to be told of omar; the event says that it has come to it."""
    read, came_to_it = node.node.database.read, asyncio.Event()
    omar = (await node.node.auth.user("omar")).key

    async def once(query: Any) -> Any:
        of_omar = getattr(query, "func", None) is users.blocked_of and omar in query.keywords["user_keys"]
        if of_omar and not came_to_it.is_set():
            came_to_it.set()
            await do()
        return await read(query)

    monkeypatch.setattr(node.node.database, "read", once)
    return came_to_it


def told_of(client: Client, username: str) -> list[bool]:
    return [event["online"] for event in client.of("presence") if event["username"] == username]


async def is_online(client: Client, username: str, *, wanted: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await client.ask("get_profile", username=username))["online"] is not wanted:
            pass


async def test_a_user_who_leaves_while_online_is_being_announced_ends_up_offline(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
    await make_topic(server.url, omar, "noticias", diego, satoshi)
    async with connected(server.url, diego) as watching:
        go_on = asyncio.Event()
        telling = await before_omar_is_told_of(server, monkeypatch, go_on.wait)
        async with connected(server.url, omar):
            await asyncio.wait_for(telling.wait(), DEADLINE_S)
        await is_online(watching, "omar", wanted=False)
        async with connected(server.url, satoshi):
            await is_online(watching, "satoshi", wanted=True)  # while the first telling waits, another may go on
            go_on.set()
        await watching.event("presence", lambda e: e["username"] == "satoshi" and not e["online"])
        assert told_of(watching, "omar")[-1:] == [False]


async def test_a_user_who_returns_while_offline_is_being_announced_ends_up_online(
    sqlite_url: str, tmp_path: Path
) -> None:
    broker = HesitantBroker()
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 0.01, "broker": broker}) as server:
        omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        await make_topic(server.url, omar, "noticias", diego, satoshi)
        key = (await server.node.auth.user("omar")).key
        async with connected(server.url, diego) as watching:
            async with connected(server.url, omar):
                await watching.event("presence", lambda e: e["username"] == "omar" and e["online"])
                asked = broker.hold(key)
            await asyncio.wait_for(asked.wait(), DEADLINE_S)
            async with connected(server.url, omar):
                async with connected(server.url, satoshi):
                    await is_online(watching, "satoshi", wanted=True)  # by now a second telling would be over
                broker.go_on()
                await watching.event("presence", lambda e: e["username"] == "omar" and e["online"])
                assert told_of(watching, "omar") == [True, False, True]


async def test_a_user_who_joins_a_room_while_away_for_a_moment_is_told_of_there_too(
    sqlite_url: str, tmp_path: Path
) -> None:
    """The moment is as long as the test wants: nothing is told before `tell`."""
    async with running_node(sqlite_url, tmp_path, options={"presence_s": 3600}) as server:
        hub, tell = server.node.hub, server.node.hub.presence._begin_publishing
        omar, diego, satoshi = [await server.register(name) for name in ("omar", "diego", "satoshi")]
        await make_topic(server.url, diego, "noticias", omar)
        await make_topic(server.url, satoshi, "otras")
        async with connected(server.url, diego) as near, connected(server.url, satoshi) as far:
            async with connected(server.url, omar):
                tell()
                await near.event("presence", lambda e: e["username"] == "omar" and e["online"])
            await is_online(near, "omar", wanted=False)
            async with rest(server.url, omar) as http:
                assert (await http.post("/api/subscriptions", json={"topic_name": "otras"})).status_code == 201
            async with connected(server.url, omar):
                assert hub.users == 3
                tell()
                for client in (near, far):
                    await client.event("presence", lambda e: e["username"] == "omar" and e["online"])
                assert told_of(near, "omar") == [True, True]


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), LookupError("unexpected"), asyncio.CancelledError("of a scope within")],
    ids=str,
)
async def test_presence_that_could_not_be_told_is_told_later(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    monkeypatch.setattr(server.node.hub.presence, "_retry_s", 0.01)
    omar, diego = await server.register("omar"), await server.register("diego")
    await make_topic(server.url, omar, "noticias", diego)

    async def fail() -> None:
        raise error

    async with connected(server.url, diego) as watching:
        async with connected(server.url, omar):
            await watching.event("presence", lambda e: e["username"] == "omar" and e["online"])
            failed = await before_omar_is_told_of(server, monkeypatch, fail)
        await asyncio.wait_for(failed.wait(), DEADLINE_S)
        await watching.event("presence", lambda e: e["username"] == "omar" and not e["online"])
    logged = [record.exc_info for record in caplog.records if record.name == "tidings.presence"]
    if isinstance(error, StoreUnavailable):
        assert not logged
    else:
        ((_, raised, place),) = logged
        assert (raised, place is not None) == (error, True)
