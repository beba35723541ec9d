"""The node of the operations tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.node import RunningNode, running_node


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node on SQLite: its logs and metrics do not depend on the database."""
    async with running_node(sqlite_url, tmp_path) as running:
        yield running
