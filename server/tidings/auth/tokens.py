"""Tokens: JWTs that name a session."""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jwt

from tidings.contract.errors import ActionError, ErrorCode

ISSUER = AUDIENCE = "tidings"
ALGORITHM = "HS256"
TICKET_MS = 5 * 60_000
"""Lifetime of a ticket. It limits opening a connection, not keeping it open."""
LINK_MS = 60 * 60_000
"""The longest life of a ticket that is part of a link to a file."""
UNTIL_LOGOUT = 253_402_214_400_000
"""Expiry (ms) of a session that lasts until its user logs out: the last day of the year 9999."""
MAX_TOKEN = 4096
"""Characters; a longer token is refused without decoding."""
REMEMBERED = 512
"""Tokens whose signature is not verified again: a sign-in reads its token twice, a REST client with each request."""
_SID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def fingerprint(key: bytes) -> str:
    """By which nodes compare their keys in the database; the key cannot be computed from it."""
    return hmac.digest(key, b"fingerprint of the key", "sha256")[:8].hex()


class Tokens:
    """JWTs (RFC 7519), HS256: `sub` username, `sid` session, `iat`, `exp`, `iss`, `aud`; all of them required."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: the first signs; tokens that were signed with any of them are accepted."""
        self._keys = keys
        self._verified: dict[tuple[str, str], tuple[str, str, int, int]] = {}
        """(token, purpose) -> username, sid, the expiry to answer (ms) and the token's own (s)"""

    def make(self, username: str, sid: str, issued_ms: int, expires_ms: int) -> str:
        claims = {
            "sub": username,
            "sid": sid,
            "iat": issued_ms // 1000,
            "exp": expires_ms // 1000,
            "iss": ISSUER,
            "aud": AUDIENCE,
        }
        return jwt.encode(claims, self._keys[0], algorithm=ALGORITHM)

    def ticket(
        self, purpose: str, username: str, sid: str, issued_ms: int, until_ms: int, life_ms: int = TICKET_MS
    ) -> tuple[str, int]:
        """A token for one purpose, valid for `life_ms`; and its expiry (ms).

        Args:
            until_ms: expiry of the token that requested it; a connection opened with the ticket lasts until then.
        """
        expires_ms = min(issued_ms + life_ms, until_ms) // 1000 * 1000
        claims = {
            "sub": username,
            "sid": sid,
            "iat": issued_ms // 1000,
            "exp": expires_ms // 1000,
            "until": until_ms // 1000,
            "iss": ISSUER,
            "aud": _audience(purpose),
        }
        return jwt.encode(claims, self._keys[0], algorithm=ALGORITHM), expires_ms

    def read(self, token: str, purpose: str = "") -> tuple[str, str, int]:
        """Username, sid and expiry (ms) of a token, or of a ticket for the purpose.

        Raises `unauthenticated` or `token_expired`. `iat` is not compared with the clock, because a clock that was
        set back, or is behind on another node, must not invalidate tokens.
        """
        if len(token) > MAX_TOKEN:
            raise unauthenticated()
        if (verified := self._verified.get((token, purpose))) is not None:
            if verified[3] <= time.time():
                del self._verified[token, purpose]
                raise expired()
            return verified[:3]
        try:
            claims = self._decode(token, [AUDIENCE, _audience(purpose)] if purpose else [AUDIENCE])
            sub, sid = claims["sub"], claims["sid"]
            expires_s, until_s = seconds(claims["exp"]), seconds(claims.get("until", claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise expired() from None
        # PyJWT does not convert Python's errors for an infinite number or deeply nested brackets.
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):
            raise unauthenticated() from None
        if not isinstance(sub, str) or not isinstance(sid, str) or not _SID.fullmatch(sid):
            raise unauthenticated()
        verified = sub, sid, (until_s if purpose else expires_s) * 1000, expires_s
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[token, purpose] = verified
        return verified[:3]

    def _decode(self, token: str, audience: Sequence[str]) -> dict[str, Any]:
        """The claims of a token. Raises `jwt.InvalidTokenError`."""
        for at, key in enumerate(self._keys, 1):
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    audience=audience,
                    issuer=ISSUER,
                    options={"require": ["sub", "sid", "iat", "exp", "iss", "aud"], "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                if at == len(self._keys):
                    raise
            else:
                return claims
        raise AssertionError("there is no key")


def seconds(claim: object) -> int:
    """A NumericDate (RFC 7519, section 2), up to `UNTIL_LOGOUT`. Raises `ValueError`."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        raise ValueError("not a number of seconds")
    if not 0 <= claim <= UNTIL_LOGOUT // 1000:
        raise ValueError("out of range")
    return int(claim)


def _audience(purpose: str) -> str:
    return f"{AUDIENCE}:{purpose}"


def expired() -> ActionError:
    return ActionError(ErrorCode.TOKEN_EXPIRED, "the token has expired")


def unauthenticated(message: str = "no valid token") -> ActionError:
    return ActionError(ErrorCode.UNAUTHENTICATED, message)
