"""Limits on password attempts: guessing is slow, and an attacker cannot lock the owner out.

Attempts on one account have separate counters for

- each source that has signed in to the account before (`known`), and each session that confirms its password: other
  callers cannot use up these attempts;
- the first attempt per day of each other source, all together;
- the further attempts of those sources, all together.

An attacker with K addresses has K first attempts a day. So an owner who signs in from a new address waits behind at
most K attempts, and the guesses on an account never exceed the rate, however many addresses they come from.

A source is an IPv4 address or an IPv6 /64. For first attempts it is an IPv6 /48: one customer may have a whole one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

from tidings.auth.limits import Window, rate
from tidings.contract.errors import ActionError, ErrorCode
from tidings.transport.addresses import source_of

T = TypeVar("T")

SOURCE_FACTOR = 3
"""The attempts of one source on all accounts where it is not known, as a multiple of the attempts on one account."""
FIRST_TRY_S = 86_400
FIRST_TRIES_KEPT = 50_000
"""The most first attempts that one node remembers in memory; beyond it, the oldest sources count as new."""
_SITE_PREFIX = 48
"""Bits of the IPv6 prefix that identify one site (RFC 6177)."""


class Kind(StrEnum):
    """A kind of attempt."""

    SOURCES = "sources"
    """Attempts of a source on accounts where it is not known."""
    KNOWN = "known"
    """Attempts on an account of a source that is known there, and passwords that a session confirms."""
    FIRST = "first"
    """First attempts of sources on an account."""
    FURTHER = "further"
    """Further attempts of the same sources on an account."""
    REGISTRATIONS = "registrations"
    """Registrations of a source."""
    CONFLICTS = "conflicts"
    """Registrations refused because the name was taken."""


Rates = Mapping[Kind, tuple[int, int]]
"""For each kind: how many are allowed in a period of how many seconds."""
Counted = tuple[Kind, Hashable]
"""A counter: its kind, and whose it is."""
Site = tuple[str, str]
"""An account, and a site that it was tried from."""


def attempt_rates(logins: str, registrations: str, conflicts: str) -> Rates:
    """The rates of each kind, from the settings for logins, registrations and taken names."""
    amount, period = rate(logins)
    half = -(-amount // 2)
    return {
        Kind.SOURCES: (SOURCE_FACTOR * amount, period),
        Kind.KNOWN: (amount, period),
        Kind.FIRST: (half, period),
        Kind.FURTHER: (half, period),
        Kind.REGISTRATIONS: rate(registrations),
        Kind.CONFLICTS: rate(conflicts),
    }


def kept_ms(rates: Rates) -> int:
    """For how long counters are needed."""
    return 1000 * max(FIRST_TRY_S, *(2 * period for _, period in rates.values()))


class Counters(Protocol):
    """The counters at one moment."""

    def wait(self, counted: Counted) -> float:
        """Seconds until one more is allowed; 0.0: now."""

    def count(self, counted: Counted) -> None: ...

    def is_first(self, site: Site) -> bool:
        """Whether the site has not tried the account within `FIRST_TRY_S`."""

    def remember(self, site: Site) -> None:
        """Note that the site has tried the account."""


class Store(Protocol):
    """Where the counters are."""

    def hash_with(self, key: bytes) -> None:
        """Set the key that hides names and addresses, where the counters are written down."""

    async def run(self, counted: Sequence[Counted], change: Callable[[Counters], T], site: Site | None = None) -> T:
        """Run a function atomically: if it raises, nothing is counted. It may run more than once.

        Args:
            counted: the counters that it may use.
            site: what it may call `is_first` and `remember` with.
        """

    async def uncount(self, counted: Sequence[Counted]) -> None:
        """Undo one count of each."""


class MemoryStore:
    """The counters of the only node, or of a node by itself."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows = {kind: Window(amount, period, clock) for kind, (amount, period) in rates.items()}
        self._first_tried_at: dict[Site, float] = {}

    def hash_with(self, key: bytes) -> None:
        pass

    async def run(self, counted: Sequence[Counted], change: Callable[[Counters], T], site: Site | None = None) -> T:
        return change(self)

    async def uncount(self, counted: Sequence[Counted]) -> None:
        for kind, key in counted:
            self._windows[kind].uncount(key)

    def wait(self, counted: Counted) -> float:
        return self._windows[counted[0]].wait(counted[1])

    def count(self, counted: Counted) -> None:
        self._windows[counted[0]].count(counted[1])

    def is_first(self, site: Site) -> bool:
        return self._clock() >= self._first_tried_at.get(site, -math.inf) + FIRST_TRY_S

    def remember(self, site: Site) -> None:
        self._first_tried_at.pop(site, None)  # so that it is inserted at the end
        self._first_tried_at[site] = self._clock()
        if len(self._first_tried_at) > FIRST_TRIES_KEPT:
            del self._first_tried_at[next(iter(self._first_tried_at))]


class Attempt:
    """A counted attempt whose outcome is not known yet."""

    def __init__(self, store: Store, counted: Sequence[Counted]) -> None:
        self._store = store
        self._counted = counted

    async def succeeded(self) -> None:
        """Uncount a successful attempt, so that only failures use up the limit."""
        if self._counted:
            await self._store.uncount(self._counted)


class Attempts:
    """The limits of the node, or of all nodes that share its store. All methods may raise `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def hash_with(self, key: bytes) -> None:
        self._store.hash_with(key)

    async def register(self, address: str) -> None:
        """Count a registration. Raises `rate_limited`, also after too many registrations of taken names."""
        source = source_of(address)
        registration, conflict = (Kind.REGISTRATIONS, source), (Kind.CONFLICTS, source)

        def change(counters: Counters) -> None:
            _check(counters, (conflict,))
            _count(counters, (registration,))

        await self._store.run((registration, conflict), change)

    async def name_taken(self, address: str) -> None:
        """Count a registration whose name was taken."""
        conflict = Kind.CONFLICTS, source_of(address)
        await self._store.run((conflict,), lambda counters: counters.count(conflict))

    async def sign_in(self, account: str, address: str, *, known: bool) -> Attempt:
        """Count an attempt to sign in. Raises `rate_limited`.

        Args:
            known: whether this source has signed in to this account before.
        """
        source = source_of(address)
        if known:
            await self._take((Kind.KNOWN, (account, source)))
            return Attempt(self._store, ())
        site = account, source_of(address, _SITE_PREFIX)
        of_source, first, further = (Kind.SOURCES, source), (Kind.FIRST, account), (Kind.FURTHER, account)

        def change(counters: Counters) -> tuple[Counted, ...]:
            is_first = counters.is_first(site)
            counted = of_source, first if is_first else further
            _count(counters, counted)
            if is_first:
                counters.remember(site)
            return counted

        return Attempt(self._store, await self._store.run((of_source, first, further), change, site))

    async def confirm(self, session_key: int) -> None:
        """Count that a session confirms the password of its user. Raises `rate_limited`."""
        await self._take((Kind.KNOWN, session_key))

    async def _take(self, counted: Counted) -> None:
        await self._store.run((counted,), lambda counters: _count(counters, (counted,)))


def _count(counters: Counters, counted: Sequence[Counted]) -> None:
    _check(counters, counted)
    for each in counted:
        counters.count(each)


def _check(counters: Counters, counted: Sequence[Counted]) -> None:
    wait = max(map(counters.wait, counted))
    if wait:
        raise ActionError(ErrorCode.RATE_LIMITED, "too many attempts", retry_after=max(1, math.ceil(wait)))
