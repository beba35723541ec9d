"""The cache of link previews."""

import sqlalchemy as sa
from alembic import op

revision = "r0016"
down_revision = "r0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "link_preview",
        sa.Column("url_hash", sa.String(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("site_name", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("url_hash", name=op.f("pk_link_preview")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_link_preview_expires_at", "link_preview", ["expires_at"])
