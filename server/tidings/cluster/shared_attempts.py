"""The counters of attempts in PostgreSQL, so that the limits hold for all nodes together.

A transaction reads the counters that it needs, and refuses without a lock; a flood of guesses costs little more than
that. Only an attempt that is allowed locks its counters, reads them again, and counts. Keys are hashed: the database
contains no address, and no name that was typed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from tidings.auth.attempts import FIRST_TRY_S, Counted, Counters, Kind, Rates, Site
from tidings.auth.limits import until_free
from tidings_db.engine import Database, Write
from tidings_db.queries import attempts

T = TypeVar("T")
_SITE = "site"


class SharedStore:
    def __init__(self, database: Database, rates: Rates) -> None:
        self._db = database
        self._rates = rates
        self._key = b""

    def hash_with(self, key: bytes) -> None:
        self._key = key

    async def run(self, counted: Sequence[Counted], change: Callable[[Counters], T], site: Site | None = None) -> T:
        spans = {self._hash(kind, key): 2 * self._period_ms(kind) for kind, key in counted}
        if site is not None:
            spans[self._hash(_SITE, site)] = FIRST_TRY_S * 1000

        def transaction(conn: Transaction) -> T:
            change(_Snapshot(self._rates, self._hash, *attempts.load(conn, spans)))
            attempts.lock(conn, list(spans))
            snapshot = _Snapshot(self._rates, self._hash, *attempts.load(conn, spans))
            result = change(snapshot)
            attempts.add(conn, snapshot.added)
            return result

        return await self._db.write(transaction, Write.LAZY)

    async def uncount(self, counted: Sequence[Counted]) -> None:
        periods = {self._hash(kind, key): self._period_ms(kind) for kind, key in counted}
        await self._db.write(lambda conn: attempts.subtract(conn, periods), Write.LAZY)

    def _period_ms(self, kind: Kind) -> int:
        return self._rates[kind][1] * 1000

    def _hash(self, kind: str, key: object) -> str:
        return hmac.digest(self._key, f"attempts: {kind} {key!r}".encode(), "sha256")[:16].hex()


class _Snapshot:
    """The counters as a transaction has read them, and what it adds."""

    def __init__(
        self, rates: Rates, hashed: Callable[[str, object], str], now: int, counters: Mapping[tuple[str, int], int]
    ) -> None:
        self.added: list[tuple[str, int]] = []
        """Keys, each with the start of its window."""
        self._rates = rates
        self._hashed = hashed
        self._now = now
        self._counters = counters

    def wait(self, counted: Counted) -> float:
        amount, period_s = self._rates[counted[0]]
        period, key = period_s * 1000, self._hashed(*counted)
        began = self._now - self._now % period
        current, previous = self._counters.get((key, began), 0), self._counters.get((key, began - period), 0)
        return until_free(current, previous, amount - 1, self._now / period) * period_s

    def count(self, counted: Counted) -> None:
        period = self._rates[counted[0]][1] * 1000
        self.added.append((self._hashed(*counted), self._now - self._now % period))

    def is_first(self, site: Site) -> bool:
        key = self._hashed(_SITE, site)
        return all(of != key for of, _ in self._counters)

    def remember(self, site: Site) -> None:
        self.added.append((self._hashed(_SITE, site), self._now))
