"""Workers that run for long, joined by a Redis that fails again and again.

In the first third they are restarted as well. `python -m tests.campaign cluster --area soak` takes half an hour.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
from sqlalchemy import func, select
from sqlalchemy.engine import Connection as Transaction

from tests.campaign.nodes.redis_faults import FAULTS
from tests.campaign.support.lab import MIB, Area, Lab, Server, slope
from tests.campaign.support.load import load
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE
from tests.support.redis import redis_server
from tidings.cluster.feed import TRIM_S
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.queries.feed import KEPT_MS

area = Area("soak")
WORKERS = 4
KINDS = "ws", "python websocket", "python polling", "python upgrade"
SAMPLE_S = 5.0
POLL_S = 0.5
RESTARTED_S = 120.0
"""The longest that a rolling restart takes."""
MIB_PER_HOUR = 1.0
WARMING_MIB_PER_HOUR = {300: 900.0, 3600: 120.0}
"""A process grows at first: the thresholds of runs that take less than so many seconds."""
FEED_S = KEPT_MS / 1000 + TRIM_S + 5
"""The greatest age of a row of the feed, on a busy machine."""
CONVERGE_S = 30.0


@area.check(
    "workers under load stay small, hold nothing back and lose nothing while Redis fails and they are restarted"
)
async def soak(lab: Lab) -> Seen:
    seconds = lab.options.minutes * 60 or lab.size(120, 1800)
    restarts, faults, feed_s = 0, 0, 0.0
    memory: dict[int, list[tuple[float, float]]] = {}
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server())
        url = await lab.database_url(stack)
        environment = {"TIDINGS_DATABASE_URL": url, "TIDINGS_REDIS_URL": redis.url, "TIDINGS_DRAIN_S": "2"}
        folder = Path(tempfile.mkdtemp(dir=lab.folder)) / "data"
        server = Server(folder, TIDINGS_WORKERS=str(WORKERS), TIDINGS_RATE_LIMITS="off", **environment)
        await server.start()
        stack.push_async_callback(server.kill)
        database = Database(url)
        await database.start()
        stack.push_async_callback(database.stop)
        async with load(server, lab.seed, kinds=KINDS) as traffic:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                if passed < seconds / 3:
                    restarts += 1
                    await _restart(server)
                else:
                    for pid, rss in _memory(server).items():
                        memory.setdefault(pid, []).append((passed / 3600, rss))
                    feed_s = max(feed_s, await database.read(_feed_seconds))
                if lab.random.random() < 0.3:
                    faults += 1
                    await lab.random.choice(FAULTS)(redis)
                await asyncio.sleep(SAMPLE_S)
            held = await _held_rooms(server)
            violations = await traffic.finish()
            story = traffic.told(violations)
        status = await server.terminate()
        complaints = sorted({str(line.get("event"))[:80] for line in server.complaints()})
    growth = [slope(points) for points in memory.values() if len(points) > 2]
    limit = next((most for below, most in WARMING_MIB_PER_HOUR.items() if seconds < below), MIB_PER_HOUR)
    seen = (
        f"{seconds:.0f} s, {restarts} restarts, {faults} faults of Redis; {max(growth):+.1f} MiB/h,"
        f" {max(rss for points in memory.values() for _, rss in points):.0f} MiB at most; {held} rooms held;"
        f" feed {feed_s:.0f} s; status {status}, {complaints or 'no error'}; {story}"
    )
    kept = (
        not violations
        and not traffic.final
        and status == 0
        and not complaints
        and not held
        and feed_s <= FEED_S
        and len(growth) == WORKERS
        and max(growth) <= limit
    )
    return Seen(
        restarts + faults,
        f"whole; each worker ≤ {limit:g} MiB/h; no room held; feed ≤ {FEED_S:.0f} s; status 0, no error",
        seen,
        kept,
        {"memory": {str(pid): points for pid, points in memory.items()}},
    )


def _workers(server: Server) -> Sequence[psutil.Process]:
    return psutil.Process(server.pid).children()


def _memory(server: Server) -> Mapping[int, float]:
    """Process -> resident memory, in MiB."""
    return {process.pid: process.memory_info().rss / MIB for process in _workers(server)}


async def _restart(server: Server) -> None:
    """Replace all workers, one after the other."""
    before = {process.pid for process in _workers(server)}
    os.kill(server.pid, signal.SIGHUP)
    async with asyncio.timeout(RESTARTED_S):
        while True:
            now = {process.pid for process in _workers(server)}
            if not before & now and len(now) == WORKERS:
                return
            await asyncio.sleep(POLL_S)


def _feed_seconds(conn: Transaction) -> float:
    """The age of the oldest row of the feed."""
    oldest = conn.scalar(select(func.min(models.feed.c.at)))
    return 0.0 if oldest is None else time.time() - oldest / 1000


async def _held_rooms(server: Server) -> float:
    """The rooms with entries that wait for earlier ones, when that number has stopped falling to 0."""
    rooms = 0.0
    until = time.monotonic() + CONVERGE_S
    while time.monotonic() < until:
        try:
            found = await server.metrics()
        except GONE:
            continue
        rooms = sum(value for name, value in found.items() if name.startswith("tidings_held_rooms"))
        if not rooms:
            break
        await asyncio.sleep(0.5)
    return rooms
