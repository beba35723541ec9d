"""Accounts that are being deleted: which they are, and the removal of their personal data."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import and_, delete, or_, select, tuple_, update
from sqlalchemy.engine import Connection

from tidings_db.models import (
    blocks,
    cursors,
    devices,
    echo_entries,
    entries,
    invitation_links,
    members,
    read_markers,
    registration_links,
    reports,
    rooms,
    sessions,
    thread_followers,
    users,
)
from tidings_db.names import name_key, skeleton, username_key
from tidings_db.queries import export, feed, files, push
from tidings_db.queries.users import claim_name


class Deletion(NamedTuple):
    user_key: int
    username: str
    keeps_messages: bool
    new_name: str


def begin(conn: Connection, user_key: int, messages: str) -> None:
    """Disable an account, and let `under_way` name it. `messages`: `keep` or `delete`."""
    mark = f"{messages} deleted-{secrets.token_hex(6)}"
    conn.execute(update(users).where(users.c.id == user_key).values(disabled=True, deletion=mark))
    feed.add(conn, sessions=[(user_key, None)])


def under_way(conn: Connection) -> list[Deletion]:
    """The accounts whose deletion has begun and not ended."""
    statement = select(users.c.id, users.c.username, users.c.deletion).where(users.c.deletion.is_not(None))
    marked = [(key, username, *mark.split(" ")) for key, username, mark in conn.execute(statement)]
    return [Deletion(key, username, messages == "keep", new_name) for key, username, messages, new_name in marked]


class Naming(NamedTuple):
    """An entry whose `body` names the user: who joined, whose message was changed, who is mentioned."""

    room_key: int
    seq: int
    body: str


def naming(conn: Connection, username: str, after: tuple[int, int]) -> tuple[list[Naming], tuple[int, int] | None]:
    """Entries of any room that name a user, after a position (room, seq), and the next position; None at the end."""
    end = export.end_of_page(conn, after)
    place = tuple_(entries.c.room_id, entries.c.seq)
    of_page = and_(place > tuple_(*after), place <= tuple_(*end), entries.c.kind != "event")
    found = select(entries.c.room_id, entries.c.seq, entries.c.body).where(
        of_page, entries.c.body.contains(_quoted(username), autoescape=True)
    )
    return [Naming(*row) for row in conn.execute(found)], None if end == export.LAST else end


def rename(conn: Connection, named: Sequence[Naming], username: str, new_name: str) -> None:
    """Put the new name into these entries; one that has changed meanwhile stays, and is found again."""
    for room_key, seq, body in named:
        same = and_(entries.c.room_id == room_key, entries.c.seq == seq, entries.c.body == body)
        renamed = body.replace(_quoted(username), _quoted(new_name))
        conn.execute(update(entries).where(same).values(body=renamed))


def _quoted(name: str) -> str:
    """A name as a string of JSON. A body holds no text of users that could look like it: its quotes are escaped."""
    return orjson.dumps(name).decode()


def rooms_to_leave(conn: Connection, user_key: int) -> list[int]:
    """The user's topics and groups. Of a direct conversation the user stays a member, under the new name."""
    statement = select(rooms.c.id).join_from(members, rooms, rooms.c.id == members.c.room_id)
    return list(conn.scalars(statement.where(members.c.user_id == user_key, rooms.c.kind != "direct")))


def drop_cursors(conn: Connection, user_key: int, limit: int) -> int:
    """Delete up to `limit` cursors of the user's devices; returns their number."""
    pair = (cursors.c.device_id, cursors.c.room_id)
    own = select(*pair).join_from(devices, cursors, cursors.c.device_id == devices.c.id)
    found = conn.execute(own.where(devices.c.user_id == user_key).limit(limit)).all()
    if found:
        either = or_(*(and_(pair[0] == device, pair[1] == room) for device, room in found))
        conn.execute(delete(cursors).where(either))
    return len(found)


def end(conn: Connection, user_key: int, new_name: str) -> bool:
    """Remove everything personal that is left, and give the user another name. Returns False if it is done already.

    The rows of the user, the devices and the sessions stay, since others refer to their keys; the purge removes the
    last two.
    """
    locked = select(users.c.id).where(users.c.id == user_key, users.c.deletion.is_not(None)).with_for_update()
    if conn.execute(locked).first() is None:
        return False
    push.remove_of_user(conn, user_key)
    for column in (
        read_markers.c.user_id,
        thread_followers.c.user_id,
        blocks.c.user_id,
        blocks.c.blocked_id,
        invitation_links.c.user_id,
        registration_links.c.user_id,
        registration_links.c.resets_id,
        reports.c.user_id,
        echo_entries.c.user_id,
    ):
        conn.execute(delete(column.table).where(column == user_key))
    for device_key in conn.scalars(select(devices.c.id).where(devices.c.user_id == user_key)).all():
        conn.execute(update(devices).where(devices.c.id == device_key).values(name=f"{device_key}"))
    conn.execute(update(sessions).where(sessions.c.user_id == user_key).values(user_agent=None, source=None))
    files.release_picture(conn, user_key=user_key)
    claim_name(conn, name_key(new_name), "user")
    conn.execute(
        update(users)
        .where(users.c.id == user_key)
        .values(
            username=new_name,
            username_key=username_key(new_name),
            skeleton=skeleton(new_name),
            words="",
            password_hash=None,
            display_name=None,
            status_text=None,
            status_emoji=None,
            status_until=None,
            do_not_disturb_until=None,
            picture=None,
            folded=None,
            last_seen=None,
            issuer=None,
            admin=False,
            deletion=None,
        )
    )
    return True
