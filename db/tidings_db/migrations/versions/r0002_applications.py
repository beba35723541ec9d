"""Events of applications, data of messages, rooms to which only moderators write; keys of backends."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("entry", sa.Column("data", sa.Text()))
    for kind in ("event", "message"):
        of_kind = sa.text(f"kind = '{kind}'")
        op.create_index(
            f"ix_entry_{kind}", "entry", ["room_id", "seq"], sqlite_where=of_kind, postgresql_where=of_kind
        )
    op.add_column("room", sa.Column("posting", sa.String(), nullable=False, server_default="members"))
    op.add_column("user", sa.Column("service", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("session", sa.Column("scopes", sa.String()))
    op.add_column("session", sa.Column("only_room", sa.BigInteger()))
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("key_name", sa.String(), nullable=False),
        sa.Column("username", sa.String()),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
