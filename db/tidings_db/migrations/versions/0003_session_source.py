"""Sessions know, by a keyed hash, the source that they began at, and when they were last used."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("session", sa.Column("source", sa.String()))
    op.add_column("session", sa.Column("used_at", sa.BigInteger()))
    op.create_index("ix_session_user_source", "session", ["user_id", "source"])
    op.drop_index("ix_session_user_id", "session")
