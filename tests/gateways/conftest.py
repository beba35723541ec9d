"""A node for the gateway tests, and a fixture that fails a test if the server logs an error."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.node import RunningNode, running_node


@pytest.fixture
async def gateway(quiet_log: None, sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node on SQLite: the behaviour of a gateway does not depend on the database."""
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which the server logged a traceback or an error, whatever it answered."""
    yield
    gc.collect()  # a task whose exception nobody retrieved logs it when it is collected
    for when in ("call", "teardown"):
        for record in caplog.get_records(when):
            assert record.exc_info is None, logging.Formatter().format(record)
            assert record.levelno < logging.ERROR, record.getMessage()
