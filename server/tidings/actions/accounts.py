"""Accounts, sessions and profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.contract.actions import (
    Authenticate,
    BlockUser,
    ChangePassword,
    Deactivate,
    DeleteAccount,
    Login,
    NoPayload,
    Register,
    ResetPassword,
    RevokeSession,
)
from tidings.contract.errors import ActionError, ErrorCode, invalid
from tidings.contract.events import Presence, ProfileChanged
from tidings.contract.models import (
    Account,
    Authenticated,
    Credentials,
    Empty,
    Profile,
    Registration,
    Session,
    Sessions,
    Usernames,
    Users,
    timestamp,
)
from tidings.contract.permissions import KeyScope
from tidings.contract.profiles import GetProfile, GetUsers, SetProfile, SetStatus
from tidings.fanout.live_room import PRESENCE_MEMBERS
from tidings.log import views
from tidings.log.notices import Withdrawn
from tidings_db.queries import blocks, members, users, words
from tidings_db.queries.rows import UserRow

_WRONG_PASSWORD = {
    ErrorCode.FORBIDDEN: "wrong password",
    ErrorCode.RATE_LIMITED: "too many attempts by this session",
}


@action(
    "register",
    http="POST /api/register",
    status=201,
    live=False,
    anonymous=True,
    errors={
        ErrorCode.CONFLICT: "the name is taken, by a user or a topic, or looks like another user's",
        ErrorCode.FORBIDDEN: "registration is closed, or by invitation and `invitation` is not a valid one",
        ErrorCode.RATE_LIMITED: "too many registrations from this address",
    },
)
async def register(ctx: Context, req: Register) -> Credentials:
    """Create an account and sign in."""
    token, expires_at, user = await ctx.auth.register(
        req.username,
        req.password,
        ctx.address,
        ctx.agent,
        until_logout=ctx.until_logout,
        invitation=req.invitation,
    )
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await ctx.profile(user.username))


@action("get_registration", http="GET /api/registration", live=False, anonymous=True)
async def get_registration(ctx: Context, req: NoPayload) -> Registration:
    """Get who may create an account."""
    ctx.count_anonymous()
    return Registration(registration=await ctx.auth.registration.mode())


@action(
    "reset_password",
    http="POST /api/reset-password",
    live=False,
    anonymous=True,
    errors={ErrorCode.FORBIDDEN: "the link is not valid: it has expired, was used or was replaced"},
)
async def reset_password(ctx: Context, req: ResetPassword) -> Credentials:
    """Set a new password by the link of an administrator, end all sessions of the user, and sign in."""
    ctx.count_anonymous()
    token, expires_at, user = await ctx.auth.reset_password(
        req.code, req.new_password, ctx.address, ctx.agent, until_logout=ctx.until_logout
    )
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await ctx.profile(user.username))


@action(
    "login",
    http="POST /api/login",
    live=False,
    anonymous=True,
    errors={
        ErrorCode.UNAUTHENTICATED: "wrong username or password; the answer does not say which",
        ErrorCode.RATE_LIMITED: "too many attempts from this address, or on this account from new addresses",
    },
)
async def login(ctx: Context, req: Login) -> Credentials:
    """Sign in with a password; answers with a token of a new session."""
    token, expires_at, user = await ctx.auth.login(
        req.username, req.password, ctx.address, ctx.agent, until_logout=ctx.until_logout
    )
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await ctx.profile(user.username))


@action("refresh", http="POST /api/refresh", live=False, limit=Limit.READS)
async def refresh(ctx: Context, req: NoPayload) -> Credentials:
    """Get a fresh token of the same session."""
    token, expires_at = await ctx.auth.refresh(ctx.principal)
    return Credentials(token=token, expires_at=timestamp(expires_at), user=await ctx.profile(ctx.principal.username))


@action("me", scope=KeyScope.READ, http="GET /api/me", live=False, limit=Limit.READS)
async def me(ctx: Context, req: NoPayload) -> Account:
    """Get the caller's own profile."""
    return await _account(ctx)


async def _account(ctx: Context) -> Account:
    user = await ctx.auth.user(ctx.principal.username)
    [profile] = await ctx.profiles([user])
    return Account(**dict(profile), admin=ctx.principal.admin, folded=views.folded(user))


@action("set_profile", http="PUT /api/me", limit=Limit.JOINS)
async def set_profile(ctx: Context, req: SetProfile) -> Account:
    """Change the caller's display name, status, picture, do-not-disturb or folded sections.

    A field that is left out is unchanged; null removes it.
    """
    changes: dict[str, Any] = {}
    given, now = req.model_fields_set, ctx.now
    if "display_name" in given:
        changes["display_name"] = None if req.display_name is None else names.display_name(req.display_name)
    if "status" in given:
        changes |= _status(req.status, now)
    if "do_not_disturb" in given:
        changes["do_not_disturb_until"] = _after(now, req.do_not_disturb)
    if "folded" in given:
        changes["folded"] = orjson.dumps(sorted(set(req.folded or ()))).decode()
    if "picture" in given:
        changes["picture"] = req.picture
    if changes:
        await ctx.change_profile(ctx.principal.user_key, changes)
    return await _account(ctx)


