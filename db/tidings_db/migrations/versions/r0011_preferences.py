"""Purposes of rooms, and the preferences of their members."""

import sqlalchemy as sa
from alembic import op

from tidings_db import outbox_functions

revision = "r0011"
down_revision = "r0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("room", sa.Column("purpose", sa.String()))
    op.add_column("member", sa.Column("notify", sa.String()))
    op.add_column("member", sa.Column("quiet_until", sa.BigInteger()))
    op.add_column("member", sa.Column("favourite", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("member", sa.Column("section", sa.String()))
    for name in ("unread_from", "unread_messages", "unread_marked_at"):
        op.add_column("member", sa.Column(name, sa.BigInteger()))
    outbox_functions.create(op.get_bind())  # `preferences` is the name of an event now
