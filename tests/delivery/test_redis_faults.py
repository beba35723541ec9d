"""Whatever Redis does, what is committed reaches the other nodes soon.

Redis is a real server, which the tests kill, suspend, empty and cut off.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.conformance.wire import eventually
from tests.delivery.redis_nodes import Load, broker_of, redis_through, two_nodes
from tests.delivery.support import make_topic, seqs
from tests.support.client import connected
from tests.support.network import Network, network
from tests.support.node import RunningNode, running_node
from tests.support.redis import RedisServer
from tidings.log.notices import Transient

pytestmark = pytest.mark.long  # several nodes on PostgreSQL

LATE_S = 1.5
"""A message that takes longer was not brought by the feed, which is read every 0.2 s. The machine may be busy."""

Fault = Callable[[RedisServer, Network], Awaitable[Callable[[], Awaitable[None]]]]
"""Begins a fault, and returns what ends it."""


async def killed(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    await redis.kill()
    return redis.start


async def suspended(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    redis.suspend()

    async def resume() -> None:
        redis.resume()

    return resume


def commanded(*commands: tuple[str, ...]) -> Fault:
    """Redis is given commands; there is nothing to end."""

    async def begin(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
        for command in commands:
            await redis.ask(*command)

        async def nothing() -> None: ...

        return nothing

    return begin


async def flooded(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    """Redis may keep little for a subscriber, and others publish much: it drops the subscribers."""
    await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32kb 32kb 1")
    for channel in await redis.channels():
        await redis.ask("PUBLISH", channel, b"x" * 33_000_000)

    async def allow() -> None:
        await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")

    return allow


def half_open(*directions: str) -> Fault:
    """The bytes of one node's connections vanish."""

    async def begin(_: RedisServer, proxy: Network) -> Callable[[], Awaitable[None]]:
        proxy.swallow(*directions)

        async def heal() -> None:
            proxy.heal()

        return heal

    return begin


async def refused(_: RedisServer, proxy: Network) -> Callable[[], Awaitable[None]]:
    proxy.refuse()
    proxy.cut()

    async def heal() -> None:
        proxy.heal()

    return heal


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "suspended": suspended,
    "emptied": commanded(("FLUSHALL",), ("SCRIPT", "FLUSH")),
    "clients killed": commanded(("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal")),
    "flooded": flooded,
    "half-open": half_open(),
    "half-open up": half_open("up"),
    "half-open down": half_open("down"),
    "refused": refused,
}
QUICK = {"killed", "half-open down"}
"""Those of `make test`."""
HARMLESS = {"emptied"}
"""Redis holds nothing, so it does not matter."""


@pytest.mark.parametrize(
    "fault", [fault if fault in QUICK else pytest.param(fault, marks=pytest.mark.long) for fault in FAULTS]
)
async def test_nothing_is_lost_repeated_or_late_while_redis_fails_and_it_heals(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, fault: str
) -> None:
    async with (
        network(redis.path) as proxy,
        two_nodes(postgresql_url, tmp_path, redis.url, redis_through(proxy)) as (first, second),
        httpx.AsyncClient() as http,
    ):
        nodes = first, second
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            load = Load(room_id, omar, diego)
            await load.run(until=lambda: load.sent >= 20)
            connects = [broker_of(node).connects for node in nodes]
            end = await FAULTS[fault](redis, proxy)
            if fault in HARMLESS:
                await load.run(until=lambda: load.sent >= 60)
            else:
                is_noticed = lambda: broker_of(second).trouble or broker_of(second).connects > connects[1]  # noqa: E731
                await load.run(until=is_noticed)
                if fault not in ("clients killed", "flooded"):
                    ready = await http.get(f"{second.url}/health/ready")
                    assert ready.status_code == 200
                    assert ready.json()["degraded"] == "Redis is away", "the log has its address, and why"
                    assert await metric(http, second, "tidings_redis_up") == 0
                await load.run(until=lambda: load.sent >= 60)
            await end()
            await load.run(until=lambda: not any(broker_of(node).trouble for node in nodes))
            await load.run(until=lambda count=load.sent: load.sent >= count + 20)
            assert seqs(diego, room_id) == seqs(omar, room_id) == list(range(1, load.sent + 1))
            assert diego.contents() == omar.contents()
        assert load.latest < LATE_S
        assert (await http.get(f"{second.url}/health/ready")).json() == {"status": "ok"}
        assert await metric(http, second, "tidings_redis_up") == 1
        assert (broker_of(second).connects == connects[1]) is (fault in HARMLESS)


async def metric(http: httpx.AsyncClient, node: RunningNode, name: str) -> float:
    lines = (await http.get(f"{node.url}/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


async def test_a_redis_that_hangs_delays_nobody_who_signs_in_or_asks(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, _):
        token = await first.register("omar")
        room_id = await make_topic(first.url, token, "noticias")
        async with connected(first.url, token) as omar:

            async def ask(n: int) -> float:
                began = time.monotonic()
                await first.register(f"diego{n}")
                await first.login("omar")
                await omar.ask("get_profile", username="omar")
                await omar.ask("get_members", room_id=room_id)
                return time.monotonic() - began

            usual = max([await ask(n) for n in range(5)])
            redis.suspend()
            longest = max([await ask(n) for n in range(5, 10)])
            redis.resume()
        assert longest < usual + 0.5, "a wait for Redis takes seconds"


async def test_a_node_starts_while_redis_is_away_and_finds_it_later(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    await redis.kill()
    async with running_node(postgresql_url, tmp_path, redis_url=redis.url) as node:
        assert broker_of(node).trouble
        await redis.start()
        await eventually(lambda: not broker_of(node).trouble)


async def test_messages_that_redis_does_not_take_are_dropped_beyond_a_bound(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            redis.suspend()
            broker = broker_of(first)
            link = broker._link
            assert link is not None
            large = Transient(1, "typing", {"typing": "x" * 200_000})
            for _ in range(100):  # 20 MB
                broker.share([large])
            assert broker.dropped > 0
            assert link._publisher.waiting <= 8 * 1024 * 1024 + 300_000
            await omar.ask("message", room_id=room_id, content="by the feed")
            await diego.until(lambda: diego.contents() == ["by the feed"])
            redis.resume()
