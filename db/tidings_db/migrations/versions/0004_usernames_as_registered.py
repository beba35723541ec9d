"""Usernames keep their spelling, with a key for look-ups beside it. Names that look the same are distinguished."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from tidings_db.names import name_key, skeleton

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_user = sa.table("user", *map(sa.column, ("id", "username", "username_key", "skeleton")))
_room = sa.table("room", *map(sa.column, ("id", "room_id", "topic_name", "name_key")))
_name = sa.table("name", *map(sa.column, ("key", "kind")))


def upgrade() -> None:
    with op.batch_alter_table("user") as user:
        user.add_column(sa.Column("username_key", sa.String()))
        user.add_column(sa.Column("skeleton", sa.String()))
        user.drop_constraint("uq_user_username", type_="unique")
    _key_users(op.get_bind())
    with op.batch_alter_table("user") as user:
        user.alter_column("username_key", existing_type=sa.String(), nullable=False)
        user.create_unique_constraint("uq_user_username_key", ["username_key"])
        user.create_unique_constraint("uq_user_skeleton", ["skeleton"])
    _key_topics(op.get_bind())


def _key_users(conn: sa.Connection) -> None:
    """The usernames stored until now become the keys."""
    conn.execute(sa.update(_user).values(username_key=_user.c.username))
    oldest: dict[str, int] = {}
    for key, username in conn.execute(sa.select(_user.c.id, _user.c.username).order_by(_user.c.id)):
        oldest.setdefault(skeleton(username), key)
    if oldest:
        with_skeleton = (
            sa.update(_user).where(_user.c.id == sa.bindparam("user")).values(skeleton=sa.bindparam("new"))
        )
        conn.execute(with_skeleton, [{"user": key, "new": visual_form} for visual_form, key in oldest.items()])


def _key_topics(conn: sa.Connection) -> None:
    """Rename topics whose name looks like another one's, or is invisible."""
    topics = sa.select(_room).where(_room.c.name_key.is_not(None), _room.c.topic_name.is_not(None))
    changed = [row for row in conn.execute(topics.order_by(_room.c.id)) if name_key(row.topic_name) != row.name_key]
    for row in changed:
        if not _rename(conn, row, row.topic_name):
            _rename(conn, row, _distinct_name(row))


def _distinct_name(row: Any) -> str:
    return f"{row.topic_name[:48].strip()} ({row.room_id[-12:]})"


def _rename(conn: sa.Connection, row: Any, name: str) -> bool:
    key = name_key(name)
    if not key or conn.scalar(sa.select(_name.c.kind).where(_name.c.key == key)) is not None:
        return False
    conn.execute(sa.update(_name).where(_name.c.key == row.name_key).values(key=key))
    conn.execute(sa.update(_room).where(_room.c.id == row.id).values(topic_name=name, name_key=key))
    return True
