"""The CPU time and the memory of a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEDULED = 2
"""CPUCLOCK_SCHED: the CPU time that the scheduler has given to the process."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, of all its threads, to the nanosecond.

    The clock is the one that clock_getcpuclockid(3) names on Linux; /proc/<pid>/stat counts the same in ticks.
    """
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def pss_kib(pid: int) -> int:
    """Memory of a process: its own pages, and its part of the shared ones."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise LookupError("no Pss in smaps_rollup")


def cores() -> tuple[int, int]:
    """The core of the server and the core of everything else; the same one if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes that are started in this context run on that core."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
