"""Storage: SQLModel tables, typed queries, migrations, on SQLite or PostgreSQL."""
