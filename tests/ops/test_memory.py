"""Memory that the C allocator keeps after a peak."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys

import psutil
import pytest

from server.memory import MemoryTrim

HOLE_MIB = 40


async def resident_after_a_peak(rounds: int) -> tuple[float, float]:
    """Resident memory in MiB: with a hole in the heap, and after so many rounds of a `MemoryTrim`."""
    process = psutil.Process()
    # Below the allocator's threshold for mappings of their own.
    peak = [bytearray(64 * 1024) for _ in range(HOLE_MIB * 16)]
    del peak[:-1]  # the last one stands at the end of the heap
    before = process.memory_info().rss
    trimmed = asyncio.Semaphore(0)

    class Counted(MemoryTrim):
        async def _round(self) -> None:
            await super()._round()
            trimmed.release()

    trim = Counted(0.001)
    if rounds:
        await trim.start()
    for _ in range(rounds):
        await trimmed.acquire()
    await trim.stop()
    return before / 2**20, process.memory_info().rss / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
@pytest.mark.parametrize("rounds", [0, 2])
def test_free_memory_below_an_allocation_is_given_back(rounds: int) -> None:
    code = (
        "import asyncio; from tests.ops.test_memory import resident_after_a_peak as run;"
        f"print(*asyncio.run(run({rounds})))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    before, after = map(float, shown.stdout.split())
    assert (before - after > HOLE_MIB / 2) is (rounds > 0)
