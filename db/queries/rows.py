"""The rows that queries return, and the statements shared by both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import CTE, BigInteger, Select, Table, Text, bindparam, select, text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Connection

from db.models import entries, rooms, users
from db.sqlite import on_driver

T = TypeVar("T")


class UserRow(NamedTuple):
    key: int
    username: str
    password_hash: str | None
    created_at: int
    last_seen: int | None
    disabled: bool
    admin: bool


class RoomRow(NamedTuple):
    """A room and its head, as of the transaction that read it."""

    key: int
    room_id: str
    kind: str
    is_private: bool
    topic_name: str | None
    title: str | None
    direct_key: str | None
    first_seq: int
    last_seq: int
    messages: int
    last_message_seq: int
    members: int
    first_messages: int
    """Messages before `first_seq`, which retention has taken."""


class EntryRow(NamedTuple):
    """One position of a room's log, with its sender's name."""

    room_key: int
    seq: int
    kind: str
    message_id: str | None
    sender_key: int
    sender: str
    client_id: str | None
    content: str | None
    reply_to: str | None
    body: str | None
    messages: int
    created_at: int
    edited_at: int | None
    deleted: bool
    target_seq: int | None = None
    reactions: str | None = None
    target: EntryRow | None = None
    """The message that this entry changed, as it is now: see `log.with_targets`. None: retention has taken it."""


USER_COLUMNS = (
    users.c.id,
    users.c.username,
    users.c.password_hash,
    users.c.created_at,
    users.c.last_seen,
    users.c.disabled,
    users.c.admin,
)
ROOM_COLUMNS = (
    rooms.c.id,
    rooms.c.room_id,
    rooms.c.kind,
    rooms.c.is_private,
    rooms.c.topic_name,
    rooms.c.title,
    rooms.c.direct_key,
    rooms.c.first_seq,
    rooms.c.last_seq,
    rooms.c.messages,
    rooms.c.last_message_seq,
    rooms.c.members,
    rooms.c.first_messages,
)


def entry_columns(entry: Any = entries, sender: Any = users) -> tuple[Any, ...]:
    """The columns of an `EntryRow`, from `entry` joined with its `sender`."""
    return (
        entry.c.room_id,
        entry.c.seq,
        entry.c.kind,
        entry.c.message_id,
        entry.c.sender_id,
        sender.c.username,
        entry.c.client_id,
        entry.c.content,
        entry.c.reply_to,
        entry.c.body,
        entry.c.messages,
        entry.c.created_at,
        entry.c.edited_at,
        entry.c.deleted,
        entry.c.target_seq,
        entry.c.reactions,
    )


@contextmanager
def stepwise(
    conn: Connection, build: Callable[[str], Select[Any]], asked: Mapping[str, Any]
) -> Iterator[Iterable[tuple[Any, ...]]]:
    """A result that is read no further than it is looked at.

    From SQLite as its driver has it, booleans as 0 and 1: SQLAlchemy's rows cost as much as all else of a replay.
    """
    if conn.dialect.name != "sqlite":
        with conn.execute(build(conn.dialect.name), asked, execution_options={"yield_per": 64}) as result:
            yield result
        return
    sql, names, constants = _in_sqlite(build)
    cursor = conn.connection.cursor()
    try:
        cursor.execute(sql, [asked.get(name, constants[name]) for name in names])
        yield cursor  # type: ignore[misc]
    finally:
        cursor.close()


def fetch(conn: Connection, build: Callable[[str], Any], asked: Mapping[str, Any]) -> Sequence[Any]:
    """The rows of a statement on the path of every message; as with `stepwise`, SQLite's booleans are 0 and 1."""
    if conn.dialect.name != "sqlite":
        return conn.execute(build(conn.dialect.name), asked).all()
    sql, names, constants = _in_sqlite(build)
    return on_driver(conn, sql, [asked.get(name, constants[name]) for name in names])


def change(conn: Connection, build: Callable[[str], Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Run a statement on the path of every message once for each row of parameters (all of them)."""
    if conn.dialect.name != "sqlite":
        conn.execute(build(conn.dialect.name), rows)
        return
    sql, names, _ = _in_sqlite(build)
    on_driver(conn, sql, [[row[name] for name in names] for row in rows], many=True)


@cache
def _in_sqlite(build: Callable[[str], Any]) -> tuple[str, Sequence[str], Mapping[str, Any]]:
    compiled = build("sqlite").compile(dialect=sqlite_dialect())
    return compiled.string, compiled.positiontup or (), compiled.params


def up_to_bytes(rows: Iterable[Any], max_bytes: int) -> list[EntryRow]:
    """Entries from a result, no more than `max_bytes` of them but one at least."""
    found: list[EntryRow] = []
    total = 0
    for row in rows:
        entry = EntryRow(*row)
        total += entry_bytes(entry)
        if found and total > max_bytes:
            break
        found.append(entry)
    return found


def select_entries() -> Select[Any]:
    return select(*entry_columns()).join_from(entries, users, users.c.id == entries.c.sender_id)


ENTRY_BYTES = 256
"""What an entry counts for besides its content, where pages are bounded in bytes."""


def entry_bytes(entry: EntryRow) -> int:
    """About what an entry holds in memory and on the wire; never much less."""
    if entry.target is not None:
        return ENTRY_BYTES + entry_bytes(entry.target)
    content = entry.content or ""
    size = ENTRY_BYTES + (len(content) if content.isascii() else 4 * len(content))
    return size if entry.reactions is None else size + len(entry.reactions)


def insert_or(dialect: str, table: Table) -> Any:
    """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`, in a dialect."""
    return sqlite_insert(table) if dialect == "sqlite" else postgresql_insert(table)


def relation(dialect: str, name: str, **columns: type[int] | type[str]) -> CTE:
    """Values to join a table with, as one parameter, `name` (see `values_of`): the statement can be built once.

    Both databases look each row up in the table's index this way; SQLite scans the table for
    `(a, b) IN (VALUES …)`.
    """
    sqlite = dialect == "sqlite"
    shown = []
    for at, (column_name, kind) in enumerate(columns.items()):
        cast_to = "BIGINT" if kind is int else "TEXT"
        value = f"json_extract(value, '$[{at}]')" if sqlite else f"CAST(value ->> {at} AS {cast_to})"
        shown.append(f"{value} AS {column_name}")
    source = f"json_each(:{name})" if sqlite else f"jsonb_array_elements(CAST(:{name} AS jsonb))"
    typed: dict[str, Any] = {
        column_name: BigInteger() if kind is int else Text() for column_name, kind in columns.items()
    }
    values = text(f"SELECT {', '.join(shown)} FROM {source}").bindparams(bindparam(name, type_=Text()))
    return values.columns(**typed).cte(f"{name}_given")


def values_of(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the parameter of a `relation`."""
    return orjson.dumps([list(row) for row in rows]).decode()


def direct_key(a: int, b: int) -> str:
    """What the direct conversation of two users is found by."""
    return f"{min(a, b)}:{max(a, b)}"


def chunked(items: Iterable[T], size: int = 400) -> Iterator[Sequence[T]]:
    """Cut what goes into one statement: both databases bound the number of its parameters (32,766)."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
