"""Threads: operations of the journal that change how a user stands to one. They are no entries of the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

from tidings.contract.errors import invalid, not_found
from tidings.contract.permissions import Permission
from tidings.log.notices import Personal
from tidings.log.transaction import Operation, RoomLog, Work
from tidings.log.views import thread
from tidings_db.queries import log, threads
from tidings_db.queries.journal import NOBODY
from tidings_db.queries.rows import EntryRow

NO_SUCH_MESSAGE = "no such message in this room"


def beginning(work: Work, room: RoomLog, message_id: str) -> EntryRow | None:
    """The message that began a thread, by its id or that of a reply; None: there is none in the room any more."""
    work.save()
    message = log.message_of_member(work.conn, None, message_id)
    if message is not None and message.thread is not None:
        message = log.message_of_member(work.conn, None, message.thread)
    return message if message is not None and message.room_key == room.row.key else None


def add_reply(work: Work, room: RoomLog, message: EntryRow, reply: EntryRow) -> None:
    """Count an appended reply. Its sender follows the thread from now on; so do its author and who is mentioned."""
    work.save()
    log.rewrite(work.conn, message._replace(replies=reply.replies))
    mentioned = orjson.loads(reply.body) if reply.body else []
    told = [key for key in threads.to_be_told(work.conn, message, mentioned) if key != reply.sender_key]
    # A key may write without being a member.
    senders = [key for key in (reply.sender_key,) if work.standings.get((room.row.key, key), NOBODY).role]
    number = reply.replies or 0
    threads.put(work.conn, message, told, following=True, read=number - 1)
    threads.put(work.conn, message, senders, following=True, read=number)
    publish(work, room, message, told + senders)


def publish(work: Work, room: RoomLog, message: EntryRow, user_keys: Collection[int]) -> None:
    """Tell the devices of users how they stand to a thread, after the entries before."""
    work.publish_entries(room)
    for key in user_keys:
        for row in threads.of_user(work.conn, key, message):
            work.publish(Personal(key, "thread", thread(row, key)))


@dataclass(frozen=True, slots=True)
class ChangeFollowing(Operation[dict[str, Any]]):
    """Follow a thread, or stop; the result is the thread as the actor has it."""

    message_id: str
    """Of any of its messages."""
    following: bool

    def apply(self, work: Work) -> dict[str, Any]:
        assert self.room_key is not None
        room, user_key = work.room(self.room_key), self.actor.user_key
        work.check(room, self.actor, Permission.READ)
        message = beginning(work, room, self.message_id)
        if message is None:
            raise not_found("message")
        before = threads.of_user(work.conn, user_key, message)
        if not before or before[0].following is not self.following:
            # What was there before is not news to who begins to follow.
            threads.put(work.conn, message, [user_key], following=self.following, read=message.replies or 0)
            publish(work, room, message, [user_key])
        return thread(threads.of_user(work.conn, user_key, message)[0], user_key)


@dataclass(frozen=True, slots=True)
class MarkThreadRead(Operation[int]):
    """Mark a thread as read up to a seq of its room; the result is the number of unread replies.

    Of a thread that the actor does not follow, nothing is unread, and nothing is kept.
    """

    message_id: str
    seq: int

    def apply(self, work: Work) -> int:
        assert self.room_key is not None
        room, user_key = work.room(self.room_key), self.actor.user_key
        work.check(room, self.actor, Permission.READ)
        if self.seq > room.row.last_seq:
            raise invalid("seq", f"the room's log ends at {room.row.last_seq}")
        message = beginning(work, room, self.message_id)
        if message is None:
            raise invalid("thread", NO_SUCH_MESSAGE)
        for row in threads.of_user(work.conn, user_key, message):
            read = threads.replies_upto(work.conn, message, self.seq)
            if read > row.read:
                threads.put(work.conn, message, [user_key], following=row.following, read=read)
                publish(work, room, message, [user_key])
            if row.following:
                return (message.replies or 0) - max(read, row.read)
        return 0
