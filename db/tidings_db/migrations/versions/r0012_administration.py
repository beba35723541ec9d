"""Links that set a new password, and who may register."""

import sqlalchemy as sa
from alembic import op

revision = "r0012"
down_revision = "r0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instance", sa.Column("registration", sa.String()))
    op.add_column("registration_link", sa.Column("resets_id", sa.BigInteger()))
    op.create_index("ix_registration_link_resets_id", "registration_link", ["resets_id"])
