"""Users and sessions of external tokens, and links for registration."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("user", sa.Column("display_name", sa.String()))
    op.add_column("user", sa.Column("issuer", sa.String()))
    op.add_column("session", sa.Column("external", sa.Boolean()))
    op.create_table(
        "registration_link",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("code_hash", sa.String(), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite")),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("uses_left", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registration_link"),
        sa.UniqueConstraint("code_hash", name="uq_registration_link_code_hash"),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name="fk_registration_link_user_id_user"),
    )
