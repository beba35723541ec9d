"""A server with a topic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tidings_client
from tests.support.node import RunningNode, running_node


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path) as node:
        yield node


@pytest.fixture
async def omar(server: RunningNode) -> str:
    """The token of the owner of the topics `noticias` and `pedidos`."""
    token = await server.register("omar")
    async with tidings_client.connect(server.url, token, device="setup") as client:
        for topic_name in ("noticias", "pedidos"):
            await client.actions.create(topic_name=topic_name)
    return token
