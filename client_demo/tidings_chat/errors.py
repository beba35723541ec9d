"""The client's exceptions.

ClientError
├── Refused      the server answered with an error; its code is `error.code`
├── Offline      no connection, or it was lost before the answer: the action may or may not have taken effect
│   └── NotConnected   the action was not sent: it has not taken effect
├── SignedOut    no valid token and no way to get one: the user has to sign in again
├── Busy         another process receives as this device
└── InvalidCommand   wrong arguments, or a command that is not possible here
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tidings.contract.errors import Error, ErrorCode


class ClientError(Exception):
    """The base class; `str()` gives a sentence for the user."""


class Refused(ClientError):
    """An error answer, a refused connect, or a problem document."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.message} ({error.code})")
        self.error = error

    @property
    def code(self) -> ErrorCode:
        return self.error.code

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, if the server asked for that."""
        after = self.error.details.get("retry_after")
        return float(after) if isinstance(after, int | float) and after >= 0 else None


class Offline(ClientError):
    pass


class NotConnected(Offline):
    """The action was not sent."""


class SignedOut(ClientError):
    pass


class Busy(ClientError):
    pass


class InvalidCommand(ClientError):
    pass


def read_error(raw: Any) -> Error:
    """Parse an error of the wire. A code that this client does not know becomes `internal`."""
    try:
        return Error.model_validate(raw, extra="ignore")
    except ValidationError:
        message = raw.get("message") or raw.get("detail") if isinstance(raw, dict) else raw
        code = raw.get("code") if isinstance(raw, dict) else None
        return Error(
            code=ErrorCode.INTERNAL, message=f"{message or 'no reason given'}" + (f" [{code}]" if code else "")
        )
