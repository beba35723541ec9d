"""The registration mode; links for registration, and for a new password. Only hashes of their codes are stored."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Update, and_, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import instances, users
from tidings_db.models import registration_links as links


class RegistrationLinkRow(NamedTuple):
    id: str
    username: str | None
    """Its creator; None: the command line."""
    created_at: int
    expires_at: int
    uses_left: int


_creators = users.alias("creator")
_VALID = and_(
    links.c.uses_left > 0,
    links.c.expires_at > bindparam("now"),
    # A link acts for its creator: it is valid while the creator is an administrator.
    or_(
        links.c.user_id.is_(None),
        exists().where(
            _creators.c.id == links.c.user_id, _creators.c.admin.is_(True), _creators.c.disabled.is_(False)
        ),
    ),
)


_REGISTERS, _RESETS = links.c.resets_id.is_(None), links.c.resets_id.is_not(None)


def mode(conn: Connection) -> str | None:
    """The mode that an administrator has chosen; None: nobody has."""
    chosen: str | None = conn.execute(select(instances.c.registration)).scalar()
    return chosen


def set_mode(conn: Connection, chosen: str) -> None:
    conn.execute(update(instances).values(registration=chosen))


def add(
    conn: Connection,
    link_id: str,
    code_hash: str,
    user_key: int | None,
    now: int,
    expires_at: int,
    uses: int,
    resets_key: int | None,
) -> None:
    """Store a link; one to a new password replaces the user's earlier one.

    Args:
        resets_key: the user whose password it sets; None: it is for registration.
    """
    if resets_key is not None:
        end_resets(conn, resets_key)
    new = {"id": link_id, "code_hash": code_hash, "user_id": user_key, "created_at": now, "resets_id": resets_key}
    conn.execute(insert(links).values(**new, expires_at=expires_at, uses_left=uses))


def is_valid(conn: Connection, code_hash: str, now: int) -> bool:
    """Whether a newcomer may register with the code."""
    return (
        conn.execute(
            select(links.c.id).where(links.c.code_hash == code_hash, _REGISTERS, _VALID), {"now": now}
        ).first()
        is not None
    )


def use(conn: Connection, code_hash: str, now: int) -> bool:
    """Count a registration; False if the link is not valid.

    Concurrent transactions never use it more often than allowed.
    """
    return conn.execute(_use(code_hash, _REGISTERS).returning(links.c.id), {"now": now}).first() is not None


def resets(conn: Connection, code_hash: str, now: int) -> int | None:
    """The user whose password the code sets; None if it is not valid."""
    valid = select(links.c.resets_id).where(links.c.code_hash == code_hash, _RESETS, _VALID)
    return conn.execute(valid, {"now": now}).scalar()


def use_reset(conn: Connection, code_hash: str, now: int) -> int | None:
    """`resets`, once: of concurrent transactions one gets the user."""
    return conn.execute(_use(code_hash, _RESETS).returning(links.c.resets_id), {"now": now}).scalar()


def _use(code_hash: str, kind: ColumnElement[bool]) -> Update:
    return update(links).where(links.c.code_hash == code_hash, kind, _VALID).values(uses_left=links.c.uses_left - 1)


def end_resets(conn: Connection, user_key: int) -> None:
    """Delete the link to a new password of a user."""
    conn.execute(delete(links).where(links.c.resets_id == user_key))


def page(conn: Connection, now: int, after: str | None, limit: int) -> list[RegistrationLinkRow]:
    """A page of the valid links for registration, sorted by id."""
    statement = (
        select(links.c.id, users.c.username, links.c.created_at, links.c.expires_at, links.c.uses_left)
        .join_from(links, users, users.c.id == links.c.user_id, isouter=True)
        .where(_REGISTERS, _VALID)
        .order_by(links.c.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(links.c.id > after)
    return [RegistrationLinkRow(*row) for row in conn.execute(statement, {"now": now})]


def remove(conn: Connection, link_id: str) -> bool:
    return conn.execute(delete(links).where(links.c.id == link_id).returning(links.c.id)).first() is not None


def drop_outdated(conn: Connection, before: int) -> None:
    """Delete links that expired before a time (ms), or are used up."""
    conn.execute(delete(links).where(or_(links.c.expires_at < before, links.c.uses_left <= 0)))
