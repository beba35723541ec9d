"""Messages that stream."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("entry", sa.Column("state", sa.String()))
    streaming = sa.text("state IN ('streaming', 'stopping')")
    op.create_index(
        "ix_entry_streaming", "entry", ["room_id", "seq"], sqlite_where=streaming, postgresql_where=streaming
    )
