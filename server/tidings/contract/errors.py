"""The errors of the server, and their form on the wire.

There are two kinds of failure, in every gateway. An action is *answered* with an error (`ActionError`; the connection
stays open), or a connection is *closed* (`CloseReason`, whose `reconnect` says whether the client should reconnect).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ErrorCode(StrEnum):
    """Stable codes; `http_status` is their status in REST answers (RFC 9457 problem details)."""

    INVALID = "invalid"
    UNKNOWN_ACTION = "unknown_action"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def http_status(self) -> int:
        return _HTTP_STATUS[self]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without a change."""
        return self in (ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE)

    @property
    def meaning(self) -> str:
        """One line for the documentation."""
        return _MEANING[self]


_HTTP_STATUS = {
    ErrorCode.INVALID: 422,
    ErrorCode.UNKNOWN_ACTION: 404,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.TOKEN_REVOKED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}

_MEANING = {
    ErrorCode.INVALID: "the payload has the wrong shape; `details` names each field and why",
    ErrorCode.UNKNOWN_ACTION: "there is no such action",
    ErrorCode.UNAUTHENTICATED: "no token, or not one of this server; wrong username or password",
    ErrorCode.TOKEN_EXPIRED: "the token's `exp` has passed",
    ErrorCode.TOKEN_REVOKED: "the token's session was withdrawn",
    ErrorCode.FORBIDDEN: "the caller may see it, but not do this",
    ErrorCode.NOT_FOUND: "it does not exist, or the caller may not see it",
    ErrorCode.CONFLICT: "it conflicts with the current state: the name is taken, already a member, …",
    ErrorCode.TOO_LARGE: "over a limit on size, or on how many a user may have; the limit is in `details.limit`",
    ErrorCode.RATE_LIMITED: "too many requests; retry after `details.retry_after` seconds",
    ErrorCode.UNAVAILABLE: "the database or another server cannot be reached now",
    ErrorCode.INTERNAL: "a bug in the server; `details.request_id` identifies its log line",
}


class Error(BaseModel):
    """The error object of every answer, in every gateway."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    code: ErrorCode
    message: str = Field(description="For people; its text may change. Programs use `code`.")
    details: dict[str, Any] = Field(default_factory=dict)
    retryable: bool = Field(default=False, description="The same request may succeed later without a change.")


class ActionError(Exception):
    """Raised below the dispatcher to answer an action with an error."""

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, details=details, retryable=code.retryable)

    @property
    def code(self) -> ErrorCode:
        return self.error.code


def invalid(field: str, reason: str) -> ActionError:
    """An `invalid` error for a field whose model cannot check it."""
    return ActionError(ErrorCode.INVALID, f"{field}: {reason}", fields={field: reason})


def no_upload() -> ActionError:
    return invalid("files", "one is not an upload of yours that is complete and in no message")


def no_image() -> ActionError:
    return invalid("picture", "not an image that is a complete upload of yours, and in no message")


def not_found(noun: str = "room") -> ActionError:
    """The error for a missing object; the same one for an object that the caller may not see."""
    return ActionError(ErrorCode.NOT_FOUND, f"no such {noun}")


class CloseReason(StrEnum):
    """Why the server closes a connection; sent in the event `closing` before the close."""

    SLOW_CONSUMER = "slow_consumer"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    SHUTDOWN = "shutdown"
    REPLACED = "replaced"
    PROTOCOL_ERROR = "protocol_error"

    @property
    def reconnect(self) -> bool:
        """Whether the client should reconnect with the same token and device."""
        return self in (CloseReason.SLOW_CONSUMER, CloseReason.SHUTDOWN)
