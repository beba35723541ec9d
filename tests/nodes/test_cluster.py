"""`make cluster`: servers behind a load balancer, with a PostgreSQL and a Redis of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from docs.generate import ROOT
from tests.cluster.__main__ import missing
from tests.delivery.support import make_topic
from tests.support.client import Client
from tests.support.node import NO_TLS, token_from

START_S = 60.0
STOP_S = 45.0


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI must test a cluster: {reason}", pytrace=False)
        pytest.skip(reason)


class Cluster:
    """The running command, and what it printed."""

    def __init__(self, process: asyncio.subprocess.Process, printed: str) -> None:
        self.process = process
        self.url, *self.nodes = re.findall(r"http://127\.0\.0\.1:\d+", printed)
        self.pids = [int(pid) for pid in re.findall(r"process (\d+)", printed)]
        self.folders = [Path(found) for found in re.findall(r"(?:host=|unix://)(/[^&\s]+)", printed)]

    async def stop(self, number: signal.Signals) -> int:
        """Send a signal twice, as an impatient user does; returns the exit status."""
        self.process.send_signal(number)
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


@asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[Cluster]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.cluster", "--port", "0"),
        cwd=ROOT,
        env={**os.environ, "TIDINGS_LOG_LEVEL": "warning", "TMPDIR": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            printed = (await process.stdout.readuntil(b"Ctrl-C")).decode()
        yield Cluster(process, printed)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), STOP_S)


def processes_of(folders: list[Path]) -> list[list[str]]:
    """The command lines that name one of the folders."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(str(folder) in " ".join(command) for folder in folders)]


async def test_a_cluster_serves_stock_clients_on_any_transport_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        assert len(cluster.nodes) == len(cluster.pids) == 2
        async with httpx.AsyncClient(verify=NO_TLS) as http:
            for url in (cluster.url, *cluster.nodes):
                ready = await http.get(f"{url}/health/ready")
                assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
            token = await token_from(cluster.url, "register", "omar")
            room_id = await make_topic(cluster.url, token, "noticias")
            clients = [
                await Client(cluster.url, token, device=f"d{n}").connect(transports)
                for n, transports in enumerate([["polling", "websocket"], ["websocket"], ["polling"]])
            ]
            assert [client.sio.transport() for client in clients] == ["websocket", "websocket", "polling"]
            for n, client in enumerate(clients):
                await client.ask("message", room_id=room_id, content=str(n))
            for client in clients:
                await client.until(lambda client=client: client.contents() == ["0", "1", "2"])  # type: ignore[misc]
            metrics = [(await http.get(f"{url}/metrics")).text for url in cluster.nodes]
        for transport in ("polling", "websocket"):
            counts = [
                float(found)
                for text in metrics
                for found in re.findall(rf"^tidings_relayed_{transport}_requests_total ([\d.]+)", text, re.M)
            ]
            assert sum(counts) > 0, f"no {transport} request reached another node than its session's"
        assert all(re.search(r"^tidings_redis_up 1(\.0)?$", text, re.M) for text in metrics)
        for client in clients:
            await client.close()
        assert len(cluster.folders) == 2
        assert processes_of(cluster.folders)
        assert await cluster.stop(signal.SIGINT) == 0
        assert not any(psutil.pid_exists(pid) for pid in cluster.pids)
        assert processes_of(cluster.folders) == []
        assert not any(folder.exists() for folder in cluster.folders)


async def test_a_cluster_goes_on_without_a_node_that_was_killed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        token = await token_from(cluster.url, "register", "omar")
        os.kill(cluster.pids[0], signal.SIGKILL)
        client = await Client(cluster.url, token).connect(["polling", "websocket"])
        assert (await client.ask("get_rooms"))["rooms"] is not None
        await client.close()
        assert await cluster.stop(signal.SIGTERM) == 0


def test_make_cluster_starts_it() -> None:
    assert "-m tests.cluster $(ARGS)" in (ROOT / "Makefile").read_text("utf-8")
