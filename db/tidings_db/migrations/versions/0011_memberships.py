"""How many memberships of the room had ended when one began: tells it from an earlier one of the same user."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("member", sa.Column("joined_removals", sa.BigInteger(), nullable=False, server_default="0"))
