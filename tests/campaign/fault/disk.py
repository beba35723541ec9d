"""A full disk, unwritable files and missing files, under a server on SQLite."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from tests.campaign.support.lab import Area, Lab, Server, pace, until
from tests.campaign.support.load import Load, load
from tests.campaign.support.report import NotTried, Seen
from tests.campaign.support.wire import GONE

area = Area("disk")
WHOLE = "0 lost, 0 twice, no gap, no repeat"
KINDS = ("ws", "python websocket", "js websocket")
NOTICE_S = 10.0
"""The time within which a server must notice that its files are missing."""


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NotTried(f"{' '.join(command[:2])}: {done.stderr.strip()[:150]}")


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a file system of that size. Raises `NotTried` without the rights."""
    if os.getuid():
        raise NotTried("only root can mount a tmpfs")
    folder = Path(tempfile.mkdtemp(prefix="tidings-disk-"))
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "none", str(folder))
        try:
            yield folder
        finally:
            _run("umount", "-l", str(folder))
    finally:
        folder.rmdir()


async def _status(server: Server, path: str, token: str | None = None) -> int:
    try:
        return (await server.get(path, token, deadline=10)).status
    except (TimeoutError, *GONE):
        return 0


def _fill_up(filler: Path) -> None:
    """Write to a file until its disk is full."""
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # a buffer would be written at the close, too
        while True:
            file.write(b"x" * 65536)


async def _until_status(server: Server, path: str, status: int, within: float) -> float | None:
    """Seconds until a GET is answered with that status; None if it is not."""
    began = time.monotonic()

    async def is_answered() -> bool:
        return await _status(server, path) == status

    return time.monotonic() - began if await until(is_answered, within) else None


@asynccontextmanager
async def _traffic(lab: Lab, data_dir: Path | None = None) -> AsyncIterator[tuple[Server, Load]]:
    lab.only("sqlite")
    async with (
        lab.server(data_dir=data_dir, TIDINGS_RATE_LIMITS="off") as server,
        load(server, lab.seed, kinds=KINDS) as traffic,
    ):
        yield server, traffic


@area.check("a full disk refuses writes and serves reads, and writes succeed when there is room again")
async def full(lab: Lab) -> Seen:
    lab.only("sqlite")
    with small_disk(16) as disk:
        async with _traffic(lab, disk / "data") as (server, traffic):
            token = server.tokens["writer0"]
            filler = disk / "filler"
            _fill_up(filler)
            ready = await _until_status(server, "/health/ready", 503, 30)
            acked = len(traffic.acks)
            await pace(lab.size(3, 10))
            reads = [
                await _status(server, path, token) for path in ("/api/rooms", "/api/search?query=x", "/health/live")
            ]
            more = len(traffic.acks) - acked
            filler.unlink()
            first = await traffic.acknowledged(30)
            violations = await traffic.finish()
            kept = ready is not None and reads == [200] * 3 and not violations and not traffic.final and first < 10
            told = "never" if ready is None else f"after {ready:.1f} s"
            seen = f"ready 503 {told}, reads {reads}, {more} acked meanwhile; first ack {first:.1f} s after"
            seen += f"; {traffic.told(violations)}"
            return Seen(1, f"503, reads 200, back within 10 s; {WHOLE}", seen, kept)


@area.check("a server on a full disk stops in time, with status 0")
async def stop_on_full_disk(lab: Lab) -> Seen:
    lab.only("sqlite")
    with small_disk(16) as disk:
        async with _traffic(lab, disk / "data") as (server, traffic):
            _fill_up(disk / "filler")
            await _until_status(server, "/health/ready", 503, 30)
            before, began = server.processor_seconds(), time.monotonic()
            process = server._process
            assert process is not None
            os.kill(server.pid, 15)
            spent = before

            async def has_ended() -> bool:
                nonlocal spent
                with suppress(OSError):  # it has ended
                    spent = server.processor_seconds()
                return process.returncode is not None

            await until(has_ended, 25)
            status = process.returncode
            seen = f"status {status}" if status is not None else "still running"
            seen += f" after {time.monotonic() - began:.1f} s, {spent - before:.1f} s of processor time"
            kept = status == 0 and time.monotonic() - began < 20
            return Seen(1, "status 0 within 20 s", f"{seen}; {len(traffic.acks)} acked", kept)


