"""Replays to the official JavaScript client, which upgrades during the replay, through slow networks.

Each is a new Node.js process with a network of its own: a device that reconnects to 2,000 to 20,000 missed entries,
by default over the client's default transports (polling, then the upgrade). Stalled replays (silence before `ready`
and a first live message), gaps and repeats are counted; there must be none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from tests.delivery.support import fill, make_topic
from tests.e2e.javascript import SCRIPTS, node
from tests.support.network import Conditions, network
from tests.support.node import settings_for
from tests.support.process import ServerProcess
from tidings_db.engine import Database

LEAST, MOST = 2_000, 20_000
"""Missed entries."""
LATENCY_S = 0.1
QUIET_S = 60.0
"""A replay without an entry for so long has stalled."""


@dataclass
class Result:
    outcomes: Counter[str] = field(default_factory=Counter)
    ended_on: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    entries: int = 0
    gaps: int = 0
    repeats: int = 0
    reconnects: int = 0

    @property
    def good(self) -> bool:
        return set(self.outcomes) == {"whole"} and not self.gaps and not self.repeats

    def add(self, outcome: dict[str, Any], missed: int, seconds: float) -> None:
        self.outcomes[outcome["outcome"]] += 1
        self.ended_on[outcome.get("transport", "?")] += 1
        self.seconds.append(seconds)
        self.entries += missed
        self.gaps += outcome.get("gaps", 0)
        self.repeats += outcome.get("repeats", 0)
        self.reconnects += max(0, outcome.get("connects", 0) - 1)

    def show(self) -> None:
        cuts = quantiles(self.seconds, n=20) if len(self.seconds) > 1 else self.seconds * 19
        print(f"replays     {sum(self.outcomes.values())}: {dict(self.outcomes)}, ended on {dict(self.ended_on)}")
        print(f"entries     {self.entries:,} missed, {self.gaps} gaps, {self.repeats} repeats")
        print(f"reconnects  {self.reconnects}")
        print(f"seconds     p50 {cuts[9]:.1f}, p95 {cuts[18]:.1f}, max {max(self.seconds):.1f}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign replays", description=__doc__)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transports", nargs="+", choices=["polling", "websocket"], help="default: the client's own")
    parser.add_argument("--missed", type=int, nargs=2, default=[LEAST, MOST], metavar=("LEAST", "MOST"))
    parser.add_argument("--latency", type=float, default=LATENCY_S, help="of one way, at most, in seconds")
    result = asyncio.run(campaign(parser.parse_args(arguments)))
    return 0 if result.good else 1


async def campaign(plan: argparse.Namespace) -> Result:
    result, chance = Result(), random.Random(plan.seed)
    with tempfile.TemporaryDirectory() as directory:
        server = ServerProcess(Path(directory) / "data")
        await server.start()
        try:
            token, room_id = await _log(server, plan.missed[1])
            free = asyncio.Semaphore(plan.at_once)
            draws = [(chance.randint(*plan.missed), chance.uniform(0, plan.latency)) for _ in range(plan.replays)]

            async def replay(number: int, missed: int, latency: float) -> None:
                script_arguments = {
                    "token": token,
                    "device": f"device {number}",
                    "room_id": room_id,
                    "after": plan.missed[1] - missed,
                    "upto": plan.missed[1],
                    "transports": plan.transports,
                    "quiet_ms": QUIET_S * 1000,
                }
                async with free:
                    conditions = Conditions(delay=latency, jitter=latency / 4)
                    async with network(server.url, conditions, conditions, seed=number) as slow:
                        began = time.monotonic()
                        outcome = await _replay({"url": slow.url, **script_arguments})
                        result.add(outcome, missed, time.monotonic() - began)
                    if outcome["outcome"] != "whole" or outcome["gaps"] or outcome["repeats"]:
                        print(f"replay {number}, {missed} missed, {latency * 1000:.0f} ms: {outcome}", flush=True)

            await asyncio.gather(*(replay(number, *draw) for number, draw in enumerate(draws)))
        finally:
            await server.kill()
    result.show()
    return result


async def _log(server: ServerProcess, entries: int) -> tuple[str, str]:
    """A reader's token, and a room with that many messages, written while the server is stopped."""
    omar, diego = await server.register("omar"), await server.register("diego")
    room_id = await make_topic(server.url, omar, "noticias", diego)
    await server.terminate()
    database = Database(settings_for("", server.data_dir).database, "normal")
    await database.start()
    await fill(database, "omar", {room_id: ["x" * (n % 300) for n in range(1, entries + 1)]})
    await database.stop()
    await server.start()
    return diego, room_id


async def _replay(arguments: dict[str, Any]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        node(), str(SCRIPTS / "replay.mjs"), json.dumps(arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 15 * QUIET_S)
        outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
        return outcome
    except (TimeoutError, IndexError, ValueError) as error:
        return {"outcome": type(error).__name__, "gaps": 0, "repeats": 0}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
