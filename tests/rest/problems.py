"""The form of every error over REST (RFC 9457)."""

from __future__ import annotations

from typing import Any

import httpx

from tidings.contract.errors import Error, ErrorCode


def problem(answer: httpx.Response, code: str, status: int | None = None) -> dict[str, Any]:
    """Check an answer against RFC 9457 and the contract's error; returns its `details`."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"type", "title", "status", "detail", "code", "details", "retryable"}
    assert body["code"] == code, body
    expected = ErrorCode(code).http_status if status is None else status
    assert answer.status_code == body["status"] == expected
    assert body["type"] == f"urn:tidings:error:{code}"
    assert body["title"] == ErrorCode(code).meaning
    assert body["detail"]
    Error(code=body["code"], message=body["detail"], details=body["details"], retryable=body["retryable"])
    assert body["retryable"] is ErrorCode(code).retryable
    details: dict[str, Any] = body["details"]
    return details
