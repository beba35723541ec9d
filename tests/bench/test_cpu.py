"""CPU is counted of the process that is measured, and all of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.cpu import cpu_seconds

WORK = """
import threading, time
def work():
    while time.thread_time() < 0.05:
        pass
ended = threading.Thread(target=work)
ended.start(); ended.join(); work()
print(time.process_time(), flush=True)
input()
"""


def test_cpu_is_that_of_all_threads_of_the_other_process() -> None:
    before = cpu_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        seen = cpu_seconds(process.pid)
        process.kill()
    assert own >= 0.1
    assert own <= seen == pytest.approx(own, abs=0.02)
    assert cpu_seconds(os.getpid()) - before < 0.1
