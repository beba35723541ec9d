"""Passwords, tokens and sessions: how a caller becomes a `Principal`."""

from server.auth.attempts import SOURCE_FACTOR, Attempts, MemoryStore, attempt_rates
from server.auth.callers import CallersDatabase, check_session
from server.auth.passwords import BCRYPT_ROUNDS, HASHES_WAITING, PASSWORD_BYTES, THREADS, Caller, Passwords
from server.auth.sessions import Auth
from server.auth.shared_attempts import SharedStore, kept_ms
from server.auth.tokens import UNTIL_LOGOUT, Tokens, fingerprint, now_ms, unauthenticated

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
    "SharedStore",
    "Tokens",
    "attempt_rates",
    "check_session",
    "fingerprint",
    "kept_ms",
    "now_ms",
    "unauthenticated",
]
