"""What moderators and owners do: who is in a room, and what they may do there."""

from __future__ import annotations

from sqlalchemy.engine import Connection as Transaction

from db.queries import members
from db.queries.members import BanRow
from db.queries.rows import RoomRow, UserRow
from server import names
from server.context import Context
from server.contract import actions, models
from server.contract.actions import SubjectInRoom
from server.contract.errors import ErrorCode
from server.contract.models import Bans, Empty, timestamp
from server.contract.permissions import Permission
from server.delivery.membership import Ban, Kick, Mute, SetRole, Unban
from server.dispatch import action
from server.limits import Limit

_NO_ROOM = "no such room, or a private one that you are not in"
_ERRORS = {
    ErrorCode.INVALID: "it is yourself",
    ErrorCode.FORBIDDEN: "you do not moderate the room, or not that user; a direct conversation",
    ErrorCode.NOT_FOUND: f"no such user, or not a member; {_NO_ROOM}",
}


async def _subject(ctx: Context, req: SubjectInRoom) -> tuple[int, UserRow]:
    user = await ctx.auth.user(req.username)  # before the room: whether there is one is not told by this error
    return await ctx.access.room_key(room_id=req.room_id, topic_name=req.topic_name), user


@action("kick", http="POST /api/kicks", limit=Limit.JOINS, errors=_ERRORS)
async def kick(ctx: Context, req: actions.Kick) -> Empty:
    """Remove a member, who may come back."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(Kick(ctx.principal, key, user.key, user.username))
    return Empty()


@action(
    "ban",
    http="POST /api/bans",
    limit=Limit.JOINS,
    errors={**_ERRORS, ErrorCode.NOT_FOUND: f"no such user; {_NO_ROOM}"},
)
async def ban(ctx: Context, req: actions.BanUser) -> Empty:
    """Remove a user and do not let them come back, by whichever way; also one who is not a member."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(Ban(ctx.principal, key, user.key, user.username, req.duration))
    return Empty()


@action(
    "unban",
    http="DELETE /api/bans",
    limit=Limit.JOINS,
    errors={**_ERRORS, ErrorCode.NOT_FOUND: f"no such user, or not banned; {_NO_ROOM}"},
)
async def unban(ctx: Context, req: actions.Unban) -> Empty:
    """Let a banned user come back."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(Unban(ctx.principal, key, user.key, user.username))
    return Empty()


@action(
    "get_bans", http="GET /api/bans", limit=Limit.READS, errors={ErrorCode.FORBIDDEN: "you do not moderate the room"}
)
async def get_bans(ctx: Context, req: actions.GetBans) -> Bans:
    """Who is banned from a room that the caller moderates, by username."""
    after = None if req.after is None else names.username(req.after)

    def load(conn: Transaction, room: RoomRow) -> list[BanRow]:
        return members.list_bans(conn, room.key, ctx.now, after, req.limit + 1)

    found = await ctx.access.room(req, Permission.BAN, load)
    page = found[: req.limit]
    return Bans(
        bans=[
            models.Ban(
                username=one.username,
                created_at=timestamp(one.created_at),
                expires_at=None if one.expires_at is None else timestamp(one.expires_at),
            )
            for one in page
        ],
        next=page[-1].username if len(found) > req.limit else None,
    )


@action("mute", http="POST /api/mutes", limit=Limit.JOINS, errors=_ERRORS)
async def mute(ctx: Context, req: actions.Mute) -> Empty:
    """Let a member not send, edit, react or type for a while; leaving and coming back does not end it."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(Mute(ctx.principal, key, user.key, user.username, req.duration))
    return Empty()


@action("set_role", http="PUT /api/roles", limit=Limit.JOINS, errors=_ERRORS)
async def set_role(ctx: Context, req: actions.SetRole) -> Empty:
    """Give a member another role, not above one's own. An owner may hand the room over, and moderates it then."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(SetRole(ctx.principal, key, user.key, user.username, req.role))
    return Empty()
