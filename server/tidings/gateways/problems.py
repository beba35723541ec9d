"""Errors over HTTP: problem details (RFC 9457) with the contract's `code`."""

from __future__ import annotations

from typing import Any, Final

import orjson
from fastapi import Response

from tidings.contract.errors import Error

PROBLEM: Final = "application/problem+json"


def problem(error: Error, status: int | None = None) -> Response:
    """An error as problem details (RFC 9457)."""
    status = error.code.http_status if status is None else status
    return Response(orjson.dumps(problem_details(error, status)), status, headers_of(error, status), PROBLEM)


def headers_of(error: Error, status: int) -> dict[str, str]:
    """The headers of an answer with an error."""
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    return headers


def problem_details(error: Error, status: int) -> dict[str, Any]:
    """The members of problem details, and those of the contract's error."""
    return {
        "type": f"urn:tidings:error:{error.code}",
        "title": error.code.meaning,
        "status": status,
        "detail": error.message,
        **error.model_dump(mode="json", exclude={"message"}),
    }
