from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.node import NO_TLS, RunningNode, running_node


@pytest.fixture
async def lite(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node on SQLite only, for tests that do not depend on the database."""
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


@pytest.fixture
async def http(lite: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    """Omar's client of `lite`."""
    headers = {"Authorization": f"Bearer {await lite.register('omar')}"}
    async with httpx.AsyncClient(base_url=lite.url, verify=NO_TLS, headers=headers, timeout=30) as client:
        yield client
