"""Holds one access to the database until the test releases it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidings_db.engine import Database

BACKGROUND_TASKS = (
    *("tidings.search", "tidings.sessions", "tidings.retention", "tidings.purge", "tidings.head_check"),
    *("presence", "subscriptions to rooms", "check of suspected rooms", "repair of a room"),
)
"""Tasks that access the database without a request. A visit may end before they do, so they are not counted."""


class Gate:
    """Holds the result of one database access. Only accesses for clients count, not those of background tasks."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        self._left = 0
        self.held, self._released = asyncio.Event(), asyncio.Event()
        original = getattr(database, kind)

        async def access(*args: Any, **options: Any) -> Any:
            task = asyncio.current_task()
            is_nth = self._counts(task.get_name() if task is not None else "")
            try:
                return await original(*args, **options)
            finally:
                if is_nth:
                    self.held.set()
                    await self._released.wait()

        monkeypatch.setattr(database, kind, access)

    def _counts(self, task: str) -> bool:
        if not self._left or task in BACKGROUND_TASKS:
            return False
        self._left -= 1
        return not self._left

    def hold(self, nth: int) -> None:
        """Hold the nth access from now on."""
        self._left = nth
        self.held, self._released = asyncio.Event(), asyncio.Event()

    def release(self) -> None:
        self._left = 0
        self._released.set()
