"""Messages, typing, cursors and read markers."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.actions.events import MAY_NOT_WRITE, encode_data
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.contract.actions import (
    MAX_CONTENT,
    MAX_DATA,
    MAX_PAGE_BYTES,
    Delete,
    Delivered,
    Edit,
    FollowThread,
    GetHistory,
    GetPreviews,
    GetThreads,
    MarkUnread,
    React,
    Read,
    SendMessage,
    Typing,
)
from tidings.contract.errors import ErrorCode, invalid
from tidings.contract.models import Empty, History, LinkPreviews, Message, Thread, Threads, Unread
from tidings.contract.permissions import KeyScope, Permission
from tidings.log import preferences, threads
from tidings.log.messages import MAX_EMOJIS, MAX_REACTIONS, AppendMessage, ChangeReaction, DeleteMessage, EditMessage
from tidings.log.receipts import MarkRead
from tidings.log.threads import MarkThreadRead
from tidings.log.views import room_name, shown_message
from tidings.log.views import thread as wire_thread
from tidings_db.queries import log, rooms
from tidings_db.queries import threads as thread_queries
from tidings_db.queries.log import PageOf
from tidings_db.queries.rows import STREAMING, EntryRow, RoomRow, entry_bytes

_SILENCED = "you are muted; the other member of the direct conversation has blocked you"

_TOO_LARGE = f"`content` has more than {MAX_CONTENT:,} characters, or `data` more than {MAX_DATA:,} bytes"
REACTION_WEIGHT = 8
"""A reaction counts as a message of this many times the length of its message."""


@action(
    "message",
    scope=KeyScope.PUBLISH,
    http="POST /api/messages",
    status=201,
    response=Message,
    limit=Limit.SENDS,
    errors={
        ErrorCode.INVALID: "`content` is empty, there are neither `data` nor `files`, and it does not stream;"
        " `reply_to` or `thread` names no message of the room; one of `files` is not a complete upload of yours, or"
        " already in a message",
        ErrorCode.FORBIDDEN: MAY_NOT_WRITE,
        ErrorCode.TOO_LARGE: f"{_TOO_LARGE}; this first message to a user would create a conversation, and you are in"
        " the maximum number of rooms",
        ErrorCode.CONFLICT: "the `client_id` is that of an application's event",
    },
)
async def message(ctx: Context, req: SendMessage) -> asyncio.Future[dict[str, Any]]:
    """Send a message to a topic, a conversation or a user. The answer means that the message is durable.

    With a `client_id` the message takes effect once, however often it is sent. The first message to a user creates
    the direct conversation. With `stream`, the message is open, and is written by `append` until `finish`.
    """
    if not req.content and req.data is None and not req.stream and not req.files:
        raise invalid("content", "empty, and there are neither data nor files")
    attached = tuple((file.id, file.alt or None) for file in req.files)
    if len(dict(attached)) < len(attached):
        raise invalid("files", "one is given twice")
    data = None if req.data is None else encode_data(req.data, MAX_DATA)
    ctx.count_content(req.content + (data or "") + "".join(alt or "" for _, alt in attached))
    named = [file_id for file_id, _ in attached]
    room_key = await ctx.room_to_write(req, named, reply_to=req.reply_to, thread=req.thread)
    return ctx.journal.hand_over(
        AppendMessage(
            ctx.principal,
            room_key,
            req.content,
            req.client_id,
            req.reply_to,
            data,
            req.stream,
            req.thread,
            attached,
        )
    )


_NO_SUCH_MESSAGE = "no such message, or one of a room that you are not in; the message was deleted"


@action(
    "edit",
    scope=KeyScope.PUBLISH,
    http="PATCH /api/messages/{message_id}",
    limit=Limit.SENDS,
    response=Message,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.INVALID: "`content` is empty, and the message has no `data`",
        ErrorCode.FORBIDDEN: f"the message is somebody else's; only moderators may write to the room; {_SILENCED}",
        ErrorCode.TOO_LARGE: _TOO_LARGE,
    },
)
async def edit(ctx: Context, req: Edit) -> asyncio.Future[dict[str, Any]]:
    """Replace the content of one's own message, and its `data` if given; its mentions are updated."""
    data = None if req.data is None else encode_data(req.data, MAX_DATA)
    ctx.count_content(req.content if data is None else req.content + data)
    entry = await ctx.access.message(req.message_id)
    size = entry_bytes(entry) + len(req.content) + len(data or "")
    keeps_data = "data" not in req.model_fields_set
    return ctx.journal.hand_over(
        EditMessage(ctx.principal, entry.room_key, entry.seq, size, req.content, data, keeps_data)
    )


