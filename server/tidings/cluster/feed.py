"""Reads the feed: what other nodes have committed, from PostgreSQL alone.

Every `POLL_S`, or as soon as another node wakes it, a node reads what has been committed since its last read, and
looks at what it changed. So everything that another node commits is delivered here within about `POLL_S`, whatever is
lost between the nodes. A node that cannot read the feed does not know who was removed or has logged out:
after `BEHIND_S` it delivers no transient events, and is not ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from tidings.supervision import Loop
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import feed
from tidings_db.queries.feed import Changes, Snapshot

if TYPE_CHECKING:
    from tidings_db.engine import Dedicated

logger = logging.getLogger("tidings.feed")

POLL_S = 0.2
"""The interval at which the feed is read if nothing wakes this node."""
BEHIND_S = 2.0
"""A node that has not read the feed for this long is behind."""
PATIENCE_S = 3.0
"""A read that takes longer has failed: the connection is replaced."""
RETRY_S = 0.2
CAUGHT_UP_S = 0.25
TRIM_S = 30.0
RESYNC_S = feed.KEPT_MS / 1000 - 20
"""After an interruption this long, changes may have been trimmed: everything is compared with the database."""


class FeedReceiver(Protocol):
    """Called on the event loop; must not block."""

    def changed(self, changes: Changes) -> None:
        """Other nodes have committed these changes."""

    def compare_all(self) -> None:
        """Changes may have been missed: compare everything with the database."""


class Feed:
    """`start` after the database, `stop` before it."""

    def __init__(self, database: Database, node: str, *, poll_s: float = POLL_S) -> None:
        self._db = database
        self._node = node
        self._poll_s = poll_s
        self._receiver: FeedReceiver | None = None
        self._connection: Dedicated | None = None
        self._lock = asyncio.Lock()
        """Held during a statement on the connection."""
        self._snapshot: Snapshot | None = None
        self._server = ""
        """The run of the server that the snapshot is of."""
        self._newest_row = 0
        """The id of the newest row at the last read."""
        self._read_at = 0.0
        """When the last successful read began, by the loop's clock."""
        self._lost = False
        """Whether changes may have been missed since the last successful read."""
        self._trimmed_at = 0.0
        self._listeners: dict[str, Callable[[], None]] = {}
        self._awake = asyncio.Event()
        self._was_read = asyncio.Event()
        """Set after a read, and replaced then."""
        self.loop = Loop("tidings.feed", self._run)

    async def start(self, receiver: FeedReceiver) -> None:
        """Read from here on. Raises `StoreUnavailable`."""
        self._receiver = receiver
        async with self._lock:
            await self._read()
        self.loop.start()

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop.ended()
        await self._disconnect()

    def listen(self, channel: str, notified: Callable[[], None]) -> None:
        """Call `notified` at each NOTIFY on a channel, while the feed has a connection. Before `start`."""
        self._listeners[channel] = notified

    async def run(self, sql: str, *values: Any) -> Sequence[Any]:
        """Run a statement of another part between two reads, on the feed's connection; returns its rows.

        So it waits for no connection of the pool. It is not durable immediately. Raises `StoreUnavailable`.
        """
        try:
            async with asyncio.timeout(PATIENCE_S), self._lock:
                if self._connection is None:
                    raise StoreUnavailable("the feed has no connection")
                try:
                    return await self._connection.fetch(sql, *values)
                except BaseException:
                    await self._disconnect()  # an answer may still be under way
                    raise
        except TimeoutError:
            raise StoreUnavailable("no answer") from None

    def is_behind(self) -> bool:
        """Whether this node may not know what others have committed in the last seconds."""
        return self.age > BEHIND_S

    @property
    def age(self) -> float:
        """Seconds since the feed was last read."""
        return asyncio.get_running_loop().time() - self._read_at

    def wake(self) -> None:
        """Read the feed now."""
        self._awake.set()

    async def caught_up(self) -> None:
        """Wait until everything that is committed now is known here; `CAUGHT_UP_S` at most.

        Returns immediately on a node that is behind.
        """
        if self.is_behind():
            return
        began = asyncio.get_running_loop().time()
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_S):
                while self._read_at < began:
                    await self._was_read.wait()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), self._poll_s)
            self._awake.clear()
            try:
                async with self._lock:
                    await self._read()
            except (StoreUnavailable, TimeoutError) as error:
                if not self.is_behind():
                    logger.warning("the feed of other nodes cannot be read: %s", str(error) or "no answer")
                await self._disconnect()
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> None:
        """Read what was committed since the last read, and pass it on."""
        assert self._receiver is not None
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(PATIENCE_S):
            if self._connection is None:
                self._connection = await self._db.dedicated()
                await self._connection.fetch("SET synchronous_commit TO off")
                for channel, notified in self._listeners.items():
                    await self._connection.listen(channel, lambda _, notified=notified: notified())  # type: ignore[misc]
                ((server, has_all),) = await self._connection.fetch(feed.RESUME, self._newest_row)
                if server != self._server or not has_all:
                    # Another server may answer now, whose transactions have other ids; or changes were trimmed.
                    self._lost, self._snapshot = self._snapshot is not None or self._lost, None
                self._server = server
            lost = self._lost or (self._snapshot is not None and began - self._read_at > RESYNC_S)
            after = self._snapshot or Snapshot(2**62, ())
            ((snapshot, bodies, self._newest_row),) = await self._connection.fetch(
                feed.TAIL, after.next_xid, list(after.under_way), self._node
            )
        self._snapshot = Snapshot.parse(snapshot)
        self._read_at, self._lost = began, False
        if lost:
            self._receiver.compare_all()
        elif bodies:
            self._receiver.changed(feed.merged(bodies))
        self._was_read.set()
        self._was_read = asyncio.Event()
        if began - self._trimmed_at > TRIM_S:
            self._trimmed_at = began
            async with asyncio.timeout(PATIENCE_S):
                await self._connection.fetch(feed.TRIM)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
