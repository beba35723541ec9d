"""The undocumented parts of SQLAlchemy that `db/tidings_db/connections.py` uses still exist."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.sql.compiler import SQLCompiler

from tidings_db.models import rooms


@pytest.mark.parametrize(
    ("dialect", "placeholders"),
    [(sqlite_dialect, ("?", "?")), (asyncpg.dialect, ("$1", "$2"))],
    ids=["sqlite", "postgresql"],
)
def test_a_compiled_statement_names_its_parameters_in_order(dialect: Any, placeholders: tuple[str, str]) -> None:
    statement = select(rooms.c.id).where(rooms.c.last_seq > bindparam("seq"), rooms.c.kind == "topic")
    compiled = statement.compile(dialect=dialect())
    assert isinstance(compiled, SQLCompiler)
    assert compiled.positiontup == ["seq", "kind_1"], "SQLCompiler.positiontup is gone or has changed"
    assert compiled.params == {"seq": None, "kind_1": "topic"}
    assert all(compiled.string.count(placeholder) for placeholder in placeholders)
