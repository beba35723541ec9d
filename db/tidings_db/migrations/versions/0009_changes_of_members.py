"""The number of changes of a room's members and roles, by which nodes keep their order."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("room", sa.Column("changes", sa.BigInteger(), nullable=False, server_default="0"))
