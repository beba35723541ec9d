"""Rate limits: how often a user and a connection may do each kind of action. The defaults of rates and quotas.

A rate is "6000/minute". Actions are counted in windows of one period. The
previous window counts in proportion to its overlap with the last period, as if its actions had been evenly spaced. So
a window change allows no double burst, and the rate holds in the long run; within one period, a burst and the actions
allowed while it fades can reach twice the rate. Refused actions are not counted.

The strategies of the library `limits` take 4 to 7 µs per check, and need a thread. A message needs two checks, and
takes 60 µs in all. So this module has its own counters.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final, NoReturn, TypeVar

from tidings.contract.errors import ActionError, ErrorCode

T = TypeVar("T")


SEND_SIZE: Final = 4096
"""Characters that one send may carry to others; each further block of this size counts as another send."""


class Limit(StrEnum):
    """Kinds of actions that are counted together."""

    SENDS = "sends"
    """Messages, edits, deletions, reactions: entries that others receive. A large one counts more than once."""
    APPENDS = "appends"
    """Pieces of text for messages that stream."""
    VOLUME = "volume"
    """Bytes that a user stores."""
    JOINS = "joins"
    """Changes of members, roles, bans and blocks."""
    ROOMS = "rooms"
    """New rooms and invitation links."""
    CONFLICTS = "conflicts"
    """Attempts to create a topic under the name of a hidden one, which would reveal names of private topics."""
    INVITES = "invites"
    """Adding another user to a room; counted per pair of users."""
    TYPING = "typing"
    CONNECTS = "connects"
    """New live connections."""
    DEVICES = "devices"
    """New devices."""
    SEARCHES = "searches"
    PREVIEWS = "previews"
    """Pages that are fetched for a preview."""
    EXPORTS = "exports"
    """Exports of all data of a user."""
    READS = "reads"
    """Queries, and changes of markers."""


RATES: Final[Mapping[str, str]] = {
    "sends": "6000/minute",
    "appends": "12000/minute",
    "volume": "1000000000/day",
    "joins": "3000/minute",
    "rooms": "300/hour",
    "conflicts": "60/hour",
    "invites": "30/hour",
    "typing": "1200/minute",
    "connects": "300/minute",
    "devices": "60/hour",
    "searches": "300/minute",
    "previews": "120/minute",
    "exports": "10/hour",
    "reads": "6000/minute",
    "logins": "10/minute",
    "registrations": "20/minute",
}
"""The defaults of each kind of `Limit`, of attempts to sign in to one account, of registrations from one address."""
RATES_FORM: Final = "sends=600/minute,logins=5/minute"
QUOTAS: Final[Mapping[str, int]] = {
    "devices": 100,
    "sessions": 100,
    "rooms": 3_000,  # a connection enters all of them in one step of the event loop, and takes half of what that may
    "topics": 1_000,
    "groups": 1_000,
    "links": 50,
    "echo_entries": 10_000,
    "files": 2_000_000_000,  # bytes
}
"""The defaults of `tidings.log.quotas.Quotas`."""
QUOTAS_FORM: Final = "rooms=500,devices=20"
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


class Window:
    """A sliding window of counters. A check takes 0.3 µs; a key that was unused for two periods takes no memory."""

    __slots__ = ("_amount", "_clock", "_current", "_number", "_period", "_previous")

    def __init__(self, amount: int, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._amount = amount
        self._period = period_s
        self._clock = clock
        self._number = 0
        self._current: dict[Hashable, int] = {}
        self._previous: dict[Hashable, int] = {}

    def wait(self, key: Hashable, weight: int = 1) -> float:
        """Seconds until `weight` more are allowed; 0.0: now. A weight above the amount counts as the amount."""
        position = self._clock() / self._period
        number = int(position)
        if number != self._number:
            self._previous = self._current if number == self._number + 1 else {}
            self._current = {}
            self._number = number
        current, previous = self._current.get(key, 0), self._previous.get(key, 0)
        free = self._amount - weight if weight < self._amount else 0
        if not previous:
            if current <= free:
                return 0.0
        elif current + previous * (number + 1 - position) <= free:
            return 0.0
        return until_free(current, previous, free, position) * self._period

    def count(self, key: Hashable, weight: int = 1) -> None:
        """Count in the current window; call `wait` first, which moves the window."""
        self._current[key] = self._current.get(key, 0) + weight

    def take(self, key: Hashable, part: Hashable | None, weight: int = 1) -> float:
        """Count for a key, and for a part of it that has half of the amount. Counts nothing unless both allow it.

        Returns seconds, see `wait`.
        """
        wait = self.wait(key, weight)
        current, previous = self._current, self._previous
        if part is not None:
            half = -(-self._amount // 2)
            free = half - weight if weight < half else 0
            if part in previous or current.get(part, 0) > free:
                position = self._clock() / self._period
                wait = max(
                    wait, until_free(current.get(part, 0), previous.get(part, 0), free, position) * self._period
                )
        if not wait:
            current[key] = current.get(key, 0) + weight
            if part is not None:
                current[part] = current.get(part, 0) + weight
        return wait

    def uncount(self, key: Hashable) -> None:
        """Undo one count."""
        if self._current.get(key, 0) > 0:
            self._current[key] -= 1

    def __len__(self) -> int:
        """Number of counters in memory."""
        return len(self._current) + len(self._previous)


def until_free(current: int, previous: int, free: int, position: float) -> float:
    """How long until one more is allowed; 0.0: now. In periods, like `position`, the present time.

    Args:
        current: the count of the present window.
        previous: that of the window before it.
        free: the most that may count for one more to be allowed.
    """
    number = int(position)
    if current + previous * (number + 1 - position) <= free:
        return 0.0
    if current <= free:  # later in this window, when the previous one counts less
        return number + 1 - (free - current) / previous - position
    return number + 2 - free / current - position


class Limits:
    """The rate limits of one node: each user has the rate, and each connection half of it.

    So one misbehaving client leaves half of the rate to the user's other devices.
    """

    def __init__(self, rates: Mapping[Limit, str], clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ValueError` if a rate cannot be parsed."""
        self._windows = {kind: Window(*rate(text), clock) for kind, text in rates.items()}

    def take(self, kind: Limit, user: Hashable, connection: Hashable | None = None, weight: int = 1) -> None:
        """Count an action. Raises `rate_limited` without counting it.

        Args:
            user: also of something else than a user, but never equal to a connection.
            connection: None for REST.
            weight: the number of actions that it counts as.
        """
        if wait := self._windows[kind].take(user, connection, weight):
            _refuse(kind, wait)

    def count(self, kind: Limit, user: Hashable) -> None:
        """Count an action without checking the limit."""
        self._windows[kind].count(user)

    def check(self, kind: Limit, user: Hashable) -> None:
        """Raise `rate_limited` if `take` would, without counting."""
        if wait := self._windows[kind].wait(user):
            _refuse(kind, wait)


