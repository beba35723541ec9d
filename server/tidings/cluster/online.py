"""Which users are online on any node, from memory: asking never waits and never fails.

Each node collects the users who come and go for `COLLECT_S` and writes them in one transaction, to the table `online`
and to the feed, from which the other nodes learn of them. So a change is known everywhere within about half a second.

The users of a node that has ended stay online for as long as its lease was: time to come back on another node. Then
they are offline, and one of the other nodes sets their `last_seen`. PostgreSQL may lose the table: each node checks
its own rows, and writes all of them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from tidings.cluster.room_counts import RoomCounts
from tidings.fanout.cluster import OnlineUsers
from tidings.supervision import Loop
from tidings_db.engine import Database, StoreUnavailable, Write
from tidings_db.queries import online
from tidings_db.queries.feed import OnlineChange
from tidings_db.queries.rows import RoomRow

logger = logging.getLogger("tidings.online")

COLLECT_S = 0.25
"""How long changes are collected."""
MOVE_S = 1.0
"""How long a user who moves to another node may be offline before it is published. Changes take less to arrive."""
LOOK_S = 1.0
"""The interval at which ended nodes are looked for."""
CHECK_S = 5.0
"""The interval at which a node checks its rows."""
RETRY_S = 0.5


class OnlineObserver(Protocol):
    """Called on the event loop; must not block."""

    def assume_online(self, user_keys: Collection[int]) -> None:
        """These users are online on other nodes, from before this node has any connection."""

    def changed_elsewhere(self, came: Collection[int], went: Collection[int]) -> None:
        """These users have come online or gone offline by a change of another node."""


class ClusterUsers(OnlineUsers):
    """`start` after the feed, `stop` before it."""

    def __init__(
        self, database: Database, node: str, others: Callable[[], Collection[str]], *, lease_s: float
    ) -> None:
        """
        Args:
            node: the id of this node.
            others: returns the ids of the other live nodes.
            lease_s: the length of a lease.
        """
        super().__init__()
        self._room_counts = RoomCounts(database, node, self.nodes_elsewhere, self._only_elsewhere)
        self._db = database
        self._node = node
        self._others = others
        self._grace_s = lease_s
        self._elsewhere: dict[str, set[int]] = {}
        """Users by other node, with those of nodes that have ended recently."""
        self._ended_at: dict[str, float] = {}
        """When a node of `_elsewhere` was first found to have ended."""
        self._changed: set[int] = set()
        """Users of this node who came or went since the last write."""
        self._written: set[int] = set()
        self._is_uncertain = False
        """Whether the last write may have failed: the next one writes all users."""
        self._checked_at = 0.0
        self._must_read = False
        self._must_mark_offline = True
        self._meanwhile: list[OnlineChange] | None = None
        """Changes that have arrived since a read began, which the read may not have seen."""
        self._leaving = False
        self._awake = asyncio.Event()
        self._observer: OnlineObserver | None = None
        self.loop = Loop("tidings.online", self._run)

    async def start(self, observer: OnlineObserver) -> None:
        """Learn who is online on the other nodes. Raises `StoreUnavailable`."""
        await self._read()
        self._observer = observer
        observer.assume_online(self.among())
        self.loop.start()

    def leave(self) -> None:
        """The node is about to stop. Its users have the time to come back on another node."""
        self._leaving = True

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop.ended()

    # -- reading -------------------------------------------------------------------------------------------------

    def among(self, user_keys: Iterable[int] | None = None) -> set[int]:
        groups = self._here, *self._elsewhere.values()
        if user_keys is None:
            return set().union(*groups)
        wanted = set(user_keys)
        return set().union(*(wanted & group for group in groups))

    def nodes_elsewhere(self) -> list[str]:
        return [node for node, group in self._elsewhere.items() if group]

    def _only_elsewhere(self, user_keys: Iterable[int]) -> set[int]:
        wanted = set(user_keys) - self._here
        return set().union(*(wanted & group for group in self._elsewhere.values()))

    def is_elsewhere(self, user_key: int) -> bool:
        return any(user_key in group for group in self._elsewhere.values())

    def members_elsewhere(self, room_key: int) -> int:
        return self._room_counts.elsewhere(room_key)

    async def count_members(self, rooms: Iterable[RoomRow]) -> None:
        await self._room_counts.refresh(rooms)

    @property
    def move_s(self) -> float:
        """0.0 without other nodes."""
        return MOVE_S if self._others() else 0.0

    # -- changes -------------------------------------------------------------------------------------------------

    def put(self, user_key: int, online: bool) -> None:
        super().put(user_key, online)
        self._changed.add(user_key)
        self._awake.set()

    def changed(self, changes: Sequence[OnlineChange]) -> None:
        """Other nodes have written these changes."""
        if self._meanwhile is not None:
            self._meanwhile.extend(changes)
        self._apply(changes)

    def compare_all(self) -> None:
        """Changes may have been missed, and rows lost."""
        self._must_read, self._checked_at = True, 0.0
        self._awake.set()

    def _apply(self, changes: Sequence[OnlineChange]) -> None:
        touched: set[int] = set()
        for change in changes:
            touched.update(change.came, change.went)
            if change.whole:
                touched.update(self._elsewhere.get(change.node, ()))
        before = self.among(touched)
        for change in changes:
            group = self._elsewhere.setdefault(change.node, set())
            if change.whole:
                group.clear()
            group.difference_update(change.went)
            group.update(change.came)
        self._report(before, self.among(touched))

    def _report(self, before: set[int], after: set[int]) -> None:
        if self._observer is not None and before != after:
            self._observer.changed_elsewhere(after - before, before - after)

    # -- the database --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), LOOK_S)
            if self._awake.is_set():
                await asyncio.sleep(COLLECT_S)
                self._awake.clear()
            self._end_nodes()
            try:
                if self._must_read:
                    self._must_read = False
                    await self._read()
                await self._write()
                if self._must_mark_offline:
                    await self._db.write(online.end_absent, Write.LAZY)
                    self._must_mark_offline = False
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> None:
        """Read who is online on the other nodes. A node whose rows are not complete will write all of them."""
        self._meanwhile = []
        try:
            read = await self._db.read(partial(online.read, node=self._node))
            meanwhile = self._meanwhile
        except BaseException:
            self._must_read = True
            raise
        finally:
            self._meanwhile = None
        self._apply([*(OnlineChange(node, True, list(users), []) for node, users in read.items()), *meanwhile])

    async def _write(self) -> None:
        """Write who came and went, if anybody did; check the rows of this node from time to time."""
        now = asyncio.get_running_loop().time()
        here, changed = set(self._here), self._changed
        if self._leaving:
            here |= self._written
        came, went = (changed & here) - self._written, (changed & self._written) - here
        if not (came or went or self._is_uncertain or now - self._checked_at >= CHECK_S):
            self._changed = set()
            return
        self._changed, whole, self._is_uncertain = set(), self._is_uncertain, True
        change = partial(online.write, node=self._node, users=here, came=came, went=went, whole=whole)
        if await self._db.write(change, Write.LAZY):
            self._written, self._is_uncertain, self._checked_at = here, False, now

    def _end_nodes(self) -> None:
        """Forget the users of nodes that have ended some time ago."""
        now, others = asyncio.get_running_loop().time(), self._others()
        self._ended_at = {node: self._ended_at.get(node, now) for node in self._elsewhere if node not in others}
        for node, ended_at in self._ended_at.items():
            if now - ended_at >= self._grace_s:
                users = self._elsewhere.pop(node)
                self._report(users, self.among(users))
                self._must_mark_offline = True
