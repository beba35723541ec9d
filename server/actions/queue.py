"""What is pending for a device: the caller's message queue, so to speak."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Connection as Transaction

from db.queries import queue, rooms, users
from server.context import Context
from server.contract.actions import ClearPending, GetPending
from server.contract.errors import ErrorCode, not_found
from server.contract.models import Empty, Pending, PendingRoom
from server.delivery.operations import SkipPending
from server.dispatch import action
from server.limits import Limit


async def _device(ctx: Context, name: str | None) -> int:
    """The key of a device of the caller. Raises `not_found`."""
    if ctx.connection is not None and name in (None, ctx.connection.device):
        return ctx.connection.device_key
    me = ctx.principal.user_key
    found = await ctx.db.read(lambda conn: users.device(conn, me, name or "default"))
    if found is None:
        raise not_found("device")
    return found.key


@action(
    "get_pending",
    http="GET /api/pending",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "you have no such device; `after` names no room that you may see"},
)
async def get_pending(ctx: Context, req: GetPending) -> Pending:
    """What a device of the caller still misses, by room, in the order in which the rooms were made.

    It counts from the cursor that the server holds. What a connection has been sent is pending until it is confirmed.
    """
    me, device = ctx.principal.user_key, await _device(ctx, req.device)

    def place(conn: Transaction) -> int:
        after = 0 if req.after is None else rooms.find_visible(conn, me, req.after)
        if after is None:
            raise not_found()
        return after

    after = await ctx.db.read(place)
    found: list[PendingRoom] = []
    while len(found) <= req.limit:
        # What was confirmed a moment ago is written with the journal's next batch, which may be while this reads.
        unwritten = ctx.parts.cursors.unwritten(device)
        behind = await ctx.db.read(
            partial(queue.behind, user_key=me, device_key=device, after=after, limit=req.limit + 1)
        )
        for room in behind:
            cursor = max(room.cursor, unwritten.get(room.room_key, -1))
            pending = room.last_seq - max(cursor, room.first_seq - 1)
            if pending > 0:
                found.append(
                    PendingRoom(
                        room_id=room.room_id,
                        topic_name=room.topic_name,
                        cursor=cursor,
                        last_seq=room.last_seq,
                        pending=pending,
                    )
                )
        if len(behind) <= req.limit:
            break
        after = behind[-1].room_key
    page = found[: req.limit]
    return Pending(rooms=page, next=page[-1].room_id if len(found) > req.limit else None)


@action(
    "clear_pending",
    http="DELETE /api/pending",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "you have no such device; no such room, or one that you are not in"},
)
async def clear_pending(ctx: Context, req: ClearPending) -> Empty:
    """Let a device of the caller miss what is pending for it, in all rooms or in one: its cursors move to the heads.

    A connection of the device goes on with what it is being sent. A client that brings cursors of its own gets what
    is after them all the same. `history` has what was passed over.
    """
    device = await _device(ctx, req.device)
    room_key = None if req.room_id is None else await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(SkipPending(ctx.principal, room_key, device))
    return Empty()
