"""Message search."""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_PAGE_BYTES, RoomRef, Search
from tidings.contract.errors import ErrorCode, invalid, not_found
from tidings.contract.models import Message, SearchResults, Snippet
from tidings.contract.permissions import Permission
from tidings.log.views import message as wire_message
from tidings.log.views import room_name
from tidings_db.queries import search as index
from tidings_db.queries import words
from tidings_db.queries.rows import RoomRow, entry_bytes, first_of
from tidings_db.queries.search import SearchHit


@action(
    "search",
    http="GET /api/search",
    limit=Limit.SEARCHES,
    errors={
        ErrorCode.INVALID: "the query has no word, or too many words for the number of your rooms; `username` is"
        " yourself",
        ErrorCode.NOT_FOUND: "no such room or user, or a private room that you are not in; no message `before`",
        ErrorCode.FORBIDDEN: "you are not a member of the public topic",
    },
)
async def search(ctx: Context, req: Search) -> SearchResults:
    """Find the messages that contain all words of the query, in the caller's rooms or in one of them; newest first.

    Case, diacritics and punctuation are ignored. New messages are indexed within moments; a search waits briefly for
    those that are about to be indexed.
    """
    query = words.parse(req.query)
    if not query:
        raise invalid("query", "it contains no word")
    caller_key = ctx.principal.user_key
    await ctx.parts.indexer.settle()

    def find(conn: Transaction, room: RoomRow | None = None) -> list[SearchHit]:
        before = None if req.before is None else index.document(conn, req.before)
        if req.before is not None and before is None:
            raise not_found("message")
        room_key = None if room is None else room.key
        try:
            return index.find(conn, caller_key, query, room_key=room_key, before=before, limit=req.limit + 1)
        except index.TooManyTerms as error:
            reason = f"at most {error.words} words for the number of your rooms; or search in one room"
            raise invalid("query", reason) from None

    async with ctx.parts.searches.turn(caller_key):
        if req.room_id is None and req.topic_name is None and req.username is None:
            hits = await ctx.db.read(find)
        else:
            ref = RoomRef(room_id=req.room_id, topic_name=req.topic_name, username=req.username)
            hits = await ctx.access.room(ref, Permission.READ, find)
        page, more = first_of(hits, req.limit, MAX_PAGE_BYTES, lambda hit: entry_bytes(hit.entry))
        snippets = await asyncio.to_thread(lambda: [words.snippet(query, entry.content or "") for _, entry in page])
    messages = [
        Message.model_construct(**wire_message(room_name(room), entry, to_sender=entry.sender_key == caller_key))
        for room, entry in page
    ]
    return SearchResults(
        messages=messages,
        snippets={
            message.id: [Snippet(text=text, match=match) for text, match in parts]
            for message, parts in zip(messages, snippets, strict=True)
        },
        next=messages[-1].id if more else None,
    )
