"""Recorded crashes: made once, judged by the crash test, and spoilt on purpose to judge the checker."""

from __future__ import annotations

import asyncio
import os
import secrets

import pytest

from tests.crash.load import Recorded, record

KILLS = 20
KILLS_ON_POSTGRESQL = 5


@pytest.fixture(scope="session")
def seed() -> int:
    """Of what the clients do and what the kills wait for. A failure shows it; TIDINGS_CRASH_SEED brings it back."""
    return int(os.environ.get("TIDINGS_CRASH_SEED") or secrets.randbelow(2**32))


@pytest.fixture(scope="session")
def crashes(seed: int, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What the clients of a server on SQLite saw while it was killed again and again."""
    return asyncio.run(record(tmp_path_factory.mktemp("crash"), seed, KILLS))
