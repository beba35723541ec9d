"""The pictures of users and rooms."""

import sqlalchemy as sa
from alembic import op

revision = "r0018"
down_revision = "r0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("user", sa.Column("picture", sa.String()))
    op.add_column("room", sa.Column("picture", sa.String()))
