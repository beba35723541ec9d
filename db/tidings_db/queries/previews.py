"""The cache of link previews."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, or_, select
from sqlalchemy.engine import Connection

from tidings_db.models import link_previews
from tidings_db.queries.rows import insert_or


class PreviewRow(NamedTuple):
    title: str | None
    """None: the page could not be read, or has no title."""
    description: str | None
    site_name: str | None


_TEXTS = link_previews.c.title, link_previews.c.description, link_previews.c.site_name


def load(conn: Connection, keys: Sequence[str], now: int) -> dict[str, PreviewRow]:
    """Those of the results that have not expired."""
    rows = conn.execute(
        select(link_previews.c.url_hash, *_TEXTS).where(
            link_previews.c.url_hash.in_(keys), link_previews.c.expires_at > now
        )
    )
    return {row[0]: PreviewRow(*row[1:]) for row in rows}


def save(conn: Connection, key: str, row: PreviewRow, expires_at: int) -> None:
    values = {**row._asdict(), "expires_at": expires_at}
    statement = insert_or(conn.dialect.name, link_previews).values(url_hash=key, **values)
    conn.execute(statement.on_conflict_do_update(index_elements=["url_hash"], set_=values))


def drop(conn: Connection, now: int, most: int) -> None:
    """Delete what has expired, and what expires first beyond `most` rows."""
    beyond = (
        select(link_previews.c.expires_at)
        .order_by(link_previews.c.expires_at.desc())
        .offset(most)
        .limit(1)
        .scalar_subquery()
    )
    conn.execute(
        delete(link_previews).where(or_(link_previews.c.expires_at <= now, link_previews.c.expires_at <= beyond))
    )
