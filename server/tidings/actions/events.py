"""Events of applications, and the data that they attach to messages."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_EVENT_DATA, MAX_PAGE_BYTES, GetEvents, Publish
from tidings.contract.errors import ActionError, ErrorCode, invalid
from tidings.contract.models import Published, PublishedEvents, timestamp
from tidings.contract.permissions import KeyScope, Permission
from tidings.log.messages import AppendEvent
from tidings.log.views import RoomName, application_event, room_name
from tidings_db.queries import log
from tidings_db.queries.log import PageOf
from tidings_db.queries.rows import EntryRow, RoomRow

MAX_DEPTH: Final = 100
"""The deepest nesting of lists and objects in data. Encoders have limits of their own, above this one."""
MAY_NOT_WRITE: Final = (
    "you are not a member of the public topic; only moderators may write to the room; you are muted; the other member"
    " of the direct conversation has blocked you"
)


def encode_data(data: object, limit: int) -> str:
    """The data of an event or a message as JSON. Raises `invalid` if it is not JSON, or `too_large`.

    Args:
        limit: bytes.
    """
    try:
        encoded = orjson.dumps(data)
    except TypeError as error:
        raise invalid("data", f"not JSON: {error}") from None
    if len(encoded) > limit:
        raise ActionError(ErrorCode.TOO_LARGE, f"data has more than {limit:,} bytes", limit=limit)
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise invalid("data", f"nested more than {MAX_DEPTH} deep")
    if b"null" in encoded and orjson.loads(encoded) != data:
        raise invalid("data", "not JSON: it contains NaN or an infinite number")
    return encoded.decode()


def _depth(data: object) -> int:
    """How many lists and objects the innermost value is in."""
    depth, level = 0, [data]
    while containers := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
    return depth


@action(
    "publish",
    scope=KeyScope.PUBLISH,
    http="POST /api/events",
    status=201,
    response=Published,
    limit=Limit.SENDS,
    errors={
        ErrorCode.FORBIDDEN: MAY_NOT_WRITE,
        ErrorCode.TOO_LARGE: f"`data` has more than {MAX_EVENT_DATA:,} bytes as JSON; this first event for a user"
        " would create a conversation, and you are in the maximum number of rooms",
        ErrorCode.INVALID: f"`data` is not JSON, or nested more than {MAX_DEPTH} deep",
        ErrorCode.CONFLICT: "the `client_id` is that of a message",
    },
)
async def publish(ctx: Context, req: Publish) -> asyncio.Future[dict[str, Any]]:
    """Publish an event of an application to a room: its members receive it under its own name, in the room's order.

    The answer means that the event is durable. It arrives like a message, also at members who are away, but is not
    unread, not in `history`, and not searched. With a `client_id` it takes effect once, however often it is sent.
    """
    data = encode_data(req.data, MAX_EVENT_DATA)
    ctx.count_content(data)
    if req.transient:
        published: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        room = room_name(await ctx.access.room(req, Permission.SEND, lambda _, room: room))
        ctx.hub.publish_transient(room.key, req.event, _transient(ctx, room, req))
        published.set_result({})
        return published
    room_key = await ctx.room_to_write(req)
    return ctx.journal.hand_over(AppendEvent(ctx.principal, room_key, req.event, req.client_id, None, data))


def _transient(ctx: Context, room: RoomName, req: Publish) -> dict[str, Any]:
    return {
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "event": req.event,
        "sender": ctx.principal.username,
        "created_at": timestamp(ctx.now),
        "data": req.data,
    }


@action("get_events", scope=KeyScope.READ, http="GET /api/events", limit=Limit.READS, response=PublishedEvents)
async def get_events(ctx: Context, req: GetEvents) -> dict[str, Any]:
    """Get a page of a room's events: the newest ones, those before a seq, or those after one.

    A page of large events has fewer than `limit`; `has_more` tells whether there are more.
    """

    def page(conn: Transaction, room: RoomRow) -> tuple[RoomRow, tuple[list[EntryRow], bool]]:
        return room, log.events(conn, req.event, PageOf(room.key, req.before, req.after, req.limit, MAX_PAGE_BYTES))

    room, (entries, has_more) = await ctx.access.room(req, Permission.READ, page)
    caller_key, name = ctx.principal.user_key, room_name(room)
    return {
        "events": [application_event(name, entry, to_sender=entry.sender_key == caller_key) for entry in entries],
        "has_more": has_more,
    }
