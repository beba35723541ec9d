"""Nodes on one PostgreSQL database, and what the registry says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from tests.support.client import DEADLINE_S
from tidings.cluster.registry import NodeRegistry
from tidings_db.connections import on_postgresql
from tidings_db.engine import Database, Write
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


def registry_of(database: Database, name: str, **options: Any) -> NodeRegistry:
    """The registry of a node that does nothing else: without a feed, it renews its lease on the pool."""

    async def run(sql: str, *values: Any) -> Sequence[Any]:
        return await database.write(lambda conn: on_postgresql(conn, sql, *values), Write.LAZY)

    return NodeRegistry(database, name, name, "0", run=run, **options)


@pytest.fixture
async def registry(postgresql_url: str) -> AsyncIterator[Registry]:
    database = Database(postgresql_url)
    await database.start()
    yield Registry(database)
    await database.stop()
