"""Nodes on one PostgreSQL, joined by Redis, and a load of two clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conformance.wire import eventually
from tests.support.client import DEADLINE_S, Client
from tests.support.network import Network
from tests.support.node import RunningNode, running_node
from tidings.cluster.redis_broker import RedisBroker

QUIET = {"head_check_s": 3600.0, "session_check_s": 3600.0}


def broker_of(node: RunningNode) -> RedisBroker:
    broker = node.node.cluster.broker
    assert isinstance(broker, RedisBroker)
    return broker


async def joined(*nodes: RunningNode) -> None:
    """Wait until messages of each node reach all others."""
    await eventually(lambda: all(len(broker_of(node)._received) == len(nodes) - 1 for node in nodes))
    await eventually(lambda: all(node.node.cluster.registry.others and not broker_of(node).trouble for node in nodes))


@asynccontextmanager
async def two_nodes(
    database_url: str, data_dir: Path, first_url: str, second_url: str, **options: Any
) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes that have heard of each other, each with its way to Redis."""
    options = QUIET | {"lease_s": 2.0} | options
    async with (
        running_node(database_url, data_dir, options=dict(options), redis_url=first_url) as first,
        running_node(database_url, data_dir, options=dict(options), redis_url=second_url) as second,
    ):
        await joined(first, second)
        yield first, second


def redis_through(proxy: Network) -> str:
    return proxy.url.replace("http://", "redis://")


class Load:
    """Both clients send into a room, one message after the other, and measure when the other one gets it."""

    def __init__(self, room_id: str, *clients: Client) -> None:
        self.room_id = room_id
        self.clients = clients
        self.sent = 0
        self.latest = 0.0
        """The longest time from an acknowledgement to the arrival at the other client, in seconds."""

    async def run(self, until: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not until():
                sender, receiver = self.clients[:: -1 if self.sent % 2 else 1]
                await sender.ask("message", room_id=self.room_id, content=f"{self.sent}")
                acknowledged, self.sent = time.monotonic(), self.sent + 1
                await receiver.until(lambda receiver=receiver: len(receiver.of("message")) == self.sent)
                self.latest = max(self.latest, time.monotonic() - acknowledged)
                await sender.until(lambda sender=sender: len(sender.of("message")) == self.sent)
