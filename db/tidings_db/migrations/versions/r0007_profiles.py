"""Statuses, do-not-disturb, and the words by which users are found."""

import sqlalchemy as sa
from alembic import op

from tidings_db import outbox_functions
from tidings_db.queries.words import directory_words

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None

_USER = sa.table("user", *map(sa.column, ("id", "username", "display_name", "words")))


def upgrade() -> None:
    op.add_column("user", sa.Column("status_text", sa.String()))
    op.add_column("user", sa.Column("status_emoji", sa.String()))
    op.add_column("user", sa.Column("status_until", sa.BigInteger()))
    op.add_column("user", sa.Column("do_not_disturb_until", sa.BigInteger()))
    op.add_column("user", sa.Column("words", sa.String(), server_default=sa.text("''"), nullable=False))
    conn = op.get_bind()
    named = conn.execute(sa.select(_USER.c.id, _USER.c.username, _USER.c.display_name)).all()
    found_by = [{"key": key, "found_by": directory_words(*names)} for key, *names in named]
    if found_by:
        conn.execute(
            sa.update(_USER).where(_USER.c.id == sa.bindparam("key")).values(words=sa.bindparam("found_by")), found_by
        )
    op.create_index("ix_user_directory", "user", ["username_key", "words"])
    outbox_functions.create(conn)  # `profile` is the name of an event now
