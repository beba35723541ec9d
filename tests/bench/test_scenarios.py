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

from bench.scenarios import SCENARIOS, Plan, Scenario, running
from bench.servers import ROOT, Fanout, World, readable

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("peers")]


NUMBERS_ONLY = {"fanout-4", "fanout-16", "fanout-5000", "pair"}
"""Rows that differ from another row only in a number."""


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.key not in NUMBERS_ONLY],
    ids=lambda scenario: scenario.key,
)
def test_a_scenario_measures_both_sides(scenario: Scenario) -> None:
    done = []
    plan = Plan(rounds=1, seconds=0.1, warmup=0.05, scale=0.01, round_done=lambda: done.append(1))
    with tempfile.TemporaryDirectory(prefix="tidings-bench-") as directory:
        Path(directory).chmod(0o711)  # PostgreSQL runs as another user if this process is root's
        rows = scenario.run(plan, Path(directory))
    assert len(done) == scenario.rounds(plan)
    assert rows
    for row in rows:
        for side in (row.ours, row.against):
            if side is not None and "memory" not in row.title:  # so few connections may not grow the process
                assert side.value > 0, row.title


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


def _connected(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(socket.status == psutil.CONN_ESTABLISHED for socket in process.net_connections("tcp"))
    return False
