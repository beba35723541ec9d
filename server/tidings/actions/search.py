"""Message search."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_PAGE_BYTES, RoomRef, Search
from tidings.contract.errors import ErrorCode, invalid, not_found
from tidings.contract.models import SearchResults, Snippet
from tidings.contract.permissions import Permission
from tidings.log.views import room_name, shown_message
from tidings_db.queries import search as index
from tidings_db.queries import words
from tidings_db.queries.rows import RoomRow, entry_bytes, first_of
from tidings_db.queries.search import Page

_T = TypeVar("_T")


@action(
    "search",
    http="GET /api/search",
    limit=Limit.SEARCHES,
    errors={
        ErrorCode.INVALID: "the query has no word, or too many words for the number of your rooms; a filter has a"
        " wrong value, or stands there twice; `username` is yourself",
        ErrorCode.NOT_FOUND: "no such room or user, or a private room that you are not in; no message `before`",
        ErrorCode.FORBIDDEN: "you are not a member of the public topic",
    },
)
async def search(ctx: Context, req: Search) -> SearchResults:
    """Find the messages that contain all words of the query, in the caller's rooms or in one of them; newest first.

    Case, diacritics and punctuation are ignored. Filters among the words narrow the search: `from:ana`, `in:plaza`
    (a topic; `in:@ana`: the direct conversation), `has:link`, `has:code`, `has:file`, `after:2026-01-31` and
    `before:2026-02-14` (a day of UTC, or an ISO 8601 time with its offset). `from:` and `has:` need no word beside
    them. Files are found by their names. New messages are indexed within moments; a search waits briefly for those
    that are about to be indexed. It examines a bounded number of messages: with a date, a page may have fewer than
    `limit`, or none, though `next` names a further one.
    """
    text, filters = words.split_filters(req.query)
    query, place, since, until = words.parse(text), _place(req), None, None
    for name, value in filters:
        if name == "has":
            if value.lower() not in words.HAS:
                raise invalid("query", f"has: takes one of {', '.join(words.HAS)}")
            query += (words.HAS[value.lower()],)
        elif name == "from":
            query += (words.sent_by((await ctx.auth.user(value.removeprefix("@"))).key),)
        elif name == "in":
            place = _only_one("in:", place, _named(value))
        elif name == "after":
            since = _only_one("after:", since, _time(value))
        else:
            until = _only_one("before:", until, _time(value))
    if not query:
        raise invalid("query", "it contains no word, and neither from: nor has:")
    caller_key = ctx.principal.user_key
    await ctx.parts.indexer.settle()

    def find(conn: Transaction, room: RoomRow | None = None) -> Page:
        before = None if req.before is None else index.document(conn, req.before)
        if req.before is not None and before is None:
            raise not_found("message")
        times = {name: time for name, time in (("since", since), ("until", until)) if time is not None}
        room_key = None if room is None else room.key
        try:
            return index.find(conn, caller_key, query, room_key=room_key, before=before, limit=req.limit, **times)
        except index.TooManyTerms as error:
            reason = f"at most {error.words} words for the number of your rooms; or search in one room"
            raise invalid("query", reason) from None

    async with ctx.parts.searches.turn(caller_key):
        if place is None:
            found = await ctx.db.read(find)
        else:
            found = await ctx.access.room(place, Permission.READ, find)
        page, is_cut = first_of(found.hits, req.limit, MAX_PAGE_BYTES, lambda hit: entry_bytes(hit.entry))
        snippets = await asyncio.to_thread(
            lambda: [words.snippet(query, words.shown(entry.content, entry.files)) for _, entry in page]
        )
    messages = [shown_message(room_name(room), entry, caller_key) for room, entry in page]
    return SearchResults(
        messages=messages,
        snippets={
            message.id: [Snippet(text=text, match=match) for text, match in parts]
            for message, parts in zip(messages, snippets, strict=True)
        },
        next=messages[-1].id if is_cut else found.next,
    )


def _place(req: Search) -> RoomRef | None:
    if req.room_id is None and req.topic_name is None and req.username is None:
        return None
    return RoomRef(room_id=req.room_id, topic_name=req.topic_name, username=req.username)


def _named(value: str) -> RoomRef:
    """The direct conversation with `@username`, or the topic `#name` or `name`."""
    if not value.strip("@#"):
        raise invalid("query", "in: takes the name of a topic, or @ and a username")
    return RoomRef(username=value[1:]) if value.startswith("@") else RoomRef(topic_name=value.removeprefix("#"))


def _time(value: str) -> int:
    """Milliseconds since the Unix epoch."""
    try:
        time = datetime.fromisoformat(value)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise invalid("query", "before: and after: take a date, such as 2026-01-31") from None


def _only_one(name: str, earlier: _T | None, value: _T) -> _T:
    if earlier is not None:
        raise invalid("query", f"{name} says the same as another part of the search")
    return value
