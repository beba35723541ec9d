"""Messages that stream: appended to while they are read."""

from __future__ import annotations

import asyncio
from typing import Any

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.actions.events import encode_data
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_DATA, MAX_STREAM, Append, Finish, Stop
from tidings.contract.errors import ErrorCode
from tidings.contract.models import Appending, Empty, Message
from tidings.contract.permissions import KeyScope
from tidings.log.streams import FinishMessage, StopMessage
from tidings_db.queries.rows import entry_bytes

_NO_SUCH_MESSAGE = "no such message, or one of a room that you are not in; the message was deleted"
_MAY_NOT_APPEND = (
    "the message is somebody else's; only moderators may write to the room; you are muted; the other member of the"
    " direct conversation has blocked you"
)


@action(
    "append",
    scope=KeyScope.PUBLISH,
    http="POST /api/messages/{message_id}/append",
    limit=Limit.APPENDS,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: _MAY_NOT_APPEND,
        ErrorCode.CONFLICT: "`offset` is beyond the end, or another text is there: go on from `details.offset`;"
        " the message is not streaming any more",
        ErrorCode.TOO_LARGE: f"the message would have more than {MAX_STREAM:,} characters",
    },
)
async def append(ctx: Context, req: Append) -> Appending:
    """Append to one's own message that is streaming. A text that is there already is not added again.

    The text is shown immediately, and durable within a second: `stored` in a later answer says how much is.
    """
    authors = ctx.parts.authors
    authored = authors.known(req.message_id, ctx.principal)
    connection = ctx.connection
    if authored is None or (
        connection is not None and not ctx.principal.granted and authored.stream.room_key not in connection.rooms
    ):
        authored = await authors.open(ctx.principal, await ctx.access.message(req.message_id))
    text = authored.new(req.offset, req.text)
    ctx.count_appended(text, req.offset + len(req.text))
    return authors.append(authored, text)


@action(
    "finish",
    scope=KeyScope.PUBLISH,
    http="POST /api/messages/{message_id}/finish",
    limit=Limit.SENDS,
    response=Message,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: _MAY_NOT_APPEND,
        ErrorCode.CONFLICT: "`offset` is not the length of the message: go on from `details.offset`; the message was"
        " interrupted",
        ErrorCode.TOO_LARGE: f"`content` has more than {MAX_STREAM:,} characters, or `data` more than {MAX_DATA:,}"
        " bytes",
    },
)
async def finish(ctx: Context, req: Finish) -> asyncio.Future[dict[str, Any]]:
    """End a stream: the message is complete, and durable. Repeating it answers the same."""
    data = None if req.data is None else encode_data(req.data, MAX_DATA)
    if req.content is not None:
        ctx.count_content(req.content)
    entry = await ctx.access.message(req.message_id)
    authors = ctx.parts.authors
    operation = FinishMessage(
        ctx.principal,
        entry.room_key,
        entry.seq,
        entry_bytes(entry),
        text=authors.text(entry.message_id),
        content=req.content,
        offset=req.offset,
        data=data,
        keeps_data="data" not in req.model_fields_set,
    )
    return authors.finish(operation, req.message_id)


@action(
    "stop",
    scope=KeyScope.PUBLISH,
    http="POST /api/messages/{message_id}/stop",
    limit=Limit.SENDS,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_MESSAGE,
        ErrorCode.FORBIDDEN: "you are muted; the other member of the direct conversation has blocked you",
    },
)
async def stop(ctx: Context, req: Stop) -> Empty:
    """Ask the author of a message that is streaming to stop: the answers to `append` say so from then on."""
    entry = await ctx.access.message(req.message_id)
    await ctx.journal.write(StopMessage(ctx.principal, entry.room_key, entry.seq, entry_bytes(entry)))
    ctx.parts.authors.ask_to_stop(req.message_id)
    return Empty()
