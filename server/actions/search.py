"""Searching messages."""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import Connection as Transaction

from db.queries import search as index
from db.queries import words
from db.queries.rows import RoomRow
from db.queries.search import FoundRow
from server.context import Context
from server.contract.actions import RoomRef, Search
from server.contract.errors import ErrorCode, invalid, not_found
from server.contract.models import Found, Message, Snippet
from server.contract.permissions import Permission
from server.delivery.frames import message as wire_message
from server.delivery.frames import room_name
from server.dispatch import action
from server.limits import Limit


@action(
    "search",
    http="GET /api/search",
    limit=Limit.SEARCHES,
    errors={
        ErrorCode.INVALID: "there is no word in the query; the other user of the conversation is yourself",
        ErrorCode.NOT_FOUND: "no such room or user, or a private room that you are not in; no message `before`",
        ErrorCode.FORBIDDEN: "not a member of the public topic",
    },
)
async def search(ctx: Context, req: Search) -> Found:
    """The messages in which all the words are: of the caller's rooms, or of one of them; newest first.

    Case and diacritics make no difference; punctuation is ignored. A message is found a moment after it was
    sent, and mostly at once: who searches waits a little for what is about to be indexed.
    """
    query = words.parse(req.query)
    if not query:
        raise invalid("query", "there is no word in it")
    me = ctx.principal.user_key
    await ctx.parts.indexer.settle()

    def find(conn: Transaction, room: RoomRow | None = None) -> list[FoundRow]:
        before = None if req.before is None else index.document(conn, req.before)
        if req.before is not None and before is None:
            raise not_found("message")
        room_key = None if room is None else room.key
        return index.find(conn, me, query, room_key=room_key, before=before, limit=req.limit + 1)

    if req.room_id is None and req.topic_name is None and req.username is None:
        found = await ctx.db.read(find)
    else:
        ref = RoomRef(room_id=req.room_id, topic_name=req.topic_name, username=req.username)
        found = await ctx.access.room(ref, Permission.READ, find)
    page = found[: req.limit]
    shown = await asyncio.to_thread(lambda: [words.snippet(query, entry.content or "") for _, entry in page])
    messages = [
        Message.model_construct(**wire_message(room_name(room), entry, to_sender=entry.sender_key == me))
        for room, entry in page
    ]
    return Found(
        messages=messages,
        snippets={
            one.id: [Snippet(text=text, match=match) for text, match in parts]
            for one, parts in zip(messages, shown, strict=True)
        },
        next=messages[-1].id if len(found) > req.limit else None,
    )
