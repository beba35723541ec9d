"""Runs concurrent reads together, in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy import Connection

from tidings_db.engine import Database, StoreUnavailable

A = TypeVar("A")
R = TypeVar("R")

MAX_BATCH = 32
"""The most reads in one transaction: each waits for all."""
GATHER_S = 0.005
"""The shortest interval between transactions, unless a full batch waits: a thread switch costs more than a read."""


class ReadBatcher(Generic[A, R]):
    """Batches one kind of read. Requests that arrive during a transaction wait for the next one.

    A lone caller is served immediately; concurrent callers are batched for up to 5 ms. A read never begins before its
    request, so it sees everything that was committed until then.
    """

    def __init__(
        self,
        database: Database,
        query: Callable[[Connection, Sequence[A]], Sequence[R]],
        *,
        gather_s: float = GATHER_S,
    ) -> None:
        """`query` takes a batch of requests and returns their results in the same order."""
        self._db = database
        self._query = query
        self._gather_s = gather_s
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._running: asyncio.Task[None] | None = None
        self._next_batch_at = 0.0

    async def read(self, request: A) -> R:
        """The result for one request. Raises what `Database.read` raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            now = asyncio.get_running_loop().time
            while self._waiting:
                if now() < self._next_batch_at and len(self._waiting) < MAX_BATCH:
                    await asyncio.sleep(self._next_batch_at - now())
                self._next_batch_at = now() + self._gather_s
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._answer([(request, future) for request, future in batch if not future.done()])
        finally:
            self._running = None

    async def _answer(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        if not batch:
            return
        try:
            rows = await self._db.read(lambda conn: self._query(conn, [request for request, _ in batch]))
            answers = list(zip(batch, rows, strict=True))
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for entry in batch:  # a failing request must not fail the others
                    await self._answer([entry])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), row in answers:
            if not future.done():
                future.set_result(row)
