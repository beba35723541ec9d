"""After a signal the server stops soon, even if the database is unavailable; after a second signal, immediately."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Run, Start
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.yardstick import slowdown
from tidings.cli.serving import FORCED_EXIT_S

pytestmark = pytest.mark.long

MARGIN_S = 30.0
"""Additional time for a busy machine."""


async def test_the_server_stops_without_spinning_when_writes_fail(serve: Start, command: Run) -> None:
    token = (await command("token", "omar")).out.strip()
    server = await serve()
    async with connected(server.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(Refused, match="unavailable"):
            await omar.ask("message", topic_name="noticias", content="x")
        process = psutil.Process(server.process.pid)
        before = sum(process.cpu_times()[:2])
        spent, began = 0.0, time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        ending = asyncio.create_task(server.end())
        while not ending.done():
            with contextlib.suppress(psutil.Error):
                spent = sum(process.cpu_times()[:2]) - before
            await asyncio.wait([ending], timeout=0.1)
        assert await omar.event("closing") == {"reason": "shutdown", "reconnect": True}
    assert await ending == 0
    assert time.monotonic() - began < FORCED_EXIT_S + MARGIN_S
    assert spent / slowdown() < 2.0


async def test_the_server_stops_even_if_the_store_does_not_answer(serve: Start, command: Run, tmp_path: Path) -> None:
    token = (await command("token", "omar")).out.strip()
    server = await serve()
    async with connected(server.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "tidings.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            sent = [omar.send("message", {"topic_name": "noticias", "content": str(n)}) for n in range(3)]
            await asyncio.wait(sent, timeout=0.5)
            began = time.monotonic()
            status = await server.end(signal.SIGTERM)
            assert time.monotonic() - began < FORCED_EXIT_S + MARGIN_S
    assert status == 1
    assert "the server stops without waiting any longer for" in server.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_second_signal_stops_the_server_immediately(
    serve: Start, command: Run, tmp_path: Path, number: signal.Signals
) -> None:
    token = (await command("token", "omar")).out.strip()
    server = await serve()
    async with connected(server.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "tidings.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            sent = omar.send("message", {"topic_name": "noticias", "content": "x"})
            await asyncio.wait([sent], timeout=0.5)
            server.process.send_signal(number)
            async with asyncio.timeout(DEADLINE_S):
                while number in await asyncio.to_thread(_handled_signals, server.process.pid):
                    pass  # until the server has received the signal
            assert await server.end(number) == -number


def _handled_signals(pid: int) -> set[int]:
    """The signals that a process handles."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")]
    return {number for number in range(1, 64) if mask >> (number - 1) & 1}
