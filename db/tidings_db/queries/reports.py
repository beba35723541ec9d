"""Messages that members have reported to the moderators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, delete, select
from sqlalchemy.engine import Connection

from tidings_db.models import entries, members, reports, rooms, users
from tidings_db.queries.rows import ROOM_COLUMNS, EntryRow, RoomRow, entry_columns, insert_or


class ReportRow(NamedTuple):
    id: str
    room_key: int
    reason: str
    content: str
    """That of the message when it was reported."""
    created_at: int
    reporter: str


class Reported(NamedTuple):
    report: ReportRow
    room: RoomRow
    message: EntryRow
    """In its current state."""


def add(conn: Connection, report_id: str, message: EntryRow, user_key: int, reason: str, now: int) -> bool:
    """Add a report. Returns False, and changes nothing, if the user has reported the message already."""
    added = conn.execute(
        insert_or(conn.dialect.name, reports)
        .values(
            id=report_id,
            room_id=message.room_key,
            seq=message.seq,
            user_id=user_key,
            reason=reason,
            content=message.content or "",
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    return added.rowcount > 0


_reporters = users.alias("reporter")
_COLUMNS = (
    reports.c.id,
    reports.c.room_id,
    reports.c.reason,
    reports.c.content,
    reports.c.created_at,
    _reporters.c.username,
)


def page(
    conn: Connection,
    *,
    room_key: int | None = None,
    report_id: str | None = None,
    after: str | None = None,
    limit: int = 1,
) -> Sequence[Reported]:
    """Open reports of a room, or of all rooms, oldest first; or only the one with an id."""
    statement = (
        select(*_COLUMNS, *ROOM_COLUMNS, *entry_columns())
        .select_from(reports)
        .join(_reporters, _reporters.c.id == reports.c.user_id)
        .join(rooms, rooms.c.id == reports.c.room_id)
        .join(entries, and_(entries.c.room_id == reports.c.room_id, entries.c.seq == reports.c.seq))
        .join(users, users.c.id == entries.c.sender_id)
        .order_by(reports.c.id)
        .limit(limit)
    )
    if room_key is not None:
        statement = statement.where(reports.c.room_id == room_key)
    if after is not None:
        statement = statement.where(reports.c.id > after)
    if report_id is not None:
        statement = statement.where(reports.c.id == report_id)
    room_at, entry_at = len(_COLUMNS), len(_COLUMNS) + len(ROOM_COLUMNS)
    return [
        Reported(ReportRow(*row[:room_at]), RoomRow(*row[room_at:entry_at]), EntryRow(*row[entry_at:]))
        for row in conn.execute(statement)
    ]


def close(conn: Connection, report_id: str) -> bool:
    """Remove a report. Returns False if it is gone already."""
    return conn.execute(delete(reports).where(reports.c.id == report_id)).rowcount > 0


def moderators(conn: Connection, room_key: int) -> list[int]:
    """The keys of a room's owner and moderators."""
    moderates = members.c.role.in_(("owner", "moderator"))
    return list(conn.scalars(select(members.c.user_id).where(members.c.room_id == room_key, moderates)))


def forget(conn: Connection, room_key: int, upto_seq: int) -> None:
    """Remove the reports of a room's messages up to a seq."""
    conn.execute(delete(reports).where(reports.c.room_id == room_key, reports.c.seq <= upto_seq))
