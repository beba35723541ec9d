"""The scenarios: the rows of the table, each with the server that it compares with and its target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.cpu import cpu_seconds, pss_kib
from bench.load import Load, event_to, history_of, message_to, sender
from bench.postgresql import inserts_per_second
from bench.servers import Durable, Fanout, Inserting, Natural, Server, Tidings, TidingsOnPostgreSQL, World, room_id


@dataclass
class Plan:
    """The extent of a run; `scale` below 1 makes every scenario small, to test that it works."""

    rounds: int = 3
    seconds: float = 4.0
    warmup: float = 1.5
    scale: float = 1.0
    round_done: Callable[[], None] = field(default=lambda: None)

    def scaled(self, count: int, least: int = 2) -> int:
        return count if self.scale == 1 else max(least, round(count * self.scale))


@dataclass
class Side:
    """One server's rounds: medians."""

    name: str
    values: list[float]
    cpu_us: float | None = None
    p50: float | None = None
    p99: float | None = None
    ack_p50: float | None = None
    generator: float | None = None
    """Share of a core that the generator used"""

    @property
    def value(self) -> float:
        return median(self.values)


@dataclass
class Row:
    scenario: str
    title: str
    unit: str
    against: Side | None
    ours: Side
    target: str
    """Empty: there is none."""
    limit: float
    at_least: bool
    """The ratio (or our value, if `against` is None) has to be at least the limit; otherwise at most."""
    lower_p50: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours.value if self.against is None else self.ours.value / self.against.value

    @property
    def reached(self) -> bool:
        if not self.target:
            return True
        good = self.ratio >= self.limit if self.at_least else self.ratio <= self.limit
        if self.lower_p50 and self.against is not None:
            good = good and (self.ours.p50 or 0.0) < (self.against.p50 or 0.0)
        return good


class Scenario(ABC):
    """A measurement; `key` is its name on the command line."""

    key: str
    title: str

    @abstractmethod
    def run(self, plan: Plan, directory: Path) -> list[Row]: ...

    def rounds(self, plan: Plan) -> int:
        """The number of its calls of `round_done`."""
        return plan.rounds * 2


@contextmanager
def running(
    server_type: type[Server], world: World, directory: Path, *, opened: bool = True
) -> Iterator[tuple[Server, Load]]:
    """A server with its generator; both are stopped afterwards."""
    with ExitStack() as stack:
        server = server_type(world, directory / server_type.__name__.lower())
        stack.callback(server.stop)
        server.start()
        load = Load(server)
        stack.callback(load.close)
        if opened:
            load.open()
        yield server, load


def side(name: str, rounds: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float], per: str) -> Side:
    """The medians of a server's rounds; `per` names the counter by which CPU is divided."""
    has_latency = any(result["p50"] for result in rounds)
    return Side(
        name,
        [value(result) for result in rounds],
        cpu_us=median(result["cpu"] * 1e6 / result[per] for result in rounds),
        p50=median(result["p50"] for result in rounds) if has_latency else None,
        p99=median(result["p99"] for result in rounds) if has_latency else None,
        ack_p50=median(result["ack_p50"] for result in rounds),
        generator=median(result["generator_cpu"] / result["seconds"] for result in rounds),
    )


