"""Several nodes on one PostgreSQL, joined by Redis: what is committed reaches the others soon, in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.redis_nodes import QUIET, broker_of, joined, redis_through, two_nodes
from tests.delivery.support import make_topic, seqs
from tests.support.client import connected
from tests.support.commits import commits
from tests.support.network import Conditions, network
from tests.support.node import running_node
from tests.support.redis import RedisServer
from tidings.cluster.node_messages import CONTROL, SHARDS, shard_of
from tidings.cluster.redis_broker import RedisBroker

pytestmark = pytest.mark.long  # several nodes on PostgreSQL


async def test_entries_reach_a_node_that_cannot_read_its_database(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with (
        commits(postgresql_url) as (link, cut_off_url),
        running_node(postgresql_url, tmp_path, options=QUIET, redis_url=redis.url) as first,
        running_node(cut_off_url, tmp_path, options=QUIET, redis_url=redis.url) as second,
    ):
        await joined(first, second)
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(second.url, tokens[0], device="elsewhere") as elsewhere,
        ):
            link.freeze()
            sent = await omar.ask("message", room_id=room_id, content="olá 👋", client_id="c1")
            await omar.ask("edit", message_id=sent["id"], content="olá!")
            await omar.ask("react", message_id=sent["id"], emoji="👍")
            names = ("message", "message_edited", "reaction")
            for client in (omar, diego, elsewhere):
                await client.until(lambda client=client: seqs(client, room_id) == [1, 2, 3])
            events = [
                [(name, payload) for name, payload in client.events if name in names]
                for client in (omar, diego, elsewhere)
            ]
            link.thaw()
        assert events[2] == events[0], "its sender gets client_id on every node"
        assert [payload.get("message", payload)["client_id"] for _, payload in events[1]] == [None] * 3
        assert _without_client_ids(events[1]) == _without_client_ids(events[0])


def _without_client_ids(events: list[tuple[str, Any]]) -> list[Any]:
    return [
        {**payload, "client_id": None}
        if name == "message"
        else {**payload, "message": {**payload["message"], "client_id": None}}
        for name, payload in events
    ]


async def test_messages_of_two_nodes_over_slow_links_reach_all_clients_in_one_order(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    jitter = Conditions(jitter=0.2)
    async with (
        network(redis.path, jitter, jitter, seed=1) as slow,
        network(redis.path, jitter, jitter, seed=2) as slower,
        two_nodes(postgresql_url, tmp_path, redis_through(slow), redis_through(slower)) as (first, second),
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(first.url, tokens[1], device="b") as listener,
        ):
            for round_ in range(20):  # so that the commits of the nodes alternate
                sent = [
                    client.send("message", {"room_id": room_id, "content": f"{client is omar} {round_} {n}"})
                    for n in range(5)
                    for client in (omar, diego)
                ]
                assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            for client in (omar, diego, listener):
                await client.until(lambda client=client: len(client.of("message")) == 200)
                assert seqs(client, room_id) == list(range(1, 201))
                assert client.contents() == omar.contents()


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_removed_member_gets_no_later_entry_over_redis(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, *, is_private: bool
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego", "eva")]
        room_id = await make_topic(first.url, tokens[0], "noticias", is_private=is_private)
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(second.url, tokens[2]) as eva,
        ):
            join = partial(omar.ask, "invite", room_id=room_id) if is_private else None
            for client, name in ((diego, "diego"), (eva, "eva")):
                await (join(username=name) if join else client.ask("subscribe", topic_name="noticias"))
            await eva.event("room_added")
            for n in range(10):
                await omar.ask("message", room_id=room_id, content=f"in {n}")
                await diego.until(lambda n=n: diego.contents()[-1:] == [f"in {n}"])
                both = [
                    omar.send("kick", {"room_id": room_id, "username": "diego"}),
                    omar.send("message", {"room_id": room_id, "content": f"out {n}"}),
                ]
                assert all(answer["ok"] for answer in await asyncio.gather(*both))
                await diego.event("room_removed")
                await eva.until(lambda n=n: eva.contents()[-1:] == [f"out {n}"])
                await (join(username="diego") if join else diego.ask("subscribe", topic_name="noticias"))
            assert [content for content in diego.contents() if content.startswith("out")] == []


async def test_typing_and_receipts_reach_the_other_node_over_redis(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            sent = await omar.ask("message", username="diego", content="x")
            room_id = sent["room_id"]
            await diego.event("message")
            await omar.ask("typing", room_id=room_id)
            assert (await diego.event("typing"))["username"] == "omar"
            await diego.ask("read", room_id=room_id, seq=1)
            assert (await omar.event("receipt", lambda receipt: receipt["read_seq"] == 1))["username"] == "diego"


@pytest.mark.parametrize("by", ["the next message", "a heartbeat"])
async def test_a_message_that_redis_loses_is_missed_and_its_entries_are_read(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, by: str
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        second.node.cluster.feed._poll_s = 3600.0  # it is read only when something wakes it
        tokens = [await first.register(name) for name in ("omar", "diego")]
        topics = [await make_topic(first.url, tokens[0], f"topic {n}", tokens[1]) for n in range(SHARDS + 1)]
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            by_shard: dict[int, list[str]] = {}
            for room_id in topics:
                key = second.node.hub.key(room_id)
                assert key is not None
                by_shard.setdefault(shard_of(key), []).append(room_id)
            room_id, neighbour = next(rooms for rooms in by_shard.values() if len(rooms) > 1)[:2]
            broker = broker_of(first)
            await omar.ask("message", room_id=room_id, content="first")
            await diego.until(lambda: diego.contents() == ["first"])
            with lost_message(broker):
                await omar.ask("message", room_id=room_id, content="lost")
            if by == "the next message":
                broker._beat = lambda: None  # type: ignore[method-assign]
                await omar.ask("message", room_id=neighbour, content="next")
            await diego.until(lambda: "lost" in diego.contents())
            assert broker_of(second).gaps == 1


@contextmanager
def lost_message(broker: RedisBroker) -> Iterator[None]:
    """Messages with entries do not reach Redis; heartbeats do."""
    link = broker._link
    assert link is not None
    publish, lost = link.publish, []

    def losing(messages: Iterable[tuple[bytes, bytes]]) -> int:
        messages = list(messages)
        of_entries = [message for message in messages if message[0] != broker._channels_out[CONTROL]]
        lost.extend(of_entries)
        return publish([message for message in messages if message not in of_entries])

    link.publish = losing  # type: ignore[method-assign]
    try:
        yield
    finally:
        link.publish = publish  # type: ignore[method-assign]
    assert len(lost) == 1
