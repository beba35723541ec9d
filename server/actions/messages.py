"""Messages, and how far they have got."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from db.queries import log
from db.queries.rows import EntryRow, RoomRow, entry_bytes
from server import names
from server.context import Context
from server.contract.actions import Delete, Delivered, Edit, GetHistory, React, Read, SendMessage, Typing
from server.contract.errors import ErrorCode, invalid
from server.contract.models import Empty, History, Message, Unread
from server.contract.permissions import Permission
from server.delivery import operations
from server.delivery.frames import message as wire_message
from server.delivery.frames import room_name
from server.delivery.membership import OpenDirect
from server.delivery.operations import MarkRead, Send
from server.dispatch import action
from server.limits import Limit

_SILENCED = "muted; or blocked by the other in a direct conversation"
_MAY_NOT_SPEAK = f"not a member of the public topic; {_SILENCED}"


@action(
    "message",
    http="POST /api/messages",
    status=201,
    response=Message,
    limit=Limit.SENDS,
    errors={
        ErrorCode.INVALID: "`reply_to` names no message of the room",
        ErrorCode.FORBIDDEN: _MAY_NOT_SPEAK,
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
    return ctx.journal.hand_over(
        Send(me, room_key, req.content, req.client_id, req.reply_to, names.mentions(req.content))
    )


_NO_SUCH_MESSAGE = "no such message, or one of a room that you are not in; it was deleted"


@action(
    "edit",
    http="PATCH /api/messages/{message_id}",
    limit=Limit.SENDS,
    response=Message,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: f"the message is somebody else's; {_SILENCED}",
    },
)
async def edit(ctx: Context, req: Edit) -> asyncio.Future[dict[str, Any]]:
    """Replace the content of one's own message; whom it mentions is found anew."""
    found = await ctx.access.message(req.message_id)
    return ctx.journal.hand_over(
        operations.Edit(
            ctx.principal,
            found.room_key,
            found.seq,
            entry_bytes(found) + len(req.content),
            req.content,
            names.mentions(req.content),
        )
    )


@action(
    "delete",
    http="DELETE /api/messages/{message_id}",
    limit=Limit.SENDS,
    response=Empty,
    errors={
        ErrorCode.NOT_FOUND: "no such message, or one of a room that you are not in",
        ErrorCode.FORBIDDEN: "the message is somebody else's, and you do not moderate the room",
    },
)
async def delete(ctx: Context, req: Delete) -> asyncio.Future[dict[str, Any]]:
    """Delete one's own message, or as a moderator anybody's: its content is gone, a tombstone stays in its place."""
    found = await ctx.access.message(req.message_id)
    return ctx.journal.hand_over(operations.Delete(ctx.principal, found.room_key, found.seq, entry_bytes(found)))


@action(
    "react",
    http="POST /api/messages/{message_id}/reactions",
    limit=Limit.SENDS,
    response=Message,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: _SILENCED,
        ErrorCode.TOO_LARGE: f"more than {operations.MAX_EMOJIS} emojis or {operations.MAX_REACTIONS:,} reactions",
    },
)
async def react(ctx: Context, req: React) -> asyncio.Future[dict[str, Any]]:
    """Put an emoji on a message, or take one's own off. Each is there once, however often it is put."""
    found = await ctx.access.message(req.message_id)
    return ctx.journal.hand_over(
        operations.React(ctx.principal, found.room_key, found.seq, entry_bytes(found), req.emoji, req.remove)
    )


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


@action("typing", errors={ErrorCode.FORBIDDEN: _MAY_NOT_SPEAK})
async def typing(ctx: Context, req: Typing) -> Empty:
    """Tell the others in a room that the caller is typing, or no longer is. Ends by itself after 6 s."""
    connection, typists = ctx.live(), ctx.parts.typists
    key = await ctx.access.existing(req)
    if req.typing and typists.goes_on(connection, key):
        return Empty()
    if not req.typing and typists.end(connection, key):
        return Empty()
    room_id = await ctx.access.room(req, Permission.TYPE, lambda _, room: room.room_id)
    if req.typing and key in connection.rooms:  # it may have been removed meanwhile
        typists.begin(connection, key, room_id)
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
    key = await ctx.access.existing(req)
    return Unread(unread=await ctx.journal.write(MarkRead(ctx.principal, key, req.seq)))
