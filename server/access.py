"""The only way to get hold of a room: load and check in one call."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from db.engine import Database
from db.queries import log, members, rooms, users
from db.queries.members import LinkRow
from db.queries.rows import EntryRow, RoomRow
from server import names
from server.auth import now_ms
from server.contract.actions import RoomRef
from server.contract.errors import invalid, not_found
from server.contract.models import Role, RoomKind
from server.contract.permissions import Permission, refusal
from server.delivery.connection import Principal

T = TypeVar("T")
KNOWN = 100_000
"""How many references the directory keeps, of all users together."""
NAMES_KEPT_S = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a room reference names: a room, or a user with whom there is no conversation yet."""

    room_key: int | None
    user_key: int | None = None
    is_member: bool = False


NO_ROOM = 0
"""The key of no room. What is missing is looked for to the end, as what is private: so it takes the same time."""


class Directory:
    """Which room a reference names, for one user.

    Kept only for members: a stranger pays for the look-up every time, whether there is a private room or none. Ids
    never change hands; a topic's name does when an administrator deletes it, so names are kept for `NAMES_KEPT_S`.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._known: OrderedDict[tuple[int, str, str], tuple[int, float]] = OrderedDict()

    async def topic(self, principal: Principal, name: str) -> int:
        """As `find`, for a name that can only mean a topic."""
        return await self._room(principal, ("name", name))

    async def find(self, principal: Principal, room_id: str | None, topic: str | None, user: str | None) -> Found:
        """Look a reference up; `NO_ROOM` if there is no such room. Says nothing about whether the caller may know.

        Raises `not_found` for a user.
        """
        if room_id is not None:
            return Found(await self._room(principal, ("id", room_id)))
        ref = ("topic", topic) if topic is not None else ("user", user or "")
        key = self._get(principal, ref)
        if key is not None:
            return Found(key)
        found = await self._db.read(partial(_look_up, principal=principal, topic=topic, user=user))
        if found.is_member and found.room_key is not None:
            self._keep(principal, ref, found.room_key)
        return found

    async def _room(self, principal: Principal, ref: tuple[str, str]) -> int:
        key = self._get(principal, ref)
        if key is None:
            found = await self._db.read(partial(_look_up_room, principal=principal, ref=ref))
            key = found.room_key or NO_ROOM
            if found.is_member:
                self._keep(principal, ref, key)
        return key

    def forget(self, room_key: int) -> None:
        """The room is no more: its name may be another's soon."""
        for ref in [ref for ref, (key, _) in self._known.items() if key == room_key]:
            del self._known[ref]

    def _get(self, principal: Principal, ref: tuple[str, str]) -> int | None:
        at = (principal.user_key, *ref)
        known = self._known.get(at)
        if known is None:
            return None
        key, until = known
        if until < time.monotonic():
            del self._known[at]
            return None
        self._known.move_to_end(at)
        return key

    def _keep(self, principal: Principal, ref: tuple[str, str], key: int) -> None:
        until = math.inf if ref[0] == "id" else time.monotonic() + NAMES_KEPT_S
        self._known[principal.user_key, *ref] = (key, until)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def _look_up_room(conn: Transaction, principal: Principal, ref: tuple[str, str]) -> Found:
    kind, value = ref
    if kind == "id":
        return _found(conn, principal, rooms.find(conn, room_id=value))
    return _found(conn, principal, rooms.find(conn, name_key=names.name_key(value.strip())))


def _found(conn: Transaction, principal: Principal, room: RoomRow | None) -> Found:
    key = NO_ROOM if room is None else room.key
    standing = members.standing(conn, key, principal.user_key, now_ms())
    return Found(key, is_member=standing.role is not None)


def _look_up(conn: Transaction, principal: Principal, topic: str | None, user: str | None) -> Found:
    """A topic, or the user of that name."""
    found = Found(None) if topic is None else _look_up_room(conn, principal, ("name", topic))
    username = names.try_username(((user if topic is None else topic) or "").strip())
    other = users.by_username(conn, username) if username else None
    if found.room_key:
        return found
    if other is None:
        if topic is None:
            raise not_found("user")
        return found
    if other.key == principal.user_key:
        raise invalid("username" if topic is None else "topic_name", "that is yourself")
    direct = rooms.find_direct(conn, principal.user_key, other.key)
    return Found(None if direct is None else direct.key, other.key, is_member=direct is not None)


class Access:
    """A caller's access to rooms."""

    def __init__(self, database: Database, directory: Directory, principal: Principal) -> None:
        self._db = database
        self._directory = directory
        self._principal = principal

    async def find(self, ref: RoomRef) -> Found:
        """What a reference names, for a change that the journal will judge within its transaction.

        Nothing of the room may be told to the caller before that.
        """
        return await self._directory.find(self._principal, ref.room_id, ref.topic_name, ref.username)

    async def existing(self, ref: RoomRef) -> int:
        """As `find`, for a change of a room that there must be. Raises `not_found`."""
        found = await self.find(ref)
        if found.room_key is None:
            raise not_found("conversation")
        return found.room_key

    async def link(self, code: str) -> LinkRow:
        """An invitation link that is still good. Raises `not_found`."""
        found = await self._db.read(lambda conn: members.link(conn, code, now_ms()))
        if found is None:
            raise not_found("invitation link")
        return found

    async def room_key(self, *, room_id: str | None = None, topic_name: str | None = None) -> int:
        """As `find`, for a reference that can only mean a room: a name means a topic, never a user."""
        if room_id is None:
            assert topic_name is not None
            return await self._directory.topic(self._principal, topic_name)
        found = await self._directory.find(self._principal, room_id, None, None)
        assert found.room_key is not None
        return found.room_key

    async def message(self, message_id: str) -> EntryRow:
        """A message of a room that the caller is in, for a change that the journal will judge within its transaction.

        Raises `not_found`, whether there is no such message or it is not for the caller to know.
        """
        me = self._principal.user_key
        found = await self._db.read(lambda conn: log.message_of_member(conn, me, message_id))
        if found is None:
            raise not_found("message")
        return found

    async def room(self, ref: RoomRef, need: Permission, query: Callable[[Transaction, RoomRow], T]) -> T:
        """Load the room, check that the caller may do that in it, and query it: all in one snapshot.

        Raises `not_found` or `forbidden`.
        """
        key, user_key = await self.existing(ref), self._principal.user_key

        def load(conn: Transaction) -> T:
            room, standing = rooms.by_key(conn, key), members.standing(conn, key, user_key, now_ms())
            if room is None:
                raise not_found()
            role = Role(standing.role) if standing.role else None
            muted = standing.muted_until is not None and standing.muted_until > now_ms()
            refused = refusal(
                RoomKind(room.kind),
                room.is_private,
                role,
                standing.banned,
                need,
                muted_until=standing.muted_until if muted else None,
                blocked=standing.blocked,
            )
            if refused is not None:
                raise refused
            return query(conn, room)

        return await self._db.read(load)
