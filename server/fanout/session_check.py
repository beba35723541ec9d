"""The check for sessions that were withdrawn without a notice, and the record of their use."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from db.engine import Database
from db.queries import users
from server.contract.errors import CloseReason
from server.fanout.hub import Hub
from server.supervision import Periodic

logger = logging.getLogger("tidings.session_check")

SESSION_CHECK_S = 3.0
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

    async def _round(self) -> None:
        live = {
            connection.principal.session_key: connection.principal.user_key for connection in self._hub.connections
        }
        if live:
            valid = await self._db.read(lambda conn: users.valid_sessions(conn, live.keys()))
            ending = {
                connection.principal.session_key for connection in self._hub.connections if connection.ending_session
            }
            for session_key in live.keys() - valid - ending:
                for connection in self._hub.connections_of(live[session_key]):
                    if connection.principal.session_key == session_key:
                        connection.link.close(CloseReason.TOKEN_REVOKED)
        await self._note_use(live)  # last: a disk that is full does not keep withdrawn sessions alive

    async def _note_use(self, live: Iterable[int]) -> None:
        if time.monotonic() - self._live_noted >= LIVE_NOTED_S:
            self._live_noted = time.monotonic()
            self._used.update(live)
        if self._used:
            keys, now = list(self._used), time.time_ns() // 1_000_000
            await self._db.write(lambda conn: users.note_use(conn, keys, now))
            self._used.difference_update(keys)
