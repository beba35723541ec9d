"""Accounts, sessions and profiles."""

from __future__ import annotations

from server.context import Context
from server.contract.actions import Authenticate, GetProfile, Login, NoPayload, Register
from server.contract.errors import ActionError, ErrorCode
from server.contract.models import Authenticated, Credentials, Empty, Profile, timestamp
from server.dispatch import action
from server.limits import Limit


async def _profile(ctx: Context, username: str) -> Profile:
    user = await ctx.auth.user(username)
    return Profile(
        username=user.username,
        online=bool(await ctx.hub.online([user.key])),
        last_seen=None if user.last_seen is None else timestamp(user.last_seen),
        created_at=timestamp(user.created_at),
    )


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
    token, expires_at, user = await ctx.auth.register(req.username, req.password, ctx.address)
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
    token, expires_at, user = await ctx.auth.login(req.username, req.password, ctx.address)
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
    notice = await ctx.auth.logout(ctx.principal)
    ctx.afterwards.append(lambda: ctx.auth.withdraw(notice))
    return Empty()
