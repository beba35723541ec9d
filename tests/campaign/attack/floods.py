"""Floods after sign-in: the resources that one user can use, and the effect on others."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from contextlib import suppress
from typing import Any

from tests.campaign.support.clients import ENGINE_PATH, Engine, Live, Plain, Refusal, dumps
from tests.campaign.support.lab import Area, Lab, ms, neighbour, slope, until
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import (
    CLOSE,
    GONE,
    PING,
    PONG,
    TEXT,
    Connection,
    Ended,
    Refused,
    WebSocket,
    frame,
    head,
)

area = Area("floods", together=2)
WAIT_S = 0.25
PATIENCE_S = 5.0
MOST_CONNECTIONS = 128
MOST_DEVICES = 256


@area.check("a user's connections at one time are limited")
async def connections(lab: Lab) -> Seen:
    async with lab.server() as server:
        token, tries = await server.user("omar"), 300
        opened: list[Plain] = []
        refused: dict[str, int] = {}
        for n in range(tries):
            try:
                opened.append(await Plain.open(server.url, token, device=f"d{n % 20}", source=f"127.6.{n % 9}.6"))
            except (Refusal, Refused, Ended) as error:
                name = error.code if isinstance(error, Refusal) else type(error).__name__
                refused[name] = refused.get(name, 0) + 1

        async def are_few() -> bool:
            return sum(not client.ended.done() for client in opened) <= MOST_CONNECTIONS

        await until(are_few, PATIENCE_S)
        alive = sum(not client.ended.done() for client in opened)
        for client in opened:
            client.abort()
        seen = f"{alive} open of {tries}; refused: {refused or 'none'}"
        return Seen(tries, f"≤ {MOST_CONNECTIONS} open", seen, alive <= MOST_CONNECTIONS)


@area.check("the devices of a user are limited")
async def devices(lab: Lab) -> Seen:
    async with lab.server() as server:
        rooms, tries = lab.size(40, 400), lab.size(400, 1_000)
        client = await server.live("omar")
        for n in range(rooms):
            await client.ask("create", topic_name=f"topic {n}")
        client.abort()
        token, refused = server.tokens["omar"], 0
        before = server.processor_seconds()
        for n in range(tries):
            try:
                (await Plain.open(server.url, token, device=f"new {n}", source=f"127.6.{n % 9}.6")).abort()
            except (Refusal, Refused, Ended):
                refused += 1
        spent = server.processor_seconds() - before
        seen = f"{tries - refused} of {tries} let in, with {rooms} rooms; {ms(spent / tries)} each"
        # Devices that were not used for long may make room for new ones: so also few bytes, instead of refusals.
        written = sum(path.stat().st_size for path in server.data_dir.glob("tidings.db*"))
        if lab.postgres is None:
            seen += f"; {written / 1024:,.0f} KiB on disk"
        kept = tries - refused <= MOST_DEVICES or (
            lab.postgres is None and _cursor_rows(server.data_dir) <= rooms * MOST_DEVICES
        )
        return Seen(tries, f"≤ {MOST_DEVICES} devices kept", seen, kept)


def _cursor_rows(folder: Any) -> int:
    """The largest number of rows of any table, which grows with devices × rooms if it is unbounded."""
    with sqlite3.connect(f"file:{folder}/tidings.db?mode=ro", uri=True) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return max(database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)


@area.check("frequent connects do not delay a neighbour")
async def connects(lab: Lab) -> Seen:
    async with lab.server() as server:
        client = await server.live("omar")
        for n in range(lab.size(100, 500)):
            await client.ask("create", topic_name=f"topic {n}")
        client.abort()
        token, tries, let_in = server.tokens["omar"], lab.size(300, 2_000), 0

        async def one(n: int) -> None:
            nonlocal let_in
            with suppress(Refusal, Refused, Ended, TimeoutError, *GONE):
                found = await Plain.open(server.url, token, device=f"d{n}", source=f"127.6.{n % 200}.6")
                let_in += 1
                found.abort()

        before = server.processor_seconds()
        async with neighbour(server) as honest:
            for at in range(0, tries, 30):
                await asyncio.gather(*(one(n) for n in range(at, at + 30)))
        spent = (server.processor_seconds() - before) / tries
        seen = f"{honest.told()}; {let_in} let in, {ms(spent)} each"
        return Seen(tries, f"neighbour ≤ {ms(WAIT_S)}", seen, honest.served(WAIT_S))


@area.check("endless frames are given up, and use little memory")
async def endless_frames(lab: Lab) -> Seen:
    async with lab.server() as server:
        token, count = await server.user("omar"), lab.size(40, 100)
        before, clients = server.memory(), []
        part = b"\x81\xff" + (999_000).to_bytes(8, "big") + b"abcd" + b"x" * 990_000
        for n in range(count):
            with suppress(Refusal, Refused, Ended, TimeoutError, *GONE):
                client = await Plain.open(server.url, token, device=f"d{n}", source=f"127.6.{n % 9}.6")
                await client.socket.write(part)
                clients.append(client)
        await server.get("/health/live")  # answered after what has come before
        grown = server.memory() - before
        waiting = {client.ended for client in clients}
        if waiting:
            await asyncio.wait(waiting, timeout=45)
        left = sum(not client.ended.done() for client in clients)
        for client in clients:
            client.abort()
        seen = f"{len(clients)} × 990 KB: {grown:+.0f} MiB, {left} still open after 45 s"
        return Seen(count, "≤ 64 MiB, all closed in 45 s", seen, grown <= 64 and not left)


@area.check("typing is limited")
async def typing(lab: Lab) -> Seen:
    async with lab.server() as server:
        room = await server.topic("omar", "noticias", "diego")
        came = 0

        def count(name: str, payload: dict[str, Any]) -> None:
            nonlocal came
            came += name == "typing"

        diego = await server.live("diego", on_event=count)
        omar = await server.live("omar", source="127.6.6.6")
        tries, accepted = lab.size(6_000, 30_000), 0
        before = server.processor_seconds()
        async with neighbour(server) as honest:
            for at in range(0, tries, 300):
                answers = await asyncio.gather(
                    *(omar.send("typing", {"room_id": room, "typing": bool(n % 2)}) for n in range(at, at + 300))
                )
                accepted += sum(answer["ok"] for answer in answers)
        spent = server.processor_seconds() - before
        await diego.ask("get_profile", username="omar")
        omar.abort()
        diego.abort()
        kept = came <= tries // 10 and honest.served(WAIT_S)
        seen = f"{accepted} accepted, {came} events to one member, {spent:.1f} s; {honest.told()}"
        return Seen(tries, f"≤ {tries // 10} events; neighbour ≤ {ms(WAIT_S)}", seen, kept)


@area.check("the topics, stored messages and links of a user are limited")
async def quotas(lab: Lab) -> Seen:
    """Rates alone would allow far more topics than anybody needs."""
    async with lab.server() as server:
        tries, made, code = 1_100, 0, ""
        omar = await server.live("omar", source="127.6.6.6")
        for at in range(0, tries, 50):
            answers = await asyncio.gather(
                *(omar.send("create", {"topic_name": f"topic {n}"}) for n in range(at, at + 50))
            )
            made += sum(answer["ok"] for answer in answers)
            code = next((answer["error"]["code"] for answer in answers if not answer["ok"]), "")
            if code:
                break
        room = await server.topic("diego", "secret", "omar", private=True)
        links = 0
        for at in range(0, 1_000, 50):
            answers = await asyncio.gather(
                *(omar.send("create_invitation_link", {"room_id": room}) for n in range(at, at + 50))
            )
            links += sum(answer["ok"] for answer in answers)
            if not all(answer["ok"] for answer in answers):
                break
        omar.abort()
        seen = f"{made} topics{' then ' + code if code else ''}, {links} links to one room"
        return Seen(
            tries + 1_000, "fewer than 1,100 topics, fewer than 1,000 links", seen, made < tries and links < 1_000
        )


@area.check("messages of one user are limited in bytes, not only in number")
async def bytes_per_minute(lab: Lab) -> Seen:
    async with lab.server() as server:
        room = await server.topic("omar", "noticias")
        omar = await server.live("omar", source="127.6.6.6")
        tries, accepted = lab.size(1_500, 3_000), 0
        content = "x" * 16_384
        async with neighbour(server) as honest:
            for _at in range(0, tries, 25):
                batch = [omar.send("message", {"room_id": room, "content": content}) for _ in range(25)]
                answers = await asyncio.gather(*batch)
                accepted += sum(answer["ok"] for answer in answers)
                if not all(answer["ok"] for answer in answers):
                    break
        omar.abort()
        written = accepted * len(content)
        limit = 16_000_000
        seen = f"{written:,} bytes accepted in one minute; {honest.told()}"
        return Seen(tries, f"≤ {limit:,} bytes a minute", seen, written <= limit and honest.served(WAIT_S))


async def _flood(lab: Lab, data: bytes, times: int, count: int, engine: bool = False) -> Seen:
    """Write the same data repeatedly on one connection; each write has `count` frames."""
    async with lab.server() as server:
        opened: Live
        token = await server.user("omar")
        kind = Engine if engine else Plain
        opened = await kind.open(server.url, token, source="127.6.6.6")
        points: list[tuple[float, float]] = []
        sent = 0
        async with neighbour(server) as honest:
            for n in range(times):
                if opened.ended.done():
                    break
                with suppress(*GONE, TimeoutError):
                    async with asyncio.timeout(30):
                        await opened.socket.write(data)
                sent += count
                points.append((n / times, server.memory()))
            with suppress(Ended, TimeoutError):
                await opened.call("get_profile", {"username": "omar"}, 60)
        opened.abort()
        half = points[len(points) // 4 :]
        grown = slope(half) if len(half) > 2 else 0.0
        end = ", closed" if opened.ended.done() and opened.socket.close_code else ""
        seen = f"{sent:,} sent{end}; {honest.told()}; {grown:+.1f} MiB over the flood"
        return Seen(sent, f"neighbour ≤ {ms(WAIT_S)}, ≤ 24 MiB", seen, honest.served(WAIT_S) and grown <= 24)


@area.check("a flood of PINGs does not delay a neighbour or grow")
async def pings(lab: Lab) -> Seen:
    return await _flood(lab, frame(PING, b"x" * 100) * 1000, lab.size(100, 1_000), 1000)


@area.check("a flood of PONGs does not delay a neighbour or grow")
async def pongs(lab: Lab) -> Seen:
    return await _flood(lab, frame(PONG) * 1000, lab.size(100, 1_000), 1000)


@area.check("PINGs on 40 connections without a token do not delay a neighbour")
async def pings_of_strangers(lab: Lab) -> Seen:
    async with lab.server() as server:
        await server.user("omar")
        count, times = 40, lab.size(1, 5)
        data = frame(PING) * (1_000_000 // len(frame(PING)))

        async def flood(n: int) -> None:
            for _ in range(times):
                with suppress(*GONE, Refused, TimeoutError):
                    socket = await WebSocket.connect(server.url, ENGINE_PATH, source=f"127.6.6.{n + 1}")
                    async with asyncio.timeout(30):
                        with suppress(*GONE):
                            await socket.write(data)
                            await socket.write(frame(CLOSE, b"\x03\xe8"))
                        await socket.until_end()
                    socket.abort()

        async with neighbour(server) as honest:
            await asyncio.gather(*(flood(n) for n in range(count)))
        tries = count * times
        return Seen(tries, f"neighbour ≤ {ms(WAIT_S)}", honest.told(), honest.served(WAIT_S))


@area.check("a flood of Engine.IO packets does not delay a neighbour or grow")
async def engine_packets(lab: Lab) -> Seen:
    packets = b"".join(frame(TEXT, text) for text in (b"3", b"2", b"430[]", b"6", b"40/x,", b"41/x,")) * 100
    return await _flood(lab, packets, lab.size(50, 500), 600, engine=True)


@area.check("a flood of unknown and invalid actions does not delay a neighbour or grow")
async def invalid_actions(lab: Lab) -> Seen:
    texts = [
        dumps({"id": 1, "action": "exotic", "data": {}}),
        dumps({"id": 2, "action": "message", "data": {"content": 1}}),
        dumps({"id": 3, "action": "delivered", "data": {"cursors": {"x": -1}}}),
        "not JSON",
        dumps([1, 2, 3]),
    ]
    data = b"".join(frame(TEXT, text.encode()) for text in texts) * 100
    return await _flood(lab, data, lab.size(40, 400), 500)


@area.check("unread answers end in `slow_consumer`, within bounded memory")
async def unread(lab: Lab) -> Seen:
    async with lab.server() as server:
        room = await server.topic("omar", "noticias")
        omar = await server.live("omar")
        for _ in range(60):
            await omar.ask("message", room_id=room, content="x" * 16_000)
        omar.abort()
        before, count = server.memory(), lab.size(5, 30)
        ask = dumps({"id": 1, "action": "history", "data": {"room_id": room, "limit": 60}})
        sockets = []
        async with neighbour(server) as honest:
            for n in range(count):
                socket = await WebSocket.connect(
                    server.url, f"/ws?token={server.tokens['omar']}", source=f"127.6.6.{n + 1}"
                )
                socket.writer.transport.pause_reading()  # type: ignore[attr-defined]
                sockets.append(socket)
                with suppress(TimeoutError, *GONE):
                    async with asyncio.timeout(10):
                        await socket.write(frame(TEXT, ask.encode()) * 200)
            await server.get("/health/live")  # answered after what has come before
            grown = server.memory() - before
        for socket in sockets:
            socket.abort()
        limit = 24 + 6 * count
        seen = f"{count} × 200 × 1 MB asked for: {grown:+.0f} MiB; {honest.told()}"
        return Seen(
            count * 200, f"≤ {limit} MiB; neighbour ≤ {ms(WAIT_S)}", seen, grown <= limit and honest.served(WAIT_S)
        )


@area.check("pipelined HTTP requests with unread answers end within bounded memory")
async def pipelined(lab: Lab) -> Seen:
    async with lab.server() as server:
        token = await server.user("omar")
        before, count = server.memory(), lab.size(20_000, 80_000)
        one = head("GET", "/openapi.json", {"Authorization": f"Bearer {token}"})
        async with neighbour(server) as honest, await Connection.open(server.url, "127.6.6.6") as connection:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            with suppress(TimeoutError, *GONE):
                async with asyncio.timeout(10):
                    for _ in range(count // 100):
                        await connection.write(one * 100)
            grown = server.memory() - before
        seen = f"{grown:+.0f} MiB; {honest.told()}"
        return Seen(count, f"≤ 32 MiB; neighbour ≤ {ms(WAIT_S)}", seen, grown <= 32 and honest.served(WAIT_S))


@area.check("readers that stop reading lose their connection and use bounded memory")
async def slow_readers(lab: Lab) -> Seen:
    async with lab.server() as server:
        room = await server.topic("omar", "noticias", "diego")
        before, count = server.memory(), lab.size(20, 100)
        sockets = []
        for n in range(count):
            path = f"/ws?token={server.tokens['diego']}&device=d{n % 16}"
            with suppress(Refused):
                socket = await WebSocket.connect(server.url, path, source=f"127.6.{n % 9}.6")
                socket.writer.transport.pause_reading()  # type: ignore[attr-defined]
                sockets.append(socket)
        omar = await server.live("omar")
        async with neighbour(server) as honest:
            for _ in range(lab.size(25, 60)):
                batch = [omar.send("message", {"room_id": room, "content": "x" * 8_000}) for _ in range(20)]
                await asyncio.gather(*batch)
        grown = server.memory() - before
        closed = (await server.metrics()).get('tidings_connections_closed_total{reason="slow_consumer"}', 0)
        omar.abort()
        for socket in sockets:
            socket.abort()
        limit = 32 + 1.5 * count
        seen = f"{len(sockets)} readers: {closed:.0f} closed, {grown:+.0f} MiB; {honest.told()}"
        kept = grown <= limit and closed >= len(sockets) * 0.9 and honest.served(WAIT_S)
        return Seen(count, f"all closed, ≤ {limit:.0f} MiB; neighbour ≤ {ms(WAIT_S)}", seen, kept)


@area.check("`authenticate` on connections that end immediately leaves nothing behind")
async def left_behind(lab: Lab) -> Seen:
    async with lab.server() as server:
        token, count = await server.user("omar"), lab.size(300, 3_000)
        text = frame(TEXT, json.dumps({"id": 1, "action": "authenticate", "data": {"token": token}}).encode())

        async def one(n: int) -> None:
            with suppress(Refused, *GONE):
                socket = await WebSocket.connect(server.url, f"/ws?token={token}", source=f"127.6.{n % 100}.6")
                socket.writer.write(text * 3)
                socket.abort()

        points = []
        for at in range(0, count, 10):
            await asyncio.gather(*(one(n) for n in range(at, at + 10)))
            points.append((at / count, server.memory()))
        live = math.inf

        async def are_gone() -> bool:
            nonlocal live
            metrics = await server.metrics()
            live = sum(value for name, value in metrics.items() if name.startswith("tidings_connections{"))
            return live == 0

        await until(are_gone, PATIENCE_S)
        grown = slope(points[len(points) // 3 :])
        limit = 10 + count * 0.004
        seen = f"{live:.0f} left by /metrics, {grown:+.1f} MiB over {count}"
        return Seen(count, f"none left, ≤ {limit:.0f} MiB", seen, live == 0 and grown <= limit)
