"""The rows that queries return, and the statements shared by both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import CTE, BigInteger, Column, Select, Table, Text, bindparam, select, text
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from tidings_db.models import entries, rooms, users

T = TypeVar("T")


class UserRow(NamedTuple):
    key: int
    username: str
    password_hash: str | None
    created_at: int
    last_seen: int | None
    disabled: bool
    admin: bool
    service: bool
    """The user of a key."""
    display_name: str | None
    status_text: str | None
    """None: no status."""
    status_emoji: str | None
    status_until: int | None
    """ms since the epoch, as `do_not_disturb_until`; both may have passed."""
    do_not_disturb_until: int | None
    picture: str | None
    """The id of a file."""
    folded: str | None
    """JSON: the folded sections of the user's own list of rooms."""


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
    """The number of messages before `first_seq`, which retention has deleted."""
    removals: int
    """How many memberships have ended."""
    changes: int
    """How often members or their roles have changed."""
    posting: str = "members"
    """The members who may write: see `tidings.contract.models.Posting`."""
    purpose: str | None = None
    picture: str | None = None
    """The id of a file."""


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
    data: str | None = None
    state: str | None = None
    """Of a message that is not complete: one of `STREAMING`, or interrupted."""
    thread: str | None = None
    """The id of the message that began the thread."""
    replies: int | None = None
    """Of a message that began a thread, the number of its replies; of a reply, which of them it is, from 1 on."""
    files: str | None = None
    """JSON: the `Attachment`s of a message."""
    target: EntryRow | None = None
    """The current state of the message that this entry changed (`log.with_targets`); None if retention deleted it."""

    @property
    def selected(self) -> tuple[Any, ...]:
        """The values of `ENTRY_COLUMNS`."""
        return self[:-1]


def postgresql_type(column: Column[Any]) -> str:
    """The type of a parameter for a column."""
    python_type = column.type.python_type
    return "boolean" if python_type is bool else "bigint" if python_type is int else "text"


STREAMING = ("streaming", "stopping")
"""The states of a message that is being written; the second one: a member has asked its author to stop."""
STORED = {column.name: postgresql_type(column) for column in entries.c}
"""The columns of a stored entry, and their types in PostgreSQL."""
_FIELDS = {"room_id": "room_key", "sender_id": "sender_key"}
"""Fields of `EntryRow` that have other names than their columns."""
stored: Callable[[EntryRow], tuple[Any, ...]] = itemgetter(
    *(EntryRow._fields.index(_FIELDS.get(name, name)) for name in STORED)
)
"""The values of `STORED`."""


PROFILE_COLUMNS = (
    users.c.display_name,
    users.c.status_text,
    users.c.status_emoji,
    users.c.status_until,
    users.c.do_not_disturb_until,
    users.c.picture,
)
USER_COLUMNS = (
    users.c.id,
    users.c.username,
    users.c.password_hash,
    users.c.created_at,
    users.c.last_seen,
    users.c.disabled,
    users.c.admin,
    users.c.service,
    *PROFILE_COLUMNS,
    users.c.folded,
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
    rooms.c.removals,
    rooms.c.changes,
    rooms.c.posting,
    rooms.c.purpose,
    rooms.c.picture,
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
        entry.c.data,
        entry.c.state,
        entry.c.thread,
        entry.c.replies,
        entry.c.files,
    )


def up_to_bytes(rows: Iterable[Any], max_bytes: int) -> list[EntryRow]:
    """Entries from a result: up to `max_bytes`, but at least one."""
    page: list[EntryRow] = []
    total = 0
    for row in rows:
        entry = EntryRow(*row)
        total += entry_bytes(entry)
        if page and total > max_bytes:
            break
        page.append(entry)
    return page


def first_of(rows: Iterable[T], limit: int, max_bytes: int, size: Callable[[T], int]) -> tuple[list[T], bool]:
    """The first rows of a result: up to `limit` and `max_bytes`, but at least one; and whether there are more."""
    page: list[T] = []
    total = 0
    for row in rows:
        total += size(row)
        if len(page) == limit or (page and total > max_bytes):
            return page, True
        page.append(row)
    return page, False


ENTRY_COLUMNS = entry_columns()


def select_entries() -> Select[Any]:
    return select(*entry_columns()).join_from(entries, users, users.c.id == entries.c.sender_id)


ENTRY_BYTES = 256
"""Approximate bytes of an entry without its content, for pages that are bounded in bytes."""


def entry_bytes(entry: EntryRow) -> int:
    """Approximate bytes of an entry in memory and on the wire, rounded up."""
    if entry.target is not None:
        return ENTRY_BYTES + entry_bytes(entry.target)
    content = entry.content or ""
    in_json = len(orjson.dumps(content))  # a control character is one byte in memory, and six in JSON
    size = ENTRY_BYTES + (in_json if content.isascii() else max(in_json, 4 * len(content)))
    size += sum(text_bytes(encoded) for encoded in (entry.data, entry.files) if encoded is not None)
    return size if entry.reactions is None else size + len(entry.reactions)


def text_bytes(text: str) -> int:
    """Bytes of a text in memory and in UTF-8, rounded up."""
    return len(text) if text.isascii() else 4 * len(text)


def insert_or(dialect: str, table: Table) -> Any:
    """A dialect's INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if dialect == "sqlite":
        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert  # not imported by a server on SQLite

    return insert(table)


def relation(dialect: str, name: str, **columns: type[int] | type[str]) -> CTE:
    """Rows to join a table with, in one parameter `name` (`values_of`), so that the statement is built only once.

    Both databases look each row up in the table's index this way; SQLite scans the table for
    `(a, b) IN (VALUES …)`.
    """
    sqlite = dialect == "sqlite"
    selected = []
    for index, (column_name, kind) in enumerate(columns.items()):
        cast_to = "BIGINT" if kind is int else "TEXT"
        value = f"json_extract(value, '$[{index}]')" if sqlite else f"CAST(value ->> {index} AS {cast_to})"
        selected.append(f"{value} AS {column_name}")
    source = f"json_each(:{name})" if sqlite else f"jsonb_array_elements(CAST(:{name} AS jsonb))"
    typed: dict[str, Any] = {
        column_name: BigInteger() if kind is int else Text() for column_name, kind in columns.items()
    }
    values = text(f"SELECT {', '.join(selected)} FROM {source}").bindparams(bindparam(name, type_=Text()))
    return values.columns(**typed).cte(f"{name}_rows")


def values_of(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the parameter of a `relation`."""
    return orjson.dumps([list(row) for row in rows]).decode()


def direct_key(a: int, b: int) -> str:
    """The key of the direct conversation of two users."""
    return f"{min(a, b)}:{max(a, b)}"


def chunked(items: Iterable[T], size: int = 400) -> Iterator[Sequence[T]]:
    """Split values into chunks for one statement each: both databases limit its parameters (32,766)."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
