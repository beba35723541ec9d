from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from db.engine import Database
from tests.actions.conftest import people

__all__ = ["people"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.start()
    yield database
    await database.stop()
