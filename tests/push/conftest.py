from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.push.browsers import Browsers, browsers_of_service
from tests.support.node import RunningNode, running_node

FAST: dict[str, Any] = {"push": {"wait_s": 0.05, "check_s": 0.1, "claim_s": 0.5, "first_retry_s": 0.02}}
"""Options of a node that does not let tests wait."""


class Clock:
    """Seconds since the epoch, which a test may advance."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
async def browsers() -> AsyncIterator[Browsers]:
    async with browsers_of_service() as browsers:
        yield browsers


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node whose push service may be on this machine."""
    async with running_node(database_url, tmp_path, options=FAST, push="private") as node:
        yield node
