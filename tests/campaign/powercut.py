"""Power cuts: every acknowledged message is on the disk, whatever failed before.

A real server runs under load while its syncs and writes fail by a plan. Its writes, syncs and acknowledgements are
recorded and replayed onto a model of a disk (`tests.support.disk`), whose power is cut repeatedly. SQLite opens the
remaining files: they must be undamaged, and contain every message whose acknowledgement was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
from websockets.exceptions import WebSocketException

from tests.support.client import PlainClient, Refused, plainly_connected
from tests.support.disk import DIE, Acknowledged, Disk, Fault, NoCompiler, Recording, acknowledged, violations
from tests.support.node import NO_TLS
from tests.support.process import ServerProcess

SENDERS = 2
IN_FLIGHT = 4
DEADLINE_S = 120.0
"""Time limit of the messages of a run.

After a failure a server needs several successful syncs in a row, and tries once a second. A fault that recurs in step
with its tries can prevent that forever.
"""
KEPT = (0.0, 0.0, 0.3, 0.5, 1.0)
"""The share of unsynced changes that is on the disk; the cuts use these in turn."""
WORDS = ["tide", "harbour", "anchor", "rope", "sail", "mast", "keel", "rudder", "compass", "lantern", "gull", "reef"]


@dataclass(frozen=True)
class Plan:
    name: str
    faults: Sequence[Fault] = ()
    rest: Sequence[Fault] = ()
    """The faults from the restart on, if a fault has killed the server."""
    forgets: bool = False
    durability: str = "full"


def _runs(first: Fault, times: int) -> list[Fault]:
    """A recurring fault, like a disk that is full at times: every call during the fault fails.

    One failing write in so many would differ: a transaction of more writes could never succeed.
    """
    return [first, *[first._replace(after=True)] * (times - 1)]


def plans() -> list[Plan]:
    eio, full = errno.EIO, errno.ENOSPC
    log, base = ".db-wal", ".db"
    failing = [
        Plan("nothing fails"),
        Plan("one sync of the log", [Fault("sync", log, 150)]),
        Plan("one sync in 7", [Fault("sync", "", 60, 1, 7)]),
        Plan("9 syncs in a row", [Fault("sync", "", 60, 9)]),
        Plan("40 syncs in a row", [Fault("sync", "", 150, 40)]),
        Plan("one sync of the database in 2", [Fault("sync", base, 1, 1, 2)]),
        Plan("one sync of each in 5", [Fault("sync", base, 1, 1, 5), Fault("sync", log, 40, 1, 5)]),
        Plan("8 writes in a row, four times: no space", _runs(Fault("write", "", 60, 8, error=full), 4)),
        Plan("a write in 41, a sync in 11", [Fault("write", "", 60, 1, 41, eio), Fault("sync", "", 60, 1, 11)]),
        Plan("a write of the database in 9", [Fault("write", base, 30, 1, 9, full)]),
        Plan("a kill", [Fault("sync", "", 200, error=DIE)]),
        Plan(
            "a sync, then a kill",
            [Fault("sync", log, 150), Fault("sync", "", 152, error=DIE)],
            [Fault("sync", log, 50, 1, 13)],
        ),
        Plan(
            "a sync of the database, then a kill",
            [Fault("sync", base, 2, 3), Fault("sync", "", 300, error=DIE)],
            [Fault("sync", base, 1, 1, 2)],
        ),
    ]
    forgetful = [Plan(f"{plan.name}, and its pages go", plan.faults, plan.rest, True) for plan in failing[1:7]]
    normal = [
        Plan(f"{failing[n].name}, `normal`", failing[n].faults, failing[n].rest, durability="normal")
        for n in (0, 2, 3, 6)
    ]
    return [*failing, *forgetful, *normal]


@dataclass
class Outcome:
    plan: Plan
    acknowledged: int = 0
    left: int = 0
    """Messages that were not acknowledged within `DEADLINE_S`."""
    failed: int = 0
    """Calls that failed by a fault."""
    refused: int = 0
    """Answers `unavailable`."""
    starts: int = 0
    cuts: int = 0
    damaged: int = 0
    """Cuts after which the database was damaged or a message was lost."""
    lost: int = 0
    """Messages lost by the worst cut."""
    slowest_s: float = 0.0
    """The longest time without an acknowledgement."""
    examples: list[str] = field(default_factory=list)


async def load(plan: Plan, folder: Path, messages: int) -> tuple[Recording, Outcome]:
    """Run a server by a plan and send it messages, each until it is acknowledged."""
    data = folder / "data"
    recording = Recording(data, folder / "recorded", forgets=plan.forgets)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = ServerProcess(data, stderr=log, TIDINGS_DURABILITY=plan.durability, **recording.environment)
    outcome = Outcome(plan)
    await server.start()
    outcome.starts = 1
    try:
        tokens = [await server.register(f"sender{n}") for n in range(SENDERS)]
        async with plainly_connected(server.url, tokens[0], device="setup") as client:
            room_id = (await client.ask("create", topic_name="tides"))["room_id"]
        for token in tokens[1:]:
            async with plainly_connected(server.url, token, device="setup") as client:
                await client.ask("subscribe", topic_name="tides")
        recording.fail(*plan.faults)
        runs = [
            asyncio.create_task(_send(server, n, token, room_id, messages, outcome)) for n, token in enumerate(tokens)
        ]
        limit = asyncio.timeout(DEADLINE_S)
        try:
            async with limit, _readers(server, data, tokens[0]):
                while pending := [run for run in runs if not run.done()]:
                    await asyncio.wait(pending, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
                    if not server.alive:
                        outcome.failed += recording.failed
                        recording.fail(*plan.rest)
                        await server.kill()
                        await _start(server, outcome)
                for run in runs:
                    run.result()
        except TimeoutError:
            if not limit.expired():
                raise
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            outcome.left = SENDERS * messages - outcome.acknowledged
        outcome.failed += recording.failed
        recording.fail()
        await server.terminate()
    finally:
        await server.kill()
        os.close(log)
    return recording, outcome


async def _start(server: ServerProcess, outcome: Outcome) -> None:
    """Start the server repeatedly until it runs, as a supervisor would."""
    while True:
        outcome.starts += 1
        with contextlib.suppress(RuntimeError):
            await server.start()
            return


async def _send(
    server: ServerProcess, number: int, token: str, room_id: str, messages: int, outcome: Outcome
) -> None:
    """Send messages in batches, and retry each until it is acknowledged."""
    chance = Random(number)
    contents = [f"{number}-{n} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 30))) for n in range(messages)]
    waiting = [{"room_id": room_id, "client_id": f"{number}-{n}", "content": text} for n, text in enumerate(contents)]
    last = time.monotonic()
    while waiting:
        client = PlainClient(server.url, token, device=f"device{number}")
        with contextlib.suppress(OSError, Refused, TimeoutError, WebSocketException):
            await asyncio.wait_for(client.connect(ready=False), 10)
            while waiting:
                batch = waiting[: chance.randint(1, IN_FLIGHT)]
                requests = [client.send("message", payload) for payload in batch]
                closed = asyncio.create_task(client.closed.wait())
                gathered = asyncio.ensure_future(asyncio.gather(*requests))
                await asyncio.wait([closed, gathered], return_when=asyncio.FIRST_COMPLETED)
                closed.cancel()
                if not gathered.done():
                    gathered.cancel()
                    await asyncio.gather(gathered, return_exceptions=True)
                    break
                for payload, answer in zip(batch, gathered.result(), strict=True):
                    if answer["ok"]:
                        waiting.remove(payload)
                        outcome.acknowledged += 1
                        now = time.monotonic()
                        outcome.slowest_s, last = max(outcome.slowest_s, now - last), now
                    else:
                        assert answer["error"]["retryable"], answer
                        outcome.refused += 1
                        await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _readers(server: ServerProcess, data: Path, token: str) -> AsyncIterator[None]:
    """Search and read by REST; at times, hold a snapshot of another process, which delays the checkpoint."""

    async def ask() -> None:
        async with httpx.AsyncClient(verify=NO_TLS, timeout=10, headers={"Authorization": f"Bearer {token}"}) as http:
            while True:
                for path in ("/api/search?query=anchor", "/api/rooms"):
                    with contextlib.suppress(httpx.HTTPError):
                        await http.get(server.url + path)
                await asyncio.sleep(0.02)

    async def hold() -> None:
        while True:
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(
                    sqlite3.connect(f"file:{data / 'tidings.db'}?mode=ro", uri=True, isolation_level=None)
                ) as conn,
            ):
                conn.execute("BEGIN")
                conn.execute("SELECT count(*) FROM entry").fetchone()
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(ask()), asyncio.create_task(hold())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def cut_power(recording: Recording, outcome: Outcome, folder: Path, cuts: int, seed: int) -> None:
    """Replay the recording, cut the power at random places, and judge the remaining files."""
    chance = Random(seed)
    disk, changes = Disk(), 0
    for _, record in recording.records():
        disk.apply(record)
    changes = disk.changes
    first = changes // 20  # before it, the database is nearly empty
    at = sorted(chance.sample(range(first, changes + 1), min(cuts, changes + 1 - first)))
    disk, promised = Disk(), list[Acknowledged]()
    image = folder / "image"
    image.mkdir(exist_ok=True)
    for _, record, acks in acknowledged(recording.records()):
        while at and disk.changes == at[0]:
            at.pop(0)
            share = KEPT[outcome.cuts % len(KEPT)]
            _judge(disk, outcome, image, promised, lambda share=share: chance.random() < share)  # type: ignore[misc]
        disk.apply(record)
        promised += acks
    _judge(disk, outcome, image, promised, lambda: False)


def _judge(disk: Disk, outcome: Outcome, image: Path, promised: list[Acknowledged], kept: Callable[[], bool]) -> None:
    disk.cut_power(image, kept)
    outcome.cuts += 1
    wrong = violations(image / "tidings.db", promised if outcome.plan.durability == "full" else ())
    if wrong:
        outcome.damaged += 1
        outcome.lost = max(outcome.lost, sum(problem.startswith("lost") for problem in wrong))
        if len(outcome.examples) < 3:
            outcome.examples.append(f"cut {outcome.cuts} after {disk.changes} changes: {wrong[0]}")


def run(plan: Plan, messages: int, cuts: int, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="powercut-") as name:
        folder = Path(name)
        recording, outcome = asyncio.run(load(plan, folder, messages))
        cut_power(recording, outcome, folder, cuts, seed)
        return outcome


def sweep(places: int) -> list[Plan]:
    """One plan for each n: only the n-th sync fails."""
    return [Plan(f"sync {n}", [Fault("sync", "", n)]) for n in range(places)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign powercut", description=__doc__)
    parser.add_argument("--messages", type=int, default=300, help="of each of the two senders, in each run")
    parser.add_argument("--cuts", type=int, default=500, help="power cuts in each run")
    parser.add_argument("--seed", type=int, default=1, help="of where the power is cut, and what the disk keeps")
    parser.add_argument("--only", default="", help="only the plans with this in their names")
    parser.add_argument(
        "--sweep", type=int, default=0, metavar="N", help="instead: N runs, the n-th sync fails in the n-th"
    )
    options = parser.parse_args(arguments)
    chosen = [plan for plan in (sweep(options.sweep) or plans()) if options.only in plan.name]
    print(f"{'what fails':48}  acked failed refused starts  cuts  bad  lost slowest")
    total = Outcome(Plan("all"))
    for plan in chosen:
        try:
            outcome = run(plan, options.messages, options.cuts, options.seed)
        except NoCompiler as error:
            print(f"not run: {error}")
            return 2
        print(_line(outcome), flush=True)
        if outcome.left:
            print(f"    not acknowledged within {DEADLINE_S:g} s: {outcome.left} messages")
        for example in outcome.examples:
            print(f"    {example[:200]}")
        for name in ("acknowledged", "left", "failed", "refused", "starts", "cuts", "damaged", "lost"):
            setattr(total, name, getattr(total, name) + getattr(outcome, name))
        total.slowest_s = max(total.slowest_s, outcome.slowest_s)
    print(_line(total))
    return 1 if total.damaged or total.left else 0


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.plan.name:48} {outcome.acknowledged:6} {outcome.failed:6} {outcome.refused:7} {outcome.starts:6}"
        f" {outcome.cuts:5} {outcome.damaged:4} {outcome.lost:5} {outcome.slowest_s:6.2f} s"
    )
