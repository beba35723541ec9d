"""Recorded crashes: made once, judged by the crash test, and spoilt on purpose to judge the checker."""

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
    """Of what the clients do and what the kills wait for. A failure shows it; TIDINGS_CRASH_SEED brings it back."""
    return int(os.environ.get("TIDINGS_CRASH_SEED") or zlib.crc32(testrun_uid.encode()))


@pytest.fixture(scope="session")
def crashes(seed: int, tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Recorded:
    """What the clients of a server on SQLite saw while it was killed again and again.

    The first of the test run's workers that asks for it makes it, and the others wait for that: it takes a minute.
    """
    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / f"crashes-{testrun_uid}"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            recorded = asyncio.run(record(tmp_path_factory.mktemp("crash"), seed, KILLS))
            made.write_bytes(pickle.dumps(recorded))
        kept: Recorded = pickle.loads(made.read_bytes())
        return kept