@action(
    "delete",
    scope=KeyScope.PUBLISH,
    http="DELETE /api/messages/{message_id}",
    limit=Limit.SENDS,
    response=Empty,
    errors={
        ErrorCode.NOT_FOUND: "no such message, or one of a room that you are not in",
        ErrorCode.FORBIDDEN: "the message is somebody else's, and you do not moderate the room",
    },
)
async def delete(ctx: Context, req: Delete) -> asyncio.Future[dict[str, Any]]:
    """Delete one's own message, or, as a moderator, any message. An empty one with `deleted` stays in its place."""
    entry = await ctx.access.message(req.message_id)
    if entry.files is not None:
        ctx.afterwards.append(ctx.parts.files.hurry)
    return ctx.journal.hand_over(DeleteMessage(ctx.principal, entry.room_key, entry.seq, entry_bytes(entry)))


@action(
    "react",
    scope=KeyScope.PUBLISH,
    http="POST /api/messages/{message_id}/reactions",
    limit=Limit.SENDS,
    response=Message,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: _SILENCED,
        ErrorCode.TOO_LARGE: f"more than {MAX_EMOJIS} emojis or {MAX_REACTIONS:,} reactions",
    },
)
async def react(ctx: Context, req: React) -> asyncio.Future[dict[str, Any]]:
    """Add a reaction to a message, or remove one's own. Adding the same emoji again changes nothing."""
    if not req.remove:
        names.emoji(req.emoji)
    entry = await ctx.access.message(req.message_id)
    # The event contains the whole message, although the request has only a few bytes.
    shown = REACTION_WEIGHT * (len(entry.content or "") + len(entry.data or "")) + len(entry.reactions or "")
    ctx.count_content(req.emoji, shown=shown)
    return ctx.journal.hand_over(
        ChangeReaction(ctx.principal, entry.room_key, entry.seq, entry_bytes(entry), req.emoji, req.remove)
    )


@action("history", scope=KeyScope.READ, http="GET /api/messages", limit=Limit.READS)
async def history(ctx: Context, req: GetHistory) -> History:
    """Get a page of a room's messages: the newest ones, those before a seq, or those after one.

    A page of long messages has fewer than `limit`; `has_more` tells whether there are more.
    """

    def page(conn: Transaction, room: RoomRow) -> tuple[RoomRow, list[EntryRow], bool, EntryRow | None]:
        at = PageOf(room.key, req.before, req.after, req.limit, MAX_PAGE_BYTES)
        entries, has_more = log.messages(conn, at, thread=req.thread, without_threads=req.without_threads)
        began = None if req.thread is None else log.message_of_member(conn, None, req.thread)
        return room, entries, has_more, began if began is not None and began.room_key == room.key else None

    room, entries, has_more, began = await ctx.access.room(req, Permission.READ, page)
    caller_key, name = ctx.principal.user_key, room_name(room)

    def view(entry: EntryRow) -> Message:
        if entry.state in STREAMING:  # a connection may have got more text than is stored
            entry = entry._replace(content=ctx.hub.streams.newest(entry))
        return shown_message(name, entry, caller_key)

    return History.model_construct(
        messages=[view(entry) for entry in entries],
        has_more=has_more,
        began=None if began is None else view(began),
    )


@action("get_previews", scope=KeyScope.READ, http="POST /api/previews", limit=Limit.READS)
async def get_previews(ctx: Context, req: GetPreviews) -> LinkPreviews:
    """Get previews of the links in messages: title, description and site, as the linked pages state them.

    The server fetches a page when a reader first asks, without holding up the answer, and keeps the result for a
    day. The first three links of a message have one. A link in angle brackets, `<https://example.org>`, and one in
    code have none: so a sender turns it off. Messages that the caller may not read, or that are deleted, are left
    out, and `TIDINGS_LINK_PREVIEWS` may be `off`.
    """
    entries = await ctx.access.messages(req.message_ids)
    contents = {
        entry.message_id: entry.content
        for entry in entries
        if entry.message_id and entry.content and not entry.deleted and entry.state not in STREAMING
    }
    return await ctx.parts.previews.of(contents, ctx.principal.user_key, ctx.may_fetch)


