"""The policy on new accounts (`TIDINGS_REGISTRATION`), and the links that let newcomers register."""

from __future__ import annotations

import secrets
from functools import partial
from hashlib import sha256
from typing import Literal

from sqlalchemy.engine import Connection as Transaction

from tidings.auth.tokens import now_ms
from tidings.contract.errors import ActionError, ErrorCode
from tidings_db.engine import Database
from tidings_db.queries import registration
from tidings_db.queries.registration import RegistrationLinkRow

RegistrationMode = Literal["open", "invite", "closed"]


class RegistrationPolicy:
    """The check of every registration."""

    def __init__(self, database: Database, mode: RegistrationMode) -> None:
        self._db = database
        self.mode: RegistrationMode = mode

    async def check(self, code: str | None) -> None:
        """Refuse a registration before anything is done for it. Raises `forbidden`."""
        if self.mode == "closed":
            raise ActionError(ErrorCode.FORBIDDEN, "registration is closed on this server")
        if self.mode == "invite":
            if code is None:
                raise ActionError(
                    ErrorCode.FORBIDDEN, "registration is by invitation: use the link of an administrator"
                )
            if not await self._db.read(partial(registration.is_valid, code_hash=_hash(code), now=now_ms())):
                raise _no_such_link()

    def use(self, conn: Transaction, code: str | None) -> None:
        """Count the registration in the transaction that adds the user. Raises `forbidden`."""
        if self.mode == "invite" and not registration.use(conn, _hash(code or ""), now_ms()):
            raise _no_such_link()


def create_link(
    conn: Transaction, user_key: int | None, expires_in_s: int, uses: int
) -> tuple[str, RegistrationLinkRow]:
    """Create a link for registration: its code, and the link without its creator's name.

    Args:
        user_key: the administrator; None: the command line.
    """
    code, link_id, now = secrets.token_urlsafe(18), secrets.token_urlsafe(9), now_ms()
    link = RegistrationLinkRow(link_id, None, now, now + expires_in_s * 1000, uses)
    registration.add(conn, link_id, _hash(code), user_key, now, link.expires_at, uses)
    return code, link


def _hash(code: str) -> str:
    """Codes are random, so that a hash without salt reveals none."""
    return sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def _no_such_link() -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, "the invitation is not valid: it has expired, was used up or was deleted")
