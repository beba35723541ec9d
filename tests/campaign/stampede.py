"""Thousands of clients reconnect at the same time, each with many missed entries, while others continue to send.

All are connected and up to date when the server is killed (-9) and restarted, or, with `--how cut`, when their
connections are cut. Then the missed entries are sent, and the clients reconnect within moments. Each sends its
cursors, so it must get everything once, in order and without a gap. Meanwhile one user sends messages one at a time
to a room of their own, and another to a room of all clients. The figures are the waits for these acknowledgements,
and the time until all clients have caught up. The exit status is 1 if a promise was broken, regardless of times:
judge times by the load of the machine, and by the processor time beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
from sqlalchemy import insert
from sqlalchemy.engine import Connection as Transaction

from bench.profile import py_spy
from tests.campaign.support.clients import Plain, Refusal
from tests.campaign.support.lab import SECRET_KEY, Server, ms
from tests.campaign.support.wire import Ended
from tidings.testing import postgresql
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.schema import migrate

DEVICE = "phone"
OWN = "own"
"""The room of the sender alone."""
WRITER = "writer"


class World:
    """The memberships. Every client is up to date and has been connected before."""

    def __init__(self, clients: int, rooms: int, memberships: int) -> None:
        now = time.time_ns() // 1_000_000
        self.users = [WRITER, *(f"user{n}" for n in range(clients))]
        self.rooms = [OWN, *(f"room{n:019}" for n in range(rooms))]
        self.mine = {
            name: [self.rooms[1 + (n + k) % rooms] for k in range(memberships)]
            for n, name in enumerate(self.users[1:])
        }
        self.mine[WRITER] = self.rooms
        claims = {"iss": "tidings", "aud": "tidings", "iat": now // 1000, "exp": now // 1000 + 86_400}
        self.tokens = {
            name: jwt.encode({**claims, "sub": name, "sid": f"sid-{name}"}, SECRET_KEY) for name in self.users
        }
        self._now = now

    def fill(self, conn: Transaction) -> None:
        """Write everything to an empty database: registering thousands would cost a quarter of an hour of bcrypt."""
        now, key = self._now, {room_id: n for n, room_id in enumerate(self.rooms, 1)}
        members = Counter(room_id for rooms in self.mine.values() for room_id in rooms)
        everyone = list(enumerate(self.users, 1))

        def add(table: Any, rows: Sequence[dict[str, Any]]) -> None:
            for at in range(0, len(rows), 1000):
                conn.execute(insert(table), rows[at : at + 1000])

        add(models.names, [{"key": name, "kind": "user"} for name in self.users])
        add(
            models.users,
            [{"id": n, "username": name, "username_key": name, "created_at": now} for n, name in everyone],
        )
        add(
            models.sessions,
            [
                {"id": n, "sid": f"sid-{name}", "user_id": n, "created_at": now, "expires_at": now + 86_400_000}
                for n, name in everyone
            ],
        )
        found = [(n, n, DEVICE) for n, _ in everyone]
        found += [(len(everyone) + n, 1, f"sender{n}") for n in (1, 2)]  # of the writer
        add(
            models.devices,
            [{"id": n, "user_id": user, "name": name, "created_at": now, "seen_at": now} for n, user, name in found],
        )
        add(models.names, [{"key": f"topic{n}", "kind": "topic"} for n in key.values()])
        add(
            models.rooms,
            [
                {
                    "id": n,
                    "room_id": room_id,
                    "kind": "topic",
                    "is_private": False,
                    "topic_name": f"topic{n}",
                    "name_key": f"topic{n}",
                    "members": members[room_id],
                    "created_at": now,
                }
                for room_id, n in key.items()
            ],
        )
        standing = [(n, key[room_id]) for n, name in everyone for room_id in self.mine[name]]
        add(
            models.members,
            [
                {"room_id": room, "user_id": n, "role": "member", "joined_at": now, "joined_seq": 0}
                for n, room in standing
            ],
        )
        add(models.cursors, [{"device_id": n, "room_id": room, "seq": 0} for n, room in standing])


class Crowds:
    """The clients, in a few processes."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    @classmethod
    async def start(cls, count: int, stack: AsyncExitStack) -> Crowds:
        processes = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.campaign.support.crowd"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 26,
            )
            stack.callback(_end, process)
            processes.append(process)
        return cls(processes)

    async def ask(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        return await self.ask_each(command, [arguments] * len(self._processes))

    async def ask_each(self, command: str, arguments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        async def one(process: asyncio.subprocess.Process, given: dict[str, Any]) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"command": command, **given}).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError(f"a process of clients has ended in {command}")
            answer: dict[str, Any] = json.loads(line)
            return answer

        pairs = zip(self._processes, arguments, strict=True)
        return list(await asyncio.gather(*(one(process, given) for process, given in pairs)))

    def share(self, names: Sequence[str], world: World, port: int, at_once: int) -> list[dict[str, Any]]:
        """Distribute the clients over the processes."""
        count = len(self._processes)
        return [
            {
                "port": port,
                "at_once": at_once,
                "members": [(world.tokens[name], dict.fromkeys(world.mine[name], 0)) for name in names[at::count]],
            }
            for at in range(count)
        ]


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


