"""Nodes on one PostgreSQL database, and what the registry says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.client import DEADLINE_S
from tidings_db.engine import Database
from tidings_db.queries import nodes
from tidings_db.queries.nodes import NodeRow

SOON = {"lease_s": 0.5}
"""Options of nodes whose leases end soon."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Several nodes take seconds to start, and PostgreSQL, which a newcomer may not have."""
    item.add_marker(pytest.mark.long)


class Registry:
    """Reads the registry from outside."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def rows(self) -> dict[str, NodeRow]:
        """The nodes in the registry, by id."""
        return {row.id: row for row in await self.database.read(nodes.listed)}

    async def until(self, condition: Callable[[dict[str, NodeRow]], object]) -> dict[str, NodeRow]:
        """Read until a condition holds of the rows."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition(rows := await self.rows()):
                pass  # each read is a round trip
        return rows


@pytest.fixture
async def registry(postgresql_url: str) -> AsyncIterator[Registry]:
    database = Database(postgresql_url)
    await database.start()
    yield Registry(database)
    await database.stop()
