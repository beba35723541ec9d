"""Sessions that were withdrawn without a notice: by another process, or because the notice was lost."""

from __future__ import annotations

import asyncio
import logging

from db.engine import Database, StoreUnavailable
from db.queries import users
from server.contract.errors import CloseReason
from server.delivery.broker import Withdrawn
from server.delivery.hub import Hub

logger = logging.getLogger("tidings.sessions")

SESSION_CHECK_S = 3.0


class SessionCheck:
    """Compares the sessions of the live connections with the database, every `interval_s` seconds.

    The command line withdraws sessions in a process of its own: its connections close here, within the interval.
    """

    def __init__(self, database: Database, hub: Hub, interval_s: float = SESSION_CHECK_S) -> None:
        self._db = database
        self._hub = hub
        self._interval_s = interval_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="session check")

    async def stop(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)
                return
            except TimeoutError:
                pass
            try:
                await self._check()
            except StoreUnavailable:
                pass  # the next look will do
            except Exception:
                logger.exception("the sessions of live connections could not be checked")

    async def _check(self) -> None:
        live = {
            connection.principal.session_key: connection.principal.user_key for connection in self._hub.connections
        }
        if not live:
            return
        good = await self._db.read(lambda conn: users.still_good(conn, live.keys()))
        for session_key in live.keys() - good:
            self._hub.receive(Withdrawn(live[session_key], session_key, CloseReason.TOKEN_REVOKED))
