"""The echo channel."""

from __future__ import annotations

import asyncio

from sqlalchemy.engine import Connection as Transaction

from db.queries import echo as log
from server.context import Context
from server.contract.actions import EchoContent, GetEchoHistory
from server.contract.errors import ErrorCode, not_found
from server.contract.models import Direction, Echo, EchoEntry, EchoHistory, timestamp
from server.dispatch import action
from server.limits import Limit


@action("echo", http="POST /api/echo", limit=Limit.SENDS)
async def echo(ctx: Context, req: EchoContent) -> asyncio.Future[Echo]:
    """What is said comes back; both are kept in the caller's echo log before it is answered.

    With `TIDINGS_ECHO_UPSTREAM` it goes to that echo server, and its answer comes back: `unavailable` if the server
    cannot be reached, does not answer within 10 s, or answers with more than a `content` may hold; `rate_limited` if
    256 of one client wait for its answers. What was sent is kept all the same.
    """
    return ctx.parts.echo.say(ctx.principal, ctx.connection, req.content)


@action(
    "echo_history",
    http="GET /api/echo",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "`before` names no entry of your echo log"},
)
async def echo_history(ctx: Context, req: GetEchoHistory) -> EchoHistory:
    """A page of the caller's echo log: the newest entries, or those before a page."""
    me = ctx.principal.user_key

    def load(conn: Transaction) -> list[log.EchoRow]:
        before = None if req.before is None else log.key(conn, me, req.before)
        if req.before is not None and before is None:
            raise not_found("entry")
        return log.page(conn, me, before, req.limit + 1)

    found = await ctx.db.read(load)
    page = found[-req.limit :]
    return EchoHistory(
        entries=[
            EchoEntry(direction=Direction(row.direction), content=row.content, created_at=timestamp(row.created_at))
            for row in page
        ],
        next=page[0].entry_id if len(found) > req.limit else None,
    )
