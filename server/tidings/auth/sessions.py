"""Accounts and sessions: how a caller becomes a `Principal`."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection as Transaction

from tidings.auth import names
from tidings.auth.attempts import Attempts
from tidings.auth.callers import check_session
from tidings.auth.external import ExternalToken, ExternalTokens, admit, is_external
from tidings.auth.keys import granted_by, is_key, missing_scope, scopes_of, sid_of
from tidings.auth.limits import QUOTAS
from tidings.auth.passwords import BCRYPT_ROUNDS, Caller, Passwords
from tidings.auth.principal import NO_SESSION, Principal
from tidings.auth.registration import RegistrationMode, RegistrationPolicy, check_reset, use_reset
from tidings.auth.tokens import LINK_MS, UNTIL_LOGOUT, Tokens, now_ms, unauthenticated
from tidings.contract.errors import ActionError, CloseReason, ErrorCode, not_found
from tidings.contract.permissions import KeyScope
from tidings.fanout.publisher import Publisher
from tidings.log.notices import Withdrawn
from tidings.transport.addresses import source_of
from tidings_db.engine import Database, Write
from tidings_db.queries import deletion, quotas, users
from tidings_db.queries.rows import UserRow
from tidings_db.queries.users import DeviceRow, SessionRow
from tidings_db.read_batcher import ReadBatcher

WRONG_PASSWORD = "wrong username or password"
SERVER = "server"
"""The username of the server's own account, unless somebody else has it."""
USE_NOTED_MS = 3_600_000
"""The shortest interval between two updates of a session's `used_at`."""


