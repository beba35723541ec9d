"""The search index of messages: building it from the logs, and searching.

A document is a message; ids are in the order of indexing. The words of a document are in `search_words`: in SQLite a
full-text table (FTS5), in PostgreSQL a `tsvector`. Both store the words as `queries.words` folds them, each with
the key of its room as a prefix (`12·hola`), and split nothing. So a search looks up only words of the searcher's
rooms, and its time does not reveal how often a word was used elsewhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, delete, func, or_, select, text
from sqlalchemy.engine import Connection

from tidings_db.connections import stepwise
from tidings_db.models import entries, members, search_documents
from tidings_db.queries import consumers, index_step
from tidings_db.queries.rows import ROOM_COLUMNS, EntryRow, RoomRow, chunked, entry_columns, relation, values_of
from tidings_db.queries.words import Phrase, Query, marks, matches, with_names, words

CONSUMER = "search"
TERMS_IN_QUERY = 256
"""The most (word, room) pairs in one statement."""
MAX_TERMS = 16_384
"""The most (word, room) pairs in one search; each takes about 15 µs."""
MAX_EXAMINED = 20_000
"""The most matches in the index that one search examines: with `since` or `until`, few of them may be results."""
NEWEST = 2_000
"""PostgreSQL: the number of newest messages that are examined before the index is used, which returns all matches, in
no order. So a common word is found among the newest messages, and of a rare word there are few matches."""
_BATCH = 1000
_END = 2**63 - 1

# -- reading the logs ------------------------------------------------------------------------------------------------


class Document(NamedTuple):
    room_key: int
    seq: int
    sender_key: int
    text: str | None
    """The content, or in an encoded step its words in the form of the index; None for a deleted message."""


class Step(NamedTuple):
    """The changes of some entries to the index."""

    moves: Mapping[int, tuple[int, int]]
    """Room -> the cursor before and after them."""
    added: Sequence[Document]
    """In the order of the search results."""
    changed: Sequence[Document]
    unread: Set[int]
    """Rooms with entries left to index."""


@cache
def _select_changes(dialect: str) -> Select[Any]:
    # One look-up per entry: for a span, PostgreSQL expects a large part of the table, and scans all of it.
    place = relation(dialect, "places", room_key=int, seq=int)
    same = and_(entries.c.room_id == place.c.room_key, entries.c.seq == place.c.seq)
    target = entries.alias("target")
    changed = and_(
        target.c.room_id == entries.c.room_id,
        target.c.seq == entries.c.target_seq,
        or_(*(entries.c.kind == kind for kind in ("edit", "finish", "delete"))),
    )
    return (
        select(
            entries.c.room_id,
            entries.c.seq,
            entries.c.kind,
            entries.c.created_at,
            entries.c.content,
            entries.c.files,
            entries.c.deleted,
            target.c.seq,
            target.c.content,
            target.c.files,
            target.c.deleted,
            func.coalesce(target.c.sender_id, entries.c.sender_id),
        )
        .join_from(place, entries, same)
        .outerjoin(target, changed)
        .order_by(entries.c.room_id, entries.c.seq)
    )


def read_step(conn: Connection, room_keys: Iterable[int], limit: int, max_bytes: int) -> Step:
    """The changes of the next entries of some rooms: up to `limit` and `max_bytes`, but at least one entry."""
    if conn.dialect.name != "sqlite":  # in one round trip
        return _step(*index_step.read(conn, CONSUMER, room_keys, limit, max_bytes), max_bytes)
    moves = {}
    cursors: dict[int, tuple[int, int]] = {}
    wanted: list[tuple[int, int]] = []
    for place in consumers.places(conn, CONSUMER, room_keys):
        cursors[place.room_key] = place.seq, place.last_seq
        low = max(place.seq, place.first_seq - 1)
        high = min(place.last_seq, low + limit)
        if high > place.seq:
            moves[place.room_key] = place.seq, high
            wanted += [(place.room_key, seq) for seq in range(low + 1, high + 1)]
            limit -= high - low
    with stepwise(conn, _select_changes, {"places": values_of(wanted)}) as rows:
        sized = ((*row, len(row[4] or row[8] or "")) for row in rows)
        return _step(moves, cursors, sized, max_bytes)


def _step(
    moves: dict[int, tuple[int, int]],
    cursors: Mapping[int, tuple[int, int]],
    changes: Iterable[Sequence[Any]],
    max_bytes: int,
) -> Step:
    """
    Args:
        cursors: (cursor, last_seq) of each room.
        changes: rows of `_select_changes`, and the length of each one's content.
    """
    added: dict[tuple[int, int], tuple[int, Document]] = {}
    changed: dict[tuple[int, int], Document] = {}
    latest: dict[int, int] = {}
    size = 0
    for key, seq, kind, created_at, *was, deleted, target, content, names, now_deleted, sender, length in changes:
        size += length
        if size > max_bytes and (added or changed):
            moves = {room_key: move for room_key, move in moves.items() if room_key <= key}
            moves[key] = moves[key][0], seq - 1
            break
        if kind == "message":
            # Sorted by time over all rooms, but never out of order within a room, even if the clock went back.
            latest[key] = time = max(created_at, latest.get(key, 0))
            added[key, seq] = time, Document(key, seq, sender, None if deleted else with_names(*was))
        elif target is not None and (key, target) not in added:
            changed[key, target] = Document(key, target, sender, None if now_deleted else with_names(content, names))
    moves = {key: (low, high) for key, (low, high) in moves.items() if high > low}
    in_order = sorted(added.values(), key=lambda timed: (timed[0], timed[1][:2]))
    unread = {key for key, (seq, last_seq) in cursors.items() if moves.get(key, (seq, seq))[1] < last_seq}
    return Step(moves, [document for _, document in in_order], list(changed.values()), unread)


def encode_step(step: Step, dialect: str) -> Step:
    """Encode the contents for the index. A message takes up to 32 ms: call it in a thread."""
    encode = _words if dialect == "sqlite" else _vector

    def encoded(documents: Sequence[Document]) -> list[Document]:
        return [
            document if document.text is None else document._replace(text=encode(document, document.text))
            for document in documents
        ]

    return step._replace(added=encoded(step.added), changed=encoded(step.changed))


# -- writing the index -----------------------------------------------------------------------------------------------


def write_step(conn: Connection, step: Step) -> set[int]:
    """Index one encoded step. Returns the rooms that were indexed: not those that another process indexes."""
    if conn.dialect.name != "sqlite":
        return _write_postgresql(conn, step)
    moved = consumers.advance(conn, CONSUMER, step.moves)
    added = [document for document in step.added if document.room_key in moved]
    changed = [document for document in step.changed if document.room_key in moved]
    _write_sqlite(conn, added, changed)
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
        indexed = [(number, document.text) for number, document in numbered if document.text is not None]
        if indexed:
            conn.exec_driver_sql("INSERT INTO search_words (rowid, words) VALUES (?, ?)", indexed)
    edited = [(document.text, document.room_key, document.seq) for document in changed if document.text is not None]
    if edited:
        conn.exec_driver_sql(f"UPDATE search_words SET words = ? WHERE rowid = {_ID}", edited)
    deleted = [(document.room_key, document.seq) for document in changed if document.text is None]
    if deleted:
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE rowid = {_ID}", deleted)
    if changed:
        conn.exec_driver_sql("INSERT INTO search_removed DEFAULT VALUES")


def _words(document: Document, content: str) -> str:
    terms = words(content) + marks(document.sender_key, content)
    return " ".join(_in_room(document.room_key, term) for term in terms)


_UPDATE = text(
    "UPDATE search_words SET words = CAST(:words AS tsvector)"
    " FROM search_document d WHERE d.room_id = :room AND d.seq = :seq AND search_words.id = d.id"
)
_DELETE = text(
    "DELETE FROM search_words"
    " USING search_document d WHERE d.room_id = :room AND d.seq = :seq AND search_words.id = d.id"
)


def _write_postgresql(conn: Connection, step: Step) -> set[int]:
    """Write everything but the changed documents in one round trip."""
    added = [(document.room_key, document.seq, document.text) for document in step.added]
    moved = index_step.write(conn, CONSUMER, step.moves, added)
    for document in step.changed:
        if document.room_key not in moved:
            continue
        place = {"room": document.room_key, "seq": document.seq}
        if document.text is None:
            conn.execute(_DELETE, place)
        else:
            conn.execute(_UPDATE, place | {"words": document.text})
    return moved


def _vector(document: Document, content: str) -> str:
    """A `tsvector` as text: each word with its positions, and the marks."""
    positions: dict[str, list[str]] = {}
    for position, word in enumerate(words(content), 1):
        positions.setdefault(_in_room(document.room_key, word), []).append(str(position))
    lexemes = [f"'{word}':{','.join(numbers)}" for word, numbers in positions.items()]
    lexemes += [f"'{_in_room(document.room_key, mark)}'" for mark in marks(document.sender_key, content)]
    return " ".join(lexemes)


def _in_room(room_key: int | str, word: str) -> str:
    """A word in the form of the index; `·` is not a letter, so no word contains it."""
    return f"{room_key}·{word}"


def remove(conn: Connection, room_key: int, upto_seq: int) -> None:
    """Remove the messages of a room up to a seq from the index permanently; later indexing skips them."""
    consumers.skip(conn, CONSUMER, room_key, upto_seq)
    removed = and_(search_documents.c.room_id == room_key, search_documents.c.seq <= upto_seq)
    ids = f"SELECT id FROM search_document WHERE room_id = {room_key:d} AND seq <= {upto_seq:d}"
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE rowid IN ({ids})")
        conn.exec_driver_sql("INSERT INTO search_removed DEFAULT VALUES")
    else:
        conn.exec_driver_sql(f"DELETE FROM search_words WHERE id IN ({ids})")
    conn.execute(delete(search_documents).where(removed))


# -- merging and purging (SQLite) ------------------------------------------------------------------------------------


def is_in_parts(dialect: str) -> bool:
    """Whether the index grows in parts that have to be merged, and purged of deleted words."""
    return dialect == "sqlite"


def to_purge(conn: Connection) -> int:
    """The end of the list of removals whose words may still be in the files of the index; 0 if there are none.

    FTS5 only marks a removal; the words disappear when their part of the index is rewritten. In PostgreSQL, vacuum
    removes them.
    """
    if conn.dialect.name != "sqlite":
        return 0
    return int(conn.exec_driver_sql("SELECT coalesce(max(id), 0) FROM search_removed").scalar_one())


def merge(conn: Connection, pages: int, *, whole: bool = False) -> bool:
    """Rewrite some pages of the index, merging small parts into larger ones. Returns False if nothing was left to do.

    FTS5 would merge by itself, but in large steps that block the writer. `whole` starts merging all parts into one;
    later calls continue it.
    """
    before = _changes(conn)
    conn.exec_driver_sql(
        "INSERT INTO search_words (search_words, rank) VALUES ('merge', ?)", (-pages if whole else pages,)
    )
    return _changes(conn) - before > 1


def purged(conn: Connection, upto: int) -> None:
    """Clear the list of removals up to a position: all parts of the index were rewritten since."""
    conn.exec_driver_sql("DELETE FROM search_removed WHERE id <= ?", (upto,))


def _changes(conn: Connection) -> int:
    return int(conn.exec_driver_sql("SELECT total_changes()").scalar_one())


# -- searching -------------------------------------------------------------------------------------------------------


class SearchHit(NamedTuple):
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


_MESSAGE = (
    select(entries.c.message_id)
    .join_from(
        search_documents,
        entries,
        and_(entries.c.room_id == search_documents.c.room_id, entries.c.seq == search_documents.c.seq),
    )
    .where(search_documents.c.id == bindparam("document"))
)


def document(conn: Connection, message_id: str) -> int | None:
    """The position of a message in the order of results, also of a deleted one."""
    return conn.execute(_DOCUMENT, {"message_id": message_id}).scalar()


_HITS = {
    "sqlite": text(
        "SELECT rowid FROM search_words WHERE search_words MATCH :match AND rowid >= :low AND rowid < :before"
        " ORDER BY rowid DESC LIMIT :batch"
    ),
    "postgresql": text(
        "WITH hit AS MATERIALIZED (SELECT id FROM search_words"
        " WHERE words @@ CAST(:match AS tsquery) AND id >= :low AND id < :before)"
        " SELECT id FROM hit ORDER BY id DESC LIMIT :batch"
    ),
}
# MATERIALIZED: the words of a message are only examined after its room is known to be one of the user's.
_NEWEST_HITS = text(
    "WITH candidate AS MATERIALIZED (SELECT d.id, d.room_id FROM search_document d"
    " JOIN member ON member.room_id = d.room_id AND member.user_id = :user"
    " WHERE d.id >= :low AND d.id < :before AND d.room_id = coalesce(CAST(:room AS BIGINT), d.room_id))"
    " SELECT candidate.id FROM candidate JOIN search_words w ON w.id = candidate.id"
    " WHERE w.words @@ CAST(replace(:match, :any_room, CAST(candidate.room_id AS TEXT)) AS tsquery)"
    " ORDER BY candidate.id DESC LIMIT :batch"
)
# CROSS JOIN: makes SQLite join in this order, starting with the hits.
_COLUMNS = ", ".join(f'"{column.table.name}".{column.name}' for column in (*ROOM_COLUMNS, *entry_columns()))
_CURRENT = text(
    f"SELECT {_COLUMNS} FROM search_document d CROSS JOIN member CROSS JOIN entry CROSS JOIN room"
    ' CROSS JOIN "user" WHERE d.id IN :hits AND member.room_id = d.room_id AND member.user_id = :user'
    " AND entry.room_id = d.room_id AND entry.seq = d.seq AND NOT entry.deleted"
    " AND entry.created_at >= :since AND entry.created_at < :until"
    ' AND room.id = d.room_id AND "user".id = entry.sender_id ORDER BY d.id DESC'
).bindparams(bindparam("hits", expanding=True))
_NEWEST = select(func.max(search_documents.c.id)).where(search_documents.c.id < bindparam("before"))
_ROOMS = select(members.c.room_id).where(members.c.user_id == bindparam("user"))


class TooManyTerms(ValueError):
    """The search has more (word, room) pairs than allowed."""

    def __init__(self, words: int) -> None:
        """`words`: the number of words allowed for that many rooms."""
        super().__init__(words)
        self.words = words


class Page(NamedTuple):
    hits: Sequence[SearchHit]
    """Newest first."""
    next: str | None
    """The message before which the next page begins; None: this was the last one."""


def find(
    conn: Connection,
    user_key: int,
    query: Query,
    *,
    room_key: int | None = None,
    before: int | None = None,
    since: int = 0,
    until: int = _END,
    limit: int,
) -> Page:
    """The newest messages that match a (non-empty) query, in all rooms that the user is in, or in one of them.

    `before`: only messages before that `document`; `since`, `until`: only those sent then (ms; `until` excluded).
    Although the index may lag behind the log, no deleted message is found, and an edited one only by its current
    content. Raises `TooManyTerms`.
    """
    dialect = conn.dialect.name
    own = [room_key] if room_key is not None else list(conn.scalars(_ROOMS, {"user": user_key}))
    if not own:
        return Page((), None)
    template = _template(dialect, query)
    terms = sum(len(phrase.words) for phrase in query)
    if terms * len(own) > MAX_TERMS:
        raise TooManyTerms(MAX_TERMS // len(own))
    groups = [_match(dialect, template, chunk) for chunk in chunked(own, max(1, TERMS_IN_QUERY // terms))]
    before, low, batch, examined = before or _END, 0, limit + 1, 0
    if dialect == "postgresql":
        newest = conn.execute(_NEWEST, {"before": before}).scalar() or 0
        low = max(0, newest - NEWEST)
    results: list[SearchHit] = []
    while len(results) <= limit:
        bounds = {"before": before, "low": low, "batch": batch}
        if low:
            parameters = {"user": user_key, "room": room_key, "match": template, "any_room": _ANY_ROOM}
            hits = list(conn.scalars(_NEWEST_HITS, {**bounds, **parameters}))
        else:
            hits = _hits(conn, groups, bounds)
        of_hits = {"hits": hits, "user": user_key, "since": since, "until": until}
        for row in conn.execute(_CURRENT, of_hits) if hits else ():
            result = SearchHit(RoomRow(*row[:_ENTRY_AT]), EntryRow(*row[_ENTRY_AT:]))
            entry = result.entry
            if entry.edited_at is None or matches(query, entry.sender_key, with_names(entry.content, entry.files)):
                results.append(result)
        examined += len(hits)
        if len(hits) == batch:
            if examined >= MAX_EXAMINED and len(results) <= limit:
                return Page(results, conn.execute(_MESSAGE, {"document": hits[-1]}).scalar())
            before, batch = hits[-1], min(2 * batch, _BATCH)
        elif low:
            before, low = low, 0
        else:
            break
    more = results[limit - 1].entry.message_id if len(results) > limit else None
    return Page(results[:limit], more)


def _hits(conn: Connection, groups: Sequence[str], bounds: Mapping[str, int]) -> list[int]:
    """The newest matching documents in one of some groups of rooms, newest first: up to `batch`."""
    statement, batch, best = _HITS[conn.dialect.name], bounds["batch"], list[int]()
    for match in groups:
        low = best[-1] + 1 if len(best) == batch else bounds["low"]
        best = heapq.nlargest(batch, [*best, *conn.scalars(statement, {**bounds, "match": match, "low": low})])
    return best


_ENTRY_AT = len(ROOM_COLUMNS)


_ANY_ROOM = "¶"
"""Placeholder of a room's key in a template; not a letter, so no word contains it."""


def _template(dialect: str, query: Query) -> str:
    """The query in the syntax of FTS5, or as a `tsquery`; it contains only words, no other typed text."""
    return (" AND " if dialect == "sqlite" else " & ").join(map(_fts5 if dialect == "sqlite" else _tsquery, query))


def _match(dialect: str, template: str, room_keys: Sequence[int]) -> str:
    """The query of a template, for any of some rooms."""
    either = " OR " if dialect == "sqlite" else " | "
    return either.join(f"({template.replace(_ANY_ROOM, str(key))})" for key in room_keys)


def _fts5(phrase: Phrase) -> str:
    return f'"{" ".join(_in_room(_ANY_ROOM, word) for word in phrase.words)}"{" *" if phrase.prefix else ""}'


def _tsquery(phrase: Phrase) -> str:
    quoted = [f"'{_in_room(_ANY_ROOM, word)}'" for word in phrase.words]
    return f"({' <-> '.join(quoted)}{':*' if phrase.prefix else ''})"
