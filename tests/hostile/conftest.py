"""A server whose event loop is measured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hostile.meter import MeteredNode, metered_node


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[MeteredNode]:
    """What a request costs the event loop does not depend on the database."""
    async with metered_node(sqlite_url, tmp_path) as running:
        yield running
