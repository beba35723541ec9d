"""Accounts, sessions and profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from sqlalchemy.engine import Connection as Transaction

from db.queries import members, users
from db.queries.rows import UserRow
from server.context import Context
from server.contract.actions import (
    Authenticate,
    BlockUser,
    ChangePassword,
    Deactivate,
    GetProfile,
    Login,
    NoPayload,
    Register,
    RevokeSession,
)
from server.contract.errors import ActionError, ErrorCode, invalid
from server.contract.models import (
    Authenticated,
    Credentials,
    Empty,
    Profile,
    Session,
    Sessions,
    Usernames,
    timestamp,
)
from server.delivery.broker import Withdrawn
from server.delivery.hub import PRESENCE_MEMBERS
from server.dispatch import action
from server.limits import Limit


async def _profile(ctx: Context, username: str) -> Profile:
    user = await ctx.auth.user(username)
    online, last_seen = (await ctx.presence({user.key: user.last_seen}))[user.key]
    return Profile(username=user.username, online=online, last_seen=last_seen, created_at=timestamp(user.created_at))


_WRONG_PASSWORD = {
    ErrorCode.FORBIDDEN: "wrong password",
    ErrorCode.RATE_LIMITED: "too many attempts, on this account or from this address",
}


@action(
    "register",
    http="POST /api/register",
    status=201,
    live=False,
    anonymous=True,
    errors={
        ErrorCode.CONFLICT: "the name is taken, by a user or a topic",
        ErrorCode.RATE_LIMITED: "too many registrations from this address",
    },
)
async def register(ctx: Context, req: Register) -> Credentials:
    """Make an account and sign it in."""
    token, expires_at, user = await ctx.auth.register(
        req.username, req.password, ctx.address, ctx.agent, until_logout=ctx.until_logout
    )
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await _profile(ctx, user.username))


@action(
    "login",
    http="POST /api/login",
    live=False,
    anonymous=True,
    errors={
        ErrorCode.UNAUTHENTICATED: "wrong username or password, whichever it is",
        ErrorCode.RATE_LIMITED: "too many attempts, on this account or from this address",
    },
)
async def login(ctx: Context, req: Login) -> Credentials:
    """Sign in by password: a token of a new session."""
    token, expires_at, user = await ctx.auth.login(
        req.username, req.password, ctx.address, ctx.agent, until_logout=ctx.until_logout
    )
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await _profile(ctx, user.username))


@action("refresh", http="POST /api/refresh", live=False, limit=Limit.READS)
async def refresh(ctx: Context, req: NoPayload) -> Credentials:
    """A fresh token of the same session."""
    token, expires_at = await ctx.auth.refresh(ctx.principal)
    return Credentials(
        token=token, expires_at=timestamp(expires_at), user=await _profile(ctx, ctx.principal.username)
    )


@action("me", http="GET /api/me", live=False, limit=Limit.READS)
async def me(ctx: Context, req: NoPayload) -> Profile:
    """The caller's own profile."""
    return await _profile(ctx, ctx.principal.username)


@action(
    "get_profile",
    http="GET /api/users/{username}",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "no such user"},
)
async def get_profile(ctx: Context, req: GetProfile) -> Profile:
    """A user's profile."""
    return await _profile(ctx, req.username)


@action(
    "authenticate",
    limit=Limit.READS,
    errors={
        ErrorCode.UNAUTHENTICATED: "the token is not one of ours",
        ErrorCode.TOKEN_EXPIRED: "the token has expired",
        ErrorCode.TOKEN_REVOKED: "the token's session was withdrawn",
        ErrorCode.FORBIDDEN: "the token is of another user",
    },
)
async def authenticate(ctx: Context, req: Authenticate) -> Authenticated:
    """Bring a fresh token on a live connection, which else would close when its token expires."""
    principal = await ctx.auth.authenticate(req.token)
    connection = ctx.live()
    if principal.user_key != connection.principal.user_key:
        raise ActionError(ErrorCode.FORBIDDEN, "the token is of another user")
    connection.principal = principal
    ctx.hub.expire_at(connection)
    return Authenticated(token_expires_at=timestamp(principal.expires_at))


@action("logout", http="POST /api/logout", status=204)
async def logout(ctx: Context, req: NoPayload) -> Empty:
    """Withdraw the session: its tokens are void, its connections close."""
    _withdraw(ctx, await ctx.auth.logout(ctx.principal))
    return Empty()


