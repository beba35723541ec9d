"""The processor time of a process includes all its threads and no other process."""

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
thread = threading.Thread(target=work)
thread.start(); thread.join(); work()
print(time.process_time(), flush=True)
input()
print(time.process_time(), flush=True)
"""


def test_processor_time_includes_all_threads_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        measured = cpu_seconds(process.pid)
        later, _ = process.communicate("\n", timeout=30)
    assert 0.1 <= own <= measured <= float(later)


def test_processor_time_excludes_child_processes() -> None:
    subprocess.run([sys.executable, "-c", WORK], input="\n", text=True, stdout=subprocess.DEVNULL, check=True)
    before, measured, after = time.process_time(), cpu_seconds(os.getpid()), time.process_time()
    assert before <= measured <= after
