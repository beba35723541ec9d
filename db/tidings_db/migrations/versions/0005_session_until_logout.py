"""Mark the sessions that last until their user logs out, instead of giving them an expiry in the year 9999."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNTIL_LOGOUT = 253_402_214_400_000


def upgrade() -> None:
    op.add_column("session", sa.Column("until_logout", sa.Boolean()))
    op.execute(f"UPDATE session SET until_logout = true WHERE expires_at = {UNTIL_LOGOUT}")
