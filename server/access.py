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
from db.queries import log, rooms, users
from db.queries.rooms import LinkRow
from db.queries.rows import EntryRow, RoomRow
from server import names
from server.auth import now_ms
from server.contract.actions import RoomRef
from server.contract.errors import invalid, not_found
from server.contract.models import Role, RoomKind
from server.contract.permissions import Permission, refusal
from server.delivery.connection import Principal

T = TypeVar("T")
KNOWN = 50_000
"""How many references the directory keeps."""
NAMES_KEPT_S = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a room reference names: a room, or a user with whom there is no conversation yet."""

    room_key: int | None
    user_key: int | None = None


class Directory:
    """Which room a reference names. Ids never change hands, so what was found may be kept.

    A topic's name does when an administrator deletes the topic: it is kept for `NAMES_KEPT_S`.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._known: OrderedDict[tuple[int | None, str, str], tuple[int, float]] = OrderedDict()

    async def topic(self, name: str) -> int:
        """Look a topic's name up. Raises `not_found`."""
        key = self._get((None, "name", name))
        if key is None:
            room = await self._db.read(partial(rooms.find, name_key=names.name_key(name.strip())))
            if room is None:
                raise not_found()
            key = self._keep((None, "name", name), room.key)
        return key

    async def find(self, principal: Principal, room_id: str | None, topic: str | None, user: str | None) -> Found:
        """Look a reference up. Says nothing about whether the caller may know. Raises `not_found`."""
        # A name may mean a direct conversation, which depends on who asks; an id does not.
        ref: tuple[int | None, str, str]
        if room_id is not None:
            ref = (None, "id", room_id)
        elif topic is not None:
            ref = (principal.user_key, "topic", topic)
        else:
            ref = (principal.user_key, "user", user or "")
        key = self._get(ref)
        if key is not None:
            return Found(key)
        found = await self._db.read(lambda conn: _look_up(conn, principal, room_id, topic, user))
        if found.room_key is not None:
            self._keep(ref, found.room_key)
        return found

    def forget(self, room_key: int) -> None:
        """The room is no more: its name may be another's soon."""
        for ref in [ref for ref, (key, _) in self._known.items() if key == room_key]:
            del self._known[ref]

    def _get(self, ref: tuple[int | None, str, str]) -> int | None:
        known = self._known.get(ref)
        if known is None:
            return None
        key, until = known
        if until < time.monotonic():
            del self._known[ref]
            return None
        self._known.move_to_end(ref)
        return key

    def _keep(self, ref: tuple[int | None, str, str], key: int) -> int:
        self._known[ref] = (key, math.inf if ref[1] == "id" else time.monotonic() + NAMES_KEPT_S)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return key


def _look_up(
    conn: Transaction, principal: Principal, room_id: str | None, topic: str | None, user: str | None
) -> Found:
    if room_id is not None:
        room = rooms.find(conn, room_id=room_id)
        if room is None:
            raise not_found()
        return Found(room.key)
    if topic is not None:
        room = rooms.find(conn, name_key=names.name_key(topic.strip()))
        if room is not None:
            return Found(room.key)
        user = topic
    username = names.try_username((user or "").strip())
    other = users.by_username(conn, username) if username else None
    if other is None:
        raise not_found("user" if topic is None else "room")
    if other.key == principal.user_key:
        raise invalid("username" if topic is None else "topic_name", "that is yourself")
    direct = rooms.find_direct(conn, principal.user_key, other.key)
    return Found(None if direct is None else direct.key, other.key)


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
        found = await self._db.read(lambda conn: rooms.link(conn, code, now_ms()))
        if found is None:
            raise not_found("invitation link")
        return found

    async def room_key(self, *, room_id: str | None = None, topic_name: str | None = None) -> int:
        """As `find`, for a reference that can only mean a room: a name means a topic, never a user."""
        if room_id is None:
            assert topic_name is not None
            return await self._directory.topic(topic_name)
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
            room, standing = rooms.by_key(conn, key), rooms.standing(conn, key, user_key, now_ms())
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
