"""How large the database is."""

from sqlalchemy import text
from sqlalchemy.engine import Connection


def database_bytes(conn: Connection) -> int:
    """The size of the database, without its write-ahead log."""
    size = "pg_database_size(current_database())"
    if conn.dialect.name == "sqlite":
        size = "page_count * page_size FROM pragma_page_count, pragma_page_size"
    return int(conn.execute(text(f"SELECT {size}")).scalar_one())
