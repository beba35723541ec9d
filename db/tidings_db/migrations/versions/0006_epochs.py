"""Log epochs: the server detects a database that was restored or lost commits, and informs its clients."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "instance",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
    )
    op.create_table(
        "witness",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.Column("marked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_witness"),
    )
    op.create_table(
        "epoch_head",
        sa.Column("room_id", key, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["room_id"], ["room.id"], name="fk_epoch_head_room_id_room"),
        sa.PrimaryKeyConstraint("room_id", "epoch", name="pk_epoch_head"),
        sqlite_with_rowid=False,
    )
    op.add_column("device", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
