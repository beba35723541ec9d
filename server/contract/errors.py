"""The one failure type of the server and what it looks like on the wire.

Two kinds of failure, as in every gateway: an action is *answered* with an error (`ActionError`, the connection
stays), or a connection is *closed* (`CloseReason`, whose `reconnect` says whether to come back).
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
    ErrorCode.UNAUTHENTICATED: "no token, or not one of ours; wrong username or password",
    ErrorCode.TOKEN_EXPIRED: "the token has outlived its `exp`",
    ErrorCode.TOKEN_REVOKED: "the token's session was withdrawn",
    ErrorCode.FORBIDDEN: "known to the caller, but not allowed",
    ErrorCode.NOT_FOUND: "there is no such thing, or the caller may not know of it",
    ErrorCode.CONFLICT: "the name is taken, already a member, …",
    ErrorCode.TOO_LARGE: "over a size limit, given in `details.limit`",
    ErrorCode.RATE_LIMITED: "too many; `details.retry_after` is in seconds",
    ErrorCode.UNAVAILABLE: "the store or a peer cannot be reached now",
    ErrorCode.INTERNAL: "a fault of the server; `details.request_id` finds the log line",
}


class Error(BaseModel):
    """The error object of every answer, in every gateway."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    code: ErrorCode
    message: str = Field(description="For people; may change. Programs go by `code`.")
    details: dict[str, Any] = Field(default_factory=dict)
    retryable: bool = Field(default=False, description="The same request may succeed later without a change.")


class ActionError(Exception):
    """Raised anywhere below the dispatcher to answer an action with an error."""

    def __init__(self, code: ErrorCode, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, details=details, retryable=code.retryable)

    @property
    def code(self) -> ErrorCode:
        return self.error.code


def invalid(field: str, why: str) -> ActionError:
    """An `invalid` for one field that the models cannot judge by themselves."""
    return ActionError(ErrorCode.INVALID, f"{field}: {why}", fields={field: why})


def not_found(what: str = "room") -> ActionError:
    """The one answer for what is missing and for what the caller may not know of."""
    return ActionError(ErrorCode.NOT_FOUND, f"no such {what}")


class CloseReason(StrEnum):
    """Why the server closes a connection; sent in `closing` before it does."""

    SLOW_CONSUMER = "slow_consumer"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    SHUTDOWN = "shutdown"
    REPLACED = "replaced"
    PROTOCOL_ERROR = "protocol_error"

    @property
    def reconnect(self) -> bool:
        """Whether the same client, unchanged, should come back."""
        return self in (CloseReason.SLOW_CONSUMER, CloseReason.SHUTDOWN)
