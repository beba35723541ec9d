"""Receipts: how far a member has received and read a room, for the other members; and the change of a read marker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from tidings.contract.errors import invalid
from tidings.contract.permissions import Permission
from tidings.log.cursors import RECEIPT_MEMBERS
from tidings.log.notices import Notice, Personal, Transient
from tidings.log.preferences import publish_preferences
from tidings.log.transaction import Operation, Work
from tidings.log.views import receipt
from tidings_db.queries import blocks, log, members, progress, rooms
from tidings_db.queries.progress import MarkerRow


@dataclass(frozen=True, slots=True)
class MarkRead(Operation[int]):
    """Move the actor's read marker forwards; the result is the number of unread messages."""

    seq: int

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, Permission.READ)
        if self.seq > room.row.last_seq:
            raise invalid("seq", f"the room's log ends at {room.row.last_seq}")
        work.save()
        member = (self.room_key, self.actor.user_key)
        before = after = rooms.reading(work.conn, self.actor.user_key, room.row)
        if self.seq > before.read_seq:
            marker = MarkerRow(self.seq, log.messages_upto(work.conn, room.row, self.seq))
            after = before.read_to(*marker)
            progress.save_markers(work.conn, {member: marker}, work.now)
            work.publish_entries(room)
            for notice in notices(work.conn, [member], to_self=True):
                work.publish(notice)
        if before.unread_from is not None and self.seq >= before.unread_from:
            members.prefer(work.conn, *member, {"unread_from": None})
            return publish_preferences(work, room, self.actor.user_key).unread
        return after.unread


def notices(conn: Connection, moved: Iterable[tuple[int, int]], *, to_self: bool = False) -> list[Notice]:
    """The receipts of these (room, user) pairs, whose users have received or read more.

    In a room of up to `RECEIPT_MEMBERS`, a receipt goes to the members except those whom the user has blocked. In a
    larger room it goes nowhere, or with `to_self` to the user's own devices.
    """
    rows = progress.receipts(conn, moved)
    shown = [row for row in rows if row.members <= RECEIPT_MEMBERS]
    blocked = blocks.blocked_of(conn, {row.user_key for row in shown}) if shown else {}
    published: list[Notice] = [
        Transient(row.room_key, "receipt", receipt(row), hidden_from=frozenset(blocked.get(row.user_key, ())))
        for row in shown
    ]
    if to_self:
        published += [
            Personal(row.user_key, "receipt", receipt(row)) for row in rows if row.members > RECEIPT_MEMBERS
        ]
    return published
