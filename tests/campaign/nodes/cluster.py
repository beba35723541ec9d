"""Node processes on one database, connections that keep what they received and when, and traffic between them."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaign.nodes.proxy import Proxy, proxy
from tests.campaign.support.clients import Plain, Refusal
from tests.campaign.support.lab import Lab, Server
from tests.campaign.support.wire import GONE, Ended, Refused
from tests.support.redis import redis_server

PATIENCE_S = 30.0
"""The longest that a check waits for something whose time it measures."""
WITHOUT_NOTIFY = Path(__file__).with_name("without_notify")
"""On a node's PYTHONPATH: it sends no NOTIFY."""
AWAY = (Ended, Refused, Refusal, TimeoutError, *GONE)


class Cluster:
    def __init__(self, nodes: Sequence[Server], url: str, proxies: Sequence[Proxy]) -> None:
        self.nodes = nodes
        self.url = url
        """Of their database."""
        self.proxies = proxies
        """How each node reaches the database; empty: directly."""
        for node in nodes[1:]:
            node.tokens = nodes[0].tokens

    async def token(self, name: str) -> str:
        return await self.nodes[0].user(name)

    async def connect(self, at: int, name: str, **options: Any) -> Ear:
        """Connect a user to the node with that number; returns after `ready`."""
        return await Ear.open(self.nodes[at], await self.token(name), **options)

    async def client(self, at: int, name: str, device: str = "sender") -> Plain:
        """A connection for requests, whose events are dropped."""
        token = await self.token(name)
        return await Plain.open(self.nodes[at].url, token, device=device, on_event=lambda *_: None)

    async def subscribe(self, at: int, name: str, topic: str) -> None:
        answer = await self.nodes[at].post("/api/subscriptions", {"topic_name": topic}, await self.token(name))
        assert answer.status in (200, 201), answer


@asynccontextmanager
async def cluster(
    lab: Lab, count: int = 3, *, through_proxies: bool = False, published: bool = False, **env: str
) -> AsyncIterator[Cluster]:
    """Running nodes on a new database. `through_proxies`: each reaches it through a `Proxy` of its own.

    `published`: they tell each other their URLs, so that requests may reach any of them.
    """
    async with AsyncExitStack() as stack:
        url = await lab.database_url(stack)
        folder = Path(tempfile.mkdtemp(dir=lab.folder))
        proxies = [await stack.enter_async_context(proxy(url)) for _ in range(count if through_proxies else 0)]
        nodes = []
        if lab.options.wake_up == "redis" and "TIDINGS_REDIS_URL" not in env:
            env |= {"TIDINGS_REDIS_URL": (await stack.enter_async_context(redis_server())).url}
        for n in range(count):
            there = proxies[n].url if proxies else url
            environment = {"TIDINGS_RATE_LIMITS": "off", "TIDINGS_DATABASE_URL": there, **wake_up(lab), **env}
            node = Server(folder / f"node{n}", **environment)
            if published:
                node.publish_url()
            await node.start()
            stack.push_async_callback(node.kill)
            nodes.append(node)
        yield Cluster(nodes, url, proxies)
        for there_is in proxies:
            there_is.heal()


def wake_up(lab: Lab) -> Mapping[str, str]:
    """The environment of nodes that wake each other by NOTIFY, or do not; with Redis they send none either."""
    if lab.options.wake_up != "off":
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(WITHOUT_NOTIFY), str(Path.cwd())])}


class Event(NamedTuple):
    time: float
    name: str
    payload: dict[str, Any]


