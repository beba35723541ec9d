"""Processor time is measured for the right process, and completely."""

from __future__ import annotations

import os
import subprocess
import sys
import time

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
print(time.process_time(), flush=True)
"""


def test_cpu_is_that_of_all_threads_of_the_other_process() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        seen = cpu_seconds(process.pid)
        later, _ = process.communicate("\n", timeout=30)
    assert 0.1 <= own <= seen <= float(later)


def test_cpu_of_those_it_has_started_is_not_that_of_a_process() -> None:
    subprocess.run([sys.executable, "-c", WORK], input="\n", text=True, stdout=subprocess.DEVNULL, check=True)
    before, seen, after = time.process_time(), cpu_seconds(os.getpid()), time.process_time()
    assert before <= seen <= after
