"""One generator process.

It reads commands as lines of JSON from standard input, and answers each by a line on standard output. Between
commands it answers the heartbeats of its connections. It ends when its input ends.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

from bench.cpu import cpu_seconds
from bench.generator.engine import Engine, EngineError

IDLE_S = 0.05
DRAIN_S = 30.0


class Generator:
    def __init__(self, drain: float = DRAIN_S) -> None:
        """`drain`: seconds within which the last answers and deliveries have to arrive."""
        self._drain = drain
        self.engine: Engine | None = None
        self._rooms: list[list[int]] = []
        """room -> the connections in it"""
        self._slots: list[tuple[int, int, int]] = []
        """(slot, its room, its sender); room -1: its action is not a message"""
        self._connections: list[int] = []
        self._windows: dict[int, int] = {}
        self._every = 0.0
        """The interval (s) at which senders send between `begin` and `end`; 0: at each answer."""

    def handle(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return getattr(self, f"do_{command}")(**arguments)

    def do_open(
        self, ports: list[int], auths: list[str], rooms: list[list[int]], at_once: int, timeout: float
    ) -> Any:
        """Open the connections, to a port each; `rooms` are the numbers of the connections in each."""
        self.engine = engine = Engine()
        self._connections = [engine.add(port, auth) for port, auth in zip(ports, auths, strict=True)]
        self._rooms = rooms
        began = time.perf_counter()
        engine.open(at_once, timeout)
        return {"seconds": time.perf_counter() - began}

    def do_senders(self, senders: list[dict[str, Any]], sampled: list[int]) -> Any:
        """Each with its `connection`, `window` and `slots`: [room, before, after, content]."""
        engine = self._engine
        for sender in senders:
            connection = sender["connection"]
            self._windows[connection] = sender["window"]
            engine.sender(connection, sender["window"])
            for room, before, after, content in sender["slots"]:
                self._slots.append((engine.slot(connection, before, after, content), room, connection))
        for connection in sampled:
            engine.sample(connection)
        return {}

    def do_measure(
        self,
        pids: list[int],
        warmup: float,
        seconds: float,
        only: list[int] | None = None,
        beside: list[int] | None = None,
        every: float = 0.0,
    ) -> Any:
        """Send for `seconds`, and until an action is answered and a message delivered.

        `pids`: the nodes, whose CPU is added up; `beside`: processes whose CPU is counted separately. `only`: the
        connections that send in this round. `every`: send only at intervals of so many seconds, as much as a sender
        may have in flight; otherwise an answer sends the next.
        """
        engine = self._engine
        delivered = any(room >= 0 for _, room, sender in self._slots if only is None or sender in only)
        due = ("acks", "messages") if delivered else ("acks",)
        for connection, window in self._windows.items():
            engine.window(connection, window if only is None or connection in only else 0)
        beside = beside or []
        self._send(warmup, every)
        engine.recording(True)
        own, cpus, aside, before, began = (
            time.process_time(),
            [cpu_seconds(pid) for pid in pids],
            sum(map(cpu_seconds, beside)),
            engine.counters.snapshot(),
            time.perf_counter(),
        )
        self._send(seconds, every)
        while not engine.counters.refused and any(getattr(engine.counters, name) == before[name] for name in due):
            if time.perf_counter() > began + self._drain:
                break
            engine.run(0.02)
        elapsed = time.perf_counter() - began
        after, own = engine.counters.snapshot(), time.process_time() - own
        cpus = [cpu_seconds(pid) - at_first for pid, at_first in zip(pids, cpus, strict=True)]
        aside = sum(map(cpu_seconds, beside)) - aside
        engine.recording(False)
        engine.sending(False)
        self._settle()
        counts = {name: after[name] - before[name] for name in after}
        return {
            **counts,
            "seconds": elapsed,
            "cpu": sum(cpus),
            "cpus": cpus,
            "cpu_beside": aside,
            "generator_cpu": own,
            "p50": engine.latency(0.5),
            "p99": engine.latency(0.99),
            "near_p50": engine.near_latency(0.5),
            "near_p99": engine.near_latency(0.99),
            "far_p50": engine.far_latency(0.5),
            "far_p99": engine.far_latency(0.99),
            "ack_p50": engine.ack_latency(0.5),
            "ack_p99": engine.ack_latency(0.99),
        }

    def do_reopen(self, port: int, auth: str, expected: int, pid: int, timeout: float) -> Any:
        """Open one more connection, which has to receive `expected` messages before `ready`, and close it."""
        engine = self._engine
        own, cpu, before = time.process_time(), cpu_seconds(pid), engine.counters.snapshot()
        connection = engine.add(port, auth)
        engine.open(1, timeout)
        cpu, own = cpu_seconds(pid) - cpu, time.process_time() - own
        received = engine.received(connection)
        if received != expected:
            raise EngineError(f"{received} messages came before `ready` where {expected} were due")
        engine.close_connection(connection)
        size = engine.counters.bytes - before["bytes"]
        return {"seconds": engine.opened_in(connection), "cpu": cpu, "generator_cpu": own, "bytes": size}

    def do_idle(self, seconds: float, pids: list[int]) -> Any:
        """Answer heartbeats and nothing else; returns the CPU seconds of each process meanwhile."""
        cpus, began = [cpu_seconds(pid) for pid in pids], time.perf_counter()
        self._engine.run(seconds)
        elapsed = time.perf_counter() - began
        return {
            "seconds": elapsed,
            "cpus": [cpu_seconds(pid) - at_first for pid, at_first in zip(pids, cpus, strict=True)],
        }

    def do_begin(self, every: float = 0.0) -> Any:
        """Let every sender send, until `end`; `every`: as in `measure`."""
        for connection, window in self._windows.items():
            self._engine.window(connection, window)
        self._every = every
        self._engine.sending(not every)
        self._engine.recording(True)
        return {}

    def wait(self) -> None:
        """Between two commands: answer heartbeats, and send if `begin` has said so."""
        if self._every:
            self._send(IDLE_S, self._every)
        else:
            self._engine.run(IDLE_S)

    def do_end(self) -> Any:
        engine = self._engine
        self._every = 0.0
        engine.recording(False)
        engine.sending(False)
        self._settle()
        return {
            "acks": engine.counters.acks,
            **{f"ack_{q}": engine.ack_latency(q / 100) for q in (50, 99, 100)},
            **{f"arrival_{q}": engine.latency(q / 100) for q in (50, 99, 100)},
        }

    def do_counters(self) -> Any:
        return self._engine.counters.snapshot()

    @property
    def _engine(self) -> Engine:
        assert self.engine is not None, "open first"
        return self.engine

    def _send(self, seconds: float, every: float) -> None:
        engine = self._engine
        if not every:
            engine.sending(True)
            engine.run(seconds)
            return
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            engine.sending(True)
            engine.sending(False)
            engine.run(min(every, left))

    def _settle(self) -> None:
        """Wait for the last answers and deliveries: each acknowledged message must have arrived exactly once."""
        engine = self._engine
        until = time.perf_counter() + self._drain
        while engine.counters.in_flight and time.perf_counter() < until:
            engine.run(0.02)
        if engine.counters.in_flight:
            raise EngineError(f"{engine.counters.in_flight} actions were not answered in {self._drain:g} s")
        if engine.counters.refused:
            raise EngineError(f"{engine.counters.refused} actions were refused, the first: {engine.refusal}")
        due = dict.fromkeys(self._connections, 0)
        for slot, room, _ in self._slots:
            if room >= 0:
                for connection in self._rooms[room]:
                    due[connection] += engine.acked(slot)
        while time.perf_counter() < until and any(engine.received(c) < n for c, n in due.items()):
            engine.run(0.02)
        for connection, count in due.items():
            received = engine.received(connection)
            if received != count:
                raise EngineError(f"connection {connection} got {received} messages where {count} were acknowledged")


def main() -> None:
    generator = Generator()
    while True:
        waiting, _, _ = select.select([sys.stdin], [], [], 0 if generator.engine else None)
        if waiting:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            try:
                answer = generator.handle(request.pop("command"), request)
            except EngineError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        elif generator.engine:
            try:
                generator.wait()
            except EngineError:
                select.select([sys.stdin], [], [])  # the next command reports the error


if __name__ == "__main__":
    main()