class Sender:
    """Sends one message after the other, and records the wait for each acknowledgement."""

    def __init__(self, client: Plain, room_id: str, per_second: float) -> None:
        self._client = client
        self._room_id = room_id
        self._pause_s = 1 / per_second
        self.waits: list[float] = []
        self.refused: Counter[str] = Counter()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            began = time.monotonic()
            try:
                await self._client.ask("message", room_id=self._room_id, content=f"live {number}".ljust(100, "."))
            except Refusal as refusal:
                self.refused[refusal.code] += 1
            except Ended:
                self.refused["ended"] += 1
                return
            self.waits.append(time.monotonic() - began)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), max(0.0, self._pause_s - self.waits[-1]))

    def told(self) -> str:
        refused = f", refused {dict(self.refused)}" if self.refused else ""
        shown = [ms(at(self.waits, share)) for share in (0.5, 0.99, 1)]
        return f"{len(self.waits)} acknowledged, p50/p99/max {' / '.join(shown)}{refused}"


async def miss(client: Plain, rooms: Sequence[str], count: int, window: int = 64) -> None:
    """Send `count` messages to each room."""
    left = [room_id for _ in range(count) for room_id in rooms]
    for first in range(0, len(left), window):
        sent = [
            client.send("message", {"room_id": room_id, "content": f"missed {first + n}".ljust(100, ".")})
            for n, room_id in enumerate(left[first : first + window])
        ]
        answers = await asyncio.gather(*sent)
        assert all(answer["ok"] for answer in answers), answers


async def heads(client: Plain) -> dict[str, int]:
    found = await client.ask("get_rooms", limit=500)
    return {room["room_id"]: room["last_seq"] for room in found["rooms"]}


def at(values: Sequence[float], share: float) -> float:
    """A quantile, the nearest of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Watch:
    """Measures the memory and processor time of the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = server.processor_seconds(), server.loop_seconds()
        self.memory_before = self.memory = server.memory()
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self.memory = max(self.memory, self._server.memory())
            await asyncio.sleep(0.1)

    def end(self) -> tuple[float, float]:
        """Processor seconds of all threads, and of the event loop's thread."""
        self._task.cancel()
        whole, loop = self._began
        return self._server.processor_seconds() - whole, self._server.loop_seconds() - loop