def _status(status: SetStatus | None, now: int) -> dict[str, Any]:
    """The columns of a status."""
    if status is None:
        return {"status_text": None, "status_emoji": None, "status_until": None}
    return {
        "status_text": names.status(status.text),
        "status_emoji": None if status.emoji is None else names.emoji(status.emoji),
        "status_until": _after(now, status.expires_in),
    }


def _after(now: int, seconds: int | None) -> int | None:
    return None if seconds is None else now + seconds * 1000


@action(
    "get_profile",
    scope=KeyScope.READ,
    http="GET /api/users/{username}",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "no such user"},
)
async def get_profile(ctx: Context, req: GetProfile) -> Profile:
    """Get a user's profile."""
    return await ctx.profile(req.username)


@action("get_users", scope=KeyScope.READ, http="GET /api/users", limit=Limit.SEARCHES)
async def get_users(ctx: Context, req: GetUsers) -> Users:
    """Find users by their names, sorted by username; those that are disabled are left out.

    If the server's directory is closed, users find only those with whom they share a room.
    """
    caller, beginnings = ctx.principal, set(words.words(req.query or ""))
    if (req.query or "").strip() and not beginnings:
        return Users(users=[], next=None)
    is_key = caller.scopes is not None and caller.only_room is None
    sees_all = not ctx.parts.closed_directory or caller.admin or is_key
    find = partial(
        users.directory,
        beginnings=beginnings,
        after=names.after(req.after),
        limit=req.limit + 1,
        beside=None if sees_all else caller.user_key,
    )
    async with ctx.parts.searches.turn(caller.user_key):
        rows = await ctx.db.read(find)
    page = rows[: req.limit]
    return Users(users=await ctx.profiles(page), next=page[-1].username if len(rows) > req.limit else None)


@action(
    "authenticate",
    limit=Limit.READS,
    errors={
        ErrorCode.UNAUTHENTICATED: "the token is not one of this server",
        ErrorCode.TOKEN_EXPIRED: "the token has expired",
        ErrorCode.TOKEN_REVOKED: "the token's session was withdrawn",
        ErrorCode.FORBIDDEN: "the token is of another user",
    },
)
async def authenticate(ctx: Context, req: Authenticate) -> Authenticated:
    """Send a fresh token on a live connection, which otherwise closes when its token expires."""
    principal = await ctx.auth.authenticate(req.token)
    connection = ctx.live()
    if principal.user_key != connection.principal.user_key:
        raise ActionError(ErrorCode.FORBIDDEN, "the token is of another user")
    connection.principal = principal
    ctx.hub.expire_at(connection)
    return Authenticated(token_expires_at=timestamp(principal.expires_at))


@action("logout", http="POST /api/logout", status=204)
async def logout(ctx: Context, req: NoPayload) -> Empty:
    """Withdraw the session: its tokens become invalid, and its connections are closed."""
    with _ending_session(ctx):
        _withdraw(ctx, await ctx.auth.logout(ctx.principal))
    return Empty()


@action(
    "change_password",
    http="POST /api/me/password",
    limit=Limit.READS,
    errors={**_WRONG_PASSWORD, ErrorCode.CONFLICT: "another request has changed the password meanwhile"},
)
async def change_password(ctx: Context, req: ChangePassword) -> Empty:
    """Change the caller's password and withdraw all other sessions of the caller."""
    user = await ctx.auth.check_password(ctx.principal, req.password)
    _withdraw(ctx, await ctx.auth.change_password(ctx.principal, user, req.new_password))
    return Empty()


_LAST_ADMIN = {ErrorCode.CONFLICT: "you are the last administrator"}


@action("deactivate", http="POST /api/me/deactivate", limit=Limit.READS, errors=_WRONG_PASSWORD | _LAST_ADMIN)
async def deactivate(ctx: Context, req: Deactivate) -> Empty:
    """Disable the caller's account until an administrator enables it again. Its messages stay."""
    user = await ctx.auth.check_password(ctx.principal, req.password)
    with _ending_session(ctx):
        _withdraw(ctx, await ctx.auth.set_disabled(user, True, by=ctx.principal))
    return Empty()


