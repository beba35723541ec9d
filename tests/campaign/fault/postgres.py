"""PostgreSQL that is away, silent, locked or read-only."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from tests.campaign.fault.disk import WHOLE, _status, _until_status
from tests.campaign.support.clients import Plain
from tests.campaign.support.lab import Area, Lab, Server, pace
from tests.campaign.support.load import Load, load
from tests.campaign.support.report import NotTried, Seen
from tidings.cli.serving import FORCED_EXIT_S
from tidings.testing.postgresql import execute

area = Area("postgresql")
KINDS = ("ws", "python websocket", "js websocket")


@asynccontextmanager
async def _traffic(lab: Lab) -> AsyncIterator[tuple[Server, Load, asyncpg.Connection]]:
    """A server under load, and a separate session to its database."""
    lab.only("postgresql")
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server, load(server, lab.seed, kinds=KINDS) as traffic:
        url = server.environment["TIDINGS_DATABASE_URL"].replace("+asyncpg", "")
        conn = await asyncpg.connect(url)
        try:
            yield server, traffic, conn
        finally:
            await conn.close()


async def _backends(conn: asyncpg.Connection) -> list[int]:
    """The processes of the server's sessions."""
    rows = await conn.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return [row["pid"] for row in rows]


@area.check("repeatedly terminated sessions lose nothing")
async def terminated(lab: Lab) -> Seen:
    async with _traffic(lab) as (_, traffic, conn):
        ended, until = 0, time.monotonic() + lab.size(5, 15)
        while time.monotonic() < until:
            for pid in await _backends(conn):
                ended += await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
            await pace(0.3)
        first = await traffic.acknowledged(30)
        violations = await traffic.finish()
        seen = f"{ended} terminated, first ack {first:.2f} s after; {traffic.told(violations)}"
        return Seen(ended, WHOLE, seen, not violations and not traffic.final and first < 10)


@area.check("a locked row delays only its room")
async def locked_row(lab: Lab) -> Seen:
    seconds = float(lab.size(8, 25))
    async with _traffic(lab) as (server, traffic, conn):
        other = await Plain.open(server.url, server.tokens["writer1"], device="other")
        transaction = conn.transaction()
        await transaction.start()
        column = await conn.fetchval(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'room'"
            " AND data_type IN ('text', 'character varying') AND column_name LIKE '%id' LIMIT 1"
        )
        found = await conn.fetch(f'SELECT 1 FROM room WHERE "{column}" = $1 FOR UPDATE', traffic.rooms[0])
        assert found, "there is no such row"
        # The writers choose random rooms and wait for each message, so another client uses only the other room.
        began, acked, waits = time.monotonic(), 0, []
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            answer = await other.call("message", {"room_id": traffic.rooms[1], "content": "x"}, 60)
            waits.append(time.monotonic() - asked)
            acked += answer["ok"]
            await pace(0.1)
        other.abort()
        ready = await _status(server, "/health/ready")
        await transaction.rollback()
        first = await traffic.acknowledged(20)
        seen = (
            f"{acked} acked in another room, {max(waits):.1f} s at most; ready {ready}; first ack {first:.1f} s after"
        )
        return Seen(1, "another room's acks within 3 s", seen, bool(acked) and max(waits) < 3 and first < 10)


@area.check("a silent database is reported soon, and nothing is lost")
async def silent(lab: Lab) -> Seen:
    seconds = float(lab.size(12, 40))
    if os.getuid():
        raise NotTried("only root can freeze PostgreSQL's processes")
    async with _traffic(lab) as (server, traffic, conn):
        frozen = await _backends(conn)
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            told = await _until_status(server, "/health/ready", 503, seconds)
            asked = time.monotonic()
            await _status(server, "/health/ready")
            answered = time.monotonic() - asked
            await pace(max(0.0, seconds - (time.monotonic() - began)))
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        first = await traffic.acknowledged(30, 90)
        violations = await traffic.finish()
        kept = told is not None and told < 8 and answered < 5 and first < 20 and not violations and not traffic.final
        heard = "never" if told is None else f"after {told:.1f} s"
        seen = f"{len(frozen)} frozen for {seconds:.0f} s: ready 503 {heard}; first ack {first:.1f} s after"
        seen += f"; {traffic.told(violations)}"
        return Seen(1, f"503 within 8 s; {WHOLE}", seen, kept)


