"""The index of the messages' words, made from the logs, and searching it.

A document is a message; its id is its place in the order of all messages that were indexed. The words of a document
are in `search_words`: in SQLite a full-text table (FTS5), in PostgreSQL a `tsvector`. Both hold the words as they are
folded in `db.queries.words`, and neither takes them apart again. One word more says which room a document is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, delete, func, or_, select, text
from sqlalchemy.engine import Connection

from db.models import entries, members, search_documents
from db.queries import consumers
from db.queries.rows import ROOM_COLUMNS, EntryRow, RoomRow, entry_columns, relation, stepwise, values_of
from db.queries.words import Phrase, Query, matches, words

CONSUMER = "search"
ROOMS_IN_QUERY = 64
"""For who is in no more rooms, the index is asked for these alone; else what is not theirs is passed over."""
NEWEST = 2_000
"""PostgreSQL: so many of the newest messages are looked through before its index is asked, which gives all matches at
once, in no order. A common word is found among the newest, and of a rare one there are few."""
_BATCH = 1000
_END = 2**63 - 1

# -- reading the logs ------------------------------------------------------------------------------------------------


class Document(NamedTuple):
    room_key: int
    seq: int
    words: Sequence[str] | None
    """None: deleted."""


class Step(NamedTuple):
    """What some entries change in the index."""

    moves: Mapping[int, tuple[int, int]]
    """Room -> the cursor before and after them."""
    added: Sequence[Document]
    """In the order in which they are to be found."""
    changed: Sequence[Document]
    unread: Set[int]
    """Rooms whose logs go on after it."""


@cache
def _select_changes(dialect: str) -> Select[Any]:
    # Each place by itself: for a span PostgreSQL reckons with a part of the whole table, and reads all of it.
    place = relation(dialect, "places", room_key=int, seq=int)
    there = and_(entries.c.room_id == place.c.room_key, entries.c.seq == place.c.seq)
    target = entries.alias("target")
    changed = and_(
        target.c.room_id == entries.c.room_id,
        target.c.seq == entries.c.target_seq,
        or_(entries.c.kind == "edit", entries.c.kind == "delete"),
    )
    return (
        select(
            entries.c.room_id,
            entries.c.seq,
            entries.c.kind,
            entries.c.created_at,
            entries.c.content,
            entries.c.deleted,
            target.c.seq,
            target.c.content,
            target.c.deleted,
        )
        .join_from(place, entries, there)
        .outerjoin(target, changed)
        .order_by(entries.c.room_id, entries.c.seq)
    )


def read_step(conn: Connection, room_keys: Iterable[int], limit: int, max_bytes: int) -> Step:
    """What the next entries of some rooms ask for: no more than `limit`, nor `max_bytes` but one at least."""
    found = consumers.places(conn, CONSUMER, room_keys)
    moves: dict[int, tuple[int, int]] = {}
    asked: list[tuple[int, int]] = []
    for place in found:
        low = max(place.seq, place.first_seq - 1)
        high = min(place.last_seq, low + limit)
        if high > place.seq:
            moves[place.room_key] = place.seq, high
            asked += [(place.room_key, seq) for seq in range(low + 1, high + 1)]
            limit -= high - low
    added: dict[tuple[int, int], tuple[int, Document]] = {}
    changed: dict[tuple[int, int], Document] = {}
    latest: dict[int, int] = {}
    size = 0
    with stepwise(conn, _select_changes, {"places": values_of(asked)}) as rows:
        for key, seq, kind, created_at, content, deleted, target, new_content, now_deleted in rows:
            size += len(content or new_content or "")
            if size > max_bytes and (added or changed):
                moves = {other: move for other, move in moves.items() if other <= key}
                moves[key] = moves[key][0], seq - 1
                break
            if kind == "message":
                # Of several rooms the oldest come first; in a room they stay in order, whatever its clock did.
                latest[key] = at = max(created_at, latest.get(key, 0))
                added[key, seq] = at, Document(key, seq, None if deleted else words(content or ""))
            elif target is not None and (key, target) not in added:
                changed[key, target] = Document(key, target, None if now_deleted else words(new_content or ""))
    moves = {key: (low, high) for key, (low, high) in moves.items() if high > low}
    in_order = sorted(added.values(), key=lambda timed: (timed[0], timed[1][:2]))
    unread = {place.room_key for place in found if moves.get(place.room_key, place[:2])[1] < place.last_seq}
    return Step(moves, [document for _, document in in_order], list(changed.values()), unread)


# -- writing the index -----------------------------------------------------------------------------------------------


def write_step(conn: Connection, step: Step) -> set[int]:
    """Bring the index forward by a step. Returns the rooms where nobody else has done, or is doing, so meanwhile."""
    moved = consumers.advance(conn, CONSUMER, step.moves)
    added = [document for document in step.added if document.room_key in moved]
    changed = [document for document in step.changed if document.room_key in moved]
    if conn.dialect.name == "sqlite":
        _write_sqlite(conn, added, changed)
    else:
        _write_postgresql(conn, added, changed)
    return moved


_ID = "(SELECT id FROM search_document WHERE room_id = ? AND seq = ?)"


def _write_sqlite(conn: Connection, added: Sequence[Document], changed: Sequence[Document]) -> None:
    if added:
        (last,) = conn.exec_driver_sql("SELECT coalesce(max(id), 0) FROM search_document").one()
        numbered = list(enumerate(added, last + 1))
        conn.exec_driver_sql(
            "INSERT INTO search_document (id, room_id, seq) VALUES (?, ?, ?)",
            [(number, document.room_key, document.seq) for number, document in numbered],
        )
        indexed = [(number, _text(document)) for number, document in numbered if document.words is not None]
        if indexed:
            conn.exec_driver_sql("INSERT INTO search_words (rowid, words) VALUES (?, ?)", indexed)
    edited = [(_text(one), one.room_key, one.seq) for one in changed if one.words is not None]
    if edited:
        conn.exec_driver_sql(f"UPDATE search_words SET words = ? WHERE rowid = {_ID}", edited)
    deleted = [(one.room_key, one.seq) for one in changed if one.words is None]
    if deleted:
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE rowid = {_ID}", deleted)
    if changed:
        conn.exec_driver_sql("INSERT INTO search_removed DEFAULT VALUES")


def _text(document: Document) -> str:
    return " ".join([_room(document.room_key), *(document.words or ())])


_INSERT = text(
    "WITH given AS (SELECT CAST(value ->> 0 AS BIGINT) AS room_id, CAST(value ->> 1 AS BIGINT) AS seq,"
    " value ->> 2 AS words, place"
    " FROM jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS one (value, place)),"
    " made AS (INSERT INTO search_document (room_id, seq) SELECT room_id, seq FROM given ORDER BY place"
    " RETURNING id, room_id, seq)"
    " INSERT INTO search_words (id, words) SELECT made.id, CAST(given.words AS tsvector)"
    " FROM made JOIN given USING (room_id, seq) WHERE given.words IS NOT NULL"
)
_UPDATE = text(
    "UPDATE search_words SET words = CAST(:words AS tsvector)"
    " FROM search_document d WHERE d.room_id = :room AND d.seq = :seq AND search_words.id = d.id"
)
_DELETE = text(
    "DELETE FROM search_words"
    " USING search_document d WHERE d.room_id = :room AND d.seq = :seq AND search_words.id = d.id"
)


def _write_postgresql(conn: Connection, added: Sequence[Document], changed: Sequence[Document]) -> None:
    if added:
        conn.execute(_INSERT, {"rows": values_of((one.room_key, one.seq, _vector(one)) for one in added)})
    for one in changed:
        place = {"room": one.room_key, "seq": one.seq}
        if one.words is None:
            conn.execute(_DELETE, place)
        else:
            conn.execute(_UPDATE, place | {"words": _vector(one)})


def _vector(document: Document) -> str | None:
    """A `tsvector` as text: each word with its places."""
    if document.words is None:
        return None
    places: dict[str, list[str]] = {}
    for place, word in enumerate(document.words, 1):
        places.setdefault(word, []).append(str(place))
    return " ".join([f"'{_room(document.room_key)}'", *(f"'{word}':{','.join(at)}" for word, at in places.items())])


def _room(room_key: int) -> str:
    """The word that says which room a document is in; no text has it, as it is no letter."""
    return f"¶{room_key}"


def remove(conn: Connection, room_key: int, upto_seq: int) -> None:
    """Take the messages of a room up to a seq from the index, for good: those not indexed yet will not be."""
    consumers.skip(conn, CONSUMER, room_key, upto_seq)
    gone = and_(search_documents.c.room_id == room_key, search_documents.c.seq <= upto_seq)
    ids = f"SELECT id FROM search_document WHERE room_id = {room_key:d} AND seq <= {upto_seq:d}"
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE rowid IN ({ids})")
        conn.exec_driver_sql("INSERT INTO search_removed DEFAULT VALUES")
    else:
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE id IN ({ids})")
    conn.execute(delete(search_documents).where(gone))


# -- merging and purging (SQLite) ------------------------------------------------------------------------------------


def to_purge(conn: Connection) -> int:
    """How far the list of removals goes whose words may still be in the files of the index; 0: there are none.

    FTS5 only notes a removal; the words go when the part of the index that holds them is written anew. In PostgreSQL
    its vacuum sees to that.
    """
    if conn.dialect.name != "sqlite":
        return 0
    return int(conn.exec_driver_sql("SELECT coalesce(max(id), 0) FROM search_removed").scalar_one())


def merge(conn: Connection, pages: int, *, whole: bool = False) -> bool:
    """Write some pages of the index anew, as many small parts make a larger one. False if there was nothing to do.

    FTS5 would do so by itself, but much at a time, while others wait for the writer. `whole` begins to make all parts
    one; the calls after it go on with that.
    """
    before = _changes(conn)
    conn.exec_driver_sql(
        "INSERT INTO search_words (search_words, rank) VALUES ('merge', ?)", (-pages if whole else pages,)
    )
    return _changes(conn) - before > 1


def purged(conn: Connection, upto: int) -> None:
    """All parts of the index have been written anew since the list of removals went that far."""
    conn.exec_driver_sql("DELETE FROM search_removed WHERE id <= ?", (upto,))


def _changes(conn: Connection) -> int:
    return int(conn.exec_driver_sql("SELECT total_changes()").scalar_one())


# -- searching -------------------------------------------------------------------------------------------------------


class FoundRow(NamedTuple):
    room: RoomRow
    entry: EntryRow


_DOCUMENT = (
    select(search_documents.c.id)
    .join_from(
        entries,
        search_documents,
        and_(search_documents.c.room_id == entries.c.room_id, search_documents.c.seq == entries.c.seq),
    )
    .where(entries.c.message_id == bindparam("message_id"))
)


def document(conn: Connection, message_id: str) -> int | None:
    """Where a message is in the order of what is searched; also of one that was deleted since."""
    return conn.execute(_DOCUMENT, {"message_id": message_id}).scalar()


_HITS = {
    "sqlite": text(
        "SELECT rowid FROM search_words WHERE search_words MATCH :match AND rowid < :before"
        " ORDER BY rowid DESC LIMIT :batch"
    ),
    "postgresql": text(
        "WITH hit AS MATERIALIZED"
        " (SELECT id FROM search_words WHERE words @@ CAST(:match AS tsquery) AND id < :before)"
        " SELECT id FROM hit ORDER BY id DESC LIMIT :batch"
    ),
    "newest": text(
        "SELECT id FROM search_words WHERE id >= :low AND id < :before AND words @@ CAST(:match AS tsquery)"
        " ORDER BY id DESC LIMIT :batch"
    ),
}
# CROSS JOIN: SQLite joins in this order, and looks up what the hits lead to.
_COLUMNS = ", ".join(f'"{column.table.name}".{column.name}' for column in (*ROOM_COLUMNS, *entry_columns()))
_FOUND = text(
    f"SELECT {_COLUMNS} FROM search_document d CROSS JOIN member CROSS JOIN entry CROSS JOIN room"
    ' CROSS JOIN "user" WHERE d.id IN :hits AND member.room_id = d.room_id AND member.user_id = :me'
    " AND entry.room_id = d.room_id AND entry.seq = d.seq AND NOT entry.deleted"
    ' AND room.id = d.room_id AND "user".id = entry.sender_id ORDER BY d.id DESC'
).bindparams(bindparam("hits", expanding=True))
_NEWEST = select(func.max(search_documents.c.id)).where(search_documents.c.id < bindparam("before"))
_ROOMS = select(members.c.room_id).where(members.c.user_id == bindparam("me")).limit(ROOMS_IN_QUERY + 1)


def find(
    conn: Connection, user_key: int, query: Query, *, room_key: int | None, before: int | None, limit: int
) -> list[FoundRow]:
    """The newest messages in which all of a (not empty) query is, in rooms that the user is in; or in one of them.

    `before`: only messages that come before that `document`. The index may lag behind the log: yet no message is
    found that is deleted, or by what it said before it was edited.
    """
    dialect = conn.dialect.name
    own = [room_key] if room_key is not None else list(conn.scalars(_ROOMS, {"me": user_key}))
    if not own:
        return []
    among = own if len(own) <= ROOMS_IN_QUERY else ()
    match = _match(dialect, query, among)
    before, low, how, batch = before or _END, 0, dialect, limit
    if dialect == "postgresql":
        newest = conn.execute(_NEWEST, {"before": before}).scalar() or 0
        low, how = max(0, newest - NEWEST), "newest"
    found: list[FoundRow] = []
    while len(found) < limit:
        hits = list(conn.scalars(_HITS[how], {"match": match, "before": before, "low": low, "batch": batch}))
        for row in conn.execute(_FOUND, {"hits": hits, "me": user_key}) if hits else ():
            one = FoundRow(RoomRow(*row[:_ENTRY_AT]), EntryRow(*row[_ENTRY_AT:]))
            if one.entry.edited_at is None or matches(query, one.entry.content or ""):
                found.append(one)
        if len(hits) == batch:
            before, batch = hits[-1], min(2 * batch, _BATCH)
        elif low:
            before, low, how = low, 0, dialect
        else:
            break
    return found[:limit]


_ENTRY_AT = len(ROOM_COLUMNS)


def _match(dialect: str, query: Query, room_keys: Sequence[int]) -> str:
    """The query in the language of FTS5, or as a `tsquery`; in it are words, and nothing that was typed besides."""
    if dialect == "sqlite":
        return " AND ".join([*map(_fts5, query), *_any_of(" OR ", '"', room_keys)])
    return " & ".join([*map(_tsquery, query), *_any_of(" | ", "'", room_keys)])


def _any_of(either: str, quote: str, room_keys: Sequence[int]) -> list[str]:
    return [f"({either.join(f'{quote}{_room(key)}{quote}' for key in room_keys)})"] if room_keys else []


def _fts5(phrase: Phrase) -> str:
    return f'"{" ".join(phrase.words)}"{" *" if phrase.prefix else ""}'


def _tsquery(phrase: Phrase) -> str:
    quoted = [f"'{word}'" for word in phrase.words]
    return f"({' <-> '.join(quoted)}{':*' if phrase.prefix else ''})"
