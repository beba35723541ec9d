"""Previews of the links in messages: fetched when a reader first asks, and cached in the database for all readers.

What holds:

* nothing waits for another server: readers get what is cached, and ask again for what is being fetched;
* a node fetches a URL once, however many readers ask, and again when the cached result has expired;
* nothing of it is in a log, and the cache does not tell who wrote or read a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tidings import __version__
from tidings.auth.limits import Turns
from tidings.contract.errors import ActionError
from tidings.contract.models import LinkPreview, LinkPreviews
from tidings.previews.fetching import Fetcher, TooOften
from tidings.previews.links import fetched_url, links_in
from tidings.supervision import spawn
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import previews
from tidings_db.queries.previews import PreviewRow

AT_A_TIME = 4
"""Pages that a node fetches at a time."""
MAX_WAITING = 100
"""Pages that wait for their turn, of one user."""
MAX_FETCHING = 1000
"""Pages that wait, of all users."""
KEPT_MS = 24 * 3600 * 1000
FAILURE_KEPT_MS = 3600 * 1000
MAX_CACHED = 20_000
"""Results in the database; beyond, those that expire first are dropped."""


class Previews:
    """Call `stop` after use."""

    def __init__(
        self,
        database: Database,
        *,
        enabled: bool,
        public_url: str,
        private: bool = False,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        """
        Args:
            public_url: the address of this server; its own pages have no preview.
            private: whether pages may be in private networks. For tests: any user could look around there.
            clock: returns seconds since the epoch.
            options: of the fetcher (`fetch_s`).
        """
        self._db = database
        self._enabled = enabled
        self._public_url = public_url
        self._clock = clock
        address = f"; +{public_url}" if public_url else ""
        agent = f"Tidings/{__version__} (link previews{address})"
        self._fetcher = Fetcher(agent=agent, private=private, at_a_time=AT_A_TIME, **options)
        self._turns = Turns(AT_A_TIME, MAX_WAITING)
        self._fetching: dict[str, asyncio.Task[None]] = {}

    async def of(self, contents: Mapping[str, str], user: int, allow: Callable[[], bool]) -> LinkPreviews:
        """The previews of messages, as far as they are known.

        Args:
            contents: by the id of the message.
            user: the key of the caller, who waits for pages one after the other.
            allow: whether the caller may have another page fetched.
        """
        if not self._enabled:
            return LinkPreviews(previews=[], pending=[])
        links = [(message_id, link) for message_id, content in contents.items() for link in links_in(content)]
        links = [(message_id, link) for message_id, link in links if not self._is_own(link)]
        keys = {link: _key(link) for _, link in links}
        cached = await self._load(*keys.values())
        found, pending = [], dict[str, None]()
        for message_id, link in links:
            row = cached.get(keys[link])
            if row is None:
                self._fetch_soon(keys[link], link, user, allow)
                pending[message_id] = None
            elif row.title is not None:
                found.append(LinkPreview.model_construct(message_id=message_id, url=link, **row._asdict()))
        return LinkPreviews(previews=found, pending=list(pending))

    def _is_own(self, link: str) -> bool:
        return bool(self._public_url) and f"{link.lower()}/".startswith(f"{self._public_url}/")

    async def _load(self, *keys: str) -> dict[str, PreviewRow]:
        if not keys:
            return {}
        return await self._db.read(partial(previews.load, keys=keys, now=int(self._clock() * 1000)))

    def _fetch_soon(self, key: str, link: str, user: int, allow: Callable[[], bool]) -> None:
        if key not in self._fetching and len(self._fetching) < MAX_FETCHING and allow():
            self._fetching[key] = spawn(self._fetch(key, link, user), "link preview")

    async def _fetch(self, key: str, link: str, user: int) -> None:
        try:
            # Without a place or a turn, nothing is stored: a later request tries again.
            with contextlib.suppress(ActionError, TooOften, StoreUnavailable):
                async with self._turns.turn(user):
                    if key in await self._load(key):
                        return  # stored since the caller looked
                    page = await self._fetcher.fetch(fetched_url(link) or link)
                now = int(self._clock() * 1000)
                row = PreviewRow(None, None, None) if page is None else PreviewRow(*page)
                expires_at = now + (FAILURE_KEPT_MS if page is None else KEPT_MS)
                await self._db.write(partial(_save, key=key, row=row, expires_at=expires_at, now=now), Write.LAZY)
        finally:
            del self._fetching[key]

    async def stop(self) -> None:
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        await self._fetcher.close()


def _save(conn: Any, key: str, row: PreviewRow, expires_at: int, now: int) -> None:
    previews.save(conn, key, row, expires_at)
    previews.drop(conn, now, MAX_CACHED)


def _key(link: str) -> str:
    return hashlib.sha256((fetched_url(link) or link).encode()).hexdigest()
