"""The cluster: the nodes on one database, as one of them sees it.

`Cluster` is the cluster of a node that is alone, which is what SQLite allows: there is nobody to tell, and nothing to
miss. On PostgreSQL, `tidings.cluster` replaces every method here. A reader of one node needs no more than this page.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidings.supervision import Loop
from tidings.transport.application_manager import ApplicationManager
from tidings.transport.elsewhere import Elsewhere

if TYPE_CHECKING:
    from tidings.fanout.catchup import CatchUp
    from tidings.fanout.connection import Connection
    from tidings.fanout.hub import Hub
    from tidings.fanout.session_check import SessionCheck
    from tidings.log.notices import ApplicationMessage, Notice
    from tidings_db.queries.rows import RoomRow


class OnlineUsers:
    """Which users are online on any node, from memory: asking never waits and never fails."""

    def __init__(self) -> None:
        self._here: set[int] = set()

    @property
    def move_s(self) -> float:
        """How long to wait before a user who has left this node is offline: time to arrive on another node."""
        return 0.0

    def put(self, user_key: int, online: bool) -> None:
        """This node has its first connection of a user, or has lost the last one. Idempotent."""
        if online:
            self._here.add(user_key)
        else:
            self._here.discard(user_key)

    def among(self, user_keys: Iterable[int] | None = None) -> set[int]:
        """The users, of these or of all, who are online on any node."""
        return set(self._here) if user_keys is None else self._here.intersection(user_keys)

    def is_here(self, user_key: int) -> bool:
        return user_key in self._here

    def is_elsewhere(self, user_key: int) -> bool:
        """Whether a user is online on another node."""
        return False

    def nodes_elsewhere(self) -> list[str]:
        """The ids of the other nodes on which any user is online."""
        return []

    def members_elsewhere(self, room_key: int) -> int:
        """How many members of a room are online on other nodes only, as of the last `count_members`."""
        return 0

    async def count_members(self, rooms: Iterable[RoomRow]) -> None:
        """Bring `members_elsewhere` of rooms up to date. Takes half a second at most; never raises."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """The parts of this node that the other nodes' changes reach."""

    hub: Hub
    catch_up: CatchUp
    sessions: SessionCheck
    deliver: Callable[[Notice], None]
    """Delivers a notice of another node to the connections here."""
    write_cursors: Callable[[], Awaitable[object]]
    connections_of: Callable[[Iterable[str]], Sequence[Connection]]
    """Returns the connections of Engine.IO sessions."""
    keys: Sequence[bytes]
    """The keys that sign tokens, the current one first."""
    instance: str
    """The id of the database."""
    epoch: Callable[[], int]
    """Returns the epoch of the log."""


OnStop = Callable[[str, Callable[[], Awaitable[object]]], None]
"""Registers how a part, which has a name, is stopped. Parts stop in the reverse order."""


class Cluster:
    """All methods are called on the event loop of the node, between `start` and the node's stop."""

    is_shared = False
    """Whether other nodes may serve the database, too."""
    loops: Sequence[Loop] = ()
    """The node is not ready while any of them is down."""

    def __init__(
        self,
        online: OnlineUsers | None = None,
        elsewhere: Elsewhere | None = None,
        applications: ApplicationManager | None = None,
    ) -> None:
        self.online = OnlineUsers() if online is None else online
        self.elsewhere = Elsewhere() if elsewhere is None else elsewhere
        """The Engine.IO sessions of the other nodes."""
        self.applications = ApplicationManager() if applications is None else applications
        """The clients and rooms of applications (`docs/extending.md`)."""
        self._started_at = time.time_ns() // 1_000_000
        self._leaving = False

    async def start(self, node: LocalNode, on_stop: OnStop) -> None:
        """Join the other nodes. Raises `StoreUnavailable` or `SettingsError`."""

    def share(self, notices: Sequence[Notice]) -> None:
        """Pass the notices of one commit to the other nodes, together. Never blocks, never raises.

        Delivery to each node is at most once in most cases, more than once in some, and not at all in others; order
        is not kept. What a commit changed reaches every node all the same, within about 0.2 s.
        """

    def listen(self, channel: str, notified: Callable[[], None]) -> None:
        """Call `notified` at each NOTIFY of PostgreSQL on a channel, on one of the nodes. Call this before `start`.

        Some may be missed.
        """

    @property
    def carries_entries(self) -> bool:
        """Whether entries that other nodes commit are delivered here soon, so that a missing one may be under way."""
        return False

    @property
    def trouble(self) -> str:
        """Why changes reach the other nodes later than they should; empty if they do not."""
        return ""

    @property
    def public_since(self) -> int:
        """When the first node started of those that have been live without a break.

        In ms since the epoch, by the clock of the messages: PostgreSQL's, or on SQLite that of the node.
        """
        return self._started_at

    def application_message(self, message: ApplicationMessage) -> None:
        """The application of another node has sent this. Raises ValueError if it cannot be read."""

    # -- what the others have committed --------------------------------------------------------------------------

    @property
    def silence_s(self) -> float:
        """Seconds since this node last learned what the others have committed."""
        return 0.0

    def is_behind(self) -> bool:
        """Whether this node may not know what the others have committed in the last seconds."""
        return False

    def wake(self) -> None:
        """Learn now what the others have committed."""

    async def caught_up(self) -> None:
        """Wait until everything that is committed now is known here, but not for long."""

    # -- leaving -------------------------------------------------------------------------------------------------

    @property
    def staying(self) -> frozenset[str]:
        """The ids of the other live nodes that are not about to stop."""
        return frozenset()

    @property
    def leaving(self) -> bool:
        """Whether this node is about to stop."""
        return self._leaving

    async def leave(self) -> None:
        """Announce that this node is about to stop. Takes a second at most."""
        self._leaving = True

    async def depart(self, wait_s: float, others_stay: Callable[[], bool]) -> None:
        """Prepare for a stop while other nodes stay: load balancers and clients turn to them.

        Says that it is not ready, keeps serving for `wait_s`, and then closes its connections in slices.
        Returns early when no other node stays.
        """
