"""Users and rooms as backends manage them, with a key; and the audit log of what keys did."""

from __future__ import annotations

from functools import partial

import orjson

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.contract.administration import AdminRoomRef, GetAudit, MakeToken, MemberOfRoom, PutUser, UserRef
from tidings.contract.errors import ActionError, CloseReason, ErrorCode
from tidings.contract.models import AuditEntry, AuditLog, Empty, Profile, UserToken, timestamp
from tidings.contract.permissions import KeyScope, Permission
from tidings.log.memberships import Join, KickMember
from tidings.log.notices import Withdrawn
from tidings.log.rooms import DeleteRoom
from tidings_db.queries import keys, users

_NO_USER = {ErrorCode.NOT_FOUND: "no such user"}


@action(
    "put_user",
    scope=KeyScope.USERS,
    http="PUT /api/users/{username}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.CONFLICT: "the name is taken by a topic, a key or the server, or looks like another user's"},
)
async def put_user(ctx: Context, req: PutUser) -> Profile:
    """Create a user without a password, or change their display name. Needs no registration."""
    user = await ctx.auth.find_or_create(names.username(req.username))
    if user.service:
        raise ActionError(ErrorCode.CONFLICT, f"{user.username} is the name of a key or of the server")
    if "display_name" in req.model_fields_set:
        display_name = None if req.display_name is None else names.display_name(req.display_name)
        await ctx.change_profile(user.key, {"display_name": display_name})
    return await ctx.profile(user.username)


@action(
    "create_token",
    scope=KeyScope.USERS,
    http="POST /api/users/{username}/token",
    status=201,
    limit=Limit.READS,
    live=False,
    admin=True,
    errors=_NO_USER
    | {
        ErrorCode.FORBIDDEN: "you are not an administrator; the user is disabled, a key's or the server's; a key asks"
        " for an administrator"
    },
)
async def create_token(ctx: Context, req: MakeToken) -> UserToken:
    """Sign a user in: a token of a new session, to be handed to their client."""
    user = await ctx.auth.user(req.username)
    if user.disabled:
        raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} is disabled")
    if user.service:
        raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} is a key's or the server's, and does not sign in")
    if user.admin and ctx.principal.scopes is not None:
        raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} is an administrator, who signs in by themselves")
    token, expires_at = await ctx.auth.sign_in(user, None if req.minutes is None else req.minutes * 60_000)
    return UserToken(token=token, expires_at=timestamp(expires_at))


@action(
    "end_sessions",
    scope=KeyScope.USERS,
    http="DELETE /api/users/{username}/sessions",
    status=204,
    limit=Limit.READS,
    live=False,
    admin=True,
    errors=_NO_USER,
)
async def end_sessions(ctx: Context, req: UserRef) -> Empty:
    """Withdraw all sessions of a user: their tokens become invalid, and their connections close."""
    user = await ctx.auth.user(req.username)
    for session_key in await ctx.db.write(lambda conn: users.revoke_sessions_of(conn, user.key, ctx.now)):
        notice = Withdrawn(user.key, session_key, CloseReason.TOKEN_REVOKED)
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))
    return Empty()


@action(
    "add_member",
    scope=KeyScope.ROOMS,
    http="PUT /api/rooms/{room_id}/members/{username}",
    limit=Limit.JOINS,
    live=False,
    errors={
        ErrorCode.NOT_FOUND: "no such user; no such room, or a private one that you are not in",
        ErrorCode.FORBIDDEN: "you are not a member of the public topic; the room is a direct conversation; the user"
        " is banned, or has blocked you",
        ErrorCode.TOO_LARGE: "the room or the user has too many",
    },
)
async def add_member(ctx: Context, req: MemberOfRoom) -> Empty:
    """Make a user a member of a room. Nothing changes if they are one."""
    user = await ctx.auth.user(req.username)
    key = await ctx.access.room_key(room_id=req.room_id)
    ctx.count_invites([user.key])
    try:
        await ctx.journal.write(Join(ctx.principal, key, user.key, user.username, Permission.INVITE))
    except ActionError as error:
        if error.code is not ErrorCode.CONFLICT:
            raise
    return Empty()


@action(
    "remove_member",
    scope=KeyScope.ROOMS,
    http="DELETE /api/rooms/{room_id}/members/{username}",
    limit=Limit.JOINS,
    live=False,
    errors={
        ErrorCode.NOT_FOUND: "no such user; no such room, or a private one that you are not in; not a member",
        ErrorCode.FORBIDDEN: "you do not moderate the room, or the member's role is not below yours",
        ErrorCode.INVALID: "that is yourself",
    },
)
async def remove_member(ctx: Context, req: MemberOfRoom) -> Empty:
    """Remove a member from a room; they may join again."""
    user = await ctx.auth.user(req.username)
    key = await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(KickMember(ctx.principal, key, user.key, user.username))
    return Empty()


@action(
    "delete_room",
    scope=KeyScope.ROOMS,
    http="DELETE /api/rooms/{room_id}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such topic or group"},
)
async def delete_room(ctx: Context, req: AdminRoomRef) -> Empty:
    """Delete a topic or a group with its log. Its members get `room_removed`, and a topic's name becomes free."""
    key = await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(DeleteRoom(ctx.principal, key))
    ctx.parts.directory.forget(key)
    return Empty()


@action("get_audit", http="GET /api/audit", limit=Limit.READS, live=False, admin=True)
async def get_audit(ctx: Context, req: GetAudit) -> AuditLog:
    """Get what administrators did, and keys to users and rooms, and as users, the newest first."""
    rows = await ctx.db.read(partial(keys.audited, before=req.before, limit=req.limit + 1))
    return AuditLog(
        entries=[
            AuditEntry(
                id=row.id,
                at=timestamp(row.at),
                key=row.key_name,
                username=row.username,
                action=row.action,
                request=orjson.loads(row.request),
            )
            for row in rows[: req.limit]
        ],
        next=rows[req.limit - 1].id if len(rows) > req.limit else None,
    )
