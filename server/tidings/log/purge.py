"""The purge: removes rows that are no longer needed, so that no table grows for ever, and ends unused sessions.

What holds:

* readers select the rows; the writer only removes them, up to `STEP` rows in one transaction, so that messages are
  written in between. A device is removed with its cursors, one per room;
* valid sessions, devices that are connected here, and rows that were renewed since they were selected, stay;
* a token of a removed session is still refused: by its expiry, or as `unauthenticated`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from tidings.log.notices import Fanout
from tidings.log.retention import DAY_MS, RETENTION_S, now_ms
from tidings.supervision import Periodic
from tidings_db.engine import Database, Write
from tidings_db.queries import attempts, purge, registration
from tidings_db.queries.rows import chunked

logger = logging.getLogger("tidings.purge")
T = TypeVar("T")

STEP = 500
"""The most rows that one transaction removes."""
ROUND = 10_000
"""The most rows of a table that one round removes."""
USERS = 1000
"""Users whose echo logs one query counts."""


class Purge(Periodic):
    def __init__(
        self,
        database: Database,
        fanout: Fanout,
        *,
        session_days: int,
        sessions_days: int,
        devices_days: int,
        echo_entries: int,
        attempts_ms: int,
        interval_s: float = RETENTION_S,
    ) -> None:
        """How many days ended sessions and unused devices are kept, and how many entries of an echo log; 0: all.

        Args:
            session_days: how long a session that lasts until logout may be unused; 0: no bound.
            attempts_ms: how long login attempts count.
        """
        super().__init__(interval_s, logger, "obsolete rows could not be removed")
        self._db = database
        self._fanout = fanout
        self._session_days = session_days
        self._sessions_days = sessions_days
        self._devices_days = devices_days
        self._echo_entries = echo_entries
        self._attempts_ms = attempts_ms

    async def _round(self) -> None:
        await self.run_once(now_ms())

    async def run_once(self, now: int) -> None:
        """Remove all rows that are obsolete at `now`, in ms since the epoch."""
        if self._session_days:
            before = now - self._session_days * DAY_MS
            withdraw = partial(purge.withdraw_unused, before=before, now=now)
            await self._drop(partial(purge.unused_sessions, before=before, limit=ROUND), withdraw)
        if self._sessions_days:
            before = now - self._sessions_days * DAY_MS
            await self._drop(partial(purge.ended_sessions, before=before, limit=ROUND), purge.drop_sessions)
        if self._devices_days:
            await self._drop_devices(now - self._devices_days * DAY_MS)
        await self._drop(partial(purge.expired_links, before=now, limit=ROUND), purge.drop_links)
        await self._drop(partial(purge.expired_bans, before=now, limit=ROUND), partial(purge.drop_bans, before=now))
        await self._drop(partial(purge.expired_mutes, before=now, limit=ROUND), partial(purge.drop_mutes, before=now))
        await self._db.write(partial(registration.drop_outdated, before=now), Write.LAZY)
        await self._db.write(partial(attempts.drop, before=now - self._attempts_ms), Write.LAZY)
        if self._echo_entries:
            await self._trim_echo()

    async def _drop(
        self, find: Callable[[Transaction], list[T]], drop: Callable[[Transaction, Sequence[T]], None]
    ) -> None:
        for step in chunked(await self._db.read(find), STEP):
            if self._stopping.is_set():
                return
            await self._db.write(partial(_run, drop, step))

    async def _drop_devices(self, before: int) -> None:
        for key in await self._db.read(partial(purge.unseen_devices, before=before, limit=ROUND)):
            if self._stopping.is_set():
                return
            if not self._fanout.has_device(key):
                await self._db.write(partial(purge.drop_device, key=key, before=before))

    async def _trim_echo(self) -> None:
        newest = await self._db.read(purge.newest_user)
        for after in range(0, newest, USERS):
            long_logs = partial(purge.long_echo_logs, limit=self._echo_entries, after=after, upto=after + USERS)
            for user_key, upto in await self._db.read(long_logs):
                trim = partial(purge.trim_echo, user_key=user_key, upto=upto, limit=STEP)
                while not self._stopping.is_set() and await self._db.write(trim) == STEP:
                    pass


def _run(drop: Callable[[Transaction, Sequence[T]], None], step: Sequence[T], conn: Transaction) -> None:
    drop(conn, step)
