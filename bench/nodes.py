"""The compared servers of two nodes each, on the servers' core, which pass messages through one Redis."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.redis import Redis, redis_server
from bench.servers import PEERS, Fanout, Server, TidingsOnPostgreSQL, World


class _Nodes(Server):
    nodes = 2

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__(world, directory)
        self.redis: Redis | None = None

    def prepare(self) -> None:
        self.redis = self._stack.enter_context(redis_server())
        super().prepare()

    @property
    def redis_path(self) -> str:
        assert self.redis is not None
        return self.redis.path

    @property
    def pids_beside(self) -> list[int]:
        assert self.redis is not None
        return [self.redis.pid]


class TidingsNodes(_Nodes, TidingsOnPostgreSQL):
    """Two nodes on one database. They share a data directory, as workers do, but neither a supervisor nor a port."""

    name = "Tidings, two nodes"

    def command(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command()
        return command, environment | {"TIDINGS_REDIS_URL": f"unix://{self.redis_path}"}


class FanoutNodes(_Nodes, Fanout):
    """Peer (a) with socket.io's Redis adapter."""

    name = "Node, two nodes"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PEER_REDIS": self.redis_path}


class PythonNodes(FanoutNodes):
    """Peer (e): python-socketio with its `AsyncRedisManager`; like peer (a), it keeps nothing."""

    name = "python-socketio, two nodes"

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(PEERS / "fanout.py")], self.environment()
