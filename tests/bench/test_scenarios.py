"""Every row of the benchmark comes about, against every peer; what was started is gone afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.scenarios import SCENARIOS, Plan, Scenario
from bench.servers import ROOT

pytestmark = pytest.mark.usefixtures("peers")


NUMBERS_ONLY = {"fanout-4", "fanout-16", "fanout-5000", "pair"}
"""Rows that differ from another only in how many there are of something, which is not what is tested here."""


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.key not in NUMBERS_ONLY],
    ids=lambda scenario: scenario.key,
)
def test_a_scenario_measures_both_sides(scenario: Scenario, tmp_path: Path) -> None:
    done = []
    plan = Plan(rounds=1, seconds=0.1, warmup=0.05, scale=0.01, round_done=lambda: done.append(1))
    rows = scenario.run(plan, tmp_path)
    assert len(done) == scenario.rounds(plan)
    assert rows
    for row in rows:
        for side in (row.ours, row.against):
            if side is not None and "memory" not in row.title:  # so few connections may fit what was there before
                assert side.value > 0, row.title


def test_it_stops_what_it_started_when_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--only", "pair", "--seconds", "300", "--directory", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        started: list[psutil.Process] = []
        until = time.monotonic() + 30
        # Two servers, and a generator for each: it measures when both are connected.
        while len(started) < 4 or not all(_connected(one) for one in started):
            assert time.monotonic() < until
            started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
        assert process.returncode == 1, printed
        assert "interrupted" in printed
        _, alive = psutil.wait_procs(started, timeout=10)
        assert not alive
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.wait()


def _connected(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))
    return False
