"""The throughput model: the processor time of messages, deliveries and idle connections, and what follows from it.

Its constants are fitted to the points of bench/points.json, which `python -m bench.points` measures: to every other
point of a placement. The rest check it. `scaling.py` makes the tables and the plot of docs/scaling.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

POINTS: Final = Path(__file__).with_name("points.json")
HEARTBEAT_S: Final = 25.0
SHARDS: Final = 8
"""Redis' channels for rooms: one commit is published once on each that it concerns."""

Point = dict[str, Any]
Features = Callable[[Point], list[float]]
Known = Callable[[Point], float]
PROCESSES: Final = {"node": "node", "other": "other node", "postgresql": "PostgreSQL", "redis": "Redis"}


# -- the constants ---------------------------------------------------------------------------------------------------


def _groups(point: Point) -> int:
    """Rooms in a commit, summed over the commits. Each has at least one message."""
    return min(int(point["messages"]), int(point["commits"]) * int(point["rooms"]))


def _writes(point: Point) -> float:
    """Calls of the kernel's write: what one commit appends to a room is one write for each member."""
    return float(point["deliveries_here"] * _groups(point))


def _published(point: Point) -> int:
    return min(int(point["messages"]), int(point["commits"]) * min(SHARDS, int(point["rooms"])))


def _on_sqlite(point: Point) -> list[float]:
    return [point["commits"], point["messages"], _writes(point)]


def _batches(point: Point) -> list[float]:
    return [point["commits"], point["messages"]]


def _received(point: Point) -> list[float]:
    return [point["seconds"], _published(point), point["messages"], _relayed_writes(point)]


def _relayed_writes(point: Point) -> float:
    return float((point["members"] - point["deliveries_here"]) * _groups(point))


def _beats(point: Point) -> list[float]:
    return [point["seconds"], point["heartbeats"]]


def _subscribed(point: Point) -> list[float]:
    return [point["published"], point["published"] * point["subscribers"]]


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The coefficients, none below zero, with the least sum of the squares of the relative errors."""
    kept = list(range(len(rows[0])))
    while True:
        scaled = [[row[at] / value for at in kept] for row, value in zip(rows, values, strict=True)]
        matrix = [[sum(row[i] * row[j] for row in scaled) for j in range(len(kept))] for i in range(len(kept))]
        solution = _solve(matrix, [sum(row[i] for row in scaled) for i in range(len(kept))])
        if min(solution) >= 0:
            by_column = dict(zip(kept, solution, strict=True))
            return [by_column.get(at, 0.0) for at in range(len(rows[0]))]
        del kept[solution.index(min(solution))]


def _solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Gaussian elimination with pivoting."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for row in range(size):
            if row != at:
                factor = rows[row][at] / rows[at][at]
                rows[row] = [x - factor * y for x, y in zip(rows[row], rows[at], strict=True)]
    return [rows[at][size] / rows[at][at] for at in range(size)]


def _rounded(value: float) -> float:
    """To two digits: no constant is known more exactly."""
    return float(f"{value:.2g}")


@cache
def points() -> dict[str, list[Point]]:
    measured: dict[str, list[Point]] = json.loads(POINTS.read_text())
    return measured


def fitted(placement: str) -> list[Point]:
    """The points to which constants are fitted: every other one."""
    return points()[placement][::2]


def _fit(chosen: Sequence[Point], process: str, features: Features, known: Known = lambda _: 0.0) -> list[float]:
    """`known`: the processor time in µs that other constants explain."""
    spent = [_cpu_us(point, process) - known(point) for point in chosen]
    return [_rounded(value) for value in least_squares([features(point) for point in chosen], spent)]


def _cpu_us(point: Point, process: str) -> float:
    return float(point["cpu"][process]) * 1e6


@dataclass(frozen=True)
class Constants:
    """Processor time in µs, if nothing else is said."""

    commit: float
    message: float
    write: float
    pg_node_commit: float
    pg_node_message: float
    pg_commit: float
    pg_message: float
    part_alone: float
    part_message: float
    part_write: float
    idle_node: float
    """Per second, beside other nodes"""
    publish: float
    subscriber: float
    heartbeat: float
    memory_kib: float
    connect: float


@cache
def constants() -> Constants:
    commit, message, write = _fit(fitted("sqlite"), "node", _on_sqlite)
    node = _fit(fitted("postgresql"), "node", _batches, lambda point: write * _writes(point))
    database = _fit(fitted("postgresql"), "postgresql", _batches)
    idle_node, part_alone, part_message, part_write = _fit(fitted("nodes"), "other", _received)
    publish, subscriber = _fit(fitted("redis"), "redis", _subscribed)
    spent = [point | {"cpu": {"node": point["cpu"]}} for point in points()["idle"]]
    _, heartbeat = _fit(spent, "node", _beats)
    largest = points()["idle"][-1]
    return Constants(
        commit,
        message,
        write,
        *node,
        *database,
        part_alone,
        part_message,
        part_write,
        idle_node,
        publish,
        subscriber,
        heartbeat,
        _rounded(largest["memory_kib"]),
        _rounded(largest["connect_us"]),
    )


PART_TOGETHER: Final = 17.0
"""µs for a part that arrives while the loop is busy: 12 to 17 by docs/many-nodes.md. The rest is the wake-up."""
COMMIT_US: Final = 830.0
COMMIT_MESSAGE_US: Final = 21.0
"""Duration of a commit, and of each message in it (docs/performance.md), without the network."""
NETWORK_US: Final = 500.0
"""Assumed: the round trip between a node and PostgreSQL."""


# -- the check -------------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    placement: str
    shape: str
    process: str
    model: float
    """Seconds of processor time"""
    measured: float

    @property
    def error(self) -> float:
        return self.model / self.measured - 1


def checks() -> list[Check]:
    """The points to which nothing was fitted."""
    k = constants()
    found = []
    for point in points()["sqlite"][1::2]:
        used = k.commit * point["commits"] + k.message * point["messages"] + k.write * _writes(point)
        found.append(_check("SQLite", point, "node", used))
    for point in points()["postgresql"][1::2]:
        commits, messages = _batches(point)
        used = k.pg_node_commit * commits + k.pg_node_message * messages + k.write * _writes(point)
        found.append(_check("PostgreSQL", point, "node", used))
        found.append(_check("PostgreSQL", point, "postgresql", k.pg_commit * commits + k.pg_message * messages))
    for point in points()["nodes"][1::2]:
        factors = (k.idle_node, k.part_alone, k.part_message, k.part_write)
        used = sum(factor * count for factor, count in zip(factors, _received(point), strict=True))
        found.append(_check("two nodes", point, "other", used))
    for point in points()["redis"][1::2]:
        published, received = _subscribed(point)
        shape = {"shape": f"{point['subscribers']} subscribers"}
        found.append(_check("Redis", point | shape, "redis", k.publish * published + k.subscriber * received))
    return found


def _check(placement: str, point: Point, process: str, model_us: float) -> Check:
    return Check(placement, point["shape"], PROCESSES[process], model_us / 1e6, float(point["cpu"][process]))


# -- the extrapolation -----------------------------------------------------------------------------------------------

BUDGET: Final = 0.6
"""Share of its core that a node may use; the rest is for peaks and reconnects."""
REDIS_BUDGET: Final = 0.7
POSTGRESQL_CORES: Final = 16.0
NODE_CONNECTIONS: Final = 100_000
PER_MINUTE: Final = 1.0
"""Messages of each connection."""
RECIPIENTS: Final = 20
"""Connections that get a message; they are on different nodes, like their senders."""
MOST_NODES: Final = 32
"""Of a cluster. Most of what a further one would add is taken up by the commits of the others."""


class Cluster(NamedTuple):
    """Nodes on one PostgreSQL and one Redis."""

    connections: float
    nodes: int
    commits: float
    """Per second, of all nodes"""
    node: float
    """Cores of each node"""
    relayed: float
    """The part of it that other nodes' commits cost"""
    postgresql: float
    """Cores"""
    redis: float
    """Cores"""

    @property
    def fits(self) -> bool:
        return (
            self.node <= BUDGET
            and self.redis <= REDIS_BUDGET
            and self.postgresql <= POSTGRESQL_CORES
            and self.connections <= self.nodes * NODE_CONNECTIONS
        )


