"""JSON answers over HTTP, compressed for clients that accept gzip."""

from __future__ import annotations

import asyncio
import gzip
import re

from fastapi import Request, Response

COMPRESSED_FROM = 1024
"""Bytes. A smaller body fits into one packet uncompressed."""
INLINE_UP_TO = 32 * 1024
"""Bytes that are compressed on the event loop, in a millisecond; a larger body is compressed in a thread."""
_CODINGS = {
    coding: re.compile(rf"(?:^|[\s,]){coding}\s*(?:,|$|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
    for coding in ("gzip", "br")
}


def accepts(request: Request, coding: str) -> bool:
    """Whether a client accepts a content coding, "gzip" or "br" (RFC 9110, section 12.5.3)."""
    return _CODINGS[coding].search(", ".join(request.headers.getlist("accept-encoding"))) is not None


async def json_answer(request: Request, body: bytes, status: int) -> Response:
    headers = {}
    if len(body) >= COMPRESSED_FROM:
        headers["Vary"] = "Accept-Encoding"
        if accepts(request, "gzip"):
            headers["Content-Encoding"] = "gzip"
            body = _compressed(body) if len(body) <= INLINE_UP_TO else await asyncio.to_thread(_compressed, body)
    return Response(body, status, headers=headers, media_type="application/json")


def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)