@area.check("while files are unwritable writes are refused, and nothing is lost")
async def immutable(lab: Lab) -> Seen:
    async with _traffic(lab) as (server, traffic):
        # Not `-shm`: a process with an immutable mapped file is ended by SIGBUS.
        files = [server.data_dir / name for name in ("tidings.db", "tidings.db-wal")]
        _run("chattr", "+i", *map(str, files))
        try:
            await pace(lab.size(4, 15))
            reads = await _status(server, "/api/rooms", server.tokens["writer0"])
        finally:
            _run("chattr", "-i", *map(str, files))
        first = await traffic.acknowledged(30)
        violations = await traffic.finish()
        kept = not violations and not traffic.final and reads == 200 and first < 10
        seen = f"reads {reads}; first ack {first:.1f} s after; {traffic.told(violations)}"
        return Seen(1, f"reads 200, back within 10 s; {WHOLE}", seen, kept)


async def _notices(lab: Lab, name: str, break_it: str) -> Seen:
    """Remove or truncate a file: a message that is in no file must not be acknowledged."""
    async with _traffic(lab) as (server, traffic):
        path = server.data_dir / name
        if break_it == "unlink":
            path.unlink()
        else:
            os.truncate(path, 0)
        # No readiness check here, which would look immediately: writers must be refused without one.
        await pace(NOTICE_S)
        acked = len(traffic.acks)
        await pace(lab.size(3, 10))
        later = len(traffic.acks) - acked
        ready = await _status(server, "/health/ready")
        seen = f"{later} acked {NOTICE_S:.0f} s later, ready {ready}; {dict(traffic.refused)}"
        return Seen(1, "no ack, ready 503", seen, not later and ready == 503)


@area.check("a server without its database file stops acknowledging")
async def database_gone(lab: Lab) -> Seen:
    return await _notices(lab, "tidings.db", "unlink")


@area.check("a server without its write-ahead log stops acknowledging")
async def log_gone(lab: Lab) -> Seen:
    return await _notices(lab, "tidings.db-wal", "unlink")


@area.check("a server with a truncated write-ahead log stops acknowledging")
async def log_cut(lab: Lab) -> Seen:
    return await _notices(lab, "tidings.db-wal", "truncate")


@area.check("a data directory that is renamed away and back loses nothing")
async def renamed(lab: Lab) -> Seen:
    async with _traffic(lab) as (server, traffic):
        away = server.data_dir.with_name("away")
        server.data_dir.rename(away)
        try:
            await pace(lab.size(4, 15))
        finally:
            away.rename(server.data_dir)
        first = await traffic.acknowledged(30)
        await server.kill()
        await server.start()
        await traffic.acknowledged(20)
        violations = await traffic.finish()
        seen = f"first ack {first:.1f} s after; {traffic.told(violations)}"
        return Seen(1, f"back within 10 s; {WHOLE}", seen, not violations and not traffic.final and first < 10)


@area.check("a server that cannot start on a full disk reports the full disk")
async def start_on_full_disk(lab: Lab) -> Seen:
    lab.only("sqlite")
    with small_disk(4) as disk:
        (disk / "filler").write_bytes(b"x" * (4 << 20))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidings", "serve", "--port", "0"),
            env={**os.environ, "TIDINGS_DATA_DIR": str(disk / "data")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(60):
                told, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            told = b"it runs"
        text = told.decode(errors="replace").strip()
        kept = bool(process.returncode) and ("space" in text or "full" in text) and "Traceback" not in text
        return Seen(1, "ends, naming the full disk", f"status {process.returncode}: {text[-160:]}", kept)
