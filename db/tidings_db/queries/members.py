"""Members of rooms, their roles and mutes; bans; invitation links."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, case, delete, exists, insert, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.connections import fetch, on_postgresql
from tidings_db.models import (
    bans,
    invitation_links,
    members,
    mutes,
    places,
    read_markers,
    rooms,
    thread_followers,
    users,
)
from tidings_db.queries.rows import PROFILE_COLUMNS, RoomRow, chunked, insert_or, relation, values_of


class MemberStanding(NamedTuple):
    """The role and restrictions of a user in a room."""

    role: str | None
    banned: bool
    muted_until: int | None = None
    """ms since the epoch; may have passed."""
    blocked: bool = False


class MemberRow(NamedTuple):
    user_key: int
    username: str
    role: str
    last_seen: int | None
    muted_until: int | None
    """ms since the epoch; may have passed."""
    display_name: str | None
    status_text: str | None
    status_emoji: str | None
    status_until: int | None
    do_not_disturb_until: int | None
    picture: str | None


_ROLE = (members.c.room_id, members.c.user_id, members.c.role, members.c.muted_until, members.c.blocked)


@cache
def _select_roles(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, user_key=int)
    within = and_(members.c.room_id == pair.c.room_key, members.c.user_id == pair.c.user_key)
    return select(*_ROLE).join_from(pair, members, within)


@cache
def _select_role(_dialect: str) -> Select[Any]:
    """The statement of `_select_roles` for one pair, which takes two thirds of the time."""
    return select(*_ROLE).where(members.c.room_id == bindparam("room"), members.c.user_id == bindparam("user"))


@cache
def _select_banned(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, user_key=int)
    within = and_(bans.c.room_id == pair.c.room_key, bans.c.user_id == pair.c.user_key)
    return (
        select(bans.c.room_id, bans.c.user_id)
        .join_from(pair, bans, within)
        .where(or_(bans.c.expires_at.is_(None), bans.c.expires_at > bindparam("now")))
    )


def standings(conn: Connection, pairs: Sequence[tuple[int, int]], now: int) -> dict[tuple[int, int], MemberStanding]:
    """Roles and bans for (room, user) pairs; a missing pair has neither."""
    if len(pairs) == 1:
        ((room, user),) = pairs
        roles = fetch(conn, _select_role, {"room": room, "user": user})
    else:
        roles = fetch(conn, _select_roles, {"pairs": values_of(pairs)})
    by_pair = {
        (room, user): MemberStanding(role, False, muted_until, bool(blocked))
        for room, user, role, muted_until, blocked in roles
    }
    non_members = [pair for pair in pairs if pair not in by_pair]
    if non_members:
        banned = fetch(conn, _select_banned, {"pairs": values_of(non_members), "now": now})
        by_pair.update({(room, user): MemberStanding(None, True) for room, user in banned})
    return by_pair


def standing(conn: Connection, room_key: int, user_key: int, now: int) -> MemberStanding:
    return standings(conn, [(room_key, user_key)], now).get((room_key, user_key), MemberStanding(None, False))


def add(
    conn: Connection,
    room: RoomRow,
    user_key: int,
    role: str,
    now: int,
    *,
    read: bool = True,
    blocked: bool = False,
) -> int | None:
    """Make a user a member at the room's head. Earlier entries count as read, unless `read` is False.

    The caller tells the other nodes.
    Returns the end of their mute (ms); None if they are not muted.
    """
    muted = select(mutes.c.expires_at).where(
        mutes.c.room_id == room.key, mutes.c.user_id == user_key, mutes.c.expires_at > now
    )
    muted_until = conn.execute(muted).scalar()
    conn.execute(
        insert(members).values(
            room_id=room.key,
            user_id=user_key,
            role=role,
            joined_at=now,
            joined_seq=room.last_seq,
            joined_removals=room.removals,
            muted_until=muted_until,
            blocked=blocked,
        )
    )
    conn.execute(
        insert(read_markers).values(
            room_id=room.key,
            user_id=user_key,
            seq=room.last_seq if read else 0,
            messages=room.messages if read else 0,
            updated_at=now,
        )
    )
    return muted_until


def remove(conn: Connection, room_key: int, user_key: int) -> None:
    """End a membership. The caller tells the other nodes."""
    for table in (members, read_markers, thread_followers, places):
        conn.execute(delete(table).where(table.c.room_id == room_key, table.c.user_id == user_key))


def prefer(conn: Connection, room_key: int, user_key: int, changed: Mapping[str, object]) -> None:
    """Store preferences of a member, by column."""
    own = (members.c.room_id == room_key, members.c.user_id == user_key)
    conn.execute(update(members).where(*own).values(**changed))


def set_role(conn: Connection, room_key: int, user_key: int, role: str) -> None:
    conn.execute(
        update(members).where(members.c.room_id == room_key, members.c.user_id == user_key).values(role=role)
    )


def add_ban(conn: Connection, room_key: int, user_key: int, now: int, expires_at: int | None) -> None:
    """Ban a user until a time; replaces an existing ban."""
    statement = insert_or(conn.dialect.name, bans).values(
        room_id=room_key, user_id=user_key, created_at=now, expires_at=expires_at
    )
    new = statement.excluded
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=["room_id", "user_id"],
            set_={"created_at": new.created_at, "expires_at": new.expires_at},
        )
    )


def remove_ban(conn: Connection, room_key: int, user_key: int) -> None:
    conn.execute(delete(bans).where(bans.c.room_id == room_key, bans.c.user_id == user_key))


class BanRow(NamedTuple):
    username: str
    created_at: int
    expires_at: int | None


def list_bans(conn: Connection, room_key: int, now: int, after: str | None, limit: int) -> list[BanRow]:
    """A page of the current bans, sorted by username key. `after`: the last key of the previous page."""
    statement = (
        select(users.c.username, bans.c.created_at, bans.c.expires_at)
        .join_from(bans, users, users.c.id == bans.c.user_id)
        .where(bans.c.room_id == room_key, or_(bans.c.expires_at.is_(None), bans.c.expires_at > now))
        .order_by(users.c.username_key)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(users.c.username_key > after)
    return [BanRow(*row) for row in conn.execute(statement)]


def set_mute(conn: Connection, room_key: int, user_key: int, expires_at: int | None) -> None:
    """Mute a user until a time (ms); None: unmute."""
    conn.execute(delete(mutes).where(mutes.c.room_id == room_key, mutes.c.user_id == user_key))
    if expires_at is not None:
        conn.execute(insert(mutes).values(room_id=room_key, user_id=user_key, expires_at=expires_at))
    conn.execute(
        update(members)
        .where(members.c.room_id == room_key, members.c.user_id == user_key)
        .values(muted_until=expires_at)
    )


class LinkRow(NamedTuple):
    room_key: int
    room_id: str
    code: str
    username: str
    """Its creator."""
    created_at: int
    expires_at: int | None
    uses_left: int | None


_LINKS = (
    select(
        invitation_links.c.room_id,
        rooms.c.room_id,
        invitation_links.c.code,
        users.c.username,
        invitation_links.c.created_at,
        invitation_links.c.expires_at,
        invitation_links.c.uses_left,
    )
    .join_from(invitation_links, rooms, rooms.c.id == invitation_links.c.room_id)
    .join(users, users.c.id == invitation_links.c.user_id)
    # A link acts for its creator: it is valid while the creator is in the room and not disabled.
    .join(members, and_(members.c.room_id == rooms.c.id, members.c.user_id == users.c.id))
    .where(
        users.c.disabled.is_(False),
        or_(invitation_links.c.expires_at.is_(None), invitation_links.c.expires_at > bindparam("now")),
        or_(invitation_links.c.uses_left.is_(None), invitation_links.c.uses_left > 0),
    )
)
_LINK = _LINKS.where(invitation_links.c.code == bindparam("code"))


def link(conn: Connection, code: str, now: int) -> LinkRow | None:
    """A valid invitation link."""
    row = conn.execute(_LINK, {"code": code, "now": now}).first()
    return None if row is None else LinkRow(*row)


def links_into(
    conn: Connection, room_key: int, now: int, *, creator: int | None, after: str | None, limit: int
) -> list[LinkRow]:
    """A page of the valid links to a room, sorted by code. `creator`: only links of this user."""
    statement = _LINKS.where(invitation_links.c.room_id == room_key).order_by(invitation_links.c.code).limit(limit)
    if creator is not None:
        statement = statement.where(users.c.id == creator)
    if after is not None:
        statement = statement.where(invitation_links.c.code > after)
    return [LinkRow(*row) for row in conn.execute(statement, {"now": now})]


def add_link(conn: Connection, new: LinkRow, user_key: int) -> None:
    conn.execute(
        insert(invitation_links).values(
            code=new.code,
            room_id=new.room_key,
            user_id=user_key,
            created_at=new.created_at,
            expires_at=new.expires_at,
            uses_left=new.uses_left,
        )
    )


def use_link(conn: Connection, code: str) -> None:
    """Count a use of a link."""
    conn.execute(
        update(invitation_links)
        .where(invitation_links.c.code == code, invitation_links.c.uses_left.is_not(None))
        .values(uses_left=invitation_links.c.uses_left - 1)
    )


def remove_links_of(conn: Connection, room_key: int, user_key: int) -> None:
    """Delete all links of a user to a room."""
    conn.execute(
        delete(invitation_links).where(invitation_links.c.room_id == room_key, invitation_links.c.user_id == user_key)
    )


def remove_link(conn: Connection, code: str) -> None:
    conn.execute(delete(invitation_links).where(invitation_links.c.code == code))


def by_name(conn: Connection, pairs: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
    """The usernames of the members with these (room, `username_key`) pairs."""
    names_by_key: dict[tuple[int, str], str] = {}
    for chunk in chunked(pairs):
        for room, key, name in conn.execute(_select_named(conn.dialect.name), {"pairs": values_of(chunk)}):
            names_by_key[int(room), str(key)] = str(name)
    return names_by_key


@cache
def _select_named(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, username_key=str)
    return (
        select(pair.c.room_key, users.c.username_key, users.c.username)
        .join_from(pair, users, users.c.username_key == pair.c.username_key)
        .join(members, and_(members.c.room_id == pair.c.room_key, members.c.user_id == users.c.id))
    )


def is_presence_shared(conn: Connection, user_key: int, other_key: int, up_to: int) -> bool:
    """Whether two users share a conversation, or a topic of up to that many members."""
    member, other = members.alias("member_1"), members.alias("member_2")
    shared = (
        exists()
        .where(member.c.user_id == user_key, other.c.user_id == other_key, other.c.room_id == member.c.room_id)
        .where(rooms.c.id == member.c.room_id, or_(rooms.c.kind != "topic", rooms.c.members <= up_to))
    )
    return bool(conn.execute(select(shared)).scalar_one())


def successor(conn: Connection, room_key: int) -> tuple[int, str] | None:
    """The next owner when the owner leaves: the longest-standing moderator, or else member."""
    row = conn.execute(
        select(users.c.id, users.c.username)
        .join_from(members, users, users.c.id == members.c.user_id)
        .where(members.c.room_id == room_key)
        .order_by(case((members.c.role == "moderator", 0), else_=1), members.c.joined_at, members.c.user_id)
        .limit(1)
    ).first()
    return None if row is None else (int(row[0]), str(row[1]))


def owners(conn: Connection, room_key: int) -> list[tuple[int, str]]:
    """The owner of a room: user key and username; empty in a direct conversation."""
    statement = (
        select(users.c.id, users.c.username)
        .join_from(members, users, users.c.id == members.c.user_id)
        .where(members.c.room_id == room_key, members.c.role == "owner")
    )
    return [(int(key), str(username)) for key, username in conn.execute(statement)]


def list_members(conn: Connection, room_key: int, after: str | None, limit: int) -> list[MemberRow]:
    """A page of members, sorted by username key. `after`: the last key of the previous page."""
    statement = (
        select(
            users.c.id,
            users.c.username,
            members.c.role,
            users.c.last_seen,
            members.c.muted_until,
            *PROFILE_COLUMNS,
        )
        .join_from(members, users, users.c.id == members.c.user_id)
        .where(members.c.room_id == room_key)
        .order_by(users.c.username_key)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(users.c.username_key > after)
    return list(map(MemberRow._make, conn.execute(statement)))


def usernames(conn: Connection, room_key: int, limit: int, among: Sequence[int] | None = None) -> dict[int, str]:
    """The first `limit` members by username: key -> username. `among`: only these users."""
    statement = (
        select(users.c.id, users.c.username)
        .join_from(members, users, users.c.id == members.c.user_id)
        .where(members.c.room_id == room_key)
        .order_by(users.c.username_key)
        .limit(limit)
    )
    if among is not None:
        statement = statement.where(members.c.user_id.in_(among))
    return dict(conn.execute(statement).all())


def joined(conn: Connection, room_key: int, user_keys: Sequence[int]) -> dict[int, int]:
    """Those of the users who are members of a room -> how many memberships had ended when they joined."""
    by_user: dict[int, int] = {}
    for chunk in chunked(user_keys):
        statement = select(members.c.user_id, members.c.joined_removals).where(
            members.c.room_id == room_key, members.c.user_id.in_(chunk)
        )
        by_user.update(conn.execute(statement).all())
    return by_user


def users_of(conn: Connection, room_keys: Collection[int]) -> dict[int, Sequence[int]]:
    """The members of rooms, on PostgreSQL."""
    sql = "SELECT room_id, array_agg(user_id) FROM member WHERE room_id = ANY($1::bigint[]) GROUP BY room_id"
    return dict(on_postgresql(conn, sql, list(room_keys)))


def rooms_of(conn: Connection, user_keys: Sequence[int]) -> dict[int, set[int]]:
    """The rooms that users are in."""
    by_user: dict[int, set[int]] = {}
    for chunk in chunked(user_keys):
        statement = select(members.c.user_id, members.c.room_id).where(members.c.user_id.in_(chunk))
        for user_key, room_key in conn.execute(statement):
            by_user.setdefault(user_key, set()).add(room_key)
    return by_user
