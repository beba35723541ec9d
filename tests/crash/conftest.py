"""Crashes, recorded once: the crash test checks them, and the tests of the checker plant defects into them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pickle
import zlib

import pytest

from tests.crash.load import Recorded, record

KILLS = 20
KILLS_ON_POSTGRESQL = 5


@pytest.fixture(scope="session")
def seed(testrun_uid: str) -> int:
    """The seed of the clients' actions and of the kills. A failure shows it; TIDINGS_CRASH_SEED repeats it."""
    return int(os.environ.get("TIDINGS_CRASH_SEED") or zlib.crc32(testrun_uid.encode()))


@pytest.fixture(scope="session")
def crashes(seed: int, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Recorded:
    """The history of clients of a server on SQLite that was killed again and again.

    The first worker records it, which takes a minute; the other workers wait.
    """
    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / f"crashes-{testrun_uid}"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            recorded = asyncio.run(record(tmp_path_factory.mktemp("crash"), seed, KILLS))
            file.write_bytes(pickle.dumps(recorded))
        crashes: Recorded = pickle.loads(file.read_bytes())
        return crashes
