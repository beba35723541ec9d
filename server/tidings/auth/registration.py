"""The policy on new accounts, and the links that let newcomers register, or users set a new password."""

from __future__ import annotations

import secrets
from functools import partial
from hashlib import sha256
from typing import Final, Literal, cast

from sqlalchemy.engine import Connection as Transaction

from tidings.auth.tokens import now_ms
from tidings.contract.errors import ActionError, ErrorCode
from tidings_db.engine import Database
from tidings_db.queries import registration, users
from tidings_db.queries.registration import RegistrationLinkRow
from tidings_db.queries.rows import UserRow

RegistrationMode = Literal["open", "invite", "closed"]
RESET_S: Final = 24 * 3600
"""How long a link to a new password is valid."""


class RegistrationPolicy:
    """The check of every registration."""

    def __init__(self, database: Database, default: RegistrationMode) -> None:
        """`default`: the mode until an administrator chooses another."""
        self._db = database
        self._default = default

    async def mode(self) -> RegistrationMode:
        """The mode of now."""
        return await self._db.read(self._mode)

    def _mode(self, conn: Transaction) -> RegistrationMode:
        return cast(RegistrationMode, registration.mode(conn) or self._default)

    async def check(self, code: str | None) -> None:
        """Refuse a registration before anything is done for it. Raises `forbidden`."""
        mode = await self.mode()
        if mode == "closed":
            raise _closed()
        if mode == "invite":
            if code is None:
                raise ActionError(
                    ErrorCode.FORBIDDEN, "registration is by invitation: use the link of an administrator"
                )
            if not await self._db.read(partial(registration.is_valid, code_hash=_hash(code), now=now_ms())):
                raise _no_such_link()

    def use(self, conn: Transaction, code: str | None) -> None:
        """Count the registration in the transaction that adds the user. Raises `forbidden`."""
        mode = self._mode(conn)
        if mode == "closed":
            raise _closed()
        if mode == "invite" and not registration.use(conn, _hash(code or ""), now_ms()):
            raise _no_such_link()


def create_link(
    conn: Transaction, user_key: int | None, expires_in_s: int, uses: int = 1, resets_key: int | None = None
) -> tuple[str, RegistrationLinkRow]:
    """Create a link: its code, and the link without its creator's name.

    Args:
        user_key: the administrator; None: the command line.
        resets_key: the user whose password it sets; None: it is for registration.
    """
    code, link_id, now = secrets.token_urlsafe(18), secrets.token_urlsafe(9), now_ms()
    link = RegistrationLinkRow(link_id, None, now, now + expires_in_s * 1000, uses)
    registration.add(conn, link_id, _hash(code), user_key, now, link.expires_at, uses, resets_key)
    return code, link


async def check_reset(database: Database, code: str) -> None:
    """Refuse a code that sets no password, before anything is done for it. Raises `forbidden`."""
    if await database.read(partial(registration.resets, code_hash=_hash(code), now=now_ms())) is None:
        raise _no_such_reset()


def use_reset(conn: Transaction, code: str) -> UserRow:
    """Use a code, and lock the user whose password it sets. Raises `forbidden`."""
    user_key = registration.use_reset(conn, _hash(code), now_ms())
    user = None if user_key is None else users.lock(conn, user_key)
    if user is None or user.disabled:
        raise _no_such_reset()
    return user


def _hash(code: str) -> str:
    """Codes are random, so that a hash without salt reveals none."""
    return sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def _closed() -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, "registration is closed on this server")


def _no_such_reset() -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, "the link is not valid: it has expired, was used or was replaced")


def _no_such_link() -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, "the invitation is not valid: it has expired, was used up or was deleted")
