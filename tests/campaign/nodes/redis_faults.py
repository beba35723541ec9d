"""Redis between the nodes is killed, suspended, emptied and cut off, while messages flow."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from tests.campaign.nodes.cluster import cluster, figures, gaps, quantile, talk
from tests.campaign.support.lab import Area, Lab
from tests.campaign.support.report import Seen
from tests.support.redis import RedisServer, redis_server

area = Area("redis")
NODES = 2
SENDER_PAUSE_S = 0.05
BOUND_S = 0.5
AWAY_S = 2.0
"""How long a killed Redis is away."""
FROZEN_S = 4.0
POLL_S = 0.05
BACK_S = 5.0
"""How soon Redis is used again."""


async def _killed(redis: RedisServer) -> None:
    await redis.kill()
    await asyncio.sleep(AWAY_S)
    await redis.start()


async def _suspended(redis: RedisServer) -> None:
    redis.suspend()
    await asyncio.sleep(FROZEN_S)
    redis.resume()


async def _emptied(redis: RedisServer) -> None:
    await redis.ask("FLUSHALL")


async def _cut(redis: RedisServer) -> None:
    await redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await redis.ask("CLIENT", "KILL", "TYPE", "normal")


async def _flooded(redis: RedisServer) -> None:
    """Redis may keep little for a subscriber, and somebody publishes 33 MB."""
    await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1")
    for channel in await redis.channels():
        await redis.ask("PUBLISH", channel, b"x" * 33_000_000)
    await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


FAULTS: tuple[Callable[[RedisServer], Awaitable[None]], ...] = (_killed, _suspended, _emptied, _cut, _flooded)


@area.check("faults of Redis lose, repeat, reorder and delay nothing, and it is used again afterwards")
async def faults(lab: Lab) -> Seen:
    count = lab.size(len(FAULTS), 30)
    back: list[float] = []
    async with redis_server() as redis, cluster(lab, NODES, TIDINGS_REDIS_URL=redis.url) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(4)}
        readers = {f"reader{n}": n % NODES for n in range(4)}
        room = await nodes.nodes[0].topic("owner", "tides", *senders, *readers)
        ears = {await nodes.connect(at, name): at for name, at in readers.items()}
        async with talk(nodes, room, senders, SENDER_PAUSE_S) as traffic:
            for fault in itertools.islice(itertools.cycle(FAULTS), count):
                await traffic.reaches(len(traffic.acked) + 50, 60)
                await fault(redis)
                back.append(await _until_back(redis))
            await traffic.reaches(len(traffic.acked) + 50, 60)
            last = await traffic.stop()
        whole = all([await ear.reaches(room, last) for ear in ears])
        broken = sum(gaps(ear.seqs(room)) for ear in ears)
        waits = traffic.across(ears)
    seen = (
        f"{len(traffic.acked)} acked, {len(waits)} across in p50/p99/max {figures(waits)}; {broken} gaps;"
        f" back after at most {max(back):.1f} s {dict(traffic.refused) or ''}"
    )
    is_soon = max(back) <= BACK_S and quantile(waits, 0.99) <= BOUND_S
    kept = whole and not broken and not traffic.refused and is_soon
    return Seen(count, f"no gap, p99 ≤ {BOUND_S:g} s, back in {BACK_S:g} s", seen, kept)


async def _until_back(redis: RedisServer) -> float:
    """Wait until every node is subscribed; returns the seconds."""
    began = time.monotonic()
    while time.monotonic() < began + 60:
        subscribed = (await redis.channels()).values()
        if subscribed and min(subscribed) == NODES:
            break
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began
