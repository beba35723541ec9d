"""Measures the points to which `model.py` fits its constants, and others that check it: `python -m bench.points`.

Each point is one shape of load on one placement. What it records are counts (messages, commits, deliveries) and the
processor time of every process that took part, both in the same seconds. Rates do not matter, so other load on the
machine matters little. Writes bench/points.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from bench.cluster import Backend, nodes
from bench.cpu import cpu_seconds, pss_kib
from bench.generator.engine import CACHE
from bench.load import Load, LoadFailed, message_to, sender
from bench.process import ServerFailed
from bench.redis import redis_server
from bench.scenarios import running
from bench.servers import Server, Tidings, TidingsOnPostgreSQL, World

POINTS = Path(__file__).with_name("points.json")


@dataclass(frozen=True)
class Shape:
    members: int
    """Online in each room; the first one sends."""
    window: int
    """Messages that each sender has in flight."""
    rooms: int = 1
    senders: int = 1
    """In each room."""

    @property
    def name(self) -> str:
        rooms = f"{self.rooms:,} rooms of {self.members:,}" if self.rooms > 1 else f"a room of {self.members:,}"
        senders = f"{self.senders} senders, " if self.senders > 1 else ""
        return f"{rooms}, {senders}{self.window} in flight" + (" each" if self.rooms > 1 or self.senders > 1 else "")

    def world(self) -> World:
        return World([list(range(n * self.members, (n + 1) * self.members)) for n in range(self.rooms)])

    def slots(self) -> list[tuple[int, int]]:
        """The senders: (user, room)."""
        return [(room * self.members + n, room) for room in range(self.rooms) for n in range(self.senders)]


ONE_NODE = (
    Shape(500, 4),
    Shape(500, 16),
    Shape(500, 64),
    Shape(50, 16),
    Shape(2, 8),
    Shape(2, 64),
    Shape(2, 1, rooms=200),
    Shape(2, 4, rooms=16),
    Shape(10, 1, rooms=100),
    Shape(100, 8),
    Shape(500, 1, senders=50),
    Shape(5000, 4),
    Shape(20, 2, rooms=20),
)
ON_POSTGRESQL = (
    Shape(2, 2),
    Shape(2, 16),
    Shape(2, 64),
    Shape(2, 1, rooms=200),
    Shape(2, 4, rooms=16),
    Shape(50, 16),
    Shape(10, 1, rooms=100),
    Shape(100, 8),
)
TWO_NODES = (
    Shape(2, 2),
    Shape(2, 16),
    Shape(2, 64),
    Shape(2, 1, rooms=100),
    Shape(50, 16),
    Shape(20, 2, rooms=20),
)
IDLE = (2000, 10_000)
SUBSCRIBERS = (1, 2, 4, 8, 16, 32)
ENTRY_BYTES = 420
"""About what a message of 100 characters takes between two nodes."""


def commits(server: Server) -> int:
    """The commits of the journal so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        found = re.search(r"^tidings_journal_batch_changes_count(?:\{.*\})? (\S+)$", answer.read().decode(), re.M)
    if found is None:
        raise LoadFailed("the server does not count its commits")
    return int(float(found[1]))


def _senders(load: Load, shape: Shape, number: dict[int, int]) -> None:
    load.senders([sender(number[user], shape.window, [message_to(room)]) for user, room in shape.slots()])


def one_node(server_type: type[Server], shape: Shape, directory: Path, seconds: float) -> dict[str, Any]:
    with running(server_type, shape.world(), directory) as (server, load):
        _senders(load, shape, {user: user for user in range(server.world.users)})
        load.measure(0.3, 0.7)
        backend = Backend(server) if isinstance(server, TidingsOnPostgreSQL) else None
        return _measured(load, server, shape, backend, seconds) | {"deliveries_here": shape.members}


def _measured(
    load: Load, server: Server, shape: Shape, backend: Backend | None, seconds: float, other: Server | None = None
) -> dict[str, Any]:
    def read() -> dict[str, float]:
        result: dict[str, float] = {"commits": commits(server), "node": cpu_seconds(server.pid)}
        if other is not None:
            result["other"] = cpu_seconds(other.pid)
        if backend is not None:
            result |= {"postgresql": backend.postgresql_cpu(), "redis": backend.redis_cpu()}
        return result

    before, acks, began = read(), load.counters()["acks"], time.monotonic()
    load.measure(0.0, seconds)
    elapsed, after, acks = time.monotonic() - began, read(), load.counters()["acks"] - acks
    used = {name: after[name] - before[name] for name in after}
    return {
        "shape": shape.name,
        "members": shape.members,
        "rooms": shape.rooms,
        "messages": acks,
        "commits": int(used.pop("commits")),
        "seconds": round(elapsed, 3),
        "cpu": {name: round(value, 5) for name, value in used.items()},
    }


