"""Files: uploads, what belongs to messages, and pictures of users and rooms."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

import orjson
from sqlalchemy import ColumnElement, and_, func, or_, select, true, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.engine import Connection

from tidings_db.models import entries, files, members, rooms

PICTURE: Final = 0
"""The `seq` of a picture: of its room, or without one of its user."""


class FileRow(NamedTuple):
    id: str
    user_key: int
    name: str
    size: int
    received: int
    parts: str | None
    """JSON: the keys of the parts in the store, in order; None: the file is complete."""
    type: str | None
    width: int | None
    height: int | None
    preview: bool
    created_at: int
    room_key: int | None
    seq: int | None
    expires_at: int | None

    @property
    def part_keys(self) -> list[str]:
        keys: list[str] = orjson.loads(self.parts or "[]")
        return keys


_COLUMNS = (
    files.c.id,
    files.c.user_id,
    files.c.name,
    files.c.size,
    files.c.received,
    files.c.parts,
    files.c.type,
    files.c.width,
    files.c.height,
    files.c.preview,
    files.c.created_at,
    files.c.room_id,
    files.c.seq,
    files.c.expires_at,
)


def create(conn: Connection, file_id: str, user_key: int, name: str, size: int, now: int, expires_at: int) -> None:
    values = {"id": file_id, "user_id": user_key, "name": name, "size": size, "created_at": now}
    conn.execute(files.insert().values(**values, received=0, parts="[]", preview=False, expires_at=expires_at))


def bytes_of(conn: Connection, user_key: int) -> int:
    """The bytes of all files of a user, those included that are not uploaded yet."""
    return int(conn.execute(select(func.sum(files.c.size)).where(files.c.user_id == user_key)).scalar() or 0)


def get(conn: Connection, file_id: str) -> FileRow | None:
    row = conn.execute(select(*_COLUMNS).where(files.c.id == file_id)).first()
    return None if row is None else FileRow._make(row)


def readable(conn: Connection, user_key: int, file_ids: Collection[str], *, any_room: bool = False) -> list[FileRow]:
    """Of some files, those that are complete and that a user may read: of messages in the user's rooms, pictures of
    users, of the user's rooms and of public topics, and their own uploads.

    Args:
        any_room: those of messages in rooms that the user is not in, too.
    """
    message = and_(entries.c.room_id == files.c.room_id, entries.c.seq == files.c.seq, entries.c.deleted.is_(False))
    member = and_(members.c.room_id == files.c.room_id, members.c.user_id == user_key)
    within = true() if any_room else members.c.user_id.is_not(None)
    rows = conn.execute(
        select(*_COLUMNS)
        .outerjoin_from(files, entries, message)
        .outerjoin(members, member)
        .outerjoin(rooms, rooms.c.id == files.c.room_id)
        .where(files.c.id.in_(file_ids), files.c.parts.is_(None))
        .where(
            or_(
                and_(files.c.room_id.is_(None), files.c.user_id == user_key, files.c.expires_at > 0),
                and_(entries.c.seq.is_not(None), within),
                and_(files.c.seq == PICTURE, or_(files.c.room_id.is_(None), rooms.c.is_private.is_(False), within)),
            )
        )
        .order_by(files.c.id)
    )
    return [FileRow._make(row) for row in rows]


def receive(conn: Connection, file: FileRow, part: str, size: int, expires_at: int) -> bool:
    """Add a durable part of an upload; False, and nothing is changed, if another one was added since it was read."""
    parts = orjson.dumps([*file.part_keys, part]).decode()
    added = conn.execute(
        update(files)
        .where(files.c.id == file.id, files.c.parts == file.parts, files.c.expires_at > 0)
        .values(received=file.received + size, parts=parts, expires_at=expires_at)
    )
    return added.rowcount > 0


def complete(conn: Connection, file_id: str, **found: object) -> bool:
    """Note that the content is in the store as a whole; False if the upload has expired.

    Args:
        found: `size`, `type`, `width`, `height` and `preview`.
    """
    stored = update(files).where(files.c.id == file_id, files.c.expires_at > 0).values(parts=None, **found)
    return conn.execute(stored).rowcount > 0


def sendable(conn: Connection, user_key: int, file_ids: Sequence[str]) -> list[str]:
    """The ids among some of complete uploads of a user that belong to no message yet."""
    return list(conn.scalars(select(files.c.id).where(*_is_sendable(user_key, file_ids))))


def take(conn: Connection, user_key: int, file_ids: Sequence[str]) -> dict[str, FileRow]:
    """The files that are `sendable`, locked."""
    free = select(*_COLUMNS).where(*_is_sendable(user_key, file_ids)).order_by(files.c.id).with_for_update()
    return {row[0]: FileRow._make(row) for row in conn.execute(free)}


def _is_sendable(user_key: int, file_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    own = files.c.id.in_(file_ids), files.c.user_id == user_key
    return (*own, files.c.room_id.is_(None), files.c.parts.is_(None), files.c.expires_at > 0)


def attach(conn: Connection, file_ids: Collection[str], room_key: int, seq: int) -> None:
    """Give files to a message."""
    owned = {"room_id": room_key, "seq": seq, "expires_at": None}
    conn.execute(update(files).where(files.c.id.in_(file_ids)).values(**owned))


_RELEASED = {"room_id": None, "seq": None, "expires_at": 0}


def release(conn: Connection, room_key: int, *, seq: int | None = None, upto: int | None = None) -> None:
    """Let the files of a message be deleted, or those of all messages of a room up to a seq."""
    which = files.c.seq == seq if upto is None else files.c.seq.between(PICTURE + 1, upto)
    conn.execute(update(files).where(files.c.room_id == room_key, which).values(**_RELEASED))


def set_picture(conn: Connection, file_id: str | None, user_key: int, room_key: int | None = None) -> bool:
    """Make an image that a user has uploaded the picture of a room, or else of that user; None: there is no picture.

    The one before is deleted. False, and nothing is changed, if it is no complete image of that user, or is in use.
    """
    if file_id == conn.execute(select(files.c.id).where(_is_picture(user_key, room_key))).scalar():
        return True
    if file_id is not None:
        image = take(conn, user_key, [file_id]).get(file_id)
        if image is None or image.width is None:
            return False
    release_picture(conn, user_key=user_key, room_key=room_key)
    owned = {"room_id": room_key, "seq": PICTURE, "expires_at": None}
    conn.execute(update(files).where(files.c.id == file_id).values(**owned))
    return True


def release_picture(conn: Connection, *, user_key: int | None = None, room_key: int | None = None) -> None:
    """Let the picture of a room be deleted, or else of a user."""
    conn.execute(update(files).where(_is_picture(user_key, room_key)).values(**_RELEASED))


def _is_picture(user_key: int | None, room_key: int | None) -> ColumnElement[bool]:
    of = files.c.user_id == user_key if room_key is None else true()
    return and_(of, files.c.room_id == room_key, files.c.seq == PICTURE)


def discard(conn: Connection, user_key: int, file_id: str) -> bool:
    """Let a file of a user be deleted that belongs to no message; False if there is none."""
    own = (files.c.id == file_id, files.c.user_id == user_key, files.c.room_id.is_(None), files.c.expires_at > 0)
    return conn.execute(update(files).where(*own).values(**_RELEASED)).rowcount > 0


def contents(conn: Connection) -> Iterator[tuple[str, int, bool]]:
    """Of all files that are complete and not being deleted: the id, the bytes, and whether there is a preview."""
    kept = select(files.c.id, files.c.size, files.c.preview).where(
        files.c.parts.is_(None), or_(files.c.expires_at.is_(None), files.c.expires_at > 0)
    )
    yield from conn.execute(kept.execution_options(yield_per=1000))


def drop_uploads(conn: Connection) -> None:
    """Let all uploads be deleted that are not complete."""
    conn.execute(update(files).where(files.c.parts.is_not(None)).values(**_RELEASED))


def expire(conn: Connection, now: int, limit: int) -> list[str]:
    """Take files that have expired at a time (ms) out of reach, so that their contents can be deleted."""
    outdated = select(files.c.id).where(files.c.expires_at <= now).order_by(files.c.expires_at).limit(limit)
    taken = update(files).where(files.c.id.in_(outdated.scalar_subquery()), files.c.expires_at <= now)
    return list(conn.scalars(taken.values(expires_at=0).returning(files.c.id)))


def delete(conn: Connection, file_ids: Collection[str]) -> None:
    conn.execute(delete_rows(files).where(files.c.id.in_(file_ids), files.c.expires_at == 0))
