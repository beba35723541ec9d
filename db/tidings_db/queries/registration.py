"""Links for registration. Only hashes of their codes are stored."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import registration_links as links
from tidings_db.models import users


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


def add(
    conn: Connection, link_id: str, code_hash: str, user_key: int | None, now: int, expires_at: int, uses: int
) -> None:
    new = {"id": link_id, "code_hash": code_hash, "user_id": user_key, "created_at": now}
    conn.execute(insert(links).values(**new, expires_at=expires_at, uses_left=uses))


def is_valid(conn: Connection, code_hash: str, now: int) -> bool:
    return (
        conn.execute(select(links.c.id).where(links.c.code_hash == code_hash, _VALID), {"now": now}).first()
        is not None
    )


def use(conn: Connection, code_hash: str, now: int) -> bool:
    """Count a use; False if the link is not valid. Concurrent transactions never use it more often than allowed."""
    counted = update(links).where(links.c.code_hash == code_hash, _VALID).values(uses_left=links.c.uses_left - 1)
    return conn.execute(counted.returning(links.c.id), {"now": now}).first() is not None


def page(conn: Connection, now: int, after: str | None, limit: int) -> list[RegistrationLinkRow]:
    """A page of the valid links, sorted by id."""
    statement = (
        select(links.c.id, users.c.username, links.c.created_at, links.c.expires_at, links.c.uses_left)
        .join_from(links, users, users.c.id == links.c.user_id, isouter=True)
        .where(_VALID)
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
