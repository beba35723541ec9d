"""The CPU time and the memory of a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def peak_rss_kib(pid: int) -> int:
    """The most memory that a process has had since its start, or since `reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise LookupError("no VmHWM in status")


def reset_peak(pid: int) -> None:
    """Let the peak be what the process has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> list[int]:
    """The processes that a process has started, as long as they run."""
    listed = ""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            listed += path.read_text()
    return [int(child) for child in listed.split()]


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
