"""Threads: their messages, and who follows them."""

import sqlalchemy as sa
from alembic import op

from tidings_db import outbox_functions

revision = "r0013"
down_revision = "r0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("entry", sa.Column("thread", sa.String()))
    op.add_column("entry", sa.Column("replies", sa.BigInteger()))
    where = sa.text("thread IS NOT NULL")
    columns = ["room_id", "thread", "seq"]
    op.create_index("ix_entry_thread", "entry", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "thread_follower",
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("room_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("following", sa.Boolean(), nullable=False),
        sa.Column("read", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["room_id"], ["room.id"], name=op.f("fk_thread_follower_room_id_room")),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_thread_follower_user_id_user")),
        sa.PrimaryKeyConstraint("user_id", "room_id", "seq", name=op.f("pk_thread_follower")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_thread_follower_thread", "thread_follower", ["room_id", "seq"])
    outbox_functions.create(op.get_bind())  # `thread` is the name of an event now
