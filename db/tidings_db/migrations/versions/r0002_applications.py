"""Events of applications, data of messages, and rooms to which only moderators write."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("entry", sa.Column("data", sa.Text()))
    is_event = sa.text("kind = 'event'")
    op.create_index("ix_entry_event", "entry", ["room_id", "seq"], sqlite_where=is_event, postgresql_where=is_event)
    op.add_column("room", sa.Column("posting", sa.String(), nullable=False, server_default="members"))
