"""Search: rebuild the index from the logs, with the key of its room as the prefix of each word."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM consumer_cursor WHERE consumer = 'search'")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA secure_delete=on")  # the freed pages must not keep words that are deleted later
        op.execute("DROP TABLE search_words")
        op.execute("DELETE FROM search_removed")
        op.execute("DELETE FROM search_document")
        op.execute("CREATE VIRTUAL TABLE search_words USING fts5(words, tokenize='ascii', columnsize=0)")
        op.execute("INSERT INTO search_words (search_words, rank) VALUES ('automerge', 0)")
    else:
        op.execute("TRUNCATE search_words, search_document")
