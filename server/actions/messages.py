"""Messages, and how far they have got."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from db.queries import log
from db.queries.rows import EntryRow, RoomRow
from server.context import Context
from server.contract.actions import Delivered, GetHistory, Read, SendMessage, Typing
from server.contract.errors import ErrorCode, invalid, not_found
from server.contract.models import Empty, History, Message, Unread
from server.contract.permissions import Permission
from server.delivery.frames import message as wire_message
from server.delivery.frames import room_name
from server.delivery.operations import MarkRead, OpenDirect, Send
from server.dispatch import action
from server.limits import Limit


@action(
    "message",
    http="POST /api/messages",
    status=201,
    response=Message,
    limit=Limit.SENDS,
    errors={
        ErrorCode.INVALID: "`reply_to` names no message of the room",
        ErrorCode.NOT_FOUND: "no such room or user, or a private room that you are not in",
        ErrorCode.FORBIDDEN: "not a member of the public topic",
    },
)
async def message(ctx: Context, req: SendMessage) -> asyncio.Future[dict[str, Any]]:
    """Send a message to a topic, a conversation or a user; answered when it is durable.

    With a `client_id` it takes effect once, however often it is sent. The first message to a user makes the
    conversation.
    """
    me = ctx.principal
    found = await ctx.access.find(req)
    room_key = found.room_key
    if room_key is None:
        assert found.user_key is not None
        if req.reply_to is not None:  # before anything is made: what is refused leaves nothing behind
            raise invalid("reply_to", "no such message in this room")
        room_key = await ctx.journal.write(OpenDirect(me, None, found.user_key))
    return ctx.journal.hand_over(Send(me, room_key, req.content, req.client_id, req.reply_to))


@action("history", http="GET /api/messages", limit=Limit.READS)
async def history(ctx: Context, req: GetHistory) -> History:
    """A page of a room's messages: the newest, those before a seq, or those after one."""

    def page(conn: Transaction, room: RoomRow) -> tuple[RoomRow, list[EntryRow]]:
        if req.after is not None:
            return room, log.messages_after(conn, room.key, req.after, req.limit + 1)
        return room, log.messages_before(conn, room.key, req.before, req.limit + 1)

    room, found = await ctx.access.room(req, Permission.READ, page)
    has_more = len(found) > req.limit
    if has_more:
        found = found[: req.limit] if req.after is not None else found[1:]
    me, name = ctx.principal.user_key, room_name(room)
    return History.model_construct(
        messages=[
            Message.model_construct(**wire_message(name, entry, to_sender=entry.sender_key == me)) for entry in found
        ],
        has_more=has_more,
    )


@action("typing")
async def typing(ctx: Context, req: Typing) -> Empty:
    """Tell the others in a room that the caller is typing, or no longer is. Ends by itself after 6 s."""
    connection = ctx.live()
    found = await ctx.access.find(req)
    if found.room_key is None:
        raise not_found("conversation")
    if found.room_key in connection.rooms:
        room_id = ctx.hub.name(found.room_key).room_id
    else:  # no member, or a connection that has just been opened
        room_id = await ctx.access.room(req, Permission.READ, lambda _, room: room.room_id)
    ctx.parts.typists.set(connection, found.room_key, room_id, req.typing)
    return Empty()


@action(
    "delivered",
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "a cursor is beyond the end of the log"},
)
async def delivered(ctx: Context, req: Delivered) -> Empty:
    """Move this device's cursors: it has received each of these rooms up to that seq.

    Cumulative, forwards only. Rooms that the caller is not in are passed over, whether they exist or not.
    """
    connection = ctx.live()
    moved: dict[int, int] = {}
    for room_id, seq in req.cursors.items():
        key = ctx.hub.key(room_id)
        position = None if key is None else connection.rooms.get(key)
        if key is not None and position is not None:
            # A replay may have read what is committed but not published yet.
            head = max(position, ctx.hub.head(key))
            if seq > head:
                raise invalid(f"cursors.{room_id}", f"the room's log ends at {head}")
            moved[key] = seq
    ctx.parts.cursors.advance(connection, moved)
    return Empty()


@action(
    "read",
    http="POST /api/read",
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "`seq` is beyond the end of the log"},
)
async def read(ctx: Context, req: Read) -> Unread:
    """Move the caller's read marker of a room, forwards only; answers with what is left unread."""
    found = await ctx.access.find(req)
    if found.room_key is None:
        raise not_found("conversation")
    return Unread(unread=await ctx.journal.write(MarkRead(ctx.principal, found.room_key, req.seq)))
