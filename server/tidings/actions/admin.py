"""Actions of administrators (`tidings user admin`) on all users and topics. Available over REST only."""

from __future__ import annotations

from functools import partial

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.auth.registration import create_link
from tidings.contract.administration import (
    AdminGetTopics,
    AdminGetUsers,
    AdminRoomRef,
    AdminUserRef,
    CreateRegistrationLink,
    GetRegistrationLinks,
    RegistrationLinkRef,
)
from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.models import (
    AdminTopic,
    AdminTopics,
    AdminUser,
    AdminUsers,
    Empty,
    NewRegistrationLink,
    RegistrationLink,
    RegistrationLinks,
    timestamp,
)
from tidings.contract.permissions import KeyScope
from tidings.log.rooms import DeleteRoom
from tidings_db.queries import registration, rooms, users


@action(
    "admin_get_users",
    scope=KeyScope.USERS,
    http="GET /api/admin/users",
    live=False,
    limit=Limit.READS,
    admin=True,
)
async def admin_get_users(ctx: Context, req: AdminGetUsers) -> AdminUsers:
    """Get all users, sorted by username."""
    after = names.after(req.after)
    rows = await ctx.db.read(partial(users.page, after=after, limit=req.limit + 1))
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
    errors={ErrorCode.NOT_FOUND: "no such user", ErrorCode.CONFLICT: "the user is yourself"},
)
async def admin_disable_user(ctx: Context, req: AdminUserRef) -> Empty:
    """Disable a user: withdraw their sessions and refuse further sign-ins."""
    user = await ctx.auth.user(req.username)
    if user.key == ctx.principal.user_key:
        raise ActionError(ErrorCode.CONFLICT, "administrators cannot disable themselves")
    for notice in await ctx.auth.set_disabled(user, True, by=ctx.principal):
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))
    return Empty()


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
    await ctx.hub.count_online([room for room, _ in page])
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


@action(
    "create_registration_link",
    http="POST /api/admin/registration-links",
    limit=Limit.ROOMS,
    status=201,
    live=False,
    admin=True,
)
async def create_registration_link(ctx: Context, req: CreateRegistrationLink) -> NewRegistrationLink:
    """Create a link with which newcomers may register while registration is by invitation.

    The link is valid until it expires, is used up or deleted, or its creator is no longer an administrator.
    """
    make = partial(create_link, user_key=ctx.principal.user_key, expires_in_s=req.expires_in, uses=req.uses)
    code, link = await ctx.db.write(make)
    return NewRegistrationLink(
        code=code,
        link_id=link.id,
        username=ctx.principal.username,
        created_at=timestamp(link.created_at),
        expires_at=timestamp(link.expires_at),
        uses_left=link.uses_left,
    )


@action(
    "get_registration_links",
    http="GET /api/admin/registration-links",
    limit=Limit.READS,
    live=False,
    admin=True,
)
async def get_registration_links(ctx: Context, req: GetRegistrationLinks) -> RegistrationLinks:
    """Get the valid registration links of all administrators, without their codes."""
    rows = await ctx.db.read(partial(registration.page, now=ctx.now, after=req.after, limit=req.limit + 1))
    page = rows[: req.limit]
    return RegistrationLinks(
        links=[
            RegistrationLink(
                link_id=link.id,
                username=link.username,
                created_at=timestamp(link.created_at),
                expires_at=timestamp(link.expires_at),
                uses_left=link.uses_left,
            )
            for link in page
        ],
        next=page[-1].id if len(rows) > req.limit else None,
    )


@action(
    "delete_registration_link",
    http="DELETE /api/admin/registration-links/{link_id}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such link"},
)
async def delete_registration_link(ctx: Context, req: RegistrationLinkRef) -> Empty:
    """Delete a registration link."""
    if not await ctx.db.write(partial(registration.remove, link_id=req.link_id)):
        raise not_found("registration link")
    return Empty()