@dataclass
class Sending(Scenario):
    """Messages into rooms, against a peer, by rate."""

    key: str
    title: str
    peer: type[Server]
    target: float
    members: int = 2
    rooms: int = 1
    users: int | None = None
    """Spread over the rooms; `members` per room if not given"""
    senders: int = 1
    window: int = 1
    count: str = "messages"
    """messages: deliveries; acks: messages sent"""
    lower_p50: bool = False
    ours: type[Server] = Tidings

    def _world(self, plan: Plan) -> World:
        if self.users is None:
            return World([list(range(plan.scaled(self.members)))])
        users = plan.scaled(self.users, 4)
        rooms = min(plan.scaled(self.rooms, 4), users * (users - 1))
        # Room r holds two users; each user is in as many rooms as every other user, with a different user in each.
        return World([[r % users, (r + 1 + r // users) % users] for r in range(rooms)])

    def _senders(self, world: World) -> list[dict[str, Any]]:
        if self.users is None:
            return [sender(user, self.window, [message_to(0)]) for user in range(min(self.senders, world.users))]
        return [
            sender(user, self.window, [message_to(room) for room in rooms])
            for user, rooms in enumerate(world.rooms_of())
            if rooms
        ]

    def prepared(
        self, plan: Plan, directory: Path, server_type: type[Server], stack: ExitStack
    ) -> tuple[Server, Load]:
        """A server with open connections, whose senders have not begun."""
        world = self._world(plan)
        server, load = stack.enter_context(running(server_type, world, directory))
        load.senders(self._senders(world))
        return server, load

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        results: dict[type[Server], list[dict[str, Any]]] = {self.peer: [], self.ours: []}
        with ExitStack() as stack:
            loads = {server_type: self.prepared(plan, directory, server_type, stack)[1] for server_type in results}
            for _ in range(plan.rounds):
                for server_type, load in loads.items():
                    results[server_type].append(load.measure(plan.warmup, plan.seconds))
                    plan.round_done()
        return [self._row(results)]

    def _row(self, results: dict[type[Server], list[dict[str, Any]]]) -> Row:
        peer, ours = (
            side(server_type.name, rounds, lambda result: result[self.count] / result["seconds"], self.count)
            for server_type, rounds in results.items()
        )
        return Row(
            self.key,
            self.title,
            "deliveries/s" if self.count == "messages" else "messages/s",
            peer,
            ours,
            f"≥ {self.target:g} ×" + (", lower p50" if self.lower_p50 else ""),
            self.target,
            True,
            self.lower_p50,
        )


class OneAtATime(Sending):
    """The time until the acknowledgement."""

    def _row(self, results: dict[type[Server], list[dict[str, Any]]]) -> Row:
        peer, ours = (
            side(server_type.name, rounds, lambda result: result["ack_p50"], "acks")
            for server_type, rounds in results.items()
        )
        return Row(self.key, self.title, "ms to ack (p50)", peer, ours, f"≤ {self.target:g} ×", self.target, False)


@dataclass
class Lone(Scenario):
    """One message at a time on PostgreSQL, against the durable INSERTs of one client of PostgreSQL."""

    key: str = "lone-postgresql"
    title: str = "one in flight on PostgreSQL"

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        inserts: list[float] = []
        results: list[dict[str, Any]] = []
        on_sqlite: list[dict[str, Any]] = []
        world = World([[0, 1]])
        with ExitStack() as stack:
            server, load = stack.enter_context(running(TidingsOnPostgreSQL, world, directory))
            assert isinstance(server, TidingsOnPostgreSQL)
            _, other = stack.enter_context(running(Tidings, world, directory))
            for each in (load, other):
                each.senders([sender(0, 1, [message_to(0)])])
            for _ in range(plan.rounds):
                inserts.append(inserts_per_second(server.url, plan.seconds))
                plan.round_done()
                for each, rounds in ((load, results), (other, on_sqlite)):
                    rounds.append(each.measure(plan.warmup, plan.seconds))
                    plan.round_done()
        rate = side(server.name, results, lambda result: result["acks"] / result["seconds"], "acks")
        cpu = side(server.name, results, cpu_per_message, "acks")
        against = Side("pgbench, one client", inserts)
        note = f"{median(map(cpu_per_message, on_sqlite)):.0f} µs on SQLite; the target is absolute"
        return [
            Row(self.key, self.title, "messages/s", against, rate, "≥ 0.25 ×", 0.25, True),
            Row(self.key, self.title, "µs CPU per message", None, cpu, "≤ 600 µs", 600.0, False, note=note),
        ]

    def rounds(self, plan: Plan) -> int:
        return plan.rounds * 3


@dataclass
class Opening:
    """The cost of opening connections to a fresh server."""

    seconds: float
    """Until all are open."""
    cpu_us: float
    """Of each connection."""
    memory_kib: float
    """Of each connection."""


def open_connections(
    server_types: Sequence[type[Server]], count: int, plan: Plan, directory: Path, *, settle: float = 0.0
) -> dict[type[Server], list[Opening]]:
    """Open connections in rooms of ten, to a fresh server in each round; memory is read `settle` seconds later."""
    world = World([list(range(first, min(first + 10, count))) for first in range(0, count, 10)])
    openings: dict[type[Server], list[Opening]] = {server_type: [] for server_type in server_types}
    for number in range(plan.rounds):
        for server_type, rounds in openings.items():
            with running(server_type, world, directory / str(number), opened=False) as (server, load):
                pss, cpu = pss_kib(server.pid), cpu_seconds(server.pid)
                seconds = load.open()["seconds"]
                cpu_us = (cpu_seconds(server.pid) - cpu) * 1e6 / count
                if settle:
                    load.idle(settle)
                rounds.append(Opening(seconds, cpu_us, (pss_kib(server.pid) - pss) / count))
            plan.round_done()
    return openings


@dataclass
class Idle(Scenario):
    """Connections that do nothing: the memory that each holds, and the CPU time of opening it."""

    key: str = "idle"
    title: str = "5,000 idle connections"
    connections: int = 5000
    settle: float = 3.0

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        count, settle = plan.scaled(self.connections, 10), min(self.settle, plan.seconds)
        fanout, tidings = open_connections((Fanout, Tidings), count, plan, directory, settle=settle).values()
        node_memory = median(opening.memory_kib for opening in fanout)
        node_seconds = median(opening.seconds for opening in fanout)
        seconds = median(opening.seconds for opening in tidings)
        return [
            Row(
                self.key,
                f"{self.title}: memory",
                "KiB each",
                None,
                Side(Tidings.name, [opening.memory_kib for opening in tidings]),
                "≤ 20 KiB",
                20.0,
                False,
                note=f"{node_memory:.1f} KiB in {Fanout.name}; the target is absolute",
            ),
            Row(
                self.key,
                f"{self.title}: connecting",
                "µs CPU each",
                Side(Fanout.name, [opening.cpu_us for opening in fanout]),
                Side(Tidings.name, [opening.cpu_us for opening in tidings]),
                "≤ 1 ×",
                1.0,
                False,
                note=f"all open after {seconds:.1f} s, {node_seconds:.1f} s in {Fanout.name}",
            ),
        ]


@dataclass
class Connecting(Scenario):
    """The CPU time of opening a connection: the handshake, the token, and the user's rooms."""

    key: str = "connect-postgresql"
    title: str = "5,000 connections, PostgreSQL: connecting"
    connections: int = 5000
    target: float = 1.5

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        count = plan.scaled(self.connections, 10)
        openings = open_connections((Tidings, TidingsOnPostgreSQL), count, plan, directory)
        against, ours = (
            Side(server_type.name, [opening.cpu_us for opening in rounds]) for server_type, rounds in openings.items()
        )
        target = f"≤ {self.target:g} ×"
        return [Row(self.key, self.title, "µs CPU each", against, ours, target, self.target, False)]


@dataclass
class CatchUp(Scenario):
    """A device that missed many messages: from the start of its TCP connection until `ready`."""

    key: str = "catch-up"
    title: str = "catch-up: 10,000 pending, one device"
    pending: int = 10_000
    target: float = 3.0
    peer: type[Server] = Durable
    ours: type[Server] = Tidings

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        pending = plan.scaled(self.pending, 100)
        world = World([[0, 1]], entries={0: pending})
        results: dict[type[Server], list[dict[str, Any]]] = {self.peer: [], self.ours: []}
        with ExitStack() as stack:
            started = {
                server_type: stack.enter_context(running(server_type, world, directory, opened=False))
                for server_type in results
            }
            for _, load in started.values():
                load.open(users=1)  # the second user is the one that reconnects
            for _ in range(plan.rounds):
                for server_type, (server, load) in started.items():
                    auth = server.auth(1, cursors={room_id(0): 0})
                    self._round(load, auth, pending, plan.warmup)
                    results[server_type].append(self._round(load, auth, pending, plan.seconds))
                    plan.round_done()
        peer, ours = (
            side(server_type.name, rounds, lambda result: result["rate"], "messages")
            for server_type, rounds in results.items()
        )
        peer.ack_p50 = ours.ack_p50 = None
        title, target = self.title, f"≥ {self.target:g} ×"
        return [Row(self.key, title, "messages/s", peer, ours, target, self.target, True)]

    def _round(self, load: Load, auth: str, pending: int, seconds: float) -> dict[str, Any]:
        durations: list[float] = []
        cpu = generator = 0.0
        while sum(durations) < seconds:
            result = load.reopen(auth, pending)
            durations.append(result["seconds"])
            cpu += result["cpu"]
            generator += result["generator_cpu"]
        return {
            "rate": pending / median(durations),
            "messages": pending * len(durations),
            "seconds": sum(durations),
            "cpu": cpu,
            "generator_cpu": generator,
            "p50": 0.0,
            "p99": 0.0,
            "ack_p50": 0.0,
        }


@dataclass
class GrowthMembers(Scenario):
    """A room of two online, with and without many offline members."""

    key: str = "growth-members"
    title: str = "growth: 10,000 offline members against none"
    offline: int = 10_000

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        world = World([[0, 1], [2, 3]], offline={1: plan.scaled(self.offline, 100)})
        with running(Tidings, world, directory) as (_, load):
            load.senders([sender(0, 64, [message_to(0)]), sender(2, 64, [message_to(1)])])
            few, many = (side("Tidings", rounds, cpu_per_message, "acks") for rounds in in_turn(load, plan, (0, 2)))
        few.name = "none of them"
        return [Row(self.key, self.title, "µs CPU per message", few, many, "≤ 1.2 ×", 1.2, False)]


@dataclass
class Publishing(Scenario):
    """An application's events against messages, in one room of one server.

    A twentieth is less than a round differs from the next, so there are more and shorter rounds.
    """

    key: str
    title: str
    members: int = 2
    window: int = 1
    server: type[Server] = Tidings
    parts: int = 4
    """Of each round of the plan."""

    def rounds(self, plan: Plan) -> int:
        return super().rounds(plan) * self.parts

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        world, parts = World([list(range(plan.scaled(self.members)))]), self.parts
        plan = replace(plan, rounds=plan.rounds * parts, seconds=plan.seconds / parts, warmup=plan.warmup / parts)
        with running(self.server, world, directory) as (_, load):
            load.senders([sender(0, self.window, [message_to(0)]), sender(1, self.window, [event_to(0)])])
            results = in_turn(load, plan, (0, 1))
        rows = []
        for unit, cost in (("µs", time_per_message), ("µs CPU", cpu_per_message)):
            messages, events = (side(self.server.name, rounds, cost, "acks") for rounds in results)
            messages.name = "messages"
            rows.append(Row(self.key, self.title, f"{unit} per entry", messages, events, "≤ 1.05 ×", 1.05, False))
        return rows


@dataclass
class GrowthLog(Scenario):
    """One long log: its oldest pages against its newest, and a send into it against one into an empty room."""

    key: str = "growth-log"
    title: str = "growth: 1,000,000 entries"
    entries: int = 1_000_000
    pages: int = 20

    def rounds(self, plan: Plan) -> int:
        return plan.rounds * 4

    def run(self, plan: Plan, directory: Path) -> list[Row]:
        entries = plan.scaled(self.entries, 3000)
        # A new empty room for each round: the rounds before have sent into theirs.
        empty = [[4 + 4 * n + k for k in range(4)] for n in range(plan.rounds)]
        world = World([[0, 1, 2, 3], *empty], entries={0: entries})
        deep = [history_of(0, 51 + 50 * n) for n in range(self.pages)]
        newest = [history_of(0, entries + 1 - 50 * n) for n in range(self.pages)]
        pages: tuple[list[dict[str, Any]], ...] = ([], [])
        sends: tuple[list[dict[str, Any]], ...] = ([], [])
        with running(Tidings, world, directory) as (_, load):
            load.senders(
                [
                    sender(0, 1, newest),
                    sender(1, 1, deep),
                    sender(2, 64, [message_to(0)]),
                    *(sender(users[0], 64, [message_to(1 + n)]) for n, users in enumerate(empty)),
                ]
            )
            for number in range(plan.rounds):
                for user, rounds in zip((0, 1), pages, strict=True):
                    rounds.append(load.measure(plan.warmup, plan.seconds, only=[user]))
                    plan.round_done()
                for user, rounds in zip((empty[number][0], 2), sends, strict=True):
                    rounds.append(load.measure(plan.warmup, plan.seconds, only=[user]))
                    plan.round_done()
        new, old = (side("Tidings", rounds, lambda result: result["ack_p50"], "acks") for rounds in pages)
        first, millionth = (side("Tidings", rounds, cpu_per_message, "acks") for rounds in sends)
        new.name, first.name = "the newest page", "an empty room"
        return [
            Row(self.key, f"{self.title} deep, a history page", "ms (p50)", new, old, "≤ 1.3 ×", 1.3, False),
            Row(self.key, f"{self.title}, a send", "µs CPU per message", first, millionth, "≤ 1.3 ×", 1.3, False),
        ]


def in_turn(load: Load, plan: Plan, users: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The rounds of each user, who sends alone."""
    results: list[list[dict[str, Any]]] = [[] for _ in users]
    for _ in range(plan.rounds):
        for user, rounds in zip(users, results, strict=True):
            rounds.append(load.measure(plan.warmup, plan.seconds, only=[user]))
            plan.round_done()
    return results


def time_per_message(result: dict[str, Any]) -> float:
    return float(result["seconds"] * 1e6 / result["acks"])


def cpu_per_message(result: dict[str, Any]) -> float:
    return float(result["cpu"] * 1e6 / result["acks"])


SCENARIOS: Sequence[Scenario] = (
    Sending("fanout-4", "fan-out to 500, 4 in flight", Fanout, 2.5, members=500, window=4),
    Sending("fanout-16", "fan-out to 500, 16 in flight", Fanout, 5, members=500, window=16, lower_p50=True),
    Sending("fanout-64", "fan-out to 500, 64 in flight", Fanout, 12, members=500, window=64, lower_p50=True),
    Sending("fanout-senders", "fan-out to 500, 50 senders, 1 in flight each", Fanout, 5, members=500, senders=50),
    Sending("fanout-5000", "fan-out to 5,000, 4 in flight", Fanout, 2.5, members=5000, window=4),
    Sending("pair", "a room of two, 64 in flight", Durable, 2.5, window=64, count="acks"),
    Sending(
        "pairs",
        "1,000 rooms of two, 200 senders, 1 in flight each",
        Durable,
        2,
        rooms=1000,
        users=200,
        count="acks",
    ),
    Sending("pair-python", "a room of two, 64 in flight", Natural, 25, window=64, count="acks"),
    OneAtATime("ack", "a room of two, 1 in flight", Durable, 1.2, count="acks"),
    Idle(),
    CatchUp(),
    GrowthMembers(),
    GrowthLog(),
    Publishing("publish", "events: a room of two, 1 in flight"),
    Publishing("publish-fanout", "events: fan-out to 500, 4 in flight", members=500, window=4),
    Publishing("publish-postgresql", "events: 1 in flight on PostgreSQL", server=TidingsOnPostgreSQL),
    Sending(
        "pair-postgresql",
        "a room of two, 64 in flight, PostgreSQL",
        Tidings,
        0.7,
        window=64,
        count="acks",
        ours=TidingsOnPostgreSQL,
    ),
    Sending(
        "pair-node-postgresql",
        "a room of two, 64 in flight, both on PostgreSQL",
        Inserting,
        2.5,
        window=64,
        count="acks",
        ours=TidingsOnPostgreSQL,
    ),
    Lone(),
    Sending(
        "pairs-postgresql",
        "1,000 rooms of two, 200 senders, PostgreSQL",
        Tidings,
        0.6,
        rooms=1000,
        users=200,
        count="acks",
        ours=TidingsOnPostgreSQL,
    ),
    CatchUp(
        "catch-up-postgresql",
        "catch-up of 10,000, PostgreSQL",
        target=0.7,
        peer=Tidings,
        ours=TidingsOnPostgreSQL,
    ),
    Connecting(),
)
