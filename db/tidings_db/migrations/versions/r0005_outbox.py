"""Events that applications publish in transactions of their own."""

import sqlalchemy as sa
from alembic import op

from tidings_db import outbox_functions

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("room_id", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("client_id", sa.String()),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    outbox_functions.create(op.get_bind())
