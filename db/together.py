"""Reads that are asked for at about the same time, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy import Connection

from db.engine import Database, StoreUnavailable

A = TypeVar("A")
R = TypeVar("R")

AT_MOST = 32
"""Asked in one transaction: what one of them waits for the others is bounded."""
GATHER_S = 0.005
"""Transactions begin no more often, unless so many wait: a hop to a thread costs more than what one of them asks."""


class Together(Generic[A, R]):
    """One kind of read. While a transaction is under way, who asks waits, and the next takes all who wait.

    Who asks alone is answered at once; of many, one transaction takes those of some milliseconds.

    A read never begins before it is asked for, so it sees whatever was committed until then.
    """

    def __init__(
        self,
        database: Database,
        query: Callable[[Connection, Sequence[A]], Sequence[R]],
        *,
        gather_s: float = GATHER_S,
    ) -> None:
        """`query` answers each, in the order in which they were asked."""
        self._db = database
        self._query = query
        self._gather_s = gather_s
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None
        self._not_before = 0.0

    async def read(self, asked: A) -> R:
        """Ask. Raises as `Database.read`."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            now = asyncio.get_running_loop().time
            while self._waiting:
                if now() < self._not_before and len(self._waiting) < AT_MOST:
                    await asyncio.sleep(self._not_before - now())
                self._not_before = now() + self._gather_s
                batch, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                await self._answer([(asked, future) for asked, future in batch if not future.done()])
        finally:
            self._running = None

    async def _answer(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        if not batch:
            return
        try:
            found = await self._db.read(lambda conn: self._query(conn, [asked for asked, _ in batch]))
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for one in batch:  # a bad one fails alone
                    await self._answer([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), row in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(row)