class Auth:
    """Accounts and sessions."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        token_minutes: int,
        attempts: Attempts | None = None,
        external: ExternalTokens | None = None,
        registration: RegistrationMode = "open",
        sessions: int = QUOTAS["sessions"],
        session_days: int = 0,
        bcrypt_rounds: int = BCRYPT_ROUNDS,
    ) -> None:
        """
        Args:
            attempts: limits logins and registrations; None: they are not limited.
            external: verifies the tokens of another issuer; None: they are refused.
            registration: who may create an account.
            sessions: the most sessions of a user; a new one ends the oldest. 0: no bound.
            session_days: the longest life of a session, however often it is refreshed; 0: no bound. A session that
                lasts until logout has none: `tidings.log.purge` withdraws it when it has been unused for as long.
        """
        self._db = database
        self._publisher = publisher
        self._keys: Sequence[bytes] = [b""]
        self._tokens = Tokens(self._keys)
        self._arrivals = ReadBatcher(database, users.arrivals)
        self._token_ms = token_minutes * 60_000
        self.attempts = attempts
        self._external = external
        self.registration = RegistrationPolicy(database, registration)
        self._sessions = sessions
        self._life_ms = session_days * 86_400_000 or None
        self.used: set[int] = set()
        """Keys of sessions whose `used_at` is outdated; `SessionCheck` updates it."""
        self.passwords = Passwords(bcrypt_rounds)

    def sign_with(self, keys: Sequence[bytes]) -> None:
        """Set the key that signs tokens, and older ones that are still accepted."""
        self._keys = keys
        self._tokens = Tokens(keys)
        if self.attempts is not None:
            self.attempts.hash_with(keys[0])

    def stop(self) -> None:
        self.passwords.stop()
        if self._external is not None:
            self._external.stop()

    async def register(
        self,
        raw_name: str,
        password: str,
        address: str,
        agent: str | None = None,
        *,
        until_logout: bool = False,
        invitation: str | None = None,
    ) -> tuple[str, int, UserRow]:
        """Create an account and sign in: token, its expiry (ms), user.

        Raises `invalid`, `conflict`, `rate_limited`, or `forbidden` without a valid invitation where one is needed.
        """
        username = names.username(raw_name)
        if self.attempts is not None:
            await self.attempts.register(address)
        await self.registration.check(invitation)
        hashed = await self.passwords.hash(password, Caller(source_of(address), known=False))
        now = now_ms()

        def insert(conn: Transaction) -> UserRow | None:
            if users.add(conn, username, hashed, now) is None:
                return None
            self.registration.use(conn, invitation)
            return users.by_key(conn, names.username_key(username))

        user = await self._db.write(insert)
        if user is None:
            if self.attempts is not None:
                await self.attempts.name_taken(address)
            raise ActionError(ErrorCode.CONFLICT, "the name is taken, or looks like a taken one")
        source = self._sources(user.key, address)[0]
        token, expires_at = await self.sign_in(user, agent=agent, source=source, until_logout=until_logout)
        return token, expires_at, user

    @staticmethod
    def source(address: str) -> str:
        """The source as which attempts from an address count."""
        return source_of(address)

    async def login(
        self, raw_name: str, password: str, address: str, agent: str | None = None, *, until_logout: bool = False
    ) -> tuple[str, int, UserRow]:
        """Sign in with a password: token, its expiry (ms), user.

        An unknown user and a wrong password get the same error after the same time. `Attempts` limits the attempts;
        existing sessions are not affected. Raises `unauthenticated`, `rate_limited` or `unavailable`.
        """
        key = names.try_username_key(raw_name)

        def find(conn: Transaction) -> tuple[UserRow | None, bool]:
            user = users.by_key(conn, key or "")
            if user is None:
                return None, False
            return user, users.has_signed_in_from(conn, user.key, self._sources(user.key, address))

        user, known = await self._db.read(find)
        attempt = None
        if self.attempts is not None:
            attempt = await self.attempts.sign_in(key or raw_name[:64], address, known=known)
        caller = Caller(source_of(address), known)
        matches = await self.passwords.matches(password, user.password_hash if user else None, caller)
        if not matches or user is None or user.disabled:
            raise unauthenticated(WRONG_PASSWORD)
        if attempt is not None:
            await attempt.succeeded()
        source = self._sources(user.key, address)[0]
        token, expires_at = await self.sign_in(user, agent=agent, source=source, until_logout=until_logout)
        return token, expires_at, user

    def _sources(self, user_key: int, address: str) -> list[str]:
        """The source of a user's session as a keyed hash, so that the database contains no address; with each key."""
        message = f"source of {user_key}: {source_of(address)}".encode()
        return [hmac.digest(key, message, "sha256")[:16].hex() for key in self._keys]

    async def sign_in(
        self,
        user: UserRow,
        life_ms: int | None = None,
        *,
        agent: str | None = None,
        source: str | None = None,
        until_logout: bool = False,
    ) -> tuple[str, int]:
        """Create a session: its token and the token's expiry (ms).

        Raises `unauthenticated` if the user was disabled or has a new password since `user` was read. So a withdrawal
        of all sessions of the user covers this one too, or prevents it.

        Args:
            life_ms: lifetime, also beyond the longest life of a session; None: that of a token.
            until_logout: the session lasts until its user logs out, or has not used it for `session_days`.
        """
        sid, now = secrets.token_urlsafe(18), now_ms()
        expires_at = UNTIL_LOGOUT if until_logout else self._expiry(now, life_ms)
        if not until_logout and life_ms is None and self._life_ms is not None:
            expires_at = min(expires_at, self._expiry(now, self._life_ms))

        def insert(conn: Transaction) -> list[int]:
            current = users.lock(conn, user.key)
            if current is None or current.disabled or current.password_hash != user.password_hash:
                raise unauthenticated(WRONG_PASSWORD)
            displaced = quotas.make_room_for_session(conn, user.key, self._sessions, now) if self._sessions else []
            users.add_session(conn, sid, user.key, now, expires_at, agent, source, until_logout=until_logout)
            return displaced

        for session_key in await self._db.write(insert, Write.VITAL):
            self.withdraw(Withdrawn(user.key, session_key, CloseReason.TOKEN_REVOKED))
        return self._tokens.make(user.username, sid, now, expires_at), expires_at

    async def token_for(self, raw_name: str, life_ms: int | None = None) -> tuple[str, int]:
        """Sign in without a password, for an operator of the machine. Creates the user if necessary.

        Raises `invalid`, `conflict` (a topic has that name) or `forbidden` (the user is disabled).
        """
        user = await self._find(raw_name) or await self.find_or_create(names.username(raw_name))
        if user.disabled:
            raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} is disabled")
        return await self.sign_in(user, life_ms)

    async def find_or_create(self, username: str) -> UserRow:
        """Return a user; create one without a password if necessary. Raises `conflict` if a topic has the name."""

        def find_or_create(conn: Transaction) -> UserRow | None:
            users.add(conn, username, None, now_ms())
            return users.by_key(conn, names.username_key(username))

        user = await self._db.write(find_or_create)
        if user is None:
            raise ActionError(ErrorCode.CONFLICT, f"the name {username} is taken, or looks like a taken one")
        return user

    async def refresh(self, principal: Principal) -> tuple[str, int]:
        """A fresh token of the same session and its expiry (ms), at most the end of the session's longest life.

        For a session of an external token that is the expiry of its newest token.
        """
        now = now_ms()
        requested, life_ms = self._expiry(now, None), self._life_ms

        def extend(conn: Transaction) -> int:
            check_session(conn, principal)
            return users.extend_session(conn, principal.session_key, requested, life_ms)

        end = await self._db.write(extend, Write.VITAL)
        expires_at = min(requested, end // 1000 * 1000)
        return self._tokens.make(principal.username, principal.sid, now, expires_at), expires_at

    def _expiry(self, now: int, life_ms: int | None) -> int:
        """The expiry (ms) of a token made now, in whole seconds like `exp`."""
        return (now + (self._token_ms if life_ms is None else life_ms)) // 1000 * 1000

    def ticket(self, principal: Principal, purpose: str) -> tuple[str, int]:
        """A token of the same session for one purpose, valid for some minutes; and its expiry (ms)."""
        return self._tokens.ticket(purpose, principal.username, principal.sid, now_ms(), principal.expires_at)

    def link_ticket(self, principal: Principal, purpose: str) -> tuple[str, int]:
        """A ticket for a link, and its expiry (ms). It is the same for half an hour: browsers cache by the link."""
        period = LINK_MS // 2
        issued = now_ms() // period * period
        return self._tokens.ticket(purpose, principal.username, principal.sid, issued, principal.expires_at, LINK_MS)

    def check_signature(self, token: str) -> None:
        """Check a token without the database. Raises `unauthenticated` or `token_expired`.

        An external token whose key is still to be fetched passes; `arrive` refuses it.
        """
        self._vouched(token)

    def vouches(self, token: str) -> bool:
        """Whether the token's signature is valid and it has not expired. Its session may still be withdrawn."""
        try:
            return self._vouched(token)
        except ActionError:
            return False

    def _vouched(self, token: str) -> bool:
        if is_key(token):
            return False
        if self._external is not None and is_external(token):
            return self._external.verify_offline(token) is not None
        self._tokens.read(token)
        return True

    async def authenticate(self, token: str, purpose: str = "") -> Principal:
        """The principal of a token, or of a ticket for the purpose.

        Raises `unauthenticated`, `token_expired` or `token_revoked`; `unavailable` if the keys of its issuer are.
        """
        external, subject, sid, expires_at = await self._claims(token, purpose)
        session = await self._db.read(lambda conn: users.session(conn, sid))
        if external is not None and await self._admit(external, session):
            session = await self._db.read(lambda conn: users.session(conn, sid))
        if purpose and subject is not None and session is not None and session.scopes is not None:
            return await self._link_of_key(session, subject, expires_at)
        return self._principal(session, subject, expires_at)

    async def _link_of_key(self, session: SessionRow, username: str, expires_at: int) -> Principal:
        """The principal of a ticket that a key got: its own, or that of the user as whom it acted."""
        key = self._principal(session, None, expires_at)
        return key if username == key.username else await self.act(key, username)

    async def arrive(self, token: str, device: str, purpose: str = "") -> tuple[Principal, DeviceRow | None]:
        """`authenticate`, with the user's device of that name, or None if it is new.

        Concurrent arrivals share one read.
        """
        external, subject, sid, expires_at = await self._claims(token, purpose)
        arrival = await self._arrivals.read((sid, device))
        if external is not None and await self._admit(external, None if arrival is None else arrival.session):
            arrival = await self._arrivals.read((sid, device))
        principal = self._principal(None if arrival is None else arrival.session, subject, expires_at)
        return principal, None if arrival is None else arrival.device

    async def _claims(self, token: str, purpose: str) -> tuple[ExternalToken | None, str | None, str, int]:
        """Verify a token: username (None for a key), sid and expiry (ms); and the token itself, if it is external."""
        if is_key(token):
            return None, None, sid_of(token), UNTIL_LOGOUT
        if self._external is not None and is_external(token):
            external = await self._external.verify(token)
            return external, *_claims(external)
        return None, *self._tokens.read(token, purpose)

    async def _admit(self, token: ExternalToken, session: SessionRow | None) -> bool:
        """Create the user and the session of an external token, or extend the session; False if there is no need."""
        if session is not None and session.expires_at >= token.expires_at:
            return False
        now = now_ms()
        user_key, displaced = await self._db.write(lambda conn: admit(conn, token, now, self._sessions), Write.VITAL)
        for session_key in displaced:
            self.withdraw(Withdrawn(user_key, session_key, CloseReason.TOKEN_REVOKED))
        return True

    def _principal(self, session: SessionRow | None, subject: str | None, expires_at: int) -> Principal:
        if session is None:
            raise unauthenticated()
        if subject is not None and names.username_key(session.username) != names.username_key(subject):
            raise unauthenticated()
        if session.revoked_at is not None or session.disabled:
            raise ActionError(ErrorCode.TOKEN_REVOKED, "the token was withdrawn")
        if now_ms() - session.used_at >= USE_NOTED_MS:
            self.used.add(session.key)
        scopes = scopes_of(session.scopes)
        return Principal(
            session.user_key,
            session.username,
            session.key,
            session.sid,
            expires_at,
            bool(session.admin),
            scopes,
            granted_by(scopes),
            session.only_room,
            display_name=session.display_name,
        )

    async def act(self, key: Principal, raw_name: str) -> Principal:
        """The principal of a user as whom a key acts. Raises `forbidden` or `not_found`."""
        if key.scopes is None or KeyScope.ACT not in key.scopes:
            raise missing_scope(KeyScope.ACT)
        user = await self.user(raw_name)
        if user.disabled:
            raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} is disabled")
        return Principal(user.key, user.username, key.session_key, key.sid, key.expires_at, key_name=key.username)

    async def server(self) -> Principal:
        """The account in whose name the server itself writes and manages: it may do whatever a key may."""
        scopes = frozenset(KeyScope)
        return replace(await self.service(SERVER), scopes=scopes, granted=granted_by(scopes))

    async def service(self, raw_name: str) -> Principal:
        """An account of the server itself, that nobody can sign in to. If the name is taken, a suffix is added."""

        def create(conn: Transaction) -> Principal:
            # First a name that every node finds again.
            for suffix in ("", *(f"-{number}" for number in range(2, 10)), f"-{secrets.token_hex(8)}"):
                username = f"{raw_name}{suffix}"
                users.add(conn, username, None, now_ms(), service=True)
                user = users.by_key(conn, names.username_key(username))
                if user is not None and user.service:
                    return Principal(user.key, user.username, NO_SESSION, "", 0)
            raise ActionError(ErrorCode.UNAVAILABLE, "no name is free")

        return await self._db.write(create)

    async def user(self, raw_name: str) -> UserRow:
        """A user by name. Raises `not_found`."""
        row = await self._find(raw_name)
        if row is None:
            raise ActionError(ErrorCode.NOT_FOUND, "no such user")
        return row

    async def _find(self, raw_name: str) -> UserRow | None:
        key = names.try_username_key(raw_name)
        return None if key is None else await self._db.read(lambda conn: users.by_key(conn, key))

    async def check_password(self, principal: Principal, password: str) -> UserRow:
        """The caller's user row, after checking their password. Raises `forbidden` or `rate_limited`."""
        if self.attempts is not None:
            await self.attempts.confirm(principal.session_key)
        user = await self.user(principal.username)
        if not await self.passwords.matches(password, user.password_hash, Caller(principal.user_key)):
            raise ActionError(ErrorCode.FORBIDDEN, "wrong password")
        return user

    async def change_password(self, principal: Principal, user: UserRow, new: str) -> list[Withdrawn]:
        """Set the user's password, and withdraw all sessions but the caller's. Raises `conflict` or `invalid`."""
        hashed, now = await self.passwords.hash(new, Caller(principal.user_key)), now_ms()

        def change(conn: Transaction) -> list[int]:
            current = users.lock(conn, user.key)
            check_session(conn, principal)
            if current is None or current.password_hash != user.password_hash:
                raise ActionError(ErrorCode.CONFLICT, "the password was changed meanwhile")
            users.set_password(conn, user.key, hashed)
            return users.revoke_sessions_of(conn, user.key, now, except_key=principal.session_key)

        withdrawn = await self._db.write(change, Write.VITAL)
        return [Withdrawn(user.key, session_key, CloseReason.TOKEN_REVOKED) for session_key in withdrawn]

    async def reset_password(
        self, code: str, new: str, address: str, agent: str | None = None, *, until_logout: bool = False
    ) -> tuple[str, int, UserRow]:
        """Set the password of the user whom a link is for, end their sessions, and sign in: as `login`.

        Raises `forbidden` if the link is not valid, or `invalid`.
        """
        await check_reset(self._db, code)
        hashed, now = await self.passwords.hash(new, Caller(source_of(address), known=False)), now_ms()

        def change(conn: Transaction) -> tuple[UserRow, list[int]]:
            user = use_reset(conn, code)
            users.set_password(conn, user.key, hashed)
            return user._replace(password_hash=hashed), users.revoke_sessions_of(conn, user.key, now)

        user, withdrawn = await self._db.write(change, Write.VITAL)
        for session_key in withdrawn:
            self.withdraw(Withdrawn(user.key, session_key, CloseReason.TOKEN_REVOKED))
        source = self._sources(user.key, address)[0]
        token, expires_at = await self.sign_in(user, agent=agent, source=source, until_logout=until_logout)
        return token, expires_at, user

    async def set_disabled(
        self, user: UserRow, disabled: bool, *, by: Principal | None = None, delete: str | None = None
    ) -> list[Withdrawn]:
        """Disable a user and withdraw their sessions, or enable the user again.

        Raises `token_revoked`, or `conflict` for the last administrator.

        Args:
            by: None for an operator of the machine.
            delete: begin the deletion of the account (`tidings.log.deletion`), and `keep` or `delete` its messages.
        """
        now = now_ms()

        def change(conn: Transaction) -> None:
            check_session(conn, by)
            if disabled and by is not None and users.is_last_admin(conn, user.key):
                raise ActionError(ErrorCode.CONFLICT, f"{user.username} is the last administrator")
            users.set_disabled(conn, user.key, disabled)
            if disabled:
                users.revoke_sessions_of(conn, user.key, now)
            if delete is not None:
                deletion.begin(conn, user.key, delete)

        await self._db.write(change, Write.VITAL)
        return [Withdrawn(user.key, None, CloseReason.TOKEN_REVOKED)] if disabled else []

    async def revoke(self, principal: Principal, sid: str) -> Withdrawn:
        """Withdraw one of the caller's own sessions. Raises `not_found`."""
        now = now_ms()

        def revoke(conn: Transaction) -> int | None:
            check_session(conn, principal)
            for session in users.sessions_of(conn, principal.user_key, now):
                if session.sid == sid:
                    users.revoke_session(conn, session.key, now)
                    return session.key
            return None

        session_key = await self._db.write(revoke, Write.VITAL)
        if session_key is None:
            raise not_found("session")
        return Withdrawn(principal.user_key, session_key, CloseReason.TOKEN_REVOKED)

    async def logout(self, principal: Principal) -> list[Withdrawn]:
        """Withdraw the session; publish the returned notices with `withdraw` to close its connections.

        If the session lasts until logout, all sessions of that kind of the user end with it.
        """
        now = now_ms()

        def update(conn: Transaction) -> list[int]:
            users.revoke_session(conn, principal.session_key, now)
            users.touch(conn, principal.user_key, now)
            if not users.is_until_logout(conn, principal.session_key):
                return []
            return users.revoke_sessions_of(conn, principal.user_key, now, until_logout=True)

        withdrawn = [principal.session_key, *await self._db.write(update, Write.VITAL)]
        return [Withdrawn(principal.user_key, key, CloseReason.TOKEN_REVOKED) for key in withdrawn]

    async def is_signed_in(self, username: str, *, viewer: Principal) -> bool:
        """Whether a user has a valid session, connected or not. False if the user has blocked the viewer."""
        now = now_ms()
        key = names.username_key(username)
        return await self._db.read(lambda conn: users.is_signed_in(conn, key, viewer.user_key, now))

    def withdraw(self, notice: Withdrawn) -> None:
        self._publisher.publish(notice)


def _claims(token: ExternalToken) -> tuple[str, str, int]:
    return token.subject, token.sid, token.expires_at
