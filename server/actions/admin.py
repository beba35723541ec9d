"""What administrators do (`tidings user admin`): users and topics, whoever's they are. By REST only."""

from __future__ import annotations

from functools import partial

from db.queries import rooms, users
from server import names
from server.context import Context
from server.contract.actions import AdminGetTopics, AdminGetUsers, AdminRoomRef, AdminUserRef
from server.contract.errors import ActionError, ErrorCode
from server.contract.models import AdminTopic, AdminTopics, AdminUser, AdminUsers, Empty, timestamp
from server.delivery.membership import DeleteTopic
from server.dispatch import action
from server.limits import Limit

_FORBIDDEN = {ErrorCode.FORBIDDEN: "you are no administrator"}


@action("admin_get_users", http="GET /api/admin/users", live=False, limit=Limit.READS, errors=_FORBIDDEN)
async def admin_get_users(ctx: Context, req: AdminGetUsers) -> AdminUsers:
    """All users, by username."""
    _ = ctx.admin
    after = None if req.after is None else names.username(req.after)
    found = await ctx.db.read(partial(users.page, after=after, limit=req.limit + 1))
    page = found[: req.limit]
    online = await ctx.hub.online([user.key for user in page])
    return AdminUsers(
        users=[
            AdminUser(
                username=user.username,
                online=user.key in online,
                last_seen=None if user.last_seen is None or user.key in online else timestamp(user.last_seen),
                created_at=timestamp(user.created_at),
                disabled=user.disabled,
                admin=user.admin,
            )
            for user in page
        ],
        next=page[-1].username if len(found) > req.limit else None,
    )


@action(
    "admin_disable_user",
    http="POST /api/admin/users/{username}/disable",
    limit=Limit.READS,
    live=False,
    errors={**_FORBIDDEN, ErrorCode.NOT_FOUND: "no such user", ErrorCode.CONFLICT: "it is yourself"},
)
async def admin_disable_user(ctx: Context, req: AdminUserRef) -> Empty:
    """Withdraw a user's sessions and let them in no more."""
    admin, user = ctx.admin, await ctx.auth.user(req.username)
    if user.key == admin.user_key:
        raise ActionError(ErrorCode.CONFLICT, "administrators do not disable themselves")
    for notice in await ctx.auth.set_disabled(user, True):
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))
    return Empty()


@action(
    "admin_enable_user",
    http="POST /api/admin/users/{username}/enable",
    limit=Limit.READS,
    live=False,
    errors={**_FORBIDDEN, ErrorCode.NOT_FOUND: "no such user"},
)
async def admin_enable_user(ctx: Context, req: AdminUserRef) -> Empty:
    """Let a disabled user sign in again."""
    _ = ctx.admin
    await ctx.auth.set_disabled(await ctx.auth.user(req.username), False)
    return Empty()


@action(
    "admin_get_topics",
    http="GET /api/admin/topics",
    limit=Limit.READS,
    live=False,
    errors=_FORBIDDEN,
)
async def admin_get_topics(ctx: Context, req: AdminGetTopics) -> AdminTopics:
    """All topics, private ones too, with the size of their logs; in the order in which they were made."""
    _ = ctx.admin

    found = await ctx.db.read(partial(rooms.topics, after=req.after, limit=req.limit + 1))
    page = found[: req.limit]
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
            for room, created_at in page
        ],
        next=page[-1].room.room_id if len(found) > req.limit else None,
    )


@action(
    "admin_delete_topic",
    http="DELETE /api/admin/topics/{room_id}",
    limit=Limit.READS,
    live=False,
    errors={**_FORBIDDEN, ErrorCode.NOT_FOUND: "no such topic"},
)
async def admin_delete_topic(ctx: Context, req: AdminRoomRef) -> Empty:
    """Delete a topic with its log; its members are told, and its name is free."""
    admin = ctx.admin
    key = await ctx.access.room_key(room_id=req.room_id)
    await ctx.journal.write(DeleteTopic(admin, key))
    ctx.parts.directory.forget(key)
    return Empty()
