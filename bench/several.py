"""The scenarios with several nodes: two processes that share a room's members, through Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import message_to, sender
from bench.nodes import FanoutNodes, PythonNodes, TidingsNodes
from bench.scenarios import Plan, Row, Scenario, Sending, Side, running, side
from bench.servers import Server, TidingsOnPostgreSQL, World

Result = dict[str, Any]


def cpu_per_delivery(result: Result) -> float:
    return float(result["cpu"] * 1e6 / result["messages"])


def deliveries_per_cpu_second(result: Result) -> float:
    return float(result["messages"] / result["cpu"])


def messages_per_second(result: Result) -> float:
    return float(result["acks"] / result["seconds"])


def _median(rounds: Sequence[Result], value: Callable[[Result], float]) -> float:
    return median(map(value, rounds))


@dataclass
class OnNodes(Sending):
    """Messages sent on one of two nodes or on both, to members on both."""

    peer: type[Server] = TidingsOnPostgreSQL
    target: float = 0.0
    ours: type[Server] = TidingsNodes
    unit: str = ""
    value: Callable[[Result], float] = cpu_per_delivery
    at_least: bool = False

    def _row(self, results: dict[type[Server], list[Result]]) -> Row:
        peer, ours = (
            side(server_type.name, rounds, self.value, self.count) for server_type, rounds in results.items()
        )
        target = f"{'≥' if self.at_least else '≤'} {self.target:g} ×" if self.target else ""
        notes = [self._note(server_type, rounds) for server_type, rounds in results.items()]
        note = "; ".join(notes)
        return Row(self.key, self.title, self.unit, peer, ours, target, self.target, self.at_least, note=note)

    def _note(self, server_type: type[Server], rounds: Sequence[Result]) -> str:
        """How busy the servers' core was, and what Redis took."""
        share = _median(rounds, lambda result: result["cpu"] / result["seconds"])
        redis = _median(rounds, lambda result: result["cpu_beside"] * 1e6 / result[self.count])
        return f"{server_type.name}: {share:.0%} of a core" + (f", Redis {redis:.2f} µs each" if redis else "")


@dataclass
class Added(Scenario):
    """The delivery on another node against the delivery on the sender's, at a steady rate."""

    key: str = "nodes-latency"
    title: str = "another node, 50 messages/s"
    every: float = 0.02

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        rounds: list[Result] = []
        with running(TidingsNodes, World([[0, 1, 2, 3]]), directory) as (_, load):
            load.senders([sender(0, 1, [message_to(0)])])
            for _ in range(plan.rounds):
                rounds.append(load.measure(plan.warmup, plan.seconds, every=self.every))
                plan.round_done()
        return [self._row(rounds, "p50", 3.0), self._row(rounds, "p99", 30.0)]

    def _row(self, rounds: Sequence[Result], quantile: str, limit: float) -> Row:
        far, near = f"far_{quantile}", f"near_{quantile}"
        ours = side(TidingsNodes.name, rounds, lambda result: result[far] - result[near], "acks")
        note = (
            f"{_median(rounds, lambda result: result[near]):.2f} ms on the sender's node,"
            f" {_median(rounds, lambda result: result[far]):.2f} ms on the other; the target is absolute"
        )
        unit = f"ms added ({quantile})"
        return Row(self.key, self.title, unit, None, ours, f"≤ {limit:g} ms", limit, False, note=note)

    def rounds(self, plan: Plan) -> int:
        return plan.rounds


@dataclass
class Elsewhere(Scenario):
    """What a node spends on messages of a room in which it has no connection."""

    key: str = "nodes-elsewhere"
    title: str = "a node without a connection in the room, 64 in flight"

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        idle: list[Result] = []
        rounds: list[Result] = []
        world = World([[0, 1], [2, 3]], nodes={0: 0, 1: 0, 2: 1, 3: 1})
        with running(TidingsNodes, world, directory) as (_, load):
            load.senders([sender(0, 64, [message_to(0)])])
            for _ in range(plan.rounds):
                load.idle(plan.warmup)
                idle.append(load.idle(plan.seconds))
                plan.round_done()
                rounds.append(load.measure(plan.warmup, plan.seconds))
                plan.round_done()
        base = _median(idle, lambda result: result["cpus"][1] / result["seconds"])
        values = [(result["cpus"][1] - base * result["seconds"]) * 1e6 / result["acks"] for result in rounds]
        generator = _median(rounds, lambda result: result["generator_cpu"] / result["seconds"])
        ours = Side("the node without", values, generator=generator)
        note = (
            f"without the {base * 1e3:.1f} ms a second that it takes when nobody sends; the node with the room took"
            f" {_median(rounds, lambda result: result['cpus'][0] * 1e6 / result['acks']):.0f} µs per message;"
            " the target is absolute"
        )
        unit = "µs CPU added per message"
        return [Row(self.key, self.title, unit, None, ours, "≤ 3 µs", 3.0, False, note=note)]


def _fanout(window: int) -> OnNodes:
    return OnNodes(
        f"nodes-fanout-{window}",
        f"fan-out to 500 on two nodes, {window} in flight, against one node",
        target=1.3,
        members=500,
        window=window,
        unit="µs CPU per delivery",
    )


def _adapter(key: str, title: str, peer: type[Server], target: float) -> OnNodes:
    return OnNodes(
        key,
        title,
        peer,
        target,
        members=500,
        window=16,
        unit="deliveries per CPU second",
        value=deliveries_per_cpu_second,
        at_least=True,
    )


SEVERAL_NODES: Sequence[Scenario] = (
    *map(_fanout, (4, 16, 64)),
    _adapter("nodes-node", "fan-out to 500, 16 in flight, both on two nodes", FanoutNodes, 4),
    _adapter("nodes-python", "fan-out to 500, 16 in flight, both on two nodes", PythonNodes, 20),
    Added(),
    Elsewhere(),
    OnNodes(
        "nodes-pairs",
        "1,000 rooms of two, 200 senders on two nodes, against one node",
        target=0,
        rooms=1000,
        users=200,
        count="acks",
        unit="messages/s",
        value=messages_per_second,
        at_least=True,
    ),
)
