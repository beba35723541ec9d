"""Actions of moderators and owners: removing, banning and muting users, and changing roles."""

from __future__ import annotations

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.contract import actions, models
from tidings.contract.actions import SubjectInRoom
from tidings.contract.errors import ErrorCode
from tidings.contract.models import Bans, Empty, timestamp
from tidings.contract.permissions import KeyScope, Permission
from tidings.log.memberships import BanFromRoom, ChangeRole, KickMember, LiftBan, MuteMember
from tidings_db.queries import members
from tidings_db.queries.members import BanRow
from tidings_db.queries.rows import RoomRow, UserRow

_NO_ROOM = "no such room, or a private one that you are not in"
_ERRORS = {
    ErrorCode.INVALID: "the user is yourself",
    ErrorCode.FORBIDDEN: "you do not moderate the room; the user's role is not below yours; the room is a direct"
    " conversation",
    ErrorCode.NOT_FOUND: f"no such user, or not a member; {_NO_ROOM}",
}


async def _subject(ctx: Context, req: SubjectInRoom) -> tuple[int, UserRow]:
    # The user first, so that the error does not show whether the room exists.
    user = await ctx.auth.user(req.username)
    return await ctx.access.room_key(room_id=req.room_id, topic_name=req.topic_name), user


@action("kick", scope=KeyScope.ROOMS, http="POST /api/kicks", limit=Limit.JOINS, errors=_ERRORS)
async def kick(ctx: Context, req: actions.Kick) -> Empty:
    """Remove a member, who may join again."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(KickMember(ctx.principal, key, user.key, user.username))
    ctx.parts.authors.recheck()
    return Empty()


@action(
    "ban",
    scope=KeyScope.ROOMS,
    http="POST /api/bans",
    limit=Limit.JOINS,
    errors={**_ERRORS, ErrorCode.NOT_FOUND: f"no such user; {_NO_ROOM}"},
)
async def ban(ctx: Context, req: actions.BanUser) -> Empty:
    """Ban a user, member or not: they are removed and cannot join again, in any way."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(BanFromRoom(ctx.principal, key, user.key, user.username, req.duration))
    ctx.parts.authors.recheck()
    return Empty()


@action(
    "unban",
    scope=KeyScope.ROOMS,
    http="DELETE /api/bans",
    limit=Limit.JOINS,
    errors={**_ERRORS, ErrorCode.NOT_FOUND: f"no such user, or not banned; {_NO_ROOM}"},
)
async def unban(ctx: Context, req: actions.Unban) -> Empty:
    """Lift a ban: the user may join again."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(LiftBan(ctx.principal, key, user.key, user.username))
    return Empty()


@action(
    "get_bans", http="GET /api/bans", limit=Limit.READS, errors={ErrorCode.FORBIDDEN: "you do not moderate the room"}
)
async def get_bans(ctx: Context, req: actions.GetBans) -> Bans:
    """Get the users who are banned from a room that the caller moderates, sorted by username."""
    after = names.after(req.after)

    def load(conn: Transaction, room: RoomRow) -> list[BanRow]:
        return members.list_bans(conn, room.key, ctx.now, after, req.limit + 1)

    rows = await ctx.access.room(req, Permission.BAN, load)
    page = rows[: req.limit]
    return Bans(
        bans=[
            models.Ban(
                username=row.username,
                created_at=timestamp(row.created_at),
                expires_at=None if row.expires_at is None else timestamp(row.expires_at),
            )
            for row in page
        ],
        next=page[-1].username if len(rows) > req.limit else None,
    )


@action("mute", scope=KeyScope.ROOMS, http="POST /api/mutes", limit=Limit.JOINS, errors=_ERRORS)
async def mute(ctx: Context, req: actions.Mute) -> Empty:
    """Mute a member for a while: they cannot send, edit, react or type. Leaving and rejoining does not end it."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(MuteMember(ctx.principal, key, user.key, user.username, req.duration))
    ctx.parts.authors.recheck()
    return Empty()


@action("set_role", scope=KeyScope.ROOMS, http="PUT /api/roles", limit=Limit.JOINS, errors=_ERRORS)
async def set_role(ctx: Context, req: actions.SetRole) -> Empty:
    """Change a member's role, up to one's own. An owner who hands the room over becomes a moderator."""
    key, user = await _subject(ctx, req)
    await ctx.journal.write(ChangeRole(ctx.principal, key, user.key, user.username, req.role))
    ctx.parts.authors.recheck()
    return Empty()
