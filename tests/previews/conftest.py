from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.previews.site import Site, serving
from tests.support.node import RunningNode, running_node

PRIVATE: dict[str, Any] = {"previews": {"private": True}}
"""Options of a node that fetches pages from this machine."""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(database_url, tmp_path, options=PRIVATE) as node:
        yield node
