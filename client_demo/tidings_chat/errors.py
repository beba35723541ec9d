"""The terminal's own exceptions, beside those of the client library."""

from __future__ import annotations

from tidings_client import Closed, TidingsError, TokenRevoked


class SignedOut(TidingsError):
    """No valid token and no way to get one: the user has to sign in again."""

    code = "signed_out"


class Busy(TidingsError):
    """Another process, or another version of this client, uses the same state."""

    code = "busy"


class InvalidCommand(TidingsError):
    """Wrong arguments, or a command that is not possible here."""

    code = "invalid_command"


def why_ended(error: TidingsError) -> TidingsError:
    """The error by which a client of the library has ended, in the terminal's words."""
    if isinstance(error, TokenRevoked) or (isinstance(error, Closed) and error.reason == TokenRevoked.code):
        return SignedOut("signed out by the server: sign in again")
    return error
