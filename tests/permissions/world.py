"""A room of each kind for every caller, created through the journal, and restored after each change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.engine import Connection

from tests.permissions.rights import CALLERS, DIRECT, GROUP, INSIDE, KEYS, PRIVATE, PUBLIC, ROOMS, Act
from tests.support.node import RunningNode
from tidings.auth.keys import create as create_key
from tidings.auth.names import name_key
from tidings.auth.principal import Principal
from tidings.auth.tokens import now_ms
from tidings.contract.models import Role
from tidings.contract.permissions import KeyScope, Permission
from tidings.log import memberships
from tidings.log.messages import AppendMessage
from tidings.log.rooms import CreateGroup, CreateTopic, OpenDirect
from tidings.log.transaction import Operation
from tidings_db.models import bans, invitation_links, members, mutes, read_markers, rooms
from tidings_db.queries import users

OTHERS = ("chief", "deputy", "target", "barred", "guest")
WROTE = (*INSIDE, "removed", "banned")
"""Callers who are or were members and have written."""
_KEPT: tuple[Table, ...] = (members, bans, mutes, read_markers, invitation_links)
_OF_ROOM = ("members", "title", "name_key", "topic_name", "is_private")


@dataclass
class Place:
    """A room of the world, with the messages and links that acts name."""

    key: int
    room_id: str
    topic_name: str | None
    own: list[str] = field(default_factory=list)
    """Messages of the caller, which stream; empty if the caller never wrote."""
    theirs: list[str] = field(default_factory=list)
    """Messages of the user `target`."""
    links: list[str] = field(default_factory=list)


class World:
    """`places[room, caller]`: for each caller a room of each kind, in which the caller has the role of that name.

    Chief owns the room (except the owner's), deputy moderates it, target is a member, barred is banned, and guest is
    not in it. A direct conversation is between the caller and target, or, for a caller outside, between chief and
    target; a moderator or muted caller has no such role there.
    """

    def __init__(self, node: RunningNode) -> None:
        self._journal, self._db, self._auth = node.node.journal, node.node.database, node.node.auth
        self.tokens: dict[str, str] = {}
        self.principals: dict[str, Principal] = {}
        self.places: dict[tuple[str, str], Place] = {}

    async def make(self, doors: int) -> World:
        """`doors`: the number of gateways; each has messages and a link of its own to use up."""
        await self._db.write(_add_users)
        for name in (*CALLERS, *OTHERS):
            if name in KEYS:
                scope = KeyScope(name.removeprefix("key-"))
                self.tokens[name] = await self._db.write(
                    partial(create_key, name=name, scopes=[scope], room_key=None, now=now_ms())
                )
            else:
                self.tokens[name], _ = await self._auth.sign_in(await self._auth.user(name))
            self.principals[name] = await self._auth.authenticate(self.tokens[name])
        cells = [(room, caller) for room in ROOMS for caller in CALLERS]
        keys = [_key(result) for result in await self._write(self._create(*cell) for cell in cells)]
        rows = await self._db.read(lambda conn: conn.execute(select(rooms)).all())
        row = {row.id: row for row in rows}
        self.places = {
            cell: Place(key, row[key].room_id, row[key].topic_name) for cell, key in zip(cells, keys, strict=True)
        }
        many = [cell for cell in cells if cell[0] != DIRECT]
        await self._write(
            self._join(room, caller, name)
            for room, caller in many
            for name in ("deputy", "target", *((caller,) if caller in WROTE and caller != "owner" else ()))
        )
        for _ in range(doors):
            writers = [
                cell
                for cell in cells
                if cell[1] in (WROTE if cell[0] != DIRECT else INSIDE) or cell[1] == "key-publish"
            ]
            own = await self._write(
                AppendMessage(self.principals[cell[1]], self.places[cell].key, "hola", streams=True)
                for cell in writers
            )
            theirs = await self._write(
                AppendMessage(self.principals["target"], self.places[cell].key, "hola", streams=True)
                for cell in cells
            )
            for cell, message in zip(writers, own, strict=True):
                self.places[cell].own.append(message["id"])
            for cell, message in zip(cells, theirs, strict=True):
                self.places[cell].theirs.append(message["id"])
            linked = [cell for cell in many if cell[0] != PUBLIC]
            links = await self._write(
                memberships.CreateLink(self.principals["target"], self.places[cell].key, None, None)
                for cell in linked
            )
            for cell, link in zip(linked, links, strict=True):
                self.places[cell].links.append(link.code)
        await self._write(change for cell in many for change in self._moderate(*cell))
        return self

    def fields(self, act: Act, room: str, caller: str, door: int) -> dict[str, Any]:
        """The payload of an act."""
        place = self.places[room, caller]
        match act.by:
            case "own":
                named = {"message_id": place.own[door] if place.own else "none"}
            case "theirs":
                named = {"message_id": place.theirs[door]}
            case "link":
                named = {"code": place.links[door]}
            case "cursors":
                return {"cursors": {place.room_id: 0}}
            case by:
                named = {by: str(place.topic_name) if by == "topic_name" else place.room_id}
        return {**named, **act.fields}

    async def kept(self, place: Place) -> list[Any]:
        """Everything stored about a room except its log."""
        return await self._db.read(lambda conn: _read(conn, place.key))

    async def put_back(self, place: Place, kept: list[Any]) -> None:
        await self._db.write(lambda conn: _put_back(conn, place.key, kept))

    async def entries(self, place: Place) -> int:
        head = select(rooms.c.last_seq).where(rooms.c.id == place.key)
        return await self._db.read(lambda conn: int(conn.execute(head).scalar_one()))

    def _create(self, room: str, caller: str) -> Operation[Any]:
        owner, target = self.principals["owner" if caller == "owner" else "chief"], self.principals["target"].user_key
        name = f"{room} {caller}"
        if room in (PUBLIC, PRIVATE):
            return CreateTopic(owner, None, name, name_key(name), room == PRIVATE)
        if room == GROUP:
            return CreateGroup(owner, None, (), name)
        return OpenDirect(self.principals[caller if caller in INSIDE else "chief"], None, target)

    def _join(self, room: str, caller: str, name: str) -> Operation[Any]:
        owner = self.principals["owner" if caller == "owner" else "chief"]
        actor, need = (self.principals[name], Permission.JOIN) if room == PUBLIC else (owner, Permission.INVITE)
        return memberships.Join(actor, self.places[room, caller].key, self.principals[name].user_key, name, need)

    def _moderate(self, room: str, caller: str) -> Iterable[Operation[Any]]:
        owner, key = self.principals["owner" if caller == "owner" else "chief"], self.places[room, caller].key
        me = (owner, key, self.principals[caller].user_key, caller)
        yield memberships.ChangeRole(owner, key, self.principals["deputy"].user_key, "deputy", Role.MODERATOR)
        yield memberships.BanFromRoom(owner, key, self.principals["barred"].user_key, "barred", None)
        match caller:
            case "muted":
                yield memberships.MuteMember(*me, 3600)
            case "moderator":
                yield memberships.ChangeRole(*me, Role.MODERATOR)
            case "removed":
                yield memberships.KickMember(*me)
            case "banned":
                yield memberships.BanFromRoom(*me, None)

    async def _write(self, changes: Iterable[Operation[Any]]) -> list[Any]:
        return await asyncio.gather(*(self._journal.write(change) for change in changes))


def _key(result: Any) -> int:
    return result if isinstance(result, int) else int(result.room.key)


def _add_users(conn: Connection) -> None:
    for name in {*CALLERS, *OTHERS} - {*KEYS}:
        key = users.add(conn, name, None, now_ms())
        assert key is not None
        if name == "admin":
            users.set_admin(conn, key, True)


def _read(conn: Connection, key: int) -> list[Any]:
    room = conn.execute(select(*(rooms.c[name] for name in _OF_ROOM)).where(rooms.c.id == key)).mappings().one()
    of_room = (
        conn.execute(select(table).where(table.c.room_id == key).order_by(*table.primary_key)).mappings().all()
        for table in _KEPT
    )
    return [dict(room), *([dict(row) for row in rows] for rows in of_room)]


def _put_back(conn: Connection, key: int, kept: list[Any]) -> None:
    conn.execute(update(rooms).where(rooms.c.id == key).values(kept[0]))
    for table, rows in zip(_KEPT, kept[1:], strict=True):
        conn.execute(delete(table).where(table.c.room_id == key))
        if rows:
            conn.execute(insert(table), rows)
