"""The chat rooms that users of that dialect are in, on all nodes and after a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "place",
        sa.Column("user_id", key, nullable=False),
        sa.Column("room_id", key, nullable=False),
        sa.Column("brought_in", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["room_id"], ["room.id"], name="fk_place_room_id_room"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_place_user_id_user"),
        sa.PrimaryKeyConstraint("user_id", name="pk_place"),
    )
    op.create_index("ix_place_room_id", "place", ["room_id"])