@action("typing", scope=KeyScope.PUBLISH, limit=Limit.TYPING, errors={ErrorCode.FORBIDDEN: MAY_NOT_WRITE})
async def typing(ctx: Context, req: Typing) -> Empty:
    """Show the other members that the caller is typing, or has stopped. It ends by itself after 6 s."""
    connection, typists = ctx.live(), ctx.hub.typists
    key = await ctx.access.existing(req)
    if req.typing and typists.extend(connection, key):
        return Empty()
    if not req.typing and typists.end(connection, key):
        return Empty()
    room_id = await ctx.access.room(req, Permission.TYPE, lambda _, room: room.room_id)
    if req.typing and key in connection.rooms:  # the caller may have been removed meanwhile
        typists.begin(connection, key, room_id)
    return Empty()


@action(
    "delivered",
    scope=KeyScope.READ,
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "a cursor is beyond the end of the log"},
)
async def delivered(ctx: Context, req: Delivered) -> Empty:
    """Move this device's cursors: it has received each of these rooms up to the given seq.

    A cursor covers all earlier entries and never moves back. Rooms that the caller is not in are ignored, whether
    they exist or not.
    """
    connection = ctx.live()
    moved: dict[int, int] = {}
    unpublished: dict[int, str] = {}
    for room_id, seq in req.cursors.items():
        key = ctx.hub.key(room_id)
        if key is not None and key in connection.rooms:
            moved[key] = seq
            if seq > max(connection.rooms[key], ctx.hub.head(key)):
                unpublished[key] = room_id
    if unpublished:
        # An entry may be answered or replayed after its commit and before the hub publishes it.
        heads = await ctx.db.read(lambda conn: rooms.heads(conn, list(unpublished)))
        for key, room_id in unpublished.items():
            head = heads[key].seq if key in heads else 0
            if moved[key] > head:
                raise invalid(f"cursors.{room_id}", f"the room's log ends at {head}")
        # The caller may have been removed from a room during the read.
        moved = {key: seq for key, seq in moved.items() if key in connection.rooms}
    ctx.hub.confirm(connection, moved)
    return Empty()


@action(
    "read",
    http="POST /api/read",
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "`seq` is beyond the end of the log; `thread` names no message of the room"},
)
async def read(ctx: Context, req: Read) -> Unread:
    """Move the caller's read marker of a room, or of a thread in it, forward; answers with what is still unread."""
    key = await ctx.access.existing(req)
    if req.thread is not None:
        return Unread(unread=await ctx.journal.write(MarkThreadRead(ctx.principal, key, req.thread, req.seq)))
    return Unread(unread=await ctx.journal.write(MarkRead(ctx.principal, key, req.seq)))


@action(
    "mark_unread",
    http="POST /api/unread",
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "`seq` is beyond the end of the log"},
)
async def mark_unread(ctx: Context, req: MarkUnread) -> Unread:
    """Mark a room as unread for the caller, from a message on; answers with the number of unread messages.

    The read marker, which others see, does not move back. Sending a message ends it, and `read` up to that message.
    """
    key = await ctx.access.existing(req)
    return Unread(unread=await ctx.journal.write(preferences.MarkRoomUnread(ctx.principal, key, req.seq)))


@action(
    "follow_thread",
    http="PUT /api/threads/{message_id}",
    limit=Limit.READS,
    response=Thread,
    errors={ErrorCode.NOT_FOUND: "no such message, or one of a room that you are not in"},
)
async def follow_thread(ctx: Context, req: FollowThread) -> dict[str, Any]:
    """Follow the thread of a message, or stop following it.

    Whoever began a thread, replies in it or is mentioned there follows it without asking, unless they have stopped.
    """
    entry = await ctx.access.message(req.message_id)
    change = threads.ChangeFollowing(ctx.principal, entry.room_key, req.message_id, req.following)
    return await ctx.journal.write(change)


@action("get_threads", http="GET /api/threads", limit=Limit.READS)
async def get_threads(ctx: Context, req: GetThreads) -> Threads:
    """Get the threads that the caller follows, in all rooms, those with the newest replies first."""
    user_key = ctx.principal.user_key
    rows = await ctx.db.read(
        lambda conn: thread_queries.of_user(conn, user_key, after=req.after, limit=req.limit + 1)
    )
    page = rows[: req.limit]
    return Threads(
        threads=[Thread.model_validate(wire_thread(row, user_key)) for row in page],
        next=page[-1].newest if len(rows) > req.limit else None,
    )
