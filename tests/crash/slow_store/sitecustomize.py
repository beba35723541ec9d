"""A slow disk for the store of the Python library, as `slow_disk` is one for the server.

A kill must meet the moments between two transactions. On a fast disk they are too short.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from tidings_client.stores import SQLiteStore

LONGEST_S = 0.04
_run = SQLiteStore._run


async def _run_slowly(store: SQLiteStore, work: Callable[[], Any]) -> Any:
    def slow() -> Any:
        time.sleep(random.uniform(0, LONGEST_S))
        return work()

    return await _run(store, slow)


SQLiteStore._run = _run_slowly  # type: ignore[method-assign]
