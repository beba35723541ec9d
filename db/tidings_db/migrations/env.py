"""Run by Alembic. `tidings_db.schema` runs Alembic, and gives it a connection in a transaction."""

from typing import Any, Literal

from alembic import context
from sqlmodel import AutoString

from tidings_db.models import in_models, metadata


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    return "sa.String()" if kind == "type" and isinstance(item, AutoString) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it; does nothing to PostgreSQL
    render_item=_render,
    include_object=in_models,
)
context.run_migrations()
