"""What an action has at hand: who asks, by which connection, and the parts of the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from db.engine import Database
from server.access import Access, Directory
from server.auth import Auth, unauthenticated
from server.delivery.connection import Connection, Principal
from server.delivery.cursors import Cursors
from server.delivery.hub import Hub
from server.delivery.journal import Journal
from server.delivery.typing import Typists


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


@dataclass(slots=True)
class Context:
    """One action's surroundings."""

    parts: Parts
    caller: Principal | None
    connection: Connection | None = None
    address: str = ""
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

    def live(self) -> Connection:
        """The live connection, for an action that has no meaning without one."""
        assert self.connection is not None, "this action is of a live connection"
        return self.connection
