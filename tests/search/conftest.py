from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.actions.conftest import people
from tidings_db.engine import Database

__all__ = ["people"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.start()
    yield database
    await database.stop()
