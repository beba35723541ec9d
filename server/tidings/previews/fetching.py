"""Fetches the pages of previews from anywhere on the Internet, in bounded time and memory."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpcore

from tidings.auth.limits import Window
from tidings.previews.links import fetched_url
from tidings.previews.pages import PageSummary, decoded, parsed
from tidings.transport.outgoing import FAILURES, AddressForbidden, OutgoingHttp

FETCH_S = 5.0
"""The longest that a page may take, with its redirects and the look-ups of names."""
MAX_REDIRECTS = 3
MAX_BODY = 256 * 1024
"""Bytes of a page that are read, and bytes of them after decompression."""
PER_HOST = 30, 60.0
"""Requests to one host in so many seconds, by this node."""
_PORTS = {None, 80, 443}
_TYPE = re.compile(r"\s*text/html\s*(?:;|$)", re.I)
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.I)
_REDIRECTS = {301, 302, 303, 307, 308}


class TooOften(Exception):
    """The host gets enough requests; later, one may be sent."""


class _PageAnswer(NamedTuple):
    status: int
    location: str
    content_type: str
    body: bytes


class Fetcher:
    def __init__(self, *, agent: str, private: bool, at_a_time: int, fetch_s: float = FETCH_S) -> None:
        """
        Args:
            agent: the `User-Agent`.
            private: whether addresses in private networks, and any port, are allowed.
        """
        self._http = OutgoingHttp("tidings.previews", private=private, max_connections=at_a_time, keep_s=0)
        self._agent = agent
        self._private = private
        self._fetch_s = fetch_s
        self._hosts = Window(*PER_HOST)

    async def fetch(self, url: str) -> PageSummary | None:
        """The summary of a page; None if it has no title, or cannot or may not be read. Raises `TooOften`."""
        try:
            async with asyncio.timeout(self._fetch_s):
                for _ in range(1 + MAX_REDIRECTS):
                    answer = await self._get(url)
                    if answer is None:
                        return None
                    if answer.status == 200:
                        return await asyncio.to_thread(_read, answer)
                    target = fetched_url(urljoin(url, answer.location)) if answer.location else None
                    if target is None:
                        return None
                    url = target
        except (AddressForbidden, ValueError, zlib.error, httpcore.TimeoutException, *FAILURES):
            pass
        return None

    async def _get(self, url: str) -> _PageAnswer | None:
        """The answer to one request; None if it is neither a page nor a redirect."""
        parts = urlsplit(url)
        if not (self._private or parts.port in _PORTS):
            return None
        if self._hosts.take(parts.hostname, None):
            raise TooOften
        headers = [
            ("host", parts.netloc),
            ("user-agent", self._agent),
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
        ]
        async with self._http.stream("GET", url, headers) as response:
            fields = {name.lower(): value.decode("latin-1") for name, value in reversed(response.headers)}
            if response.status in _REDIRECTS:
                return _PageAnswer(response.status, fields.get(b"location", ""), "", b"")
            content_type = fields.get(b"content-type", "")
            if response.status != 200 or not _TYPE.match(content_type):
                return None
            encoding = fields.get(b"content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "gzip", "x-gzip"):
                return None
            return _PageAnswer(200, "", content_type, await _body(response, is_gzip=encoding != "identity"))

    async def close(self) -> None:
        await self._http.close()


async def _body(response: httpcore.Response, *, is_gzip: bool) -> bytes:
    """The beginning of a body, of up to `MAX_BODY` bytes, before and after decompression."""
    unpack = zlib.decompressobj(wbits=31)
    body, received = bytearray(), 0
    async for chunk in response.aiter_stream():
        received += len(chunk)
        body += unpack.decompress(chunk, MAX_BODY - len(body)) if is_gzip else chunk
        if received >= MAX_BODY or len(body) >= MAX_BODY or b"</head" in body[-len(chunk) - 8 :]:
            break
    return bytes(body[:MAX_BODY])


def _read(answer: _PageAnswer) -> PageSummary | None:
    charset = _CHARSET.search(answer.content_type)
    return parsed(decoded(answer.body, charset[1] if charset else None))
