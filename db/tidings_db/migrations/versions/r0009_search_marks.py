"""Marks of messages in the search index: the sender, and what `has:` finds.

They are added in place: building the index again would change the order of its documents, which results have.
"""

from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    place, quote = ("instr", "") if is_sqlite else ("strpos", "''")  # a lexeme of a tsvector stands in quotes
    begin, end = f"' {quote}' || d.room_id || '··'", f"'{quote}'"
    has = {
        "link": f"{place}(entry.content, 'http://') + {place}(entry.content, 'https://') > 0",
        "code": "length(entry.content) - length(replace(entry.content, '`', '')) > 1",
    }
    marks = f"{begin} || entry.sender_id || {end}"
    for name, condition in has.items():
        marks += f" || CASE WHEN {condition} THEN {begin} || '{name}' || {end} ELSE '' END"
    documents = "search_document d JOIN entry ON entry.room_id = d.room_id AND entry.seq = d.seq WHERE d.id ="
    if is_sqlite:
        added = f"SELECT {marks} FROM {documents} search_words.rowid"
        op.execute(f"UPDATE search_words SET words = words || coalesce(({added}), '')")
    else:
        added = f"w.words || CAST({marks} AS tsvector)"
        op.execute(f"UPDATE search_words w SET words = {added} FROM {documents} w.id")
