"""What can go wrong between this client and the server.

ClientError
├── Refused      the server answered with an error: `error.code` says which
├── Offline      no connection, or it was lost before the answer: the action may or may not have taken effect
│   └── NotConnected   it never left: it has not taken effect
├── SignedOut    no valid token and no way to get one: a person has to sign in again
└── Busy         another process receives as this device
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from server.contract.errors import Error, ErrorCode


class ClientError(Exception):
    """Base of all of them; `str()` of one is a sentence for people."""


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
        """Seconds that the server asked to wait, if it did."""
        after = self.error.details.get("retry_after")
        return float(after) if isinstance(after, int | float) and after >= 0 else None


class Offline(ClientError):
    pass


class NotConnected(Offline):
    """What was asked never left."""


class SignedOut(ClientError):
    pass


class Busy(ClientError):
    pass


def read_error(raw: Any) -> Error:
    """Make an `Error` of what came; a code that this client does not know yet counts as `internal`."""
    try:
        return Error.model_validate(raw, extra="ignore")
    except ValidationError:
        message = raw.get("message") or raw.get("detail") if isinstance(raw, dict) else raw
        code = raw.get("code") if isinstance(raw, dict) else None
        return Error(
            code=ErrorCode.INTERNAL, message=f"{message or 'no reason given'}" + (f" [{code}]" if code else "")
        )
