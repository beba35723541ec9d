"""The echo channel."""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import MAX_PAGE_BYTES, EchoContent, GetEchoHistory
from tidings.contract.errors import ErrorCode, not_found
from tidings.contract.models import Direction, Echo, EchoEntry, EchoHistory, timestamp
from tidings_db.queries import echo as log


@action("echo", http="POST /api/echo", limit=Limit.SENDS)
async def echo(ctx: Context, req: EchoContent) -> asyncio.Future[Echo]:
    """Get the content back. Both directions are stored in the caller's echo log before the answer.

    With `TIDINGS_ECHO_UPSTREAM` the content goes to that echo server, and the answer has the server's reply. The
    error is `unavailable` if the server cannot be reached, does not reply within 10 s, or replies with more than a
    `content` may hold; it is `rate_limited` if 256 requests of the client wait for a reply. The sent content is
    stored anyway.
    """
    ctx.count_content(req.content, copies=2)  # stored as sent and as received
    return ctx.parts.echo.say(ctx.principal, ctx.connection, req.content)


@action(
    "echo_history",
    http="GET /api/echo",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "`before` names no entry of your echo log"},
)
async def echo_history(ctx: Context, req: GetEchoHistory) -> EchoHistory:
    """Get a page of the caller's echo log: the newest entries, or those before an earlier page."""
    caller_key = ctx.principal.user_key

    def load(conn: Transaction) -> tuple[list[log.EchoRow], bool]:
        before = None if req.before is None else log.key(conn, caller_key, req.before)
        if req.before is not None and before is None:
            raise not_found("entry")
        return log.page(conn, caller_key, before, req.limit, MAX_PAGE_BYTES)

    page, more = await ctx.db.read(load)
    return EchoHistory(
        entries=[
            EchoEntry(direction=Direction(row.direction), content=row.content, created_at=timestamp(row.created_at))
            for row in page
        ],
        next=page[0].entry_id if more else None,
    )