def two_nodes(shape: Shape, directory: Path, seconds: float) -> dict[str, Any]:
    """All senders on one node, the other members on the other."""
    world = shape.world()
    there = [user for room in world.rooms for user in room[shape.senders :]]
    here = [user for user in range(world.users) if user not in set(there)]
    with nodes(world, directory) as ((first, second), backend):
        load, far = Load(first), Load(second)
        try:
            load.open(chosen=here)
            far.open(chosen=there)
            _senders(load, shape, {user: at for at, user in enumerate(here)})
            load.measure(0.3, 0.7)
            result = _measured(load, first, shape, backend, seconds, second)
        finally:
            load.close()
            far.close()
    return result | {"deliveries_here": shape.senders}


def idle(count: int, directory: Path, seconds: float) -> dict[str, Any]:
    """Connections that only answer heartbeats, in rooms of ten. `seconds` should be some heartbeats' interval."""
    world = World([list(range(first, min(first + 10, count))) for first in range(0, count, 10)])
    with running(Tidings, world, directory, opened=False) as (server, load):
        memory, cpu = pss_kib(server.pid), cpu_seconds(server.pid)
        load.open()
        connect = cpu_seconds(server.pid) - cpu
        load.idle(5.0)
        memory = pss_kib(server.pid) - memory
        cpu, beats, began = cpu_seconds(server.pid), load.counters()["heartbeats"], time.monotonic()
        load.idle(seconds)
        return {
            "connections": count,
            "memory_kib": round(memory / count, 2),
            "connect_us": round(connect * 1e6 / count, 1),
            "seconds": round(time.monotonic() - began, 3),
            "cpu": round(cpu_seconds(server.pid) - cpu, 5),
            "heartbeats": load.counters()["heartbeats"] - beats,
        }


def redis(subscribers: int, rounds: int = 400) -> dict[str, Any]:
    """What Redis spends on publishing: messages of four entries, eight in a pipeline."""
    with redis_server() as server, ExitStack() as stack:
        publisher = stack.enter_context(Redis(unix_socket_path=server.path, protocol=2))
        readers = []
        for _ in range(subscribers):
            reader = stack.enter_context(socket.socket(socket.AF_UNIX))
            reader.connect(server.path)
            reader.sendall(b"SUBSCRIBE points\r\n")
            reader.recv(4096)
            readers.append(reader)
        content = bytes(4 * ENTRY_BYTES)
        before = cpu_seconds(server.pid)
        for _ in range(rounds):
            with publisher.pipeline(transaction=False) as pipeline:
                for _ in range(8):
                    pipeline.publish("points", content)
                pipeline.execute()
            for reader in readers:
                reader.recv(1 << 20)
        cpu = cpu_seconds(server.pid) - before
        return {"subscribers": subscribers, "published": 8 * rounds, "cpu": {"redis": round(cpu, 5)}}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.points", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="that each point is measured (default: 3)")
    parser.add_argument(
        "--only", choices=["sqlite", "postgresql", "nodes", "idle", "redis"], help="of the placements"
    )
    options = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    points: dict[str, Any]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="points-", dir=CACHE, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        work: dict[str, list[Any]] = {
            "sqlite": [(one_node, Tidings, shape) for shape in ONE_NODE],
            "postgresql": [(one_node, TidingsOnPostgreSQL, shape) for shape in ON_POSTGRESQL],
            "nodes": [(two_nodes, shape) for shape in TWO_NODES],
            "idle": [(idle, count) for count in IDLE],
            "redis": [(redis, count) for count in SUBSCRIBERS],
        }
        for placement in [options.only] if options.only else work:
            found = []
            for number, (measure, *arguments) in enumerate(work[placement]):
                directory = Path(name) / f"{placement}{number}"
                try:
                    if measure is two_nodes:
                        point = two_nodes(arguments[0], directory, options.seconds)
                    elif measure is redis:
                        point = redis(arguments[0])
                    elif measure is idle:
                        point = idle(arguments[0], directory, 50.0)
                    else:
                        point = one_node(arguments[0], arguments[1], directory, options.seconds)
                except (LoadFailed, ServerFailed) as error:
                    print(f"{placement}: {arguments}: {error}", file=sys.stderr)
                    return 1
                print(json.dumps(point), f"load {os.getloadavg()[0]:.1f}", flush=True)
                found.append(point)
            points = json.loads(POINTS.read_text()) if POINTS.exists() else {}
            points[placement] = found
            POINTS.write_text(json.dumps(points, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
