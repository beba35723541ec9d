"""Actions of administrators (`tidings user admin`) on all users and topics. Available over REST only."""

from __future__ import annotations

from functools import partial

from tidings.actions.accounts import sessions_of
from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.auth.registration import RESET_S, create_link
from tidings.contract.administration import (
    AdminDeleteUser,
    AdminGetRooms,
    AdminGetTopics,
    AdminGetUsers,
    AdminRoomRef,
    AdminUserRef,
    UserRef,
)
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import (
    AdminRoom,
    AdminRooms,
    AdminTopic,
    AdminTopics,
    AdminUser,
    AdminUsers,
    Empty,
    PasswordLink,
    Sessions,
    timestamp,
)
from tidings.contract.permissions import KeyScope
from tidings.log.rooms import DeleteRoom
from tidings_db.queries import rooms, users, words


@action(
    "admin_get_users",
    scope=KeyScope.USERS,
    http="GET /api/admin/users",
    live=False,
    limit=Limit.READS,
    admin=True,
)
async def admin_get_users(ctx: Context, req: AdminGetUsers) -> AdminUsers:
    """Get all users, or those with such names, sorted by username."""
    after, beginnings = names.after(req.after), set(words.words(req.query or ""))
    if (req.query or "").strip() and not beginnings:
        return AdminUsers(users=[], next=None)
    rows = await ctx.db.read(partial(users.page, after=after, limit=req.limit + 1, beginnings=beginnings))
    page = rows[: req.limit]
    online = ctx.hub.online_users.among([user.key for user in page])
    return AdminUsers(
        users=[
            AdminUser(
                username=user.username,
                online=user.key in online,
                last_seen=None if user.last_seen is None or user.key in online else timestamp(user.last_seen),
                created_at=timestamp(user.created_at),
                disabled=user.disabled,
                admin=user.admin,
                display_name=user.display_name,
                service=user.service,
            )
            for user in page
        ],
        next=page[-1].username if len(rows) > req.limit else None,
    )


@action(
    "admin_disable_user",
    scope=KeyScope.USERS,
    http="POST /api/admin/users/{username}/disable",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={
        ErrorCode.NOT_FOUND: "no such user",
        ErrorCode.CONFLICT: "the user is yourself, or the last administrator",
    },
)
async def admin_disable_user(ctx: Context, req: AdminUserRef) -> Empty:
    """Disable a user: withdraw their sessions and refuse further sign-ins."""
    await _disable(ctx, req.username)
    return Empty()


async def _disable(ctx: Context, username: str, delete: str | None = None) -> None:
    """Disable a user, and begin to delete the account if `delete` says what becomes of its messages."""
    user = await ctx.auth.user(username)
    if user.key == ctx.principal.user_key:
        raise ActionError(ErrorCode.CONFLICT, "that is yourself: see your settings")
    if delete is not None and user.service:
        raise ActionError(ErrorCode.CONFLICT, f"{user.username} is a key's or the server's: revoke the key instead")
    for notice in await ctx.auth.set_disabled(user, True, by=ctx.principal, delete=delete):
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))


@action(
    "admin_enable_user",
    scope=KeyScope.USERS,
    http="POST /api/admin/users/{username}/enable",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such user"},
)
async def admin_enable_user(ctx: Context, req: AdminUserRef) -> Empty:
    """Allow a disabled user to sign in again."""
    await ctx.auth.set_disabled(await ctx.auth.user(req.username), False, by=ctx.principal)
    return Empty()


@action(
    "admin_delete_user",
    http="DELETE /api/admin/users/{username}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={
        ErrorCode.NOT_FOUND: "no such user",
        ErrorCode.CONFLICT: "the user is yourself, a key's or the server's",
    },
)
async def admin_delete_user(ctx: Context, req: AdminDeleteUser) -> Empty:
    """Delete a user's account, for ever, as `delete_account` does."""
    await _disable(ctx, req.username, req.messages)
    ctx.parts.deletions.hurry()
    return Empty()


@action(
    "admin_reset_password",
    http="POST /api/admin/users/{username}/reset-password",
    status=201,
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={
        ErrorCode.NOT_FOUND: "no such user",
        ErrorCode.CONFLICT: "the user is disabled, a key's or the server's",
    },
)
async def admin_reset_password(ctx: Context, req: UserRef) -> PasswordLink:
    """Create a link by which a user sets a new password, once, within 24 hours. Until then the old one is valid."""
    user = await ctx.auth.user(req.username)
    if user.disabled or user.service:
        raise ActionError(ErrorCode.CONFLICT, f"{user.username} cannot sign in: disabled, a key's or the server's")
    make = partial(create_link, user_key=ctx.principal.user_key, expires_in_s=RESET_S, resets_key=user.key)
    code, link = await ctx.db.write(make)
    return PasswordLink(code=code, expires_at=timestamp(link.expires_at))


@action(
    "admin_get_sessions",
    http="GET /api/admin/users/{username}/sessions",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such user"},
)
async def admin_get_sessions(ctx: Context, req: UserRef) -> Sessions:
    """Get a user's valid sessions, newest first. `end_sessions` withdraws them."""
    return await sessions_of(ctx, (await ctx.auth.user(req.username)).key)


@action("admin_get_rooms", http="GET /api/admin/rooms", limit=Limit.READS, live=False, admin=True)
async def admin_get_rooms(ctx: Context, req: AdminGetRooms) -> AdminRooms:
    """Get all topics and groups, with their size, in order of creation. `delete_room` deletes one."""
    rows = await ctx.db.read(partial(rooms.topics, after=req.after, limit=req.limit + 1, groups=True))
    page = rows[: req.limit]
    await ctx.hub.count_online([row.room for row in page])
    return AdminRooms(
        rooms=[
            AdminRoom(
                room_id=room.room_id,
                topic_name=room.topic_name,
                title=room.title,
                is_private=room.is_private,
                members=room.members,
                online=ctx.hub.online_in(room.key),
                messages=room.messages,
                size=int(size),
                created_at=timestamp(created_at),
            )
            for room, created_at, size in page
        ],
        next=page[-1].room.room_id if len(rows) > req.limit else None,
    )


@action(
    "admin_get_topics",
    scope=KeyScope.ROOMS,
    http="GET /api/admin/topics",
    limit=Limit.READS,
    live=False,
    admin=True,
)
async def admin_get_topics(ctx: Context, req: AdminGetTopics) -> AdminTopics:
    """Get all topics, including private ones, with the size of their logs, in order of creation."""
    rows = await ctx.db.read(partial(rooms.topics, after=req.after, limit=req.limit + 1))
    page = rows[: req.limit]
    await ctx.hub.count_online([row.room for row in page])
    return AdminTopics(
        topics=[
            AdminTopic(
                room_id=room.room_id,
                topic_name=room.topic_name or "",
                is_private=room.is_private,
                members=room.members,
                online=ctx.hub.online_in(room.key),
                entries=room.last_seq - room.first_seq + 1,
                messages=room.messages,
                created_at=timestamp(created_at),
            )
            for room, created_at, _ in page
        ],
        next=page[-1].room.room_id if len(rows) > req.limit else None,
    )


@action(
    "admin_delete_topic",
    scope=KeyScope.ROOMS,
    http="DELETE /api/admin/topics/{room_id}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such topic"},
)
async def admin_delete_topic(ctx: Context, req: AdminRoomRef) -> Empty:
    """Delete a topic with its log. Its members get `room_removed`, and its name becomes free."""
    key = await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(DeleteRoom(ctx.principal, key, only_topic=True))
    ctx.parts.directory.forget(key)
    return Empty()
