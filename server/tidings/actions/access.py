"""Access to rooms: resolve a reference, then load and check the room in one call."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from tidings.auth import names
from tidings.auth.callers import CallersDatabase
from tidings.auth.principal import Principal
from tidings.auth.tokens import now_ms
from tidings.contract.actions import RoomRef
from tidings.contract.errors import invalid, not_found
from tidings.contract.models import Role, RoomKind
from tidings.contract.permissions import Permission, refusal
from tidings_db.engine import Database
from tidings_db.queries import log, members, rooms, users
from tidings_db.queries.members import LinkRow
from tidings_db.queries.rows import EntryRow, RoomRow

T = TypeVar("T")
MAX_CACHED = 100_000
"""References that the directory caches, of all users together."""
NAMES_CACHED_S = 30.0


@dataclass(frozen=True, slots=True)
class RoomTarget:
    """The target of a room reference: a room, or a user without a conversation with the caller yet."""

    room_key: int | None
    user_key: int | None = None
    is_member: bool = False


NO_ROOM = 0
"""A key that no room has. A missing room is queried like a private one, so that both take the same time."""


class Directory:
    """Resolves room references for a user, with a cache.

    Only members' references are cached, so that a non-member cannot distinguish a private room from a missing one by
    time. An id is never reused. The name of a deleted topic may be, so names expire after `NAMES_CACHED_S`.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._cached: OrderedDict[tuple[int, str, str], tuple[int, float]] = OrderedDict()
        self.founders: dict[str, Callable[[], Awaitable[object]]] = {}
        """By name key: creates a topic when a user first enters it."""

    async def topic(self, principal: Principal, name: str) -> int:
        """`find` for a name that can only be that of a topic."""
        key = await self._room(principal, ("name", name))
        create = self.founders.get(names.name_key(name)) if key == NO_ROOM and self.founders else None
        if create is not None:
            await create()
            key = await self._room(principal, ("name", name))
        return key

    async def has(self, name: str) -> bool:
        """Whether a topic of that name exists, public or private."""
        room = await self._db.read(lambda conn: rooms.find(conn, name_key=names.name_key(name)))
        return room is not None

    async def find(
        self, principal: Principal, room_id: str | None, topic: str | None, user: str | None
    ) -> RoomTarget:
        """Resolve a reference; the key is `NO_ROOM` for a missing room. Does not check that the caller may see the
        room.

        Raises `not_found` for a missing user.
        """
        if room_id is not None:
            return RoomTarget(await self._room(principal, ("id", room_id)))
        ref = ("topic", topic) if topic is not None else ("user", user or "")
        key = self._get(principal, ref)
        if key is not None:
            return RoomTarget(key)
        target = await self._db.read(partial(_look_up, principal=principal, topic=topic, user=user))
        if target.is_member and target.room_key is not None:
            self._keep(principal, ref, target.room_key)
        return target

    async def _room(self, principal: Principal, ref: tuple[str, str]) -> int:
        key = self._get(principal, ref)
        if key is None:
            target = await self._db.read(partial(_look_up_room, principal=principal, ref=ref))
            key = target.room_key or NO_ROOM
            if target.is_member:
                self._keep(principal, ref, key)
        return key

    def forget(self, room_key: int) -> None:
        """Drop a deleted room: its name may be reused."""
        for ref in [ref for ref, (key, _) in self._cached.items() if key == room_key]:
            del self._cached[ref]

    def _get(self, principal: Principal, ref: tuple[str, str]) -> int | None:
        cache_key = (principal.user_key, *ref)
        cached = self._cached.get(cache_key)
        if cached is None:
            return None
        key, until = cached
        if until < time.monotonic():
            del self._cached[cache_key]
            return None
        self._cached.move_to_end(cache_key)
        return key

    def _keep(self, principal: Principal, ref: tuple[str, str], key: int) -> None:
        until = math.inf if ref[0] == "id" else time.monotonic() + NAMES_CACHED_S
        self._cached[principal.user_key, *ref] = (key, until)
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)


def _look_up_room(conn: Transaction, principal: Principal, ref: tuple[str, str]) -> RoomTarget:
    kind, value = ref
    if kind == "id":
        return _target(conn, principal, rooms.find(conn, room_id=value))
    return _target(conn, principal, rooms.find(conn, name_key=names.name_key(value.strip())))


def _target(conn: Transaction, principal: Principal, room: RoomRow | None) -> RoomTarget:
    key = NO_ROOM if room is None else room.key
    standing = members.standing(conn, key, principal.user_key, now_ms())
    return RoomTarget(key, is_member=standing.role is not None)


def room_id_of(conn: Transaction, room: str) -> str | None:
    """The id of the room with an id, or else of the topic with a name; None if there is none."""
    found = _named(conn, room)
    return None if found is None else found.room_id


def room_ids_of(conn: Transaction, user_key: int) -> list[str]:
    """The ids of a user's rooms, in the order of their creation."""
    keys = members.rooms_of(conn, [user_key]).get(user_key, set())
    found = (rooms.by_key(conn, key) for key in sorted(keys))
    return [room.room_id for room in found if room is not None]


