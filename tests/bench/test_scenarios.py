"""Every row of the benchmark runs against every peer, and leaves no process behind."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.load import message_to, sender
from bench.nodes import FanoutNodes, PythonNodes, TidingsNodes
from bench.process import ROOT, readable
from bench.redis import NoRedis, program
from bench.scenarios import SCENARIOS, Plan, Scenario, running
from bench.servers import Fanout, Server, World
from bench.several import SEVERAL_NODES
from bench.uploads import Uploads

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("peers")]


NUMBERS_ONLY = {"fanout-4", "fanout-16", "fanout-5000", "pair", "nodes-fanout-4", "nodes-fanout-16"}
"""Rows that differ from another row only in a number."""


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in (*SCENARIOS, Uploads(), *SEVERAL_NODES) if scenario.key not in NUMBERS_ONLY],
    ids=lambda scenario: scenario.key,
)
def test_a_scenario_measures_both_sides(scenario: Scenario) -> None:
    if scenario in SEVERAL_NODES:
        _require_redis()
    done = []
    plan = Plan(rounds=1, seconds=0.1, warmup=0.05, scale=0.01, round_done=lambda: done.append(1))
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as directory:
        Path(directory).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        rows = scenario.run(plan, Path(directory))
    assert len(done) == scenario.rounds(plan)
    assert rows
    for row in rows:
        for side in (row.ours, row.against):
            # So few connections may not grow the process; in so short a time nothing may be added.
            if side is not None and "memory" not in row.title and "added" not in row.unit:
                assert side.value > 0, row.title


@pytest.mark.parametrize("server_type", [TidingsNodes, FanoutNodes, PythonNodes])
def test_a_message_reaches_members_on_both_nodes(server_type: type[Server]) -> None:
    _require_redis()
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as directory:
        Path(directory).chmod(0o711)
        with running(server_type, World([list(range(6))]), Path(directory) / "nodes") as (server, load):
            assert len({server.port_of(user) for user in range(6)}) == len(set(server.pids)) == 2
            load.senders([sender(0, 4, [message_to(0)])])
            load.measure(0.0, 0.1)  # fails unless every member gets every acknowledged message


def test_an_interrupted_benchmark_stops_its_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--only", "pair", "--seconds", "300", "--directory", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        started: list[psutil.Process] = []
        until = time.monotonic() + 60
        # Two servers, and a generator for each: it measures when both are connected.
        while len(started) < 4 or not all(_connected(child) for child in started):
            assert time.monotonic() < until
            started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
        assert process.returncode == 1, printed
        assert "interrupted" in printed
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.wait()


def test_an_interrupt_right_before_a_wait_ends_the_wait() -> None:
    reading, writing = os.pipe()
    # Like a signal right before the wait: its handler is due, but it does not wake the wait.
    interrupt = threading.Timer(0.2, _thread.interrupt_main)

    def wait() -> None:
        interrupt.start()
        readable(pipe, 30)

    began = time.monotonic()
    with os.fdopen(reading) as pipe, os.fdopen(writing, "w"), pytest.raises(KeyboardInterrupt):
        wait()
    assert time.monotonic() - began < 30
    interrupt.join()


def test_an_interrupt_during_the_start_of_a_server_stops_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[psutil.Process] = []
    start = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def interrupted(self: subprocess.Popen[str], *args: Any) -> None:
        start(self, *args)
        started.append(psutil.Process(self.pid))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), running(Fanout, World([[0, 1]]), tmp_path):
            pytest.fail("the start was not interrupted")
        assert len(started) == 1
        assert not started[0].is_running()
    finally:
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _require_redis() -> None:
    try:
        program()
    except NoRedis as reason:
        if os.environ.get("CI"):
            pytest.fail("CI must run several nodes: there is no redis-server", pytrace=False)
        pytest.skip(str(reason))


def _connected(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(socket.status == psutil.CONN_ESTABLISHED for socket in process.net_connections("tcp"))
    return False
