"""Several nodes on one database: the feed of changes, leases, who is online where, login attempts of all nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("room", sa.Column("removals", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("instance", sa.Column("key_fingerprint", sa.String(), nullable=True))
    op.add_column("instance", sa.Column("public_since", sa.BigInteger(), nullable=True))
    op.create_table(
        "feed",
        sa.Column("id", key, nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feed"),
    )
    op.create_index("ix_feed_xid", "feed", ["xid"])
    op.create_table(
        "node",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_node"),
    )
    op.create_table(
        "online",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("user_id", key, nullable=False),
        sa.PrimaryKeyConstraint("node", "user_id", name="pk_online"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "login_attempt",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "began_at", name="pk_login_attempt"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("online", "login_attempt"):  # a crash of PostgreSQL may empty them
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")