def public_topic(
    conn: Transaction, user_key: int | None, *, room_id: str | None, topic_name: str | None
) -> tuple[RoomRow, bool]:
    """A public topic, and whether the user is in it. Raises `not_found`, for a private one after the same queries."""
    name_key = None if topic_name is None else names.name_key(topic_name.strip())
    room = rooms.find(conn, room_id=room_id, name_key=name_key)
    if room is None or room.is_private:
        raise not_found("topic")
    return room, user_key is not None and members.standing(conn, room.key, user_key, now_ms()).role is not None


def _named(conn: Transaction, room: str) -> RoomRow | None:
    return rooms.find(conn, room_id=room) or rooms.find(conn, name_key=names.name_key(room.strip()))


def is_member(conn: Transaction, room: str, username: str) -> bool:
    """Whether a user is a member of the room with an id, or else of the topic with a name."""
    found = _named(conn, room)
    key = names.try_username_key(username.strip())
    user = users.by_key(conn, key) if key else None
    return (
        found is not None
        and user is not None
        and members.standing(conn, found.key, user.key, now_ms()).role is not None
    )


def _look_up(conn: Transaction, principal: Principal, topic: str | None, user: str | None) -> RoomTarget:
    """Resolve a name to a topic or else to the user of that name."""
    target = RoomTarget(None) if topic is None else _look_up_room(conn, principal, ("name", topic))
    key = names.try_username_key(((user if topic is None else topic) or "").strip())
    user_row = users.by_key(conn, key) if key else None
    if target.room_key:
        return target
    if user_row is None:
        if topic is None:
            raise not_found("user")
        return target
    if user_row.key == principal.user_key:
        raise invalid("username" if topic is None else "topic_name", "that is yourself")
    direct = rooms.find_direct(conn, principal.user_key, user_row.key)
    return RoomTarget(None if direct is None else direct.key, user_row.key, is_member=direct is not None)


class Access:
    """A caller's access to rooms."""

    def __init__(self, database: CallersDatabase, directory: Directory, principal: Principal) -> None:
        self._db = database
        self._directory = directory
        self._principal = principal

    async def find(self, ref: RoomRef) -> RoomTarget:
        """Resolve a reference for a change that the journal checks within its transaction.

        Nothing about the room may be disclosed to the caller before that check.
        """
        return await self._directory.find(self._principal, ref.room_id, ref.topic_name, ref.username)

    async def existing(self, ref: RoomRef) -> int:
        """`find` for a room that must exist. Raises `not_found`."""
        target = await self.find(ref)
        if target.room_key is None:
            raise not_found("conversation")
        return target.room_key

    async def link(self, code: str) -> LinkRow:
        """A valid invitation link. Raises `not_found`."""
        row = await self._db.read(lambda conn: members.link(conn, code, now_ms()))
        if row is None:
            raise not_found("invitation link")
        return row

    async def room_key(self, *, room_id: str | None = None, topic_name: str | None = None) -> int:
        """`find` for a reference that is never a user: a name is that of a topic."""
        if room_id is None:
            assert topic_name is not None
            return await self._directory.topic(self._principal, topic_name)
        target = await self._directory.find(self._principal, room_id, None, None)
        assert target.room_key is not None
        return target.room_key

    async def message(self, message_id: str) -> EntryRow:
        """A message of a room that the caller is in, for a change that the journal checks within its transaction.

        Raises `not_found` if the message does not exist or the caller may not see it.
        """
        # A key may be no member; the journal checks its scopes, in the room of the message.
        user_key = None if self._principal.granted else self._principal.user_key
        entry = await self._db.read(lambda conn: log.message_of_member(conn, user_key, message_id))
        if entry is None:
            raise not_found("message")
        return entry

    async def messages(self, message_ids: Sequence[str]) -> list[EntryRow]:
        """Those of the messages that the caller may read."""
        principal = self._principal
        user_key = None if principal.granted else principal.user_key
        found = await self._db.read(lambda conn: log.messages_of_member(conn, user_key, message_ids))
        if user_key is not None:
            return found
        return [entry for entry in found if Permission.READ in principal.granted_in(entry.room_key)]

    async def room(self, ref: RoomRef, need: Permission, query: Callable[[Transaction, RoomRow], T]) -> T:
        """Load the room, check the caller's permission `need`, and run the query: all in one snapshot.

        Raises `not_found` or `forbidden`.
        """
        key, user_key = await self.existing(ref), self._principal.user_key

        def load(conn: Transaction) -> T:
            room, standing = rooms.by_key(conn, key), members.standing(conn, key, user_key, now_ms())
            if room is None:
                raise not_found()
            role = Role(standing.role) if standing.role else None
            muted = standing.muted_until is not None and standing.muted_until > now_ms()
            error = refusal(
                RoomKind(room.kind),
                room.is_private,
                role,
                standing.banned,
                need,
                muted_until=standing.muted_until if muted else None,
                blocked=standing.blocked,
                posting=room.posting,
                granted=self._principal.granted_in(room.key),
            )
            if error is not None:
                raise error
            return query(conn, room)

        return await self._db.read(load)
