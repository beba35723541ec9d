"""The server as a whole, for administrators: who may register, keys of other systems, health. Over REST only."""

from __future__ import annotations

from functools import partial
from shutil import disk_usage

from sqlalchemy.engine import Connection as Transaction

from tidings import __version__
from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import keys
from tidings.auth.limits import Limit
from tidings.auth.registration import create_link
from tidings.contract.administration import (
    AdminCreateKey,
    AdminGetHealth,
    AdminGetKeys,
    AdminKeyRef,
    CreateRegistrationLink,
    GetRegistrationLinks,
    RegistrationLinkRef,
    SetRegistration,
)
from tidings.contract.errors import CloseReason, ErrorCode, not_found
from tidings.contract.models import (
    AdminHealth,
    AdminKey,
    AdminKeys,
    AdminNewKey,
    Empty,
    NewRegistrationLink,
    Registration,
    RegistrationLink,
    RegistrationLinks,
    timestamp,
)
from tidings.log.notices import Withdrawn
from tidings.webhooks import managing
from tidings_db.queries import keys as key_queries
from tidings_db.queries import registration
from tidings_db.queries.health import database_bytes


@action("set_registration", http="PUT /api/admin/registration", limit=Limit.READS, live=False, admin=True)
async def set_registration(ctx: Context, req: SetRegistration) -> Registration:
    """Choose who may create an account. Until then it is as `TIDINGS_REGISTRATION` says."""
    await ctx.db.write(partial(registration.set_mode, chosen=req.registration))
    return Registration(registration=req.registration)


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


@action("admin_get_keys", http="GET /api/admin/keys", limit=Limit.READS, live=False, admin=True)
async def admin_get_keys(ctx: Context, req: AdminGetKeys) -> AdminKeys:
    """Get the keys of other systems, without the keys themselves."""
    return AdminKeys(
        keys=[
            AdminKey(
                key_id=row.key_id,
                username=row.name,
                scopes=row.scopes.split(),
                room_id=row.room_id,
                created_at=timestamp(row.created_at),
                last_used_at=None if row.used_at is None else timestamp(row.used_at),
                revoked_at=None if row.revoked_at is None else timestamp(row.revoked_at),
            )
            for row in await ctx.db.read(key_queries.listed)
        ]
    )


@action(
    "admin_create_key",
    http="POST /api/admin/keys",
    status=201,
    limit=Limit.ROOMS,
    live=False,
    admin=True,
    errors={
        ErrorCode.INVALID: "no such username is possible",
        ErrorCode.FORBIDDEN: "you are not an administrator; the user of the key is disabled",
        ErrorCode.CONFLICT: "the name is that of a topic, or of somebody who signs in",
        ErrorCode.NOT_FOUND: "no such room",
    },
)
async def admin_create_key(ctx: Context, req: AdminCreateKey) -> AdminNewKey:
    """Create a key for another system, as `tidings key create` does."""

    def create(conn: Transaction) -> str:
        return keys.create(conn, req.username, req.scopes, managing.find_room(conn, req.room_id), ctx.now)

    return AdminNewKey(key=await ctx.db.write(create))


@action(
    "admin_revoke_key",
    http="DELETE /api/admin/keys/{key_id}",
    limit=Limit.READS,
    live=False,
    admin=True,
    errors={ErrorCode.NOT_FOUND: "no such key, or it is revoked already"},
)
async def admin_revoke_key(ctx: Context, req: AdminKeyRef) -> Empty:
    """Withdraw a key: it becomes invalid, and its connections are closed."""
    row = await ctx.db.write(partial(keys.revoke, key_id=req.key_id, now=ctx.now))
    user = await ctx.auth.user(row.name)
    ctx.afterwards.append(partial(ctx.auth.withdraw, Withdrawn(user.key, row.session_key, CloseReason.TOKEN_REVOKED)))
    return Empty()


@action("admin_get_health", http="GET /api/admin/health", limit=Limit.READS, live=False, admin=True)
async def admin_get_health(ctx: Context, req: AdminGetHealth) -> AdminHealth:
    """Get how the server process that answers is doing. `/metrics` has more, of all of them."""
    parts, disk = ctx.parts, disk_usage(ctx.parts.data_dir)
    delivery, commit, loop_lag = parts.vitals.lately()
    return AdminHealth(
        trouble=await parts.health.trouble() or None,
        degraded=parts.health.degraded() or None,
        version=__version__,
        node=parts.node,
        started_at=timestamp(parts.vitals.started_at),
        connections=len(parts.hub.connections),
        online_users=parts.hub.users,
        delivery_ms=delivery,
        commit_ms=commit,
        loop_lag_ms=loop_lag,
        waiting_changes=parts.journal.waiting,
        database_errors=parts.db.failures,
        database_bytes=await ctx.db.read(database_bytes),
        disk_free_bytes=disk.free,
        disk_bytes=disk.total,
    )
