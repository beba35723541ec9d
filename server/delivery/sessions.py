"""Sessions that were withdrawn without a notice: by another process, or because the notice was lost."""

from __future__ import annotations

import logging

from db.engine import Database
from db.queries import users
from server.contract.errors import CloseReason
from server.delivery.broker import Withdrawn
from server.delivery.hub import Hub
from server.delivery.periodic import Periodic

logger = logging.getLogger("tidings.sessions")

SESSION_CHECK_S = 3.0


class SessionCheck(Periodic):
    """Compares the sessions of the live connections with the database, every `interval_s` seconds.

    The command line withdraws sessions in a process of its own: its connections close here, within the interval.
    """

    def __init__(self, database: Database, hub: Hub, interval_s: float = SESSION_CHECK_S) -> None:
        super().__init__(interval_s, logger, "the sessions of live connections could not be checked")
        self._db = database
        self._hub = hub

    async def _round(self) -> None:
        live = {
            connection.principal.session_key: connection.principal.user_key for connection in self._hub.connections
        }
        if not live:
            return
        good = await self._db.read(lambda conn: users.still_good(conn, live.keys()))
        for session_key in live.keys() - good:
            self._hub.receive(Withdrawn(live[session_key], session_key, CloseReason.TOKEN_REVOKED))
