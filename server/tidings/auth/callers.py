"""The database on behalf of a caller, who may do nothing once their session was withdrawn on any node."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from tidings.auth.principal import NO_SESSION, Principal
from tidings.contract.errors import ActionError, ErrorCode
from tidings_db.engine import Database
from tidings_db.queries import users

T = TypeVar("T")


def check_session(conn: Transaction, principal: Principal | None) -> None:
    """Raises `token_revoked` if the session was withdrawn, as of this transaction.

    Nothing on SQLite: its only server ends the connections of the session itself.
    """
    if principal is None or principal.session_key == NO_SESSION or conn.dialect.name == "sqlite":
        return
    if not users.valid_sessions(conn, [principal.session_key]):
        raise ActionError(ErrorCode.TOKEN_REVOKED, "the session was withdrawn")


class CallersDatabase:
    """The database for the reads and writes of one caller; each checks the session in its transaction."""

    def __init__(self, database: Database, principal: Principal | None, withdrawn: Callable[[], None]) -> None:
        """`withdrawn` is called when the session was found withdrawn."""
        self._db = database
        self._principal = principal
        self._withdrawn = withdrawn

    async def read(self, query: Callable[[Transaction], T]) -> T:
        """`Database.read`. Raises `token_revoked`."""
        try:
            return await self._db.read(partial(self._checked, query))
        except ActionError as error:
            self._noticed(error)
            raise

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """`Database.write`. Raises `token_revoked`."""
        try:
            return await self._db.write(partial(self._checked, change))
        except ActionError as error:
            self._noticed(error)
            raise

    def _checked(self, query: Callable[[Transaction], T], conn: Transaction) -> T:
        check_session(conn, self._principal)
        return query(conn)

    def _noticed(self, error: ActionError) -> None:
        if error.code is ErrorCode.TOKEN_REVOKED:
            self._withdrawn()
