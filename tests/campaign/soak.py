"""Wear the server out: steady traffic, and visitors who connect and leave on every transport, a third of them by RST.

Memory, descriptors, threads and tasks of the event loop are sampled. After the warm-up their slope (least squares)
must stay below the thresholds in the table, and when the visitors have left, their resources must be released.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.campaign.support.clients import Engine, Plain, Refusal, dumps
from tests.campaign.support.lab import Area, Lab, Server, parser, run, slope
from tests.campaign.support.load import load
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, TEXT, Ended, Http, Refused, WebSocket, frame

area = Area("soak")
VISITORS = 40
USERS = 8
TASKS = "tidings_tasks"
CACHE_MIB = 64
"""SQLite's page cache (db/tidings_db/connections.py). Filled before the first sample, it does not count as growth."""
MEMORY_MIB_PER_MINUTE = 2.0
"""The threshold after the warm-up."""
QUICK_MIB_PER_MINUTE = 15.0
"""A quick run ends before the warm-up does."""
MEMORY_MIB = 260
SPARE = 12
"""Threads, files and tasks that a server creates on first use; a leak grows with every visit."""
AWAY = (Refusal, Refused, Ended, TimeoutError, ValueError, *GONE)


@dataclass
class Samples:
    at: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at: float, **values: float) -> None:
        self.at.append(at)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def slope(self, name: str, since: float) -> float:
        """Growth per minute after `since` (s)."""
        points = [(at / 60, value) for at, value in zip(self.at, self.values[name], strict=True) if at >= since]
        return slope(points) if len(points) > 2 else 0.0


class Visitors:
    """Clients that connect, act, and leave in one of three ways."""

    def __init__(self, server: Server, room: str, seed: int) -> None:
        self._server = server
        self._room = room
        self._random = random.Random(seed)
        self.visits: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.over = False

    async def run(self, number: int) -> None:
        kinds = {
            "ws": self._plain,
            "Socket.IO": self._engine,
            "polling": self._polling,
            "topics": self._raw,
            "messenger": self._raw,
            "echo": self._raw,
        }
        while not self.over:
            kind = self._random.choice(list(kinds))
            user = f"visitor{self._random.randrange(USERS)}"
            try:
                async with asyncio.timeout(60):
                    await kinds[kind](kind, user, f"d{number}")
                self.visits[kind] += 1
            except AWAY as error:
                self.problems[f"{kind}: {type(error).__name__} {error}"[:80]] += 1
            await asyncio.sleep(self._random.uniform(0, 0.5))

    async def _leave(self, socket: WebSocket, polite: Callable[[], Awaitable[None]]) -> None:
        ending = self._random.choice(("by RST", "politely", "by FIN alone"))
        if ending == "by RST":
            socket.abort()
        elif ending == "politely":
            await polite()
        else:
            socket.writer.close()
        self.visits[ending] += 1

    async def _stay(self) -> None:
        await asyncio.sleep(self._random.choice((0.0, 0.05, 0.5, 2.0, 5.0)))

    async def _live(self, client: Plain | Engine) -> None:
        try:
            for _ in range(self._random.randint(0, 4)):
                action, fields = self._random.choice(
                    [
                        ("message", {"room_id": self._room, "content": "visiting"}),
                        ("publish", {"room_id": self._room, "event": "visited", "data": {"by": "a visitor"}}),
                        ("history", {"room_id": self._room, "limit": 20}),
                        ("typing", {"room_id": self._room}),
                        ("get_rooms", {}),
                        ("exotic", {}),
                    ]
                )
                await client.call(action, fields, 40)
            await self._stay()
        finally:
            await self._leave(client.socket, client.close)
            client.forget()

    async def _plain(self, _: str, user: str, device: str) -> None:
        await self._live(await Plain.open(self._server.url, self._server.tokens[user], device=device))

    async def _engine(self, _: str, user: str, device: str) -> None:
        await self._live(await Engine.open(self._server.url, self._server.tokens[user], device=device))

    async def _raw(self, kind: str, user: str, _: str) -> None:
        token = self._server.tokens[user]
        path = {"topics": f"/{quote(token)}", "messenger": "/websocket", "echo": f"/echo_ws?token={quote(token)}"}[
            kind
        ]
        socket = await WebSocket.connect(self._server.url, path)
        try:
            if kind == "messenger":
                await socket.send(token)
            elif kind == "echo":
                await socket.send("is there anybody")
                await asyncio.wait_for(socket.receive(), 40)
            else:
                await socket.write(frame(TEXT, dumps({"action": "exotic"}).encode()))
            await self._stay()
        finally:
            await self._leave(socket, socket.close)

    async def _polling(self, _: str, user: str, device: str) -> None:
        base = "/socket.io/?EIO=4&transport=polling"
        async with Http(self._server.url) as http:
            sid = json.loads((await http.ask("GET", base)).body[1:])["sid"]
            path = f"{base}&sid={sid}"
            auth = dumps({"token": self._server.tokens[user], "device": device})
            await http.ask("POST", path, body=f"40{auth}".encode())
            while b"ready" not in (await http.ask("GET", path, deadline=40)).body:
                pass
            await http.ask("POST", path, body=("421" + dumps(["get_rooms", {}])).encode())
            await self._stay()
            if self._random.random() < 0.5:
                http.close()  # the server closes an idle connection after some seconds
                await http.ask("POST", path, body=b"1")
                self.visits["politely"] += 1
            else:
                self.visits["left in a poll"] += 1


