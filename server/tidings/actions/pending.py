"""The pending entries of a device: the entries that it has not received."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import ClearPending, GetPending
from tidings.contract.errors import ErrorCode, not_found
from tidings.contract.models import Empty, Pending, PendingRoom
from tidings.contract.permissions import KeyScope
from tidings.log.devices import SkipPending
from tidings_db.queries import rooms, undelivered, users


async def _device(ctx: Context, name: str | None) -> int:
    """The key of the caller's device of that name. Raises `not_found`."""
    if ctx.connection is not None and name in (None, ctx.connection.device):
        return ctx.connection.device_key
    caller_key = ctx.principal.user_key
    row = await ctx.db.read(lambda conn: users.device(conn, caller_key, name or "default"))
    if row is None:
        raise not_found("device")
    return row.key


@action(
    "get_pending",
    scope=KeyScope.READ,
    http="GET /api/pending",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "you have no such device; `after` names no room that you may see"},
)
async def get_pending(ctx: Context, req: GetPending) -> Pending:
    """Count the entries that a device of the caller has not received, per room, in the rooms' order of creation.

    Counting starts at the server's cursor: entries that were sent are pending until the device confirms them.
    """
    caller_key, device = ctx.principal.user_key, await _device(ctx, req.device)

    def start(conn: Transaction) -> int:
        after = 0 if req.after is None else rooms.find_visible(conn, caller_key, req.after)
        if after is None:
            raise not_found()
        return after

    after = await ctx.db.read(start)
    pending_rooms: list[PendingRoom] = []
    while len(pending_rooms) <= req.limit:
        # The journal's next batch writes recently moved cursors, possibly during this read.
        unwritten = ctx.parts.cursors.unwritten(device)
        behind = await ctx.db.read(
            partial(undelivered.behind, user_key=caller_key, device_key=device, after=after, limit=req.limit + 1)
        )
        for room in behind:
            cursor = max(room.cursor, unwritten.get(room.room_key, -1))
            pending = room.last_seq - max(cursor, room.first_seq - 1)
            if pending > 0:
                pending_rooms.append(
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
    page = pending_rooms[: req.limit]
    return Pending(rooms=page, next=page[-1].room_id if len(pending_rooms) > req.limit else None)


@action(
    "clear_pending",
    http="DELETE /api/pending",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "you have no such device; no such room, or one that you are not in"},
)
async def clear_pending(ctx: Context, req: ClearPending) -> Empty:
    """Skip the pending entries of a device, in all rooms or in one: its cursors move to the newest entry.

    A replay in progress continues, and a client that sends its own cursors still gets all entries after them.
    `history` has the skipped messages.
    """
    device = await _device(ctx, req.device)
    room_key = None if req.room_id is None else await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(SkipPending(ctx.principal, room_key, device))
    return Empty()
