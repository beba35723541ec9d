"""Clients of a killed node come back to the other one, all at the same time: `python -m bench.storm`.

Two nodes on PostgreSQL and Redis. One has 2,000 connections, 20 in each of 100 rooms, and is killed (-9). Then all
connect to the other one, with cursors from which each has missed 200 messages. Meanwhile somebody in a room of two
sends there, one message at a time: a closed loop, so a long wait counts as one acknowledgement. A connection has
caught up at `ready`; each must have received its 200 messages, and no more.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.cluster import nodes
from bench.cpu import cpu_seconds
from bench.generator.engine import CACHE
from bench.load import Load, LoadFailed, message_to, sender
from bench.process import ServerFailed
from bench.servers import World

CLIENTS, ROOMS, MISSED = 2000, 100, 200
CAUGHT_UP_S = 10.0
ACK_P99_MS = 250.0


def storm(directory: Path, clients: int = CLIENTS, rooms: int = ROOMS, missed: int = MISSED) -> dict[str, Any]:
    """One storm on fresh nodes. Raises `LoadFailed` if a client got another number of messages than it missed."""
    returning = [list(range(room, clients, rooms)) for room in range(rooms)]
    world = World([*returning, [clients, clients + 1]], entries=dict.fromkeys(range(rooms), missed))
    with nodes(world, directory) as ((killed, other), backend):
        before, live, back = Load(killed), Load(other), Load(other)
        try:
            before.open(chosen=range(clients), at_once=64)
            live.open(chosen=[clients, clients + 1])
            live.senders([sender(0, 1, [message_to(rooms)])])
            killed.kill()
            time.sleep(1.0)  # its processes of PostgreSQL end, and their processor time is no longer counted
            cpu, database = cpu_seconds(other.pid), backend.postgresql_cpu()
            live.begin()
            seconds = back.open(chosen=range(clients), at_once=clients, cursors=True)["seconds"]
            acks = live.end()
            received = back.counters()["messages"]
        finally:
            for load in (before, live, back):
                load.close()
        if received != clients * missed:
            raise LoadFailed(f"{received} messages came where {clients * missed} were missed")
        return {
            "seconds": seconds,
            **acks,
            "node": cpu_seconds(other.pid) - cpu,
            "postgresql": backend.postgresql_cpu() - database,
        }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    CACHE.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="storm-", dir=CACHE, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        for number in range(options.rounds):
            load = os.getloadavg()[0]
            try:
                result = storm(Path(name) / str(number))
            except (LoadFailed, ServerFailed) as error:
                print(error, file=sys.stderr)
                return 1
            found.append(result)
            print(
                f"all caught up after {result['seconds']:.1f} s; {result['acks']} acknowledgements meanwhile,"
                f" p50/p99/max {result['ack_50']:.0f} / {result['ack_99']:.0f} / {result['ack_100']:.0f} ms;"
                f" processor time {result['node']:.1f} s of the node,"
                f" {result['postgresql']:.1f} s of PostgreSQL; load {load:.1f}",
                flush=True,
            )
    seconds, p99 = (median(result[name] for result in found) for name in ("seconds", "ack_99"))
    print(f"medians: {seconds:.1f} s (target: {CAUGHT_UP_S:g}), p99 {p99:.0f} ms (target: {ACK_P99_MS:g})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
