"""Receipts: how far a member has received and read a room, for the other members; and the change of a read marker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from db.queries import log, progress, users
from db.queries.progress import MarkerRow
from server.contract.errors import invalid
from server.contract.permissions import Permission
from server.log.cursors import RECEIPT_MEMBERS
from server.log.notices import Channel, Notice, Personal, RoomChannel, Transient, UserChannel
from server.log.transaction import Operation, Work
from server.log.views import receipt


@dataclass(frozen=True, slots=True)
class MarkRead(Operation[int]):
    """Move the actor's read marker forwards; returns how many messages are left unread."""

    seq: int

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor.user_key, Permission.READ)
        if self.seq > room.row.last_seq:
            raise invalid("seq", f"the room's log ends at {room.row.last_seq}")
        work.save()
        at = (self.room_key, self.actor.user_key)
        marker = progress.marker(work.conn, *at)
        if self.seq > marker.seq:
            marker = MarkerRow(self.seq, log.messages_upto(work.conn, room.row, self.seq))
            progress.save_markers(work.conn, {at: marker}, work.now)
            work.publish_entries(room)
            for channel, notice in notices(work.conn, [at], to_self=True):
                work.publish(channel, notice)
        return room.row.messages - max(marker.messages, room.row.first_messages)


def notices(
    conn: Connection, moved: Iterable[tuple[int, int]], *, to_self: bool = False
) -> list[tuple[Channel, Notice]]:
    """What to publish of the users, as (room, user), who have received or read more.

    A receipt goes to the members of a room of up to `RECEIPT_MEMBERS`, but for those whom the user has blocked.
    `to_self`: in a larger room, it goes to the user's own devices.
    """
    rows = progress.receipts(conn, moved)
    shown = [row for row in rows if row.members <= RECEIPT_MEMBERS]
    blocked = users.blocked_of(conn, {row.user_key for row in shown}) if shown else {}
    found: list[tuple[Channel, Notice]] = [
        (
            RoomChannel(row.room_key),
            Transient(row.room_key, "receipt", receipt(row), hidden_from=frozenset(blocked.get(row.user_key, ()))),
        )
        for row in shown
    ]
    if to_self:
        found += [
            (UserChannel(row.user_key), Personal(row.user_key, "receipt", receipt(row)))
            for row in rows
            if row.members > RECEIPT_MEMBERS
        ]
    return found
