"""External tokens: JWTs of another issuer, by which its users sign in here.

Guarantees:

- The algorithm is never the token's choice: each key has the algorithms that its type and size allow, and public keys
  never verify an HMAC.
- A token maps to one session, whose `sid` follows from its claims. So what withdraws a session withdraws its tokens.
- An issuer signs in only users whom its own tokens made, by exactly the same name.
"""

from __future__ import annotations

import time
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
import orjson
from sqlalchemy.engine import Connection as Transaction

from tidings.auth import names
from tidings.auth.external_keys import ASYMMETRIC, FETCH_S, Jwks, Key
from tidings.auth.tokens import ISSUER, REMEMBERED, expired, seconds, unauthenticated
from tidings.contract.errors import ActionError, ErrorCode
from tidings_db.queries import quotas, users

MAX_EXTERNAL_TOKEN = 8192
"""Characters; a longer token is refused without decoding."""
SKEW_S = 60
"""By how much the issuer's clock may be ahead, for `nbf`."""


@dataclass(frozen=True, slots=True)
class ExternalToken:
    """The verified claims of a token, as they are needed here."""

    issuer: str
    subject: str
    """The username."""
    display_name: str | None
    sid: str
    expires_at: int
    """ms since the epoch."""


class ExternalTokens:
    """Verifies the tokens of one issuer."""

    def __init__(
        self,
        issuer: str,
        *,
        key: Key | None = None,
        jwks_url: str = "",
        audience: str = "",
        username_claim: str = "sub",
        name_claim: str = "name",
        fetch_s: float = FETCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            issuer: the `iss` of its tokens.
            key: verifies all tokens; without it, the keys are fetched from `jwks_url`.
            audience: what `aud` must contain; empty: `aud` is not checked.
            username_claim: the claim that is the username.
            name_claim: the claim that becomes the display name of a new user, if it can.
            fetch_s: the longest that a fetch may take.
            clock: times the intervals between fetches, in seconds.

        Raises `ValueError` for the issuer of this server's own tokens.
        """
        if issuer == ISSUER:
            raise ValueError(f"{ISSUER} is the issuer of this server's own tokens")
        self.issuer = issuer
        self._audience = audience
        self._username_claim = username_claim
        self._name_claim = name_claim
        self._jwks = None if key is not None else Jwks(jwks_url, fetch_s, clock)
        self._fixed = () if key is None else (key,)
        self._verified: dict[str, ExternalToken] = {}
        self._verified_with: tuple[Key, ...] = ()

    def stop(self) -> None:
        if self._jwks is not None:
            self._jwks.stop()

    def verify_offline(self, token: str) -> ExternalToken | None:
        """Verify a token with the known keys; None if its key is not among them.

        Raises `unauthenticated` or `token_expired`.
        """
        keys = self._fixed if self._jwks is None else self._jwks.keys
        if keys is not self._verified_with:  # a key may have been withdrawn
            self._verified_with = keys
            self._verified.clear()
        if (verified := self._verified.get(token)) is not None:
            if verified.expires_at <= time.time() * 1000:
                del self._verified[token]
                raise expired()
            return verified
        kid, algorithm = self._check_unverified(token)
        key = next(self._candidates(keys, kid, algorithm), None)
        if key is None:
            return None
        verified = self._read(token, self._decode(token, key, algorithm))
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = verified
        return verified

    async def verify(self, token: str) -> ExternalToken:
        """Verify a token; fetch the keys if its key is not known.

        Raises `unauthenticated`, `token_expired`, or `unavailable` if the keys cannot be fetched now.
        """
        verified = self.verify_offline(token)
        if self._jwks is None:
            if verified is None:
                raise unauthenticated("the token's algorithm does not fit the key")
            return verified
        if verified is not None:
            self._jwks.renew()
            return verified
        await self._jwks.fetch()
        verified = self.verify_offline(token)
        if verified is None:
            raise unauthenticated("the token's issuer has no such key for this algorithm")
        return verified

    def _check_unverified(self, token: str) -> tuple[str | None, str]:
        """`kid` and `alg` of a token that may be valid, so that other tokens cause no fetch."""
        if len(token) > MAX_EXTERNAL_TOKEN:
            raise unauthenticated()
        claims = _peek(token)
        if claims.get("iss") != self.issuer:
            raise unauthenticated("the token's issuer is not accepted here")
        try:
            if seconds(claims.get("exp")) <= time.time():
                raise expired()
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):
            raise unauthenticated() from None
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
            raise unauthenticated()
        if self._jwks is not None and algorithm not in ASYMMETRIC:
            raise unauthenticated("the token's algorithm is not accepted here")
        return kid, algorithm

    def _candidates(self, keys: tuple[Key, ...], kid: str | None, algorithm: str) -> Iterator[Key]:
        """The keys that a token may be signed with. Without `kid`, the only key; a fixed key has no `kid`."""
        for key in keys:
            named = self._jwks is None or key.kid == kid or (kid is None and len(keys) == 1)
            if named and algorithm in key.algorithms:
                yield key

    def _decode(self, token: str, key: Key, algorithm: str) -> dict[str, Any]:
        required = ["iss", "exp", *(["aud"] if self._audience else [])]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.material,
                algorithms=[algorithm],
                audience=self._audience or None,
                issuer=self.issuer,
                options={
                    "require": required,
                    "verify_aud": bool(self._audience),
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            not_before = claims.get("nbf")
            if not_before is not None and seconds(not_before) > time.time() + SKEW_S:
                raise unauthenticated("the token is not valid yet")
        except jwt.ExpiredSignatureError:
            raise expired() from None
        except jwt.InvalidAudienceError:
            raise unauthenticated("the token is not for this server (aud)") from None
        except (jwt.InvalidTokenError, jwt.InvalidKeyError, ValueError, TypeError, OverflowError, RecursionError):
            raise unauthenticated() from None
        return claims

    def _read(self, token: str, claims: dict[str, Any]) -> ExternalToken:
        try:
            expires_at = seconds(claims["exp"]) * 1000
        except ValueError:
            raise unauthenticated() from None
        subject = _username(claims.get(self._username_claim), self._username_claim)
        sid = _sid(self.issuer, subject, token, claims)
        return ExternalToken(self.issuer, subject, _display_name(claims.get(self._name_claim)), sid, expires_at)


def is_external(token: str) -> bool:
    """Whether a token says that it is of another issuer than this server. It is not verified."""
    return len(token) <= MAX_EXTERNAL_TOKEN and _peek(token).get("iss", ISSUER) != ISSUER


def _peek(token: str) -> dict[str, Any]:
    """The claims of a token, not verified; empty if they cannot be read."""
    _, _, rest = token.partition(".")
    payload = rest.partition(".")[0]
    try:
        claims = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _username(claim: object, name: str) -> str:
    """Two claims never become the same username: one that is not in its stored form is refused."""
    if not isinstance(claim, str) or not claim:
        raise unauthenticated(f"the token has no username ({name})")
    try:
        username = names.username(claim)
    except ActionError as refusal:
        reasons = "; ".join(refusal.error.details["fields"].values())
        raise unauthenticated(f"the token's username ({name}) cannot be one here: {reasons}") from None
    if username != unicodedata.normalize("NFC", claim):
        raise unauthenticated(f"the token's username ({name}) cannot be one here: write it as {username}")
    return username


def _display_name(claim: object) -> str | None:
    try:
        return names.display_name(claim)[:64].strip() or None if isinstance(claim, str) else None
    except ActionError:
        return None


def _sid(issuer: str, subject: str, token: str, claims: dict[str, Any]) -> str:
    """The session of a token: of the issuer's session, else of the token.

    Without `sid` and `jti` it follows from the signed part: the same signature may be written in several ways.
    """
    for claim in ("sid", "jti"):
        if isinstance(value := claims.get(claim), str) and value:
            break
    else:
        claim, value = "", token.rpartition(".")[0]
    identity = orjson.dumps([issuer, names.username_key(subject), claims.get("sub"), claim, value])
    return urlsafe_b64encode(sha256(identity).digest()).rstrip(b"=").decode()


def admit(conn: Transaction, token: ExternalToken, now: int, max_sessions: int) -> tuple[int, list[int]]:
    """Create the user and the session of a token where they are missing: the user, and sessions that this ended.

    Raises `unauthenticated` if the issuer may not sign in this user, or `token_revoked` if the user is disabled.
    """
    key = names.username_key(token.subject)
    user = users.by_key(conn, key)
    if user is None:
        users.add(conn, token.subject, None, now, issuer=token.issuer, display_name=token.display_name)
        user = users.by_key(conn, key)
    if user is None:
        raise unauthenticated(f"the name {token.subject} is taken here, or looks like a taken one")
    if user.username != token.subject or users.issuer_of(conn, user.key) != token.issuer:
        raise unauthenticated(f"the user {user.username} of this server was not made by the token's issuer")
    current = users.lock(conn, user.key)
    if current is None or current.disabled:
        raise ActionError(ErrorCode.TOKEN_REVOKED, "the user is disabled")
    displaced: list[int] = []
    if max_sessions and users.session(conn, token.sid) is None:
        displaced = quotas.make_room_for_session(conn, user.key, max_sessions, now)
    users.admit_external(conn, token.sid, user.key, now, token.expires_at)
    return user.key, displaced
