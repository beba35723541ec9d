"""Reports of messages to the moderators."""

import sqlalchemy as sa
from alembic import op

from tidings_db import outbox_functions

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "report",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("room_id", _KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("user_id", _KEY, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["room_id"], ["room.id"], name="fk_report_room_id_room"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_report_user_id_user"),
        sa.PrimaryKeyConstraint("id", name="pk_report"),
    )
    op.create_index("uq_report_message_user", "report", ["room_id", "seq", "user_id"], unique=True)
    op.create_index("ix_report_user_id", "report", ["user_id"])
    outbox_functions.create(op.get_bind())  # `reported` is the name of an event now