async def stampede(options: argparse.Namespace, folder: Path, postgres: str | None) -> bool:
    """Returns whether the promises were kept."""
    world = World(options.clients, options.rooms, options.memberships)
    async with AsyncExitStack() as stack:
        environment = {}
        url = f"sqlite:///{folder / 'data' / 'tidings.db'}"
        if postgres is not None:
            url = environment["TIDINGS_DATABASE_URL"] = postgres
        (folder / "data").mkdir()
        await asyncio.to_thread(migrate, url)
        database = Database(url)
        await database.start()
        await database.write(world.fill)
        await database.stop()
        server = Server(folder / "data", **environment)
        await server.start()
        stack.push_async_callback(server.kill)
        crowds = await Crowds.start(options.processes, stack)
        port = int(server.url.rpartition(":")[2])
        await crowds.ask_each("open", crowds.share(world.users[1:], world, port, 32))
        await crowds.ask("leave", cut=options.how == "cut")
        if options.how == "kill":
            await server.kill()
            await server.start()
        writer = await Plain.open(server.url, world.tokens[WRITER], device=DEVICE)
        await miss(writer, world.rooms[1:], options.missed // options.memberships)
        if options.settle:
            await asyncio.sleep(options.settle)
        print(
            f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {world_of(options)}", flush=True
        )
        others = [await Plain.open(server.url, world.tokens[WRITER], device=f"sender{n}") for n in (1, 2)]
        senders = [
            Sender(others[0], OWN, options.own_rate),
            Sender(others[1], world.rooms[1], options.shared_rate),
        ]
        sending = [asyncio.create_task(sender.run()) for sender in senders]
        watch = Watch(server)
        if options.profile is not None:
            stack.enter_context(profiling(server, options))
        began = time.monotonic() + 0.5
        results = await crowds.ask("come", at=began, spread=options.spread, within=options.within)
        whole, loop = watch.end()
        for sender in senders:
            sender.stopping.set()
        await asyncio.wait(sending)
        settled = await crowds.ask("settle", heads=await heads(writer), within=30)
        return report(options, results, settled, senders, (whole, loop, watch))


def world_of(options: argparse.Namespace) -> str:
    return (
        f"{options.clients} clients of {options.memberships} of {options.rooms} rooms, {options.missed} missed each, "
        f"within {options.spread:g} s after {options.how}, {options.database}"
    )


def report(
    options: argparse.Namespace,
    results: Sequence[dict[str, Any]],
    settled: Sequence[dict[str, Any]],
    senders: Sequence[Sender],
    used: tuple[float, float, Watch],
) -> bool:
    seconds = [value for result in results for value in result["seconds"]]
    own = [value for result in results for value in result["own"]]
    counted = {
        name: sum((Counter(one[name]) for one in settled), Counter()) for name in ("refused", "closed", "events")
    }
    late, beyond, wrong = (sum(one[name] for one in settled) for name in ("late", "beyond", "wrongs"))
    whole, loop, watch = used
    rows = {
        "caught up": f"{len(seconds)} of {options.clients}, p50/p99/max {figures(seconds)}",
        "each on its own": f"p50/p99/max {figures(own)}, from its first attempt",
        "entries": f"{sum(one['messages'] for one in settled)}",
        "wrong": f"{wrong} gaps, repeats and resets; {late} without everything, {beyond} beyond the end",
        "attempts": f"{sum(one['connects'] for one in settled)}, refused {dict(counted['refused'])}, "
        f"closed {dict(counted['closed'])}",
        "other events": f"{dict(counted['events'])}",
        "sender, own room": senders[0].told(),
        "sender, shared room": senders[1].told(),
        "server": f"{whole:.2f} s of processor, {loop:.2f} s of them the event loop's; "
        f"{watch.memory_before:.0f} MiB before, {watch.memory:.0f} at most",
        "clients": f"{sum(one['cpu'] for one in results):.2f} s of processor",
    }
    for name, figure in rows.items():
        print(f"{name:20} {figure}")
    for one in settled:
        for problem in one["wrong"]:
            print(f"{'':20} {problem}")
    return all(one["whole"] for one in results) and not late and not beyond and not wrong


def figures(seconds: Sequence[float]) -> str:
    return " / ".join(f"{at(seconds, share):.1f}" for share in (0.5, 0.99, 1)) + " s"


@contextmanager
def profiling(server: Server, options: argparse.Namespace) -> Iterator[None]:
    """Profile the server with py-spy."""
    command = [py_spy(), "record", "--rate", "100", "--threads", "--format", "raw", "--nonblocking"]
    command += ["--output", str(options.profile), "--pid", str(server.pid), "--duration", "600"]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)
        spy.wait()


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="stampede", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--clients", type=int, default=2000)
    arguments.add_argument("--missed", type=int, default=200, help="entries, by each client")
    arguments.add_argument("--rooms", type=int, default=1)
    arguments.add_argument("--memberships", type=int, default=1, help="rooms that each client is in")
    arguments.add_argument(
        "--spread", type=float, default=1.0, help="seconds within which all make their first attempt"
    )
    arguments.add_argument("--how", choices=("kill", "cut"), default="kill")
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    arguments.add_argument(
        "--own-rate", type=float, default=20, help="messages a second to the room of the sender's own"
    )
    arguments.add_argument("--shared-rate", type=float, default=2, help="messages a second to a room of the clients")
    arguments.add_argument(
        "--settle", type=float, default=0, help="seconds of rest before they come (the index is done)"
    )
    arguments.add_argument("--within", type=float, default=120, help="seconds after which it is given up")
    arguments.add_argument("--processes", type=int, default=2, help="of clients")
    arguments.add_argument("--profile", type=Path, metavar="FILE", help="samples of py-spy, as folded stacks")
    return arguments


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidings-stampede-")))
        postgres = None
        if options.database == "postgresql":
            postgres = stack.enter_context(postgresql.database(stack.enter_context(postgresql.server())))
        kept = asyncio.run(stampede(options, folder, postgres))
    return 0 if kept else 1
