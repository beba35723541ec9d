"""Floods before sign-in: crowds of connections that never authenticate."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.campaign.attack.doors import IN, knock
from tests.campaign.support.clients import ENGINE_PATH
from tests.campaign.support.lab import Area, Lab, Server, ms, neighbour, pace, until
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, Connection, Refused, WebSocket, ask, handshake, head

area = Area("crowds", together=3)
PATIENCE_S = 25.0
"""A connection without a complete request is closed by then: promised are 10 s, the rest is for a busy machine."""
WAIT_S = 0.25
Opener = Callable[[Server, str], Awaitable[Connection]]


async def silent(server: Server, source: str) -> Connection:
    return await Connection.open(server.url, source)


async def half_head(server: Server, source: str) -> Connection:
    connection = await Connection.open(server.url, source)
    await connection.write(b"GET / HTTP/1.1\r\nHo")
    return connection


async def half_body(server: Server, source: str) -> Connection:
    connection = await Connection.open(server.url, source)
    body = b'{"username":"omar","password":"' + b"x" * 200_000
    headers = {"Content-Type": "application/json", "Content-Length": "261000"}
    await connection.write(head("POST", "/api/login", headers) + body)
    return connection


async def tls(server: Server, source: str) -> Connection:
    connection = await Connection.open(server.url, source)
    await connection.write(bytes.fromhex("16030100c8010000c40303") + bytes(40))
    return connection


async def silent_websocket(server: Server, source: str) -> Connection:
    return await WebSocket.connect(server.url, "/ws", source=source)


async def silent_engine(server: Server, source: str) -> Connection:
    return await WebSocket.connect(server.url, ENGINE_PATH, source=source)


async def silent_messenger(server: Server, source: str) -> Connection:
    return await WebSocket.connect(server.url, "/websocket", source=source)


async def silent_rooms(server: Server, source: str) -> Connection:
    return await WebSocket.connect(server.url, "/", source=source)


async def half_frame(server: Server, source: str) -> Connection:
    socket = await WebSocket.connect(server.url, "/ws", source=source)
    await socket.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"abcd" + b"x" * 100_000)
    return socket


async def half_poll(server: Server, source: str) -> Connection:
    """A polling session without CONNECT, with an incomplete body."""
    answer = await ask(server.url, "GET", "/socket.io/?EIO=4&transport=polling", source=source)
    sid = json.loads(answer.body[1:])["sid"]
    connection = await Connection.open(server.url, source)
    path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    await connection.write(head("POST", path, {"Content-Length": "999000"}) + b"x" * 300_000)
    return connection


async def answered_once(server: Server, source: str) -> Connection:
    """A connection that is idle after an answer."""
    connection = await Connection.open(server.url, source)
    await connection.write(head("GET", "/health/live", {}))
    await connection.answer()
    return connection


KINDS: dict[str, Opener] = {
    "silent TCP": silent,
    "half a head": half_head,
    "half a login": half_body,
    "a TLS hello": tls,
    "idle after an answer": answered_once,
    "silent /ws": silent_websocket,
    "silent Socket.IO": silent_engine,
    "silent /websocket": silent_messenger,
    "silent rooms": silent_rooms,
    "half a frame": half_frame,
    "half a polling body": half_poll,
}


@area.check("a connection that never completes a request is closed")
async def given_up(lab: Lab) -> Seen:
    async with lab.server() as server:
        count = lab.size(10, 60)
        opened: dict[str, list[Connection]] = {}
        for name, opener in KINDS.items():
            sources = (f"127.1.{n % 7 + 1}.{n + 1}" for n in range(count))
            opened[name] = [await opener(server, source) for source in sources]
        trickling = [await half_head(server, f"127.2.1.{n + 1}") for n in range(count)]
        opened["a header byte a second"] = trickling

        async def trickle() -> None:
            while True:
                for connection in trickling:
                    with suppress(*GONE):
                        connection.writer.write(b"x")
                await pace(1)  # a byte a second

        dripping = asyncio.create_task(trickle())
        began = asyncio.get_running_loop().time()
        left: dict[str, int] = {}
        ended: dict[str, float] = {}

        async def wait_for(name: str, connections: list[Connection]) -> None:
            deadline = began + PATIENCE_S
            loop = asyncio.get_running_loop()
            over = await asyncio.gather(*(c.until_closed(max(0.1, deadline - loop.time())) for c in connections))
            ended[name] = loop.time() - began
            if missing := sum(data is None for data in over):
                left[name] = missing

        await asyncio.gather(*(wait_for(name, connections) for name, connections in opened.items()))
        dripping.cancel()
        for connection in itertools.chain.from_iterable(opened.values()):
            connection.abort()
    seen = f"still open: {left}" if left else f"all, after {max(ended.values()):.0f} s at most"
    return Seen(count * len(opened), f"all closed in {PATIENCE_S:.0f} s", seen, not left, {"ended": ended})


@asynccontextmanager
async def crowd(server: Server, opener: Opener, count: int, sources: list[str]) -> AsyncIterator[list[Connection]]:
    """Try to open `count` connections; yields those that the server accepted."""
    opened: list[Connection] = []
    gate = asyncio.Semaphore(50)

    async def attempt(source: str) -> None:
        async with gate:
            with suppress(Refused, TimeoutError, *GONE):
                async with asyncio.timeout(10):
                    opened.append(await opener(server, source))

    try:
        await asyncio.gather(*(attempt(sources[n % len(sources)]) for n in range(count)))
        yield opened
    finally:
        for connection in opened:
            connection.abort()


async def _served(server: Server, tries: int) -> tuple[int, int]:
    """Make honest requests on new connections; returns the number served, and the number made."""
    good = 0
    for n in range(tries):
        with suppress(TimeoutError, *GONE):
            answer = await ask(server.url, "GET", "/health/live", source=f"127.8.0.{n + 1}", deadline=5)
            good += answer.status == 200
    return good, tries


@area.check("one address with unfinished requests does not block other addresses")
async def one_slow_address(lab: Lab) -> Seen:
    async with lab.server() as server:
        server.allow_descriptors(1024)
        told, kept = [], True
        for name in ("half a head", "silent TCP"):
            async with crowd(server, KINDS[name], 1080, ["127.6.6.6"]) as opened:
                good, tries = await _served(server, 10)
            told.append(f"{name} × {len(opened)}: {good} of {tries} served")
            kept = kept and good == tries
        return Seen(20, "10 of 10 others served, at 1,024 descriptors", "; ".join(told), kept)


@area.check("many addresses with unfinished requests do not block others for long")
async def many_slow_addresses(lab: Lab) -> Seen:
    async with lab.server() as server:
        server.allow_descriptors(1024)
        sources = [f"127.6.{n}.6" for n in range(1, 31)]
        async with crowd(server, half_head, 1080, sources) as opened:
            loop = asyncio.get_running_loop()
            began = loop.time()
            good = tries = 0
            while loop.time() < began + PATIENCE_S:
                good, tries = await _served(server, 5)
                if good == tries:
                    break
            waited = loop.time() - began
        seen = f"{len(opened)} opened; {good} of {tries} served after {waited:.0f} s"
        return Seen(1, f"5 of 5 others served within {PATIENCE_S:.0f} s", seen, good == tries)


@area.check("unfinished bodies use little memory, and only briefly")
async def slow_bodies(lab: Lab) -> Seen:
    told, kept = [], True
    for name, count in (("half a polling body", lab.size(100, 150)), ("half a login", lab.size(100, 200))):
        async with lab.server() as server:
            before = server.memory()
            async with crowd(server, KINDS[name], count, [f"127.6.{n}.6" for n in range(1, 9)]) as opened:
                grown = server.memory() - before
                over = await asyncio.gather(*(connection.until_closed(PATIENCE_S) for connection in opened))
            left = sum(data is None for data in over)
        told.append(f"{name} × {len(opened)}: {grown:+.0f} MiB, {left} still open")
        kept = kept and not left and grown <= 96
    return Seen(2, f"≤ 96 MiB, all closed in {PATIENCE_S:.0f} s", "; ".join(told), kept)


@area.check("concurrent bodies of one polling session use little memory")
async def one_session(lab: Lab) -> Seen:
    async with lab.server() as server:
        answer = await ask(server.url, "GET", "/socket.io/?EIO=4&transport=polling", source="127.6.6.6")
        path = f"/socket.io/?EIO=4&transport=polling&sid={json.loads(answer.body[1:])['sid']}"

        async def post(server: Server, source: str) -> Connection:
            connection = await Connection.open(server.url, source)
            await connection.write(head("POST", path, {"Content-Length": "999000"}) + b"x" * 990_000)
            return connection

        before = server.memory()
        async with crowd(server, post, 150, ["127.6.6.6"]) as opened:
            grown = server.memory() - before
            over = await asyncio.gather(*(connection.until_closed(PATIENCE_S) for connection in opened))
        left = sum(data is None for data in over)
        seen = f"{grown:+.0f} MiB, {left} of {len(opened)} still open"
        return Seen(150, f"≤ 32 MiB, all closed in {PATIENCE_S:.0f} s", seen, grown <= 32 and not left)


async def _good_tokens(server: Server, token: str, tries: int) -> dict[str, int]:
    """How often a valid token was accepted by each gateway."""
    found = {}
    for door in ("Socket.IO", "/ws frame", "/ws?token=", "/<token>", "/pub_ws?token=", "/websocket", "REST"):
        opened = 0
        for _ in range(tries):
            opened += await knock(door, server.url, token, "omar", 5) == IN
        found[door] = opened
    return found


async def _beside_half_open(lab: Lab, sources: list[str], each: int, forwarded: bool = False) -> Seen:
    async with lab.server() as server:
        token = await server.user("omar")

        async def opener(server: Server, source: str) -> Connection:
            if not forwarded:
                return await WebSocket.connect(server.url, "/ws", source=source)
            return await WebSocket.connect(server.url, "/ws", [("X-Forwarded-For", source)])

        async with crowd(server, opener, each * len(sources), sources) as opened:
            found = await _good_tokens(server, token, 3)
        missing = {door: f"{opened} of 3" for door, opened in found.items() if opened < 3}
        seen = f"{len(opened)} silent; " + (f"let in: {missing}" if missing else "all let in")
        return Seen(3 * len(found), "3 of 3 let in at each door", seen, not missing)


@area.check("silent WebSockets of five addresses do not block valid tokens")
async def half_open(lab: Lab) -> Seen:
    return await _beside_half_open(lab, [f"127.6.6.{n}" for n in range(1, 6)], 200)


@area.check("silent WebSockets of one IPv6 customer do not block valid tokens")
async def half_open_ipv6(lab: Lab) -> Seen:
    sources = [f"2001:db8:6:6::{n:x}" for n in range(1, lab.size(1001, 1001))]
    return await _beside_half_open(lab, sources, 1, forwarded=True)


@area.check("a storm of handshakes from many addresses does not delay a neighbour")
async def storm(lab: Lab) -> Seen:
    async with lab.server() as server:
        count, descriptors = lab.size(1_000, 10_000), server.descriptors()
        sources = [f"127.{n % 200 + 2}.6.{n % 250 + 1}" for n in range(count)]
        refused = 0
        async with neighbour(server, 0.02) as honest:

            async def attempt(source: str, path: str) -> None:
                nonlocal refused
                try:
                    (await WebSocket.connect(server.url, path, source=source, deadline=20)).abort()
                except (Refused, TimeoutError, *GONE):
                    refused += 1

            paths = itertools.cycle((ENGINE_PATH, "/ws", "/websocket", "/"))
            for at in range(0, count, 40):
                await asyncio.gather(*(attempt(source, next(paths)) for source in sources[at : at + 40]))

            async def are_closed() -> bool:
                return server.descriptors() <= descriptors + 5

            await until(are_closed, 20)
        left = server.descriptors() - descriptors
        kept = honest.served(WAIT_S) and left <= 5
        seen = f"{honest.told()}; {refused} refused; {left:+} descriptors"
        return Seen(count, f"neighbour ≤ {ms(WAIT_S)}, descriptors back", seen, kept)


@area.check("abandoned polling handshakes are forgotten")
async def abandoned(lab: Lab) -> Seen:
    async with lab.server() as server:
        gauge, count = "tidings_connections_half_open", lab.size(300, 2_000)
        before = server.memory()
        for at in range(0, count, 20):
            await asyncio.gather(
                *(
                    ask(server.url, "GET", "/socket.io/?EIO=4&transport=polling", source=f"127.{n % 99 + 1}.5.5")
                    for n in range(at, at + 20)
                )
            )
        left = -1.0

        async def are_forgotten() -> bool:
            nonlocal left
            left = (await server.metrics()).get(gauge, -1.0)
            return left == 0

        await until(are_forgotten, PATIENCE_S)
        seen = f"{left:.0f} left after {PATIENCE_S:.0f} s at most, {server.memory() - before:+.0f} MiB"
        return Seen(count, "none left", seen, left == 0)


@area.check("upgrade requests of any form are answered or closed")
async def unanswered_upgrades(lab: Lab) -> Seen:
    server = await lab.shared()
    many = [(f"X-{n}", "y") for n in range(129)]
    forms = {
        "a body": handshake("/ws", {"Content-Length": "5"}) + b"hello",
        "a body that never arrives": handshake("/ws", {"Content-Length": "5"}),
        "a chunked body": handshake("/ws", {"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
        "129 headers": handshake("/ws", many),
        "a header of 9 KB": handshake("/ws", {"Cookie": "a" * 9_000}),
        "a header of 60 KB": handshake("/ws", {"Cookie": "a" * 60_000}),
        "an address of 9 KB": handshake("/ws?token=" + "x" * 9_000),
        "an address of 60 KB": handshake("/ws?token=" + "x" * 60_000),
        "an address of 70 KB": handshake("/ws?token=" + "x" * 70_000),
        "a path of 70 KB": handshake("/" + "x" * 70_000),
        "Socket.IO, a header of 9 KB": handshake(ENGINE_PATH, {"Cookie": "a" * 9_000}),
        "Socket.IO, an address of 70 KB": handshake(ENGINE_PATH + "&x=" + "x" * 70_000),
        "Socket.IO, a body": handshake(ENGINE_PATH, {"Content-Length": "5"}) + b"hello",
        "rooms, 129 headers": handshake("/", many),
        "no version": handshake("/ws").replace(b"Sec-WebSocket-Version: 13\r\n", b""),
        "an invalid key": handshake("/ws", {"Sec-WebSocket-Key": "x"}),
        "no key": handshake("/ws").replace(b"Sec-WebSocket-Key", b"X-Key"),
        "h2c": head("GET", "/", {"Upgrade": "h2c", "Connection": "Upgrade", "HTTP2-Settings": "AAMAAABkAAQAAP__"}),
        "an unknown upgrade": head("GET", "/ws", {"Upgrade": "exotic", "Connection": "Upgrade"}),
    }

    async def answered(data: bytes) -> bool:
        """Whether there is an answer, or the end: a WebSocket that is left silent ends after its 10 s."""
        async with await Connection.open(server.url) as connection:
            try:
                await connection.write(data)
                async with asyncio.timeout(PATIENCE_S):
                    return bool(await connection.reader.read(1)) or True
            except TimeoutError:
                return False
            except GONE:
                return True

    found = await asyncio.gather(*(answered(data) for data in forms.values()))
    silent = [name for name, good in zip(forms, found, strict=True) if not good]
    seen = f"left without an answer: {', '.join(silent)}" if silent else "all"
    return Seen(len(forms), f"an answer or the end in {PATIENCE_S:.0f} s", seen, not silent)


@area.check("an attacker who knows a username cannot keep its owner from signing in")
async def locked_out(lab: Lab) -> Seen:
    async with lab.server() as server:
        token = await server.user("omar")
        # The owner has signed in from home before.
        await server.login("omar", "127.4.4.4")
        refused = 0
        for n in range(lab.size(20, 60)):
            wrong = {"username": "omar", "password": f"wrong password {n}"}
            answer = await server.post("/api/login", wrong, source=f"127.6.6.{n % 6 + 1}")
            refused += answer.status == 429
        told = []
        right = {"username": "omar", "password": "correct horse"}
        known = await server.post("/api/login", right, source="127.4.4.4")
        told.append(f"from a known address {known.status}")
        change = {"password": "correct horse", "new_password": "battery staple"}
        changed = await server.post("/api/me/password", change, token, source="127.4.4.4")
        told.append(f"change of password {changed.status}")
        kept = known.status == 200 and changed.status in (200, 204) and refused > 0
        told.append(f"{refused} wrong ones limited")
        return Seen(3, "200 at home, 2xx for the change, wrong ones 429", ", ".join(told), kept)


@area.check("the addresses of one IPv6 customer share one limit")
async def ipv6_limits(lab: Lab) -> Seen:
    async with lab.server() as server:
        limited = 0
        for n in range(45):
            wrong = {"username": f"nobody{n}", "password": "wrong password"}
            forwarded = {"X-Forwarded-For": f"2001:db8:7:7::{n + 1:x}"}
            limited += (await server.post("/api/login", wrong, headers=forwarded)).status == 429
        return Seen(45, "429 after 30", f"{limited} × 429", 10 <= limited <= 20)


@area.check("a crowd of concurrent sign-ins is refused or served, and a later sign-in is served")
async def logins(lab: Lab) -> Seen:
    async with lab.server() as server:
        await server.user("omar")
        count = 100

        async def sign_in(n: int) -> int:
            wrong = {"username": f"nobody{n}", "password": "wrong password"}
            answer = await server.post("/api/login", wrong, source=f"127.6.{n % 20}.6", deadline=120)
            return answer.status

        statuses = await asyncio.gather(*(sign_in(n) for n in range(count)))
        after = await server.post(
            "/api/login", {"username": "omar", "password": "correct horse"}, source="127.4.4.4", deadline=60
        )
        odd = [status for status in statuses if status not in (401, 429, 503)]
        found = {status: statuses.count(status) for status in sorted(set(statuses))}
        kept = not odd and after.status == 200
        return Seen(count + 1, "401, 429 or 503; then 200", f"{found}, then {after.status}", kept)
