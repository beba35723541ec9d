"""The check for sessions that were withdrawn without a notice, and the record of their use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from tidings.contract.errors import CloseReason
from tidings.fanout.hub import Hub
from tidings.supervision import Periodic, spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import users

logger = logging.getLogger("tidings.session_check")

SESSION_CHECK_S = 3.0
RETRY_S = 0.5
"""The pause after the database could not be read."""
LIVE_NOTED_S = 3600.0
"""The interval at which the sessions of live connections are recorded as used."""


class SessionCheck(Periodic):
    """Compares the sessions of the live connections with the database, every `interval_s` seconds.

    The command line withdraws sessions in another process, and a notice may be lost: such connections close here
    within the interval. Also records which sessions are used, many in one write.
    """

    def __init__(self, database: Database, hub: Hub, used: set[int], interval_s: float = SESSION_CHECK_S) -> None:
        """`used`: keys of sessions whose use is to be recorded; emptied here."""
        super().__init__(interval_s, logger, "the sessions of live connections could not be checked")
        self._db = database
        self._hub = hub
        self._used = used
        self._live_noted = time.monotonic()
        self._suspected: dict[int, int] = {}
        """session -> user, to be checked now."""
        self._checking: asyncio.Task[None] | None = None

    def look(self, sessions: Iterable[tuple[int, int | None]]) -> None:
        """Check the sessions of users now, (user, session); None: all of the user's."""
        for user_key, session_key in sessions:
            here = self._hub.sessions_of(user_key)
            self._suspected.update((key, user_key) for key in here if session_key in (None, key))
        if self._suspected and self._checking is None:
            self._checking = spawn(self._check_suspected(), "check of sessions")

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        await super().stop()

    async def _check_suspected(self) -> None:
        try:
            while self._suspected:
                suspected, self._suspected = self._suspected, {}
                try:
                    await self._check(suspected)
                except Exception as error:
                    if not isinstance(error, StoreUnavailable):
                        logger.exception("sessions could not be checked; it is tried again")
                    self._suspected = suspected | self._suspected
                    await asyncio.sleep(RETRY_S)
        finally:
            self._checking = None

    async def _check(self, live: Mapping[int, int]) -> None:
        """Close the connections of sessions, session -> user, that are not valid any more."""
        valid = await self._db.read(lambda conn: users.valid_sessions(conn, live.keys()))
        ending = {
            connection.principal.session_key for connection in self._hub.connections if connection.ending_session
        }
        for session_key in live.keys() - valid - ending:
            for connection in self._hub.connections_of(live[session_key]):
                if connection.principal.session_key == session_key:
                    connection.link.close(CloseReason.TOKEN_REVOKED)

    async def _round(self) -> None:
        live = {
            connection.principal.session_key: connection.principal.user_key for connection in self._hub.connections
        }
        if live:
            await self._check(live)
        await self._note_use(live)  # last: a disk that is full does not keep withdrawn sessions alive

    async def _note_use(self, live: Iterable[int]) -> None:
        if time.monotonic() - self._live_noted >= LIVE_NOTED_S:
            self._live_noted = time.monotonic()
            self._used.update(live)
        if self._used:
            keys, now = list(self._used), time.time_ns() // 1_000_000
            await self._db.write(lambda conn: users.note_use(conn, keys, now))
            self._used.difference_update(keys)
