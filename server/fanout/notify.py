"""Joins the nodes on one PostgreSQL by NOTIFY: wakes them to read the feed, and carries what is in no log.

NOTIFY is never sent in the transaction that appends: its commit would hold a lock of the whole server until the disk
has synced. It is sent after the commit, at most every `FLUSH_S`, for everything until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from db.engine import Database, StoreUnavailable
from server.fanout.broker import MemoryBroker
from server.fanout.online import OnlineUsers
from server.log.notices import Channel, Notice, Personal, PresenceChanged, Transient, decode, encode
from server.supervision import Loop

if TYPE_CHECKING:
    from db.engine import Dedicated

logger = logging.getLogger("tidings.notify")

CHANNEL = "tidings"
FLUSH_S = 0.005
LONGEST_PAYLOAD = 7900
"""PostgreSQL refuses 8,000 bytes. A notice that is longer is not sent: it may be lost."""
MAX_WAITING = 2000
"""Notices that wait to be sent; further ones are dropped."""
PATIENCE_S = 3.0
RETRY_S = 0.2
NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"

CARRIED = (Transient, Personal)
"""Notices that are sent. The others describe a commit, which the feed tells, or are for the connections here."""


class NotifyBroker(MemoryBroker):
    """The broker of a node on PostgreSQL. It promises nothing beyond `Broker`: the feed makes up for what is lost."""

    def __init__(
        self,
        database: Database,
        node: str,
        others: Callable[[], Collection[str]],
        wake: Callable[[], None],
        online_users: OnlineUsers,
    ) -> None:
        """
        Args:
            node: the id of this node.
            others: returns the ids of the other live nodes. Without any, nothing is sent.
            wake: reads the feed now.
        """
        super().__init__()
        self._db = database
        self._node = node
        self._others = others
        self._wake = wake
        self._users = online_users
        self._waiting: dict[str, None] = {}
        """Payloads to be sent, in order."""
        self._due = asyncio.Event()
        self._connection: Dedicated | None = None
        self.dropped = 0
        """Notices that were not sent to the other nodes."""
        self.loop = Loop("tidings.notify", self._run)

    async def start(self, receive: Callable[[Notice], None]) -> None:
        await super().start(receive)
        self.loop.start()

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop.ended()
        await self._disconnect()
        await super().stop()

    def publish(self, channel: Channel, notice: Notice) -> None:
        super().publish(channel, notice)
        if isinstance(notice, PresenceChanged) or not self._others():
            return
        payload = self._node
        if isinstance(notice, CARRIED):
            payload += encode(channel, notice).decode()
            if len(payload.encode()) > LONGEST_PAYLOAD or len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
                return
        self._waiting[payload] = None
        self._due.set()

    def online(self, user_key: int, online: bool) -> None:
        self._users.put(user_key, online)

    async def online_users(self, user_keys: Iterable[int] | None = None) -> set[int]:
        return self._users.among(user_keys)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    connection = await self._connect()
                with suppress(TimeoutError):  # listening needs a connection, also while there is nothing to send
                    await asyncio.wait_for(self._due.wait(), PATIENCE_S)
                if self._due.is_set():
                    await asyncio.sleep(FLUSH_S)
                    self._due.clear()
                    waiting, self._waiting = self._waiting, {}
                    async with asyncio.timeout(PATIENCE_S):
                        await connection.fetch(NOTIFY, CHANNEL, list(waiting))
            except (StoreUnavailable, TimeoutError):
                await self._disconnect()
                await asyncio.sleep(RETRY_S)

    async def _connect(self) -> Dedicated:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        await self._disconnect()
        connection = self._connection = await self._db.dedicated()
        await connection.fetch("SET synchronous_commit TO off")
        await connection.listen(CHANNEL, self._notified)
        self._wake()
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _notified(self, payload: str) -> None:
        """Another node, or this one, has sent a payload."""
        if payload.startswith(self._node):
            return
        _, version, notice = payload.partition("\x01")
        if not version:
            self._wake()
            return
        try:
            channel, decoded = decode((version + notice).encode())
        except ValueError:
            logger.warning("a notice of another node cannot be read, and is ignored")
            return
        if isinstance(decoded, CARRIED):
            super().publish(channel, decoded)
