"""Passwords, tokens and sessions: how a caller becomes a `Principal`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt
import jwt
from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from sqlalchemy.engine import Connection as Transaction

from db.engine import Database
from db.queries import users
from db.queries.rows import UserRow
from db.queries.users import DeviceRow, SessionRow
from db.together import Together
from server import names
from server.contract.errors import ActionError, CloseReason, ErrorCode, invalid, not_found
from server.delivery.broker import Broker, UserChannel, Withdrawn
from server.delivery.connection import Principal
from server.limits import rate

ISSUER = AUDIENCE = "tidings"
ALGORITHM = "HS256"
BCRYPT_ROUNDS = 12
PASSWORD_BYTES = (8, 72)
"""bcrypt looks at 72 bytes at most; a longer password is refused, never cut."""
WRONG_PASSWORD = "wrong username or password"
TICKET_MS = 5 * 60_000
"""A ticket is good for so long: to open a connection, not to keep it."""
HASHES_WAITING = 64
"""How many password checks may wait before the next is told to come back later."""

UNTIL_LOGOUT = 253_402_214_400_000
"""Expiry (ms) of a session that lasts until its user logs out: the last day that ISO 8601 can tell in four digits."""

LOGINS_OF_AN_ADDRESS = 3
"""So many times as many attempts may come from one address as on one account."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Passwords:
    """bcrypt, off the event loop, behind a bounded queue."""

    def __init__(self, rounds: int = BCRYPT_ROUNDS) -> None:
        self._rounds = rounds
        self._threads = ThreadPoolExecutor(2, "tidings-bcrypt")
        self._waiting = 0
        self._nobody = b""

    @property
    def waiting(self) -> int:
        """Passwords that are being looked at, or wait for it."""
        return self._waiting

    async def start(self) -> None:
        # Checked against when there is no such user, so that it takes the same time.
        self._nobody = (await self.hash(secrets.token_hex(16))).encode()

    def stop(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def hash(self, password: str) -> str:
        raw = _password_bytes(password)
        hashed: bytes = await self._run(lambda: bcrypt.hashpw(raw, bcrypt.gensalt(self._rounds)))
        return hashed.decode()

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Compare; takes the same time when there is nothing to compare with."""
        raw = password.encode("utf-8", "surrogatepass")
        fits = len(raw) <= PASSWORD_BYTES[1]
        against = self._nobody if hashed is None or not fits else hashed.encode()
        same = await self._run(lambda: bcrypt.checkpw(raw[: PASSWORD_BYTES[1]], against))
        return same and hashed is not None and fits

    async def _run(self, work: Callable[[], Any]) -> Any:
        if self._waiting >= HASHES_WAITING:
            raise ActionError(ErrorCode.UNAVAILABLE, "too many are signing in at once")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _password_bytes(password: str) -> bytes:
    low, high = PASSWORD_BYTES
    try:
        raw = password.encode()
    except UnicodeEncodeError:
        raise invalid("password", "not valid Unicode") from None
    if not low <= len(raw) <= high:
        raise invalid("password", f"{low}–{high} bytes in UTF-8")
    if b"\0" in raw:
        raise invalid("password", "no U+0000")
    return raw


class Tokens:
    """JWTs (RFC 7519), HS256: `sub` username, `sid` session, `iat`, `exp`, `iss`, `aud`; all of them required."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, username: str, sid: str, issued_ms: int, expires_ms: int) -> str:
        claims = {
            "sub": username,
            "sid": sid,
            "iat": issued_ms // 1000,
            "exp": expires_ms // 1000,
            "iss": ISSUER,
            "aud": AUDIENCE,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def ticket(self, purpose: str, username: str, sid: str, issued_ms: int, until_ms: int) -> tuple[str, int]:
        """A token that is good for one purpose and for `TICKET_MS`, and when it ends (ms).

        What it opens may stay `until` the token ends with which it was asked for.
        """
        expires_ms = min(issued_ms + TICKET_MS, until_ms) // 1000 * 1000
        claims = {
            "sub": username,
            "sid": sid,
            "iat": issued_ms // 1000,
            "exp": expires_ms // 1000,
            "until": until_ms // 1000,
            "iss": ISSUER,
            "aud": _audience(purpose),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM), expires_ms

    def read(self, token: str, purpose: str = "") -> tuple[str, str, int]:
        """Username, sid and end (ms) of a token, or of a ticket for the purpose.

        Raises `unauthenticated` or `token_expired`.
        """
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=[AUDIENCE, _audience(purpose)] if purpose else AUDIENCE,
                issuer=ISSUER,
                options={"require": ["sub", "sid", "iat", "exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise ActionError(ErrorCode.TOKEN_EXPIRED, "the token has expired") from None
        except (jwt.InvalidTokenError, UnicodeError, ValueError):
            raise unauthenticated() from None
        sub, sid = claims["sub"], claims["sid"]
        if not isinstance(sub, str) or not isinstance(sid, str):
            raise unauthenticated()
        return sub, sid, int(claims.get("until", claims["exp"])) * 1000


def _audience(purpose: str) -> str:
    return f"{AUDIENCE}:{purpose}"


def unauthenticated(message: str = "no valid token") -> ActionError:
    return ActionError(ErrorCode.UNAUTHENTICATED, message)


def _principal(session: SessionRow | None, username: str, expires_at: int) -> Principal:
    if session is None or session.username != username:
        raise unauthenticated()
    if session.revoked_at is not None or session.disabled:
        raise ActionError(ErrorCode.TOKEN_REVOKED, "the token was withdrawn")
    return Principal(session.user_key, username, session.key, session.sid, expires_at, bool(session.admin))


class Auth:
    """Accounts and sessions."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        token_minutes: int,
        logins: str | None = None,
        registrations: str = "20/minute",
        bcrypt_rounds: int = BCRYPT_ROUNDS,
    ) -> None:
        """`logins`: the rate of attempts on one account; None: none is limited, registrations neither."""
        self._db = database
        self._broker = broker
        self._tokens = Tokens(b"")
        self._arrivals = Together(database, users.arrivals)
        self._token_ms = token_minutes * 60_000
        self._limiter = None if logins is None else MovingWindowRateLimiter(MemoryStorage())
        per_account = rate(logins or "1/minute")
        self._per_account = per_account
        self._per_address = type(per_account)(LOGINS_OF_AN_ADDRESS * per_account.amount, per_account.multiples)
        self._registrations = rate(registrations)
        self.passwords = Passwords(bcrypt_rounds)

    async def start(self, key: bytes) -> None:
        """`key` signs the tokens. Until then there is no `login`."""
        self.sign_with(key)
        await self.passwords.start()

    def sign_with(self, key: bytes) -> None:
        """As `start`, for a process that lets nobody log in."""
        self._tokens = Tokens(key)

    def stop(self) -> None:
        self.passwords.stop()

    async def register(
        self, raw_name: str, password: str, address: str, agent: str | None = None, *, until_logout: bool = False
    ) -> tuple[str, int, UserRow]:
        """Make an account and sign it in: token, its expiry (ms), user."""
        username = names.username(raw_name)
        await self._limit(self._registrations, "register", address)
        hashed = await self.passwords.hash(password)
        now = now_ms()

        def make(conn: Transaction) -> UserRow | None:
            key = users.add(conn, username, names.name_key(username), hashed, now)
            return None if key is None else users.by_username(conn, username)

        made = await self._db.write(make)
        if made is None:
            raise ActionError(ErrorCode.CONFLICT, "the name is taken")
        token, expires_at = await self.sign_in(made, agent=agent, until_logout=until_logout)
        return token, expires_at, made

    async def login(
        self, raw_name: str, password: str, address: str, agent: str | None = None, *, until_logout: bool = False
    ) -> tuple[str, int, UserRow]:
        """Sign in by password. An unknown user and a wrong password get the same answer after the same time.

        The limits count attempts, not tokens: whoever is signed in stays so, however many attempts others make.
        """
        username = names.try_username(raw_name)
        await self._limit(self._per_address, "login", address)
        await self._limit(self._per_account, "login", f"{username or raw_name[:64]}")
        found = await self._db.read(lambda conn: users.by_username(conn, username or ""))
        good = await self.passwords.matches(password, found.password_hash if found else None)
        if not good or found is None or found.disabled:
            raise unauthenticated(WRONG_PASSWORD)
        token, expires_at = await self.sign_in(found, agent=agent, until_logout=until_logout)
        return token, expires_at, found

    async def sign_in(
        self, user: UserRow, life_ms: int | None = None, *, agent: str | None = None, until_logout: bool = False
    ) -> tuple[str, int]:
        """Begin a session: its token and the token's expiry (ms), which is `UNTIL_LOGOUT` if it is to last so long.

        Raises `unauthenticated` if the user was disabled or got another password since `user` was read: whoever
        withdraws the sessions of a user withdraws this one, too, or it does not begin.
        """
        sid, now = secrets.token_urlsafe(18), now_ms()
        expires_at = UNTIL_LOGOUT if until_logout else self._expiry(now, life_ms)

        def begin(conn: Transaction) -> None:
            same = users.lock(conn, user.username)
            if same is None or same.disabled or same.password_hash != user.password_hash:
                raise unauthenticated(WRONG_PASSWORD)
            users.add_session(conn, sid, user.key, now, expires_at, agent)

        await self._db.write(begin)
        return self._tokens.make(user.username, sid, now, expires_at), expires_at

    async def token_for(self, raw_name: str, life_ms: int | None = None) -> tuple[str, int]:
        """As `sign_in`, by a name alone: for who has the machine to themselves. Makes the user if need be.

        Raises `invalid`, `conflict` (a topic has that name) or `forbidden` (the user is disabled).
        """
        username = names.username(raw_name)

        def find_or_make(conn: Transaction) -> UserRow | None:
            users.add(conn, username, names.name_key(username), None, now_ms())
            return users.by_username(conn, username)

        user = await self._db.read(lambda conn: users.by_username(conn, username))
        user = user or await self._db.write(find_or_make)
        if user is None:
            raise ActionError(ErrorCode.CONFLICT, f"the name {username} is taken")
        if user.disabled:
            raise ActionError(ErrorCode.FORBIDDEN, f"{username} is disabled")
        return await self.sign_in(user, life_ms)

    async def refresh(self, principal: Principal) -> tuple[str, int]:
        """A fresh token of the same session."""
        now = now_ms()
        expires_at = self._expiry(now, None)
        await self._db.write(lambda conn: users.extend_session(conn, principal.session_key, expires_at))
        return self._tokens.make(principal.username, principal.sid, now, expires_at), expires_at

    def _expiry(self, now: int, life_ms: int | None) -> int:
        """In whole seconds, as a token counts."""
        return (now + (self._token_ms if life_ms is None else life_ms)) // 1000 * 1000

    def ticket(self, principal: Principal, purpose: str) -> tuple[str, int]:
        """A token of the same session that opens one thing only, for some minutes; and when it ends (ms)."""
        return self._tokens.ticket(purpose, principal.username, principal.sid, now_ms(), principal.expires_at)

    async def authenticate(self, token: str, purpose: str = "") -> Principal:
        """Who a token speaks for, or a ticket for the purpose.

        Raises `unauthenticated`, `token_expired` or `token_revoked`.
        """
        username, sid, expires_at = self._tokens.read(token, purpose)
        return _principal(await self._db.read(lambda conn: users.session(conn, sid)), username, expires_at)

    async def arrive(self, token: str, device: str, purpose: str = "") -> tuple[Principal, DeviceRow | None]:
        """As `authenticate`, and the user's device of that name, None if it is new. Who come at once share a read."""
        username, sid, expires_at = self._tokens.read(token, purpose)
        found = await self._arrivals.read((sid, device))
        principal = _principal(None if found is None else found.session, username, expires_at)
        return principal, None if found is None else found.device

    async def service(self, raw_name: str) -> Principal:
        """An account that has no password, for what is the server's own. If the name is taken, it gets an ending."""

        def make(conn: Transaction) -> Principal:
            for username in (raw_name, f"{raw_name}-{secrets.token_hex(8)}"):
                users.add(conn, username, names.name_key(username), None, now_ms())
                user = users.by_username(conn, username)
                if user is not None and user.password_hash is None:
                    return Principal(user.key, username, 0, "", 0)
            raise ActionError(ErrorCode.UNAVAILABLE, "no name is free")

        return await self._db.write(make)

    async def user(self, raw_name: str) -> UserRow:
        """A user by name. Raises `not_found`."""
        username = names.try_username(raw_name)
        found = await self._db.read(lambda conn: users.by_username(conn, username)) if username else None
        if found is None:
            raise ActionError(ErrorCode.NOT_FOUND, "no such user")
        return found

    async def check_password(self, principal: Principal, password: str, address: str) -> UserRow:
        """The caller, who has given their password once more. Raises `forbidden`; attempts count as logins do."""
        await self._limit(self._per_address, "login", address)
        await self._limit(self._per_account, "login", principal.username)
        user = await self.user(principal.username)
        if not await self.passwords.matches(password, user.password_hash):
            raise ActionError(ErrorCode.FORBIDDEN, "wrong password")
        return user

    async def change_password(self, principal: Principal, user: UserRow, new: str) -> list[Withdrawn]:
        """Give the user another password, and withdraw all sessions but the caller's own."""
        hashed, now = await self.passwords.hash(new), now_ms()

        def change(conn: Transaction) -> list[int]:
            same = users.lock(conn, user.username)
            if same is None or same.password_hash != user.password_hash:
                raise ActionError(ErrorCode.CONFLICT, "the password was changed meanwhile")
            users.set_password(conn, user.key, hashed)
            return users.revoke_sessions_of(conn, user.key, now, but=principal.session_key)

        withdrawn = await self._db.write(change)
        return [Withdrawn(user.key, session_key, CloseReason.TOKEN_REVOKED) for session_key in withdrawn]

    async def set_disabled(self, user: UserRow, disabled: bool) -> list[Withdrawn]:
        """Let a user in no more, and withdraw their sessions; or let them in again."""
        now = now_ms()

        def change(conn: Transaction) -> None:
            users.set_disabled(conn, user.key, disabled)
            if disabled:
                users.revoke_sessions_of(conn, user.key, now)

        await self._db.write(change)
        return [Withdrawn(user.key, None, CloseReason.TOKEN_REVOKED)] if disabled else []

    async def revoke(self, principal: Principal, sid: str) -> Withdrawn:
        """Withdraw one of the caller's own sessions. Raises `not_found`."""
        now = now_ms()

        def revoke(conn: Transaction) -> int | None:
            for session in users.sessions_of(conn, principal.user_key, now):
                if session.sid == sid:
                    users.revoke_session(conn, session.key, now)
                    return session.key
            return None

        session_key = await self._db.write(revoke)
        if session_key is None:
            raise not_found("session")
        return Withdrawn(principal.user_key, session_key, CloseReason.TOKEN_REVOKED)

    async def logout(self, principal: Principal) -> list[Withdrawn]:
        """Withdraw the session; publish the notices with `withdraw` to close its connections.

        With a token that lasts until logout, it is the user who logs out: all their sessions that last so long end.
        """
        now = now_ms()

        def end(conn: Transaction) -> list[int]:
            users.revoke_session(conn, principal.session_key, now)
            users.touch(conn, principal.user_key, None, now)
            if principal.expires_at != UNTIL_LOGOUT:
                return []
            return users.revoke_sessions_of(conn, principal.user_key, now, that_end=UNTIL_LOGOUT)

        withdrawn = [principal.session_key, *await self._db.write(end)]
        return [Withdrawn(principal.user_key, key, CloseReason.TOKEN_REVOKED) for key in withdrawn]

    async def is_signed_in(self, username: str, to: Principal) -> bool:
        """Whether a user has a session that is good, connected or not. Who has blocked `to` looks as if not."""
        now = now_ms()
        return await self._db.read(lambda conn: users.is_signed_in(conn, username, to.user_key, now))

    def withdraw(self, notice: Withdrawn) -> None:
        self._broker.publish(UserChannel(notice.user_key), notice)

    async def _limit(self, limit: RateLimitItem, *key: str) -> None:
        if self._limiter is None or await self._limiter.hit(limit, *key):
            return
        stats = await self._limiter.get_window_stats(limit, *key)
        retry_after = max(1, round(stats.reset_time - time.time()))
        raise ActionError(ErrorCode.RATE_LIMITED, "too many attempts", retry_after=retry_after)