def _refuse(kind: Limit, wait: float) -> NoReturn:
    raise ActionError(ErrorCode.RATE_LIMITED, f"too many {kind}", retry_after=max(1, math.ceil(wait)))


class Turns:
    """Bounds how many expensive actions run at a time, on the whole node and for each user.

    A user's actions run one after the other, in order, so many of them take no more of the node than one.
    """

    def __init__(self, at_a_time: int, waiting: int) -> None:
        """`at_a_time`: of all users. `waiting`: actions of one user that may wait; more are `rate_limited`."""
        self._node = asyncio.Semaphore(at_a_time)
        self._waiting = waiting
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._count: Counter[Hashable] = Counter()
        """By user: actions that run or wait."""

    @asynccontextmanager
    async def turn(self, user: Hashable) -> AsyncIterator[None]:
        """Wait for the user's turn and for a place on the node. Raises `rate_limited` if too many wait already."""
        if self._count[user] > self._waiting:
            raise ActionError(ErrorCode.RATE_LIMITED, "too many at the same time", retry_after=1)
        self._count[user] += 1
        try:
            async with self._locks.setdefault(user, asyncio.Lock()), self._node:
                yield
        finally:
            self._count[user] -= 1
            if not self._count[user]:
                del self._count[user], self._locks[user]


def read_rates(text: str) -> dict[str, str]:
    """All rates, some of them given in the form `RATES_FORM`. Raises `ValueError`."""
    return _by_key(text, RATES, _rate, RATES_FORM)


def read_quotas(text: str) -> dict[str, int]:
    """All quotas, some of them given in the form `QUOTAS_FORM`. Raises `ValueError`."""
    return _by_key(text, QUOTAS, _quota, QUOTAS_FORM)


def _by_key(text: str, defaults: Mapping[str, T], parse: Callable[[str], T], form: str) -> dict[str, T]:
    given: dict[str, T] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, _, value = map(str.strip, part.partition("="))
        try:
            if key not in defaults or key in given:
                raise ValueError
            given[key] = parse(value)
        except ValueError:
            keys = ", ".join(defaults)
            raise ValueError(f"cannot read {part}: write {form}, each key once; the keys are {keys}") from None
    return {**defaults, **given}


def _rate(text: str) -> str:
    rate(text)
    return text


def _quota(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


def rate(text: str) -> tuple[int, int]:
    """Parse a rate such as "6000/minute": an amount, and a period in seconds. Raises `ValueError`."""
    amount, _, period = text.partition("/")
    if period not in _SECONDS or not amount.isdecimal() or not int(amount):
        raise ValueError('write a rate like "6000/minute"')
    return int(amount), _SECONDS[period]
