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
from collections.abc import Callable, Hashable

from server.addresses import source_of
from server.contract.errors import ActionError, ErrorCode
from server.limits import Window, rate

SOURCE_FACTOR = 3
"""The attempts of one source on all accounts where it is not known, as a multiple of the attempts on one account."""
FIRST_TRY_S = 86_400
FIRST_TRIES_KEPT = 50_000
"""The most first attempts that are remembered; beyond it, the oldest sources count as new."""
_SITE_PREFIX = 48
"""Bits of the IPv6 prefix that identify one site (RFC 6177)."""


class Attempt:
    """A counted attempt whose outcome is not known yet."""

    def __init__(self, counted: tuple[tuple[Window, Hashable], ...]) -> None:
        self._counted = counted

    def succeeded(self) -> None:
        """Uncount a successful attempt, so that only failures use up the limit."""
        for window, key in self._counted:
            window.uncount(key)


class Attempts:
    """The counters of one node."""

    def __init__(
        self, logins: str, registrations: str, conflicts: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Rates of attempts on one account, of registrations from one source, and of registrations of taken names."""
        item = rate(logins)
        amount, period = item.amount, item.get_expiry()
        self._clock = clock
        self._sources = Window(SOURCE_FACTOR * amount, period, clock)
        self._known_sources = Window(amount, period, clock)
        self._first = Window(-(-amount // 2), period, clock)
        self._further = Window(-(-amount // 2), period, clock)
        self._first_tried_at: dict[tuple[str, str], float] = {}
        item = rate(registrations)
        self._registrations = Window(item.amount, item.get_expiry(), clock)
        item = rate(conflicts)
        self._conflicts = Window(item.amount, item.get_expiry(), clock)

    def register(self, address: str) -> None:
        """Count a registration. Raises `rate_limited`, also after too many registrations of taken names."""
        source = source_of(address)
        _check(((self._conflicts, source),))
        _count(((self._registrations, source),))

    def name_taken(self, address: str) -> None:
        """Count a registration whose name was taken."""
        self._conflicts.count(source_of(address))

    def sign_in(self, account: str, address: str, *, known: bool) -> Attempt:
        """Count an attempt to sign in. Raises `rate_limited`.

        Args:
            known: whether this source has signed in to this account before.
        """
        source = source_of(address)
        if known:
            _count(((self._known_sources, (account, source)),))
            return Attempt(())
        site = account, source_of(address, _SITE_PREFIX)
        counted = (self._sources, source), (self._first if self._is_first(site) else self._further, account)
        _count(counted)
        self._remember(site)
        return Attempt(counted)

    def confirm(self, session_key: int) -> None:
        """Count that a session confirms the password of its user. Raises `rate_limited`."""
        _count(((self._known_sources, session_key),))

    def _is_first(self, site: tuple[str, str]) -> bool:
        return self._clock() >= self._first_tried_at.get(site, -math.inf) + FIRST_TRY_S

    def _remember(self, site: tuple[str, str]) -> None:
        if self._is_first(site):
            self._first_tried_at.pop(site, None)  # so that it is inserted at the end
            self._first_tried_at[site] = self._clock()
            if len(self._first_tried_at) > FIRST_TRIES_KEPT:
                del self._first_tried_at[next(iter(self._first_tried_at))]


def _count(counted: tuple[tuple[Window, Hashable], ...]) -> None:
    _check(counted)
    for window, key in counted:
        window.count(key)


def _check(counted: tuple[tuple[Window, Hashable], ...]) -> None:
    wait = max(window.wait(key) for window, key in counted)
    if wait:
        raise ActionError(ErrorCode.RATE_LIMITED, "too many attempts", retry_after=max(1, math.ceil(wait)))