def cluster(connections: float, nodes: int, per_minute: float = PER_MINUTE) -> Cluster:
    """What a cluster of so many nodes would use."""
    k = constants()
    sent = connections * per_minute / 60
    mine = sent / nodes
    # What arrives during a commit is in the next one.
    free = 1 - mine * COMMIT_MESSAGE_US / 1e6
    batch = max(1.0, mine * (COMMIT_US + NETWORK_US) / 1e6 / free) if free > 0 else float("inf")
    commits = mine / batch
    published = commits * min(SHARDS, batch)  # the messages of a commit are of different rooms
    interested = 1 - (1 - 1 / nodes) ** RECIPIENTS
    own = commits * k.pg_node_commit + mine * k.pg_node_message
    own += mine * RECIPIENTS * k.write + connections / nodes / HEARTBEAT_S * k.heartbeat
    foreign = (nodes - 1) * published
    part = (1 - BUDGET) * k.part_alone + BUDGET * min(PART_TOGETHER, k.part_alone)
    relayed = foreign * part + (sent - mine) * interested * k.part_message
    if nodes > 1:
        relayed += k.idle_node
    redis = nodes * published * (k.publish + k.subscriber * nodes) if nodes > 1 else 0.0
    return Cluster(
        connections,
        nodes,
        nodes * commits,
        (own + relayed) / 1e6,
        relayed / 1e6,
        (nodes * commits * k.pg_commit + sent * k.pg_message) / 1e6,
        redis / 1e6,
    )


def smallest(connections: float) -> Cluster | None:
    """The cluster of the fewest nodes that can carry the connections, if there is one."""
    return next((found for n in range(1, MOST_NODES + 1) if (found := cluster(connections, n)).fits), None)


def largest() -> Cluster:
    """The cluster of the most connections, to two digits."""
    low, high = 1_000.0, 1e9
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if smallest(middle) else (low, middle)
    connections = float(f"{low * 0.999:.2g}")
    found = smallest(connections) or smallest(connections * 0.95)
    assert found is not None
    return found


def split(connections: float) -> tuple[int, Cluster]:
    """The fewest separate clusters that can carry the connections, and one of them."""
    count = 1
    while (found := smallest(connections / count)) is None:
        count += 1
    return count, found