@action("delete_account", http="POST /api/me/delete", limit=Limit.READS, errors=_WRONG_PASSWORD | _LAST_ADMIN)
async def delete_account(ctx: Context, req: DeleteAccount) -> Empty:
    """Delete the caller's account, for ever: everything personal goes, reactions and memberships included.

    Its sessions end with the answer. The rest follows within minutes; then the name is free. Messages that are kept
    stand under the name of a deleted user.
    """
    user = await ctx.auth.check_password(ctx.principal, req.password)
    with _ending_session(ctx):
        _withdraw(ctx, await ctx.auth.set_disabled(user, True, by=ctx.principal, delete=req.messages))
    ctx.parts.deletions.hurry()
    return Empty()


@action("get_sessions", http="GET /api/sessions", limit=Limit.READS)
async def get_sessions(ctx: Context, req: NoPayload) -> Sessions:
    """Get the caller's valid sessions, newest first."""
    return await sessions_of(ctx, ctx.principal.user_key)


async def sessions_of(ctx: Context, user_key: int) -> Sessions:
    """A user's valid sessions, newest first."""
    now, current = ctx.now, ctx.principal.session_key
    rows = await ctx.db.read(lambda conn: users.sessions_of(conn, user_key, now))
    online = ctx.hub.sessions_of(user_key)
    return Sessions(
        sessions=[
            Session(
                session_id=session.sid,
                created_at=timestamp(session.created_at),
                last_used_at=timestamp(session.used_at),
                expires_at=timestamp(session.expires_at),
                online=session.key in online,
                current=session.key == current,
                user_agent=session.user_agent,
            )
            for session in rows
        ]
    )


@action(
    "revoke_session",
    http="DELETE /api/sessions/{session_id}",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "the caller has no such session"},
)
async def revoke_session(ctx: Context, req: RevokeSession) -> Empty:
    """Withdraw one of the caller's sessions: its tokens become invalid, and its connections are closed."""
    with _ending_session(ctx):
        _withdraw(ctx, [await ctx.auth.revoke(ctx.principal, req.session_id)])
    return Empty()


_NO_SUCH_USER = {ErrorCode.INVALID: "the user is yourself", ErrorCode.NOT_FOUND: "no such user"}


@action("block", http="POST /api/blocks", limit=Limit.JOINS, errors=_NO_SUCH_USER)
async def block(ctx: Context, req: BlockUser) -> Empty:
    """Block a user: refuse their direct messages and invitations, and hide presence and receipts from them."""
    await _block(ctx, req.username, blocks.block)
    ctx.parts.authors.recheck()
    return Empty()


@action("unblock", http="DELETE /api/blocks", limit=Limit.JOINS, errors=_NO_SUCH_USER)
async def unblock(ctx: Context, req: BlockUser) -> Empty:
    """Remove a block."""
    await _block(ctx, req.username, blocks.unblock)
    return Empty()


async def _block(ctx: Context, username: str, change: Callable[[Transaction, int, int, int], None]) -> None:
    caller_key, other, now = ctx.principal.user_key, await ctx.auth.user(username), ctx.now
    if other.key == caller_key:
        raise invalid("username", "that is yourself")

    def write(conn: Transaction) -> bool:
        change(conn, caller_key, other.key, now)
        return members.is_presence_shared(conn, caller_key, other.key, PRESENCE_MEMBERS)

    shared = await ctx.db.write(write)
    ctx.hub.presence.blocked()
    if shared:
        await _publish_presence_to(ctx, other)


async def _publish_presence_to(ctx: Context, viewer: UserRow) -> None:
    """Send another user the caller's presence and profile, as that user may see them."""
    caller = await ctx.auth.user(ctx.principal.username)
    shown = ctx.shown(caller, (await ctx.presence({caller.key: caller.last_seen}, to=viewer.key))[caller.key])
    for event, model in (("presence", Presence), ("profile", ProfileChanged)):
        ctx.hub.notify(viewer.key, event, {name: shown[name] for name in model.model_fields if name in shown})


@action("get_blocks", http="GET /api/blocks", limit=Limit.READS)
async def get_blocks(ctx: Context, req: NoPayload) -> Usernames:
    """Get the users whom the caller has blocked."""
    caller_key = ctx.principal.user_key
    return Usernames(usernames=await ctx.db.read(lambda conn: blocks.blocked_by(conn, caller_key)))


def _withdraw(ctx: Context, notices: Iterable[Withdrawn]) -> None:
    """Close the connections of withdrawn sessions after the answer is written."""
    for notice in notices:
        ctx.afterwards.append(partial(ctx.auth.withdraw, notice))


@contextmanager
def _ending_session(ctx: Context) -> Iterator[None]:
    """Keep the caller's connection open until the action is answered.

    Between the commit and the answer, a check of sessions or the start of a replay may find the session withdrawn. It
    would close the connection, and the answer would be lost.
    """
    connection = ctx.connection
    if connection is None:
        yield
        return

    def release() -> None:
        connection.ending_session = False

    connection.ending_session = True
    try:
        yield
    except BaseException:
        release()
        raise
    ctx.afterwards.append(release)
