"""The dashboard and the task queue of `examples/` run as they are, over restarts of the server."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from docs.generate import ROOT
from tests.e2e.javascript import run
from tests.extending.conftest import under_uvicorn
from tests.support.client import Refused, connected
from tests.support.node import running_node
from tests.support.ports import port_of
from tidings.auth import keys
from tidings.auth.tokens import now_ms
from tidings.contract.permissions import KeyScope

EXAMPLES = ROOT / "examples"
PLAYWRIGHT = ROOT / "web/node_modules/playwright-core"
DEADLINE_S = 60.0


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_LOG_LEVEL", "warning")


def dashboard() -> ModuleType:
    """The example as a module of its own, which publishes often."""
    spec = importlib.util.spec_from_file_location("dashboard", EXAMPLES / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.INTERVAL_S = 0.05  # type: ignore[attr-defined]
    return module


def chromium() -> str:
    """The path of Chromium; skips the test if it or its driver is missing (CI: fails)."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("TIDINGS_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is not None and PLAYWRIGHT.is_dir():
        return path
    missing = "Chromium" if path is None else "playwright-core; `npm ci --prefix web` gets it"
    if os.environ.get("CI"):
        pytest.fail(f"CI must test the page of the dashboard: no {missing}", pytrace=False)
    pytest.skip(f"no {missing}")


@pytest.mark.usefixtures("environment")
async def test_the_page_of_the_dashboard_shows_every_figure_over_a_restart() -> None:
    browser = chromium()
    async with AsyncExitStack() as first, AsyncExitStack() as last:
        port = port_of(first)
        url = await first.enter_async_context(under_uvicorn(dashboard().app, port))
        restarted = dashboard()

        async def restart() -> None:
            await first.aclose()
            await last.enter_async_context(under_uvicorn(restarted.app, port))

        async def withdraw() -> None:
            for member in await restarted.server.tidings.members("figures"):
                await restarted.server.tidings.disconnect(member.username)

        given = {"url": url, "chromium": browser, "playwright": str(PLAYWRIGHT)}
        await run("dashboard.mjs", given, {"restart": restart, "withdraw": withdraw})


@pytest.mark.usefixtures("environment")
async def test_a_visitor_of_the_dashboard_reads_figures_and_cannot_write() -> None:
    async with under_uvicorn(dashboard().app) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            assert "socket.io.js" in (await http.get("/")).text
            assert (await http.get("/socket.io/socket.io.js")).status_code == 200
            token = (await http.post("/visit")).json()["token"]
        async with connected(url, token) as visitor:
            live = await visitor.event("load")
            assert set(live["data"]) == {"1 min", "5 min", "15 min"}
            events = (await visitor.ask("get_events", topic_name="figures"))["events"]
            assert live["seq"] in [event["seq"] for event in events]
            with pytest.raises(Refused, match="only moderators may write"):
                await visitor.ask("publish", topic_name="figures", event="load", data={})


@asynccontextmanager
async def task_queue(url: str, *arguments: str, key: str = "") -> AsyncIterator[Process]:
    """The example as a process."""
    variables = {"TIDINGS_SERVER": url, "TIDINGS_KEY": key}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "task_queue.py"),
        *arguments,
        env={**os.environ, **variables},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_worker_reports_once_over_restarts_of_the_server_and_of_the_worker(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        token = await node.register("omar")
        database = node.node.database
        key = await database.write(lambda conn: keys.create(conn, "worker", [KeyScope.PUBLISH], None, now_ms()))
        url = node.url

        async def report(task: str) -> None:
            async with task_queue(url, "work", "omar", task, key=key) as worker:
                assert await worker.wait() == 0

        await node.stop()
        async with task_queue(url, "work", "omar", "task-17", key=key) as worker:
            assert worker.stderr is not None
            assert b"trying again" in await worker.stderr.readline()
            await node.start()
            assert await worker.wait() == 0
        async with task_queue(url, "watch", token) as watcher:
            assert watcher.stdout is not None

            async def printed() -> list[str]:
                assert watcher.stdout is not None
                return [(await watcher.stdout.readline()).decode().strip() for _ in range(5)]

            steps = (0, 25, 50, 75, 100)
            assert await printed() == [f"task-17: {percent} %" for percent in steps]
            await report("task-17")  # as a worker that was restarted: nothing new
            await report("task-18")
            assert await printed() == [f"task-18: {percent} %" for percent in steps]
            await node.stop()
            await node.start()
            await report("task-19")
            assert await printed() == [f"task-19: {percent} %" for percent in steps]
