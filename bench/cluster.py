"""Nodes of Tidings on one PostgreSQL cluster and one Redis, both of the benchmark's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bench.cpu import cpu_seconds
from bench.redis import Redis, redis_server
from bench.servers import TidingsOnPostgreSQL, World


class Node(TidingsOnPostgreSQL):
    """A node. The first one prepares the database; the others are given it."""

    name = "Tidings, several nodes"

    def __init__(self, world: World, directory: Path, redis_url: str, first: Node | None = None) -> None:
        super().__init__(world, directory)
        self._redis_url = redis_url
        self._first = first
        if first is not None:
            self._sids = first._sids

    def command(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command()
        return command, environment | {"TIDINGS_REDIS_URL": self._redis_url}

    def prepare(self) -> None:
        if self._first is None:
            super().prepare()
        else:
            self.url = self._first.url

    def kill(self) -> None:
        """End the process by SIGKILL; `stop` is still to be called."""
        self._processes[0].kill()


class Backend:
    """The processes that all nodes share."""

    def __init__(self, first: TidingsOnPostgreSQL, redis: Redis | None = None) -> None:
        self._redis = redis
        self._data = first.directory / "postgresql" / "data"

    def postgresql_cpu(self) -> float:
        """CPU seconds of all processes of PostgreSQL that run now."""
        leader = int((self._data / "postmaster.pid").read_text().split()[0])
        processes = [leader, *(child.pid for child in psutil.Process(leader).children())]
        return sum(map(cpu_seconds, processes))

    def redis_cpu(self) -> float:
        """0 if there is none."""
        return 0.0 if self._redis is None else cpu_seconds(self._redis.pid)


@contextmanager
def nodes(world: World, directory: Path, count: int = 2) -> Iterator[tuple[list[Node], Backend]]:
    """That many nodes, all started."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        first = Node(world, directory / "node0", redis.url)
        started = [first, *(Node(world, directory / f"node{n}", redis.url, first) for n in range(1, count))]
        for node in started:
            stack.callback(node.stop)
            node.start()
        yield started, Backend(first, redis)
