"""The terminal's own exceptions, beside those of the client library."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tidings_chat.i18n import m, t, translation_of
from tidings_client import Closed, Refused, TidingsError, TokenRevoked

_MEANINGS: Final = {
    "invalid": m("The server does not accept this."),
    "unknown_action": m("The server does not know this action."),
    "unauthenticated": m("The username or the password is wrong."),
    "token_expired": m("Your session has expired."),
    "token_revoked": m("Your session was signed out."),
    "forbidden": m("You may not do this."),
    "not_found": m("This does not exist, or you may not see it."),
    "conflict": m("This is not possible now: something else has changed, or exists already."),
    "too_large": m("This is too large, or too many."),
    "rate_limited": m("Too many requests. Try again in a moment."),
    "unavailable": m("The server is not available now. Try again in a moment."),
    "internal": m("The server has made a mistake."),
}
"""The meanings of codes, for languages into which the server's message is not translated."""

_OFFLINE: Final = (m("the connection was lost"), m("not connected"), m("the client is closed"))
"""Messages of the library."""

_CLOSINGS: Final = {
    "closed: shutdown": m("the server is restarting"),
    "closed: slow_consumer": m("the connection was too slow"),
    "closed: token_expired": m("the session has expired"),
    "closed: token_revoked": m("the session was signed out"),
    "closed: replaced": m("another client connected as this device"),
}
"""The library's reason for a connection that the server closed -> a text for the user."""


class SignedOut(TidingsError):
    """No valid token and no way to get one: the user has to sign in again."""

    code = "signed_out"


class Busy(TidingsError):
    """Another process, or another version of this client, uses the same state."""

    code = "busy"


class InvalidCommand(TidingsError):
    """Wrong arguments, or a command that is not possible here."""

    code = "invalid_command"


def unusable(path: Path, error: OSError) -> InvalidCommand:
    """Why a file cannot be read or written, in the user's language."""
    told = {
        FileNotFoundError: m("there is no {file}"),
        IsADirectoryError: m("{file} is a folder"),
        FileExistsError: m("there is a file {file} already"),
        PermissionError: m("you may not use {file}"),
    }
    return InvalidCommand(t(told.get(type(error), m("{file}: {reason}")), file=path, reason=error.strerror))


def reason_of(error: Refused) -> str:
    """The message of the server in the user's language; else what its code means; else as the server has it."""
    return translation_of(error.message) or t(_MEANINGS.get(error.code, error.message))


def message_of(error: TidingsError) -> str:
    """`str(error)` in the user's language."""
    return f"{reason_of(error)} ({error.code})" if isinstance(error, Refused) else t(str(error))


def why_offline(reason: str) -> str:
    """The reason of a status of the library, in the user's language."""
    return t(_CLOSINGS.get(reason, reason))


def why_ended(error: TidingsError) -> TidingsError:
    """The error by which a client of the library has ended, in the terminal's words."""
    if isinstance(error, TokenRevoked) or (isinstance(error, Closed) and error.reason == TokenRevoked.code):
        return SignedOut(t("signed out by the server: sign in again"))
    return error