async def _fill_page_cache(server: Server) -> None:
    """Store more than the page cache holds, in a room that no visitor enters."""
    user = "archivist"
    room = await server.topic(user, "archive")
    content = "archived " * 888
    client = await server.live(user)
    for _ in range(CACHE_MIB * (1 << 20) * 3 // 2 // len(content) // 16):
        await asyncio.gather(*(client.ask("message", room_id=room, content=content) for _ in range(16)))
    await client.close()


async def _soak(lab: Lab) -> tuple[Samples, dict[str, Any]]:
    seconds = lab.options.minutes * 60 or lab.size(90, 600)
    samples = Samples()
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server:
        names = [f"visitor{n}" for n in range(USERS)]
        await server.users(*names)
        room = await server.topic(names[0], "visited", *names[1:])
        kinds = ("ws", "python websocket", "js websocket", "js polling")
        if lab.options.database == "sqlite":
            await _fill_page_cache(server)
        async with load(server, lab.seed, kinds=kinds, writers=4) as traffic:
            visitors = Visitors(server, room, lab.seed)
            began = time.monotonic()

            async def sample() -> None:
                metrics = await server.metrics()
                values = {
                    "memory": server.memory(),
                    "descriptors": float(server.descriptors()),
                    "threads": float(server.threads()),
                    "connections": sum(v for n, v in metrics.items() if n.startswith("tidings_connections{")),
                }
                if TASKS in metrics:
                    values["tasks"] = metrics[TASKS]
                samples.add(time.monotonic() - began, **values)

            await sample()
            visiting = [asyncio.create_task(visitors.run(n)) for n in range(VISITORS)]
            while time.monotonic() - began < seconds:
                await asyncio.sleep(2.0)
                with suppress(TimeoutError, *GONE):
                    await sample()
            warm = len(samples.at)
            visitors.over = True
            await asyncio.wait(visiting, timeout=70)
            # Abandoned polling sessions end by their heartbeat: 45 s, and some more on a busy machine.
            for _ in range(60):
                await asyncio.sleep(1.0)
                await sample()
                if samples.values["descriptors"][-1] <= samples.values["descriptors"][0] + SPARE and (
                    samples.values["connections"][-1] <= samples.values["connections"][0]
                ):
                    break
            violations = await traffic.finish()
            story = traffic.told(violations)
            whole = not violations and not traffic.final
        status = await server.terminate()
        complaints = server.complaints()
    busy = Samples(samples.at[1:warm], {name: values[1:warm] for name, values in samples.values.items()})
    return busy, {
        "first": {name: values[0] for name, values in samples.values.items()},
        "last": {name: values[-1] for name, values in samples.values.items()},
        "visits": visitors.visits,
        "problems": visitors.problems,
        "story": story,
        "whole": whole,
        "status": status,
        "complaints": complaints,
        "seconds": seconds,
    }


_done: dict[int, tuple[Samples, dict[str, Any]]] = {}
"""The result of one soak, which all checks share."""


async def _once(lab: Lab) -> tuple[Samples, dict[str, Any]]:
    if lab.seed not in _done:
        _done[lab.seed] = await _soak(lab)
    return _done[lab.seed]


@area.check("while clients connect and leave, all others get every message once")
async def whole(lab: Lab) -> Seen:
    _, found = await _once(lab)
    visits = {name: found["visits"][name] for name in sorted(found["visits"])}
    problems = f"; {dict(found['problems'].most_common(3))}" if found["problems"] else ""
    kept = found["whole"] and not found["problems"]
    total = sum(found["visits"][kind] for kind in ("ws", "Socket.IO", "polling", "topics", "messenger", "echo"))
    return Seen(total, "0 lost, 0 twice, no gap; no visitor refused", f"{visits}{problems}; {found['story']}", kept)


@area.check("memory does not grow with the visits")
async def memory(lab: Lab) -> Seen:
    samples, found = await _once(lab)
    warm_up = found["seconds"] / 3
    limit = QUICK_MIB_PER_MINUTE if found["seconds"] < 300 else MEMORY_MIB_PER_MINUTE
    grown = samples.slope("memory", warm_up)
    highest = max(samples.values["memory"])
    seen = f"{grown:+.2f} MiB/min after {warm_up:.0f} s, {found['first']['memory']:.0f} → {highest:.0f} MiB at most"
    figures = {"at": samples.at, **samples.values}
    kept = grown <= limit and highest <= MEMORY_MIB
    return Seen(len(samples.at), f"≤ {limit} MiB/min, ≤ {MEMORY_MIB} MiB", seen, kept, figures)


async def _back(lab: Lab, name: str, spare: int, limit: float) -> Seen:
    samples, found = await _once(lab)
    if name not in samples.values:
        return Seen(0, "", f"/metrics has no {TASKS}", None)
    grown = samples.slope(name, found["seconds"] / 3)
    first, last = found["first"][name], found["last"][name]
    seen = f"{first:.0f} before, {max(samples.values[name]):.0f} at most, {last:.0f} after; {grown:+.1f} a minute"
    expected = f"back to ≤ {first + spare:.0f}; ≤ {limit:.0f} a minute"
    return Seen(len(samples.at), expected, seen, last <= first + spare and grown <= limit)


@area.check("descriptors are released")
async def descriptors(lab: Lab) -> Seen:
    return await _back(lab, "descriptors", SPARE, 20)


@area.check("connections are forgotten")
async def connections(lab: Lab) -> Seen:
    return await _back(lab, "connections", 0, 1_000)  # visits are random: only the final number counts


@area.check("threads do not accumulate")
async def threads(lab: Lab) -> Seen:
    return await _back(lab, "threads", SPARE, 4)


@area.check("tasks of the event loop do not accumulate")
async def tasks(lab: Lab) -> Seen:
    return await _back(lab, "tasks", SPARE, 30)


@area.check("the server ends with status 0 and an empty log of errors")
async def end(lab: Lab) -> Seen:
    _, found = await _once(lab)
    kinds = sorted({str(line.get("event"))[:80] for line in found["complaints"]})
    kept = found["status"] == 0 and not kinds
    return Seen(1, "status 0, no error", f"status {found['status']}, {kinds or 'no error'}", kept)


def main(arguments: list[str]) -> int:
    options: argparse.ArgumentParser = parser(__doc__)
    options.add_argument("--minutes", type=float, default=0, help="how long; 0: by the size, 1.5 or 10")
    return run("soak", [area], options.parse_args(arguments))
