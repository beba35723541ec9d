"""A node for the gateways' tests, and a watch over its log."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.node import RunningNode, running_node


@pytest.fixture
async def gateway(quiet_log: None, sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node. What a gateway does with its clients does not depend on the database."""
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test in which the server logged a traceback or an error, whatever it answered."""
    yield
    gc.collect()  # a task that failed unobserved says so when it is collected
    for when in ("call", "teardown"):
        for record in caplog.get_records(when):
            assert record.exc_info is None, logging.Formatter().format(record)
            assert record.levelno < logging.ERROR, record.getMessage()