@action(
    "change_password",
    http="POST /api/me/password",
    limit=Limit.READS,
    errors={**_WRONG_PASSWORD, ErrorCode.CONFLICT: "it was changed by another request meanwhile"},
)
async def change_password(ctx: Context, req: ChangePassword) -> Empty:
    """Take another password; every other session of the caller is withdrawn."""
    user = await ctx.auth.check_password(ctx.principal, req.password, ctx.address)
    _withdraw(ctx, await ctx.auth.change_password(ctx.principal, user, req.new_password))
    return Empty()


@action("deactivate", http="POST /api/me/deactivate", limit=Limit.READS, errors=_WRONG_PASSWORD)
async def deactivate(ctx: Context, req: Deactivate) -> Empty:
    """Close one's account: nobody can sign in to it, until an administrator enables it. What was sent stays."""
    user = await ctx.auth.check_password(ctx.principal, req.password, ctx.address)
    _withdraw(ctx, await ctx.auth.set_disabled(user, True))
    return Empty()


@action("get_sessions", http="GET /api/sessions", limit=Limit.READS)
async def get_sessions(ctx: Context, req: NoPayload) -> Sessions:
    """The caller's sessions that are still good, newest first."""
    me, now = ctx.principal, ctx.now
    found = await ctx.db.read(lambda conn: users.sessions_of(conn, me.user_key, now))
    return Sessions(
        sessions=[
            Session(
                session_id=session.sid,
                created_at=timestamp(session.created_at),
                expires_at=timestamp(session.expires_at),
                current=session.key == me.session_key,
                user_agent=session.user_agent,
            )
            for session in found
        ]
    )


@action(
    "revoke_session",
    http="DELETE /api/sessions/{session_id}",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "the caller has no such session"},
)
async def revoke_session(ctx: Context, req: RevokeSession) -> Empty:
    """Withdraw one of the caller's sessions: its tokens are void, its connections close."""
    _withdraw(ctx, [await ctx.auth.revoke(ctx.principal, req.session_id)])
    return Empty()


_NO_SUCH_USER = {ErrorCode.INVALID: "it is yourself", ErrorCode.NOT_FOUND: "no such user"}


@action("block", http="POST /api/blocks", limit=Limit.JOINS, errors=_NO_SUCH_USER)
async def block(ctx: Context, req: BlockUser) -> Empty:
    """Take no direct messages and no invitations from a user, and hide one's presence from them."""
    await _block(ctx, req.username, users.block)
    return Empty()


@action("unblock", http="DELETE /api/blocks", limit=Limit.JOINS, errors=_NO_SUCH_USER)
async def unblock(ctx: Context, req: BlockUser) -> Empty:
    """Take a block back."""
    await _block(ctx, req.username, users.unblock)
    return Empty()


async def _block(ctx: Context, username: str, change: Callable[[Transaction, int, int, int], None]) -> None:
    me, other, now = ctx.principal, await ctx.auth.user(username), ctx.now
    if other.key == me.user_key:
        raise invalid("username", "that is yourself")

    def write(conn: Transaction) -> bool:
        change(conn, me.user_key, other.key, now)
        return members.is_presence_shared(conn, me.user_key, other.key, PRESENCE_MEMBERS)

    shared = await ctx.db.write(write)
    ctx.parts.presence.blocked()
    if shared:
        await _show(ctx, other)


async def _show(ctx: Context, other: UserRow) -> None:
    """Tell another user whether the caller is online, as they may know it."""
    me = await ctx.auth.user(ctx.principal.username)
    online, last_seen = (await ctx.presence({me.key: me.last_seen}, to=other.key))[me.key]
    ctx.hub.tell(other.key, "presence", {"username": me.username, "online": online, "last_seen": last_seen})


@action("get_blocks", http="GET /api/blocks", limit=Limit.READS)
async def get_blocks(ctx: Context, req: NoPayload) -> Usernames:
    """Whom the caller has blocked."""
    me = ctx.principal.user_key
    return Usernames(usernames=await ctx.db.read(lambda conn: users.blocked_by(conn, me)))


def _withdraw(ctx: Context, notices: Iterable[Withdrawn]) -> None:
    """Close the connections of withdrawn sessions once the answer is on its way."""
    for notice in notices:
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))
