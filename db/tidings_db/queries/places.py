"""The chat rooms that users of that dialect are in. A place ends with its membership (`members.remove`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import places, rooms
from tidings_db.queries.rows import chunked, insert_or


class PlaceRow(NamedTuple):
    """The room that a user is in."""

    room_key: int
    room_id: str
    topic_name: str
    brought_in: bool
    """Whether entering made the user a member; then entering another room ends the membership."""


_PLACE = (
    select(rooms.c.id, rooms.c.room_id, rooms.c.topic_name, places.c.brought_in)
    .join_from(places, rooms, rooms.c.id == places.c.room_id)
    .where(places.c.user_id == bindparam("user"))
)
_LOCKED_PLACE = _PLACE.with_for_update(of=places)


def of(conn: Connection, user_key: int) -> PlaceRow | None:
    """The place of a user."""
    row = conn.execute(_PLACE, {"user": user_key}).first()
    return None if row is None else PlaceRow(*row)


def rooms_of(conn: Connection, user_keys: Collection[int]) -> dict[int, str]:
    """The places of users: user -> room_id."""
    by_user: dict[int, str] = {}
    for chunk in chunked(user_keys):
        statement = select(places.c.user_id, rooms.c.room_id).join_from(places, rooms)
        by_user.update(conn.execute(statement.where(places.c.user_id.in_(chunk))).all())
    return by_user


def claim(conn: Connection, user_key: int, room_key: int) -> PlaceRow | None:
    """Lock the place of a user, who is put into the room if they were in none; returns the place before.

    Others who change the place wait, on whichever node.
    """
    added = (
        insert_or(conn.dialect.name, places)
        .values(user_id=user_key, room_id=room_key, brought_in=False)
        .on_conflict_do_nothing()
        .returning(places.c.user_id)
    )
    while conn.execute(added).first() is None:
        row = conn.execute(_LOCKED_PLACE, {"user": user_key}).first()
        if row is not None:  # else the membership has ended since the other statement
            return PlaceRow(*row)
    return None


def put(conn: Connection, user_key: int, room_key: int, *, brought_in: bool) -> None:
    """Put a user, whose place is locked, into a room."""
    own = places.c.user_id == user_key
    conn.execute(update(places).where(own).values(room_id=room_key, brought_in=brought_in))


def remove(conn: Connection, user_key: int) -> None:
    """Take a user, whose place is locked, out of the room."""
    conn.execute(delete(places).where(places.c.user_id == user_key))