@area.check("SIGTERM ends the server while its database is silent")
async def stop_beside_silence(lab: Lab) -> Seen:
    if os.getuid():
        raise NotTried("only root can freeze PostgreSQL's processes")
    bound = FORCED_EXIT_S + 2
    async with _traffic(lab) as (server, traffic, conn):
        frozen = await _backends(conn)
        process = server._process
        assert process is not None
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            await pace(1)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(bound + 10):
                    await process.wait()
            took = time.monotonic() - began
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        status = process.returncode
        await server.kill()
        await server.start()
        await traffic.acknowledged(10, 90)
        violations = await traffic.finish()
        # 1: the server names the parts that it did not wait for.
        kept = status in (0, 1) and took <= bound and not violations and not traffic.final
        seen = f"status {status} after {took:.1f} s; {traffic.told(violations)}"
        return Seen(1, f"status 0 or 1 within {bound:.0f} s; {WHOLE}", seen, kept)


async def _altered(lab: Lab, change: str, back: str, expected: str) -> Seen:
    async with _traffic(lab) as (server, traffic, conn):
        name = await conn.fetchval("SELECT current_database()")
        # From another database: its own sessions may not close it.
        await asyncio.to_thread(execute, lab.postgres or "", f'ALTER DATABASE "{name}" {change}')
        try:
            for pid in await _backends(conn):
                await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
            ready = await _until_status(server, "/health/ready", 503, 15)
            await pace(lab.size(2, 6))
            reads: Any = await _status(server, "/api/rooms", server.tokens["writer0"])
            live = await _status(server, "/health/live")
        finally:
            await asyncio.to_thread(execute, lab.postgres or "", f'ALTER DATABASE "{name}" {back}')
            for pid in await _backends(conn):
                await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
        first = await traffic.acknowledged(30)
        violations = await traffic.finish()
        kept = ready is not None and live == 200 and str(reads) in expected and first < 10
        told = "never" if ready is None else f"after {ready:.1f} s"
        seen = f"ready 503 {told}, reads {reads}; first ack {first:.1f} s after; {traffic.told(violations)}"
        return Seen(1, f"503, reads {expected}; {WHOLE}", seen, kept and not violations and not traffic.final)


@area.check("a read-only database refuses writes and serves reads")
async def read_only(lab: Lab) -> Seen:
    return await _altered(lab, "SET default_transaction_read_only = on", "RESET default_transaction_read_only", "200")


@area.check("without a free PostgreSQL connection the server is unavailable, and nothing is lost")
async def no_free_connection(lab: Lab) -> Seen:
    lab.only("postgresql")
    if "host=" not in (lab.postgres or ""):
        raise NotTried("this PostgreSQL is not the campaign's own")
    async with _traffic(lab) as (server, traffic, conn):
        url = server.environment["TIDINGS_DATABASE_URL"].replace("+asyncpg", "")
        taken: list[asyncpg.Connection] = []
        try:
            for pid in await _backends(conn):
                await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
            with suppress(asyncpg.TooManyConnectionsError):
                while len(taken) < 1_000:
                    taken.append(await asyncpg.connect(url))
            await pace(1)
            for pid in await _backends(conn):
                if pid not in {connection.get_server_pid() for connection in taken}:
                    await conn.fetchval("SELECT pg_terminate_backend($1)", pid)
            with suppress(asyncpg.TooManyConnectionsError):
                while len(taken) < 1_000:
                    taken.append(await asyncpg.connect(url))
            await pace(lab.size(3, 10))
        finally:
            for connection in taken:
                await connection.close()
        first = await traffic.acknowledged(30)
        violations = await traffic.finish()
        seen = f"{len(taken)} taken; first ack {first:.1f} s after; {traffic.told(violations)}"
        return Seen(1, f"back within 10 s; {WHOLE}", seen, not violations and not traffic.final and first < 10)


@area.check("with a database that refuses connections the server is unavailable, and nothing is lost")
async def no_connection(lab: Lab) -> Seen:
    # A connection limit does not apply to superusers, so connections are forbidden altogether.
    return await _altered(lab, "WITH ALLOW_CONNECTIONS false", "WITH ALLOW_CONNECTIONS true", "503 or 200")
