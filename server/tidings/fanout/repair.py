"""Repairs: reads the entries that were not published here from the database, and delivers them.

In a public topic, the log does not contain removals. So a page is read together with the number of removals of the
room, and if there were some that this node does not know of, with the memberships of the connected users: who was
removed gets no entry of the page, and none after it.

A failed attempt is repeated: a room does not stay behind its log because the store was away for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.errors import CloseReason
from tidings.fanout.cluster import Cluster
from tidings.fanout.connection import Connection
from tidings.fanout.live_room import LiveRoom
from tidings.fanout.member_events import MemberEvents
from tidings.log.notices import Appended
from tidings.log.views import EncodedEntry
from tidings.supervision import spawn
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.queries import log, members, rooms
from tidings_db.queries.rows import EntryRow

logger = logging.getLogger("tidings.repair")

REPAIR_PAGE = 500
REPAIR_BYTES = 256 * 1024
"""A repair waits for the connections to drain after each of these."""
REPAIR_PATIENCE_S = 1.0
"""The longest such wait: a connection that does not read must not delay the others."""
OBSERVED_S = 0.03
"""How long entries that were seen in the database may take to be published."""
RETRY_S = 1.0
"""The pause before another attempt after a failure."""


class Fence(NamedTuple):
    """The members among the users of a room, read with the entries after the last removals."""

    removals: int
    looked_up: frozenset[int]
    joined: Mapping[int, int]
    """user -> how many memberships had ended when they joined"""


class _Page(NamedTuple):
    entries: Sequence[EntryRow]
    more: bool
    """Whether the page ended at its bounds."""
    removals: int
    """How many memberships had ended."""
    fence: Fence | None
    """None: nobody was removed that the reader did not know of, or no users were to be looked up."""


def read_missed(
    conn: Transaction, room_key: int, after: int, limit: int, fence: tuple[int, Sequence[int]] | None
) -> _Page:
    """The next `limit` entries of a room, and in the same snapshot who of its users is a member.

    `fence`: the removals that are known, and the users to look up if there were more.
    """
    entries = log.after(conn, room_key, after, limit, REPAIR_BYTES)
    room = rooms.by_key(conn, room_key)
    end = 0 if room is None else room.last_seq if limit == REPAIR_PAGE else after + limit
    more = bool(entries) and entries[-1].seq < end
    removals = 0 if room is None else room.removals
    if fence is None or room is None or removals <= fence[0]:
        return _Page(entries, more, removals, None)
    users = fence[1]
    return _Page(
        entries, more, removals, Fence(room.removals, frozenset(users), members.joined(conn, room_key, users))
    )


class Repairs:
    def __init__(
        self,
        database: Database,
        live_rooms: Mapping[int, LiveRoom],
        removed: Callable[[Connection, str, int], None],
        member_events: MemberEvents,
        cluster: Cluster,
        delivered: Callable[[Sequence[EntryRow | EncodedEntry]], None],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        """
        Args:
            live_rooms: the hub's, by key.
            removed: as of `LiveRoom.deliver`.
            delivered: as of `ConnectionObserver`.
        """
        self._db = database
        self._rooms = live_rooms
        self._removed = removed
        self._member_events = member_events
        self._cluster = cluster
        self._delivered = delivered
        self.membership_reads = 0
        """Pages that were read with the memberships of the connected users, because removals were not known."""
        self._retry_s = retry_s
        self._suspected: set[int] = set()
        self._checking: asyncio.Task[None] | None = None

    def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        for live_room in self._rooms.values():
            if live_room.repairing is not None:
                live_room.repairing.cancel()

    async def settled(self) -> None:
        """Wait until the heads of all suspected rooms are known."""
        while self._checking is not None:
            await asyncio.wait([self._checking])

    def suspect(self, room_keys: Iterable[int]) -> None:
        """See `Fanout.suspect`."""
        self._suspected.update(key for key in room_keys if key in self._rooms)
        if self._suspected and self._checking is None:
            self._checking = spawn(self._check_suspected(), "check of suspected rooms")

    async def _check_suspected(self) -> None:
        try:
            while self._suspected:
                suspected, self._suspected = self._suspected, set()
                try:
                    await self.compare_heads(list(suspected))
                except Exception as error:
                    if not isinstance(error, StoreUnavailable):
                        logger.exception("the heads of rooms could not be compared; it is tried again")
                    self._suspected |= suspected & self._rooms.keys()
                    await asyncio.sleep(self._retry_s)
        finally:
            self._checking = None

    async def compare_heads(self, room_keys: Sequence[int]) -> None:
        """Compare rooms with the database, and repair those that lack entries. Raises as `Database.read`."""
        heads = await self._db.read(lambda conn: rooms.heads(conn, room_keys))
        for key, head in heads.items():
            live_room = self._rooms.get(key)
            if live_room is not None:
                live_room.known_head = max(live_room.known_head, head.seq)
                if live_room.head < live_room.known_head:
                    self.repair(live_room)
                if live_room.is_fenced:
                    self._member_events.expect(live_room, head.changes)

    def repair(self, live_room: LiveRoom) -> None:
        """Start to read the entries that the room lacks, unless that is under way."""
        if live_room.repairing is None:
            live_room.repairing = spawn(self._repair(live_room), "repair of a room")

    def published(self, live_room: LiveRoom, part: Appended) -> None:
        """Deliver published entries behind those in front of them, which are read if they do not come.

        If other nodes' entries are carried, they may be under way, and are waited for, for `OBSERVED_S`. Raises as
        `deliver`.
        """
        last = part.entries[-1].seq
        if last <= live_room.head:
            return
        live_room.members = part.members
        if live_room.repairing is None and not live_room.held and self._is_next(live_room, part):
            self._deliver(live_room, part)
            return
        live_room.hold(part)
        if live_room.repairing is not None:
            return  # it goes on behind what is read
        self._release(live_room)
        if live_room.head >= last:
            return
        if self._cluster.carries_entries and part.entries[0].seq > live_room.head + 1:
            self.expect_head(live_room, last)
        else:
            live_room.known_head = max(live_room.known_head, last)
            self.repair(live_room)

    def _is_next(self, live_room: LiveRoom, part: Appended) -> bool:
        """Whether nothing is missing before a part, and every removal before it is known."""
        is_known = not live_room.is_fenced or part.removals <= live_room.removals
        return is_known and part.entries[0].seq <= live_room.head + 1

    def _deliver(self, live_room: LiveRoom, part: Appended) -> None:
        new = [entry for entry in part.entries if entry.seq > live_room.head]
        if new:
            live_room.deliver(new, self._removed, part.views)
            self._delivered(new)

    def _release(self, live_room: LiveRoom) -> None:
        """Deliver the held entries that come next."""
        held = live_room.held
        while held:
            part = held.take()
            if part.entries[-1].seq > live_room.head and not self._is_next(live_room, part):
                held.put(part)
                return
            self._deliver(live_room, part)

    def _goal(self, live_room: LiveRoom) -> int:
        """The seq up to which entries have to be read. Held ones that come next are delivered."""
        self._release(live_room)
        if not live_room.held:
            return live_room.known_head
        # If those before the held ones are known, removals are not; they may be read with an entry from the log.
        return max(live_room.known_head, live_room.held.first - 1, live_room.head + 1)

    async def _repair(self, live_room: LiveRoom) -> None:
        """Read and deliver the entries from the room's head up to `known_head`, or to the held ones."""
        room_id = live_room.name.room_id
        try:
            while True:
                try:
                    if live_room.head >= self._goal(live_room):
                        return
                    if live_room.held and live_room.held.first == live_room.head + 1:
                        await self._cluster.caught_up()  # it tells who was removed
                        if live_room.head >= self._goal(live_room):
                            return
                    await self._repair_page(live_room)
                except StoreUnavailable:
                    logger.warning("room %s: missed entries cannot be read; it is tried again", room_id)
                    await asyncio.sleep(self._retry_s)
                except Exception:
                    logger.exception("room %s: missed entries cannot be delivered; it is tried again", room_id)
                    await asyncio.sleep(self._retry_s)
        finally:
            live_room.repairing = None

    def expect_head(self, live_room: LiveRoom, head: int) -> None:
        """A read has shown the head of a room. If its entries are not published here soon, read them."""
        if head > live_room.head:
            if not live_room.observed:
                asyncio.get_running_loop().call_later(OBSERVED_S, self._compare_observed, live_room)
            live_room.observed = max(live_room.observed, head)

    def _compare_observed(self, live_room: LiveRoom) -> None:
        observed, live_room.observed = live_room.observed, 0
        if live_room is self._rooms.get(live_room.name.key) and observed > live_room.head:
            live_room.known_head = max(live_room.known_head, observed)
            self.repair(live_room)

    async def wait_until_published(self, heads: Mapping[int, int]) -> None:
        """Wait until rooms have been published up to these observed heads, key -> seq, or have no connection here."""
        for key, head in heads.items():
            while (live_room := self._rooms.get(key)) is not None and live_room.head < head:
                if live_room.repairing is None:
                    self.expect_head(live_room, head)
                    await asyncio.sleep(OBSERVED_S / 10)
                else:
                    await asyncio.wait([live_room.repairing])

    async def _repair_page(self, live_room: LiveRoom) -> None:
        page = await self._read(live_room, [])
        if live_room.is_fenced and page.removals > live_room.removals:
            await self._cluster.caught_up()  # it tells who was removed
            if page.removals > live_room.removals:
                page = await self._read(live_room, list(live_room.users))
                self.membership_reads += 1
                if page.fence is not None and not self._apply_fence(live_room, page.fence):
                    return  # read again: a connection has come since
        missed = page.entries
        if not missed:
            live_room.known_head = live_room.head
            live_room.held.clear()
            return
        if missed[0].seq > live_room.head + 1:
            live_room.skip(missed[0].seq - 1)
        live_room.deliver(missed, self._removed)
        self._delivered(missed)
        if page.more and live_room.live:
            draining = [asyncio.ensure_future(connection.link.drain()) for connection in live_room.live]
            _, late = await asyncio.wait(draining, timeout=REPAIR_PATIENCE_S)
            for task in late:
                task.cancel()

    async def _read(self, live_room: LiveRoom, users: Sequence[int]) -> _Page:
        missing = live_room.held.first - 1 - live_room.head if live_room.held else 0
        return await self._db.read(
            partial(
                read_missed,
                room_key=live_room.name.key,
                after=live_room.head,
                limit=min(missing, REPAIR_PAGE) if missing > 0 else REPAIR_PAGE,
                fence=(live_room.removals, users) if users else None,
            )
        )

    def _apply_fence(self, live_room: LiveRoom, fence: Fence) -> bool:
        """Take out the connections of users who were no longer members; False: not every user was looked up."""
        key, complete = live_room.name.key, True
        for connection, known in list(live_room.attached.items()):
            user_key = connection.principal.user_key
            if known >= fence.removals:
                continue
            if user_key not in fence.looked_up:
                complete = False
                continue
            joined_removals = fence.joined.get(user_key)
            if joined_removals is None:
                self._removed(connection, "gone", key)
            elif known < joined_removals:
                # Removed, and joined again since. The client reconnects and gets everything.
                self._removed(connection, "gone", key)
                connection.link.close(CloseReason.SHUTDOWN)
            else:
                live_room.attached[connection] = fence.removals
        if complete:
            live_room.count_removals_up_to(fence.removals)
        return complete
