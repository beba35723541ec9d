"""How often a user and a connection may do each kind of action.

A rate is "6000/minute", in the notation of the `limits` library. It counts in windows of its period; the window
before counts for the share of it that lies within the last period, as if its actions had come evenly. So there is no
double burst at the turn of a window, and the rate holds in the long run; a burst and what is allowed as it passes out
of sight can be up to twice the rate within one period. A refused action is not counted.

The library's own strategies take 4 to 7 µs a look, and a thread beside it: a message needs two, and takes 60 µs in
all. So the counters are our own; of the library there is its notation, and `server.auth` has its exact window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum

from limits import RateLimitItem, parse_many

from server.contract.errors import ActionError, ErrorCode


class Limit(StrEnum):
    """Kinds of actions that are counted together."""

    SENDS = "sends"
    """What becomes an entry that others get: messages, edits, deletions, reactions."""
    JOINS = "joins"
    """What makes rooms, and who is in them."""
    SEARCHES = "searches"
    EXPORTS = "exports"
    """What goes through everything that there is."""
    READS = "reads"
    """What asks the database, or moves a marker."""


class Window:
    """A sliding window of counters. Takes 0.3 µs a look; who was not seen for two periods takes no memory."""

    __slots__ = ("_amount", "_before", "_clock", "_now", "_number", "_period")

    def __init__(self, amount: int, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._amount = amount
        self._period = period_s
        self._clock = clock
        self._number = 0
        self._now: dict[Hashable, int] = {}
        self._before: dict[Hashable, int] = {}

    def wait(self, key: Hashable) -> float:
        """Seconds until one more is allowed; 0.0: it is, now."""
        at = self._clock() / self._period
        number = int(at)
        if number != self._number:
            self._before = self._now if number == self._number + 1 else {}
            self._now = {}
            self._number = number
        now, before = self._now.get(key, 0), self._before.get(key, 0)
        if not before:
            if now < self._amount:
                return 0.0
        elif now + 1 + before * (number + 1 - at) <= self._amount:
            return 0.0
        free = self._amount - 1
        if now <= free:  # soon, when enough of the window before is out of sight
            return (number + 1 - (free - now) / before - at) * self._period
        return (number + 2 - free / now - at) * self._period

    def count(self, key: Hashable) -> None:
        """One more, in the window that `wait` has just looked at."""
        self._now[key] = self._now.get(key, 0) + 1

    def __len__(self) -> int:
        """Counters that are held."""
        return len(self._now) + len(self._before)


class Limits:
    """The limits of one node: a rate is what a user may do, and each of their connections half of it.

    So one client that runs wild leaves its user's other devices something to act with.
    """

    def __init__(self, rates: Mapping[Limit, str], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ValueError` for a rate that is none."""
        self._windows = {kind: _windows(rate(text), clock) for kind, text in rates.items()}

    def take(self, kind: Limit, user: Hashable, connection: Hashable | None) -> None:
        """Count one action of a kind; `connection` is None for REST. Raises `rate_limited`, and counts nothing."""
        of_user, of_connection = self._windows[kind]
        wait = of_user.wait(user)
        if connection is not None:
            wait = max(wait, of_connection.wait(connection))
        if wait:
            raise ActionError(ErrorCode.RATE_LIMITED, f"too many {kind}", retry_after=max(1, math.ceil(wait)))
        of_user.count(user)
        if connection is not None:
            of_connection.count(connection)


def _windows(item: RateLimitItem, clock: Callable[[], float]) -> tuple[Window, Window]:
    period = item.get_expiry()
    return Window(item.amount, period, clock), Window(-(-item.amount // 2), period, clock)


def rate(text: str) -> RateLimitItem:
    """Read "6000/minute", "10 per 2 hours" and the like. Raises `ValueError`."""
    try:
        (item,) = parse_many(text)
    except ValueError:
        raise ValueError('a rate is like "6000/minute"') from None
    if item.amount < 1 or item.get_expiry() < 1:
        raise ValueError("a rate allows something: at least 1")
    return item
