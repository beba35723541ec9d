"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    # A batch on SQLite copies the table: give it table_kwargs={"sqlite_with_rowid": False} where the model has it.
    ${upgrades if upgrades else "pass"}
