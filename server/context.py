"""What an action has at hand: who asks, by which connection, and the parts of the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from db.engine import Database
from db.queries import users
from server.access import Access, Directory
from server.auth import Auth, now_ms, unauthenticated
from server.contract.errors import ActionError, ErrorCode
from server.contract.models import timestamp
from server.delivery.connection import Connection, Principal
from server.delivery.cursors import Cursors
from server.delivery.hub import Hub
from server.delivery.indexer import Indexer
from server.delivery.journal import Journal
from server.delivery.presence import Presence
from server.delivery.typing import Typists
from server.echo import EchoChannel


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one node that actions work with."""

    db: Database
    auth: Auth
    directory: Directory
    journal: Journal
    hub: Hub
    cursors: Cursors
    typists: Typists
    presence: Presence
    echo: EchoChannel
    indexer: Indexer


@dataclass(slots=True)
class Context:
    """One action's surroundings."""

    parts: Parts
    caller: Principal | None
    connection: Connection | None = None
    address: str = ""
    agent: str | None = None
    """What the client calls itself (`User-Agent`)."""
    until_logout: bool = False
    """A session that begins by it lasts until its user logs out."""
    request_id: str = ""
    """Of an HTTP request."""
    room: str | None = None
    """The room that it was about, if that is known; noted for the log."""
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """To be called once the answer is on its way."""

    @property
    def principal(self) -> Principal:
        """Who asks. Raises `unauthenticated` if nobody is known."""
        if self.caller is None:
            raise unauthenticated()
        return self.caller

    @property
    def access(self) -> Access:
        return Access(self.parts.db, self.parts.directory, self.principal)

    @property
    def now(self) -> int:
        """ms since the epoch."""
        return now_ms()

    @property
    def db(self) -> Database:
        return self.parts.db

    @property
    def auth(self) -> Auth:
        return self.parts.auth

    @property
    def journal(self) -> Journal:
        return self.parts.journal

    @property
    def hub(self) -> Hub:
        return self.parts.hub

    @property
    def admin(self) -> Principal:
        """Who asks, an administrator. Raises `forbidden`."""
        if not self.principal.admin:
            raise ActionError(ErrorCode.FORBIDDEN, "for administrators only")
        return self.principal

    async def presence(
        self, users_seen: Mapping[int, int | None], *, to: int | None = None
    ) -> dict[int, tuple[bool, str | None]]:
        """Of users, with when they were last seen: whether they are online, and since when not, as the wire has it.

        As the caller may know it, or the user `to`: who has blocked them looks as if they had never been here.
        """
        online = await self.hub.online(users_seen)
        hidden: set[int] = set()
        if to is None and self.caller is not None:
            to = self.caller.user_key
        if to is not None:
            hidden = await self.db.read(partial(users.blockers_of, user_key=to))
        return {
            key: (
                key in online and key not in hidden,
                None if seen is None or key in online or key in hidden else timestamp(seen),
            )
            for key, seen in users_seen.items()
        }

    def live(self) -> Connection:
        """The live connection, for an action that has no meaning without one."""
        assert self.connection is not None, "this action is of a live connection"
        return self.connection
