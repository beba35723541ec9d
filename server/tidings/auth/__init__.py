"""Passwords, tokens and sessions: how a caller becomes a `Principal`."""

from tidings.auth.attempts import SOURCE_FACTOR, Attempts, MemoryStore, attempt_rates, kept_ms
from tidings.auth.callers import CallersDatabase, check_session
from tidings.auth.passwords import BCRYPT_ROUNDS, HASHES_WAITING, PASSWORD_BYTES, THREADS, Caller, Passwords
from tidings.auth.sessions import Auth
from tidings.auth.tokens import UNTIL_LOGOUT, Tokens, fingerprint, now_ms, unauthenticated

__all__ = [
    "BCRYPT_ROUNDS",
    "HASHES_WAITING",
    "PASSWORD_BYTES",
    "SOURCE_FACTOR",
    "THREADS",
    "UNTIL_LOGOUT",
    "Attempts",
    "Auth",
    "Caller",
    "CallersDatabase",
    "MemoryStore",
    "Passwords",
    "Tokens",
    "attempt_rates",
    "check_session",
    "fingerprint",
    "kept_ms",
    "now_ms",
    "unauthenticated",
]