class Ear:
    """A live connection that keeps every event, with its time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.client: Plain
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, node: Server, token: str, **options: Any) -> Ear:
        ear = cls()
        ear.client = await Plain.open(node.url, token, on_event=ear._take, **options)
        ear.client.ended.add_done_callback(lambda _: ear._changed.set())
        return ear

    def _take(self, name: str, payload: dict[str, Any]) -> None:
        self.events.append(Event(time.monotonic(), name, payload))
        self._changed.set()

    async def until(self, holds: Callable[[], bool], within: float = PATIENCE_S) -> bool:
        """Wait until a condition on the events holds; returns whether it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        return holds()

    async def event(self, name: str, number: int = 1, within: float = PATIENCE_S) -> Event | None:
        """The event of that name with that number; None if it does not come."""
        await self.until(lambda: len(self.of(name)) >= number, within)
        return self.of(name)[number - 1] if len(self.of(name)) >= number else None

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def entries(self, room: str) -> list[tuple[int, float]]:
        """(seq, time) of the room's entries."""
        return [
            (event.payload["seq"], event.time)
            for event in self.events
            if event.payload.get("seq") is not None and event.payload.get("room_id") == room
        ]

    def seqs(self, room: str) -> list[int]:
        return [seq for seq, _ in self.entries(room)]

    async def reaches(self, room: str, seq: int, within: float = PATIENCE_S) -> bool:
        """Wait for the entry with that seq."""
        return await self.until(lambda: bool(seqs := self.seqs(room)) and seqs[-1] >= seq, within)


def gaps(seqs: Sequence[int]) -> int:
    """How often an entry is not the next one."""
    return sum(b != a + 1 for a, b in itertools.pairwise(seqs))


class Acked(NamedTuple):
    seq: int
    time: float
    node: int


class Talk:
    """Senders on several nodes, each of whom sends to a room one message after the other."""

    def __init__(self, room: str, pause_s: float, seed: int) -> None:
        self.room = room
        self.acked: list[Acked] = []
        self.refused: Counter[str] = Counter()
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False
        self._changed = asyncio.Event()

    def add(self, node: int, client: Plain) -> None:
        self._tasks.append(asyncio.create_task(self._send(node, client)))

    async def _send(self, node: int, client: Plain) -> None:
        while not self._over and not client.ended.done():
            try:
                answer = await client.ask("message", room_id=self.room, content="hola")
                self.acked.append(Acked(answer["seq"], time.monotonic(), node))
                self._changed.set()
            except Refusal as refusal:
                self.refused[refusal.code] += 1
            except AWAY as error:
                self.refused[type(error).__name__] += 1
                return
            await asyncio.sleep(self._random.uniform(0, 2 * self._pause_s))

    async def reaches(self, count: int, within: float) -> None:
        """Wait until so many messages have been acknowledged, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while len(self.acked) < count:
                    self._changed.clear()
                    await self._changed.wait()

    async def stop(self) -> int:
        """Returns the seq of the last acknowledged message."""
        self._over = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE_S)
        return max((acked.seq for acked in self.acked), default=0)

    def longest_gap(self, nodes: Sequence[int], since: float, until: float) -> float:
        """The longest time without an acknowledgement by these nodes."""
        times = sorted(acked.time for acked in self.acked if acked.node in nodes and since < acked.time < until)
        return max((b - a for a, b in itertools.pairwise([since, *times, until])), default=0.0)

    def across(self, ears: Mapping[Ear, int]) -> list[float]:
        """Seconds from an acknowledgement by one node to the reception at another one; `ears`: with their nodes."""
        acked = {one.seq: one for one in self.acked}
        return [
            max(0.0, received - acked[seq].time)
            for ear, node in ears.items()
            for seq, received in ear.entries(self.room)
            if seq in acked and acked[seq].node != node
        ]


@asynccontextmanager
async def talk(cluster: Cluster, room: str, senders: Mapping[str, int], pause_s: float) -> AsyncIterator[Talk]:
    """`senders`: members of the room -> the number of their node."""
    traffic = Talk(room, pause_s, 1)
    clients = [(node, await cluster.client(node, name)) for name, node in senders.items()]
    for node, client in clients:
        traffic.add(node, client)
    try:
        yield traffic
    finally:
        await traffic.stop()
        for _, client in clients:
            client.abort()


def figures(seconds: Sequence[float]) -> str:
    """p50/p99/max, in milliseconds."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    shown = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1))
    return " / ".join(f"{value * 1000:.0f}" for value in shown) + " ms"


def quantile(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
