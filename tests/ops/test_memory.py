"""Memory that the C allocator keeps after a peak is returned."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys

import psutil
import pytest

from tidings.monitoring.memory import MemoryTrim

HOLE_MIB = 40


async def resident_after_a_peak(rounds: int) -> tuple[float, float]:
    """Resident memory in MiB: with a hole in the heap, and after rounds of a `MemoryTrim`."""
    process = psutil.Process()
    # Smaller than the allocations that get a mapping of their own.
    peak = [bytearray(64 * 1024) for _ in range(HOLE_MIB * 16)]
    del peak[:-1]  # the last one keeps the end of the heap in use
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
def test_free_memory_below_a_live_allocation_is_returned_to_the_system(rounds: int) -> None:
    code = (
        "import asyncio; from tests.ops.test_memory import resident_after_a_peak as run;"
        f"print(*asyncio.run(run({rounds})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    before, after = map(float, result.stdout.split())
    assert (before - after > HOLE_MIB / 2) is (rounds > 0)
