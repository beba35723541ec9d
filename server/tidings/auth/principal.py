"""The identity of a caller."""

from __future__ import annotations

from dataclasses import dataclass

NO_SESSION = 0
"""The session of an account of the server itself, which nobody withdraws."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user with a session."""

    user_key: int
    username: str
    session_key: int
    sid: str
    expires_at: int
    """`exp` of the presented token, in ms since the epoch."""
    admin: bool = False
