"""The web client: the built page at `/`, and the files that it loads.

Each file has a route of its own, so whatever else is asked for is answered as if there were no client. The files are
read once, at the start: a new build does not pull them from under the pages that are open. A file is compressed when
it is first asked for, in a thread, and kept so: compressing the largest each time would cost 50 ms of a processor.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from server.logs import Logs

TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Kept here, because what the machine's own table says differs from one to the next."""
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",  # in CSP 3 that is the WebSocket, too
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",  # forms are sent by script; without it, a password must not land in an address
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types tidings",  # the client's own, for the address of its service worker
    )
)
"""The browser holds the page to it: what somebody wrote never runs, and no other host is asked or told anything."""
GUARDS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
NAMED_BY_CONTENT: Final = "assets/"
"""What is in there has a hash in its name, and never changes."""
_GZIP = re.compile(r"(?:^|[\s,])gzip\s*(?:,|$|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)


class File:
    """A file of the client, as it is answered with."""

    def __init__(self, name: str, body: bytes) -> None:
        self.path = "/" if name == "index.html" else f"/{name}"
        self.body = body
        self.media_type = TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        self.cache = "public, max-age=31536000, immutable" if name.startswith(NAMED_BY_CONTENT) else "no-cache"

    @cached_property
    def tag(self) -> str:
        """Its ETag. Weak (RFC 9110, section 8.8.1): it is the same for both encodings."""
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes | None:
        """None if that would not make it smaller."""
        compressed = gzip.compress(self.body, mtime=0)
        return compressed if len(compressed) < len(self.body) else None

    def answer(self, request: Request) -> Response:
        # On a 304, too: a browser takes its headers over into what it keeps (RFC 9111, section 3.2).
        headers = {"Cache-Control": self.cache, "ETag": self.tag, "Vary": "Accept-Encoding", **GUARDS}
        if self._held(request.headers.getlist("if-none-match")):
            return Response(status_code=304, headers=headers)
        body = self.body
        if self.compressed is not None and _GZIP.search(", ".join(request.headers.getlist("accept-encoding"))):
            headers["Content-Encoding"], body = "gzip", self.compressed
        return Response(body, headers=headers, media_type=self.media_type)

    def _held(self, given: list[str]) -> bool:
        """Whether the client has it already: a weak comparison (RFC 9110, section 13.1.2)."""
        tags = {tag.strip().removeprefix("W/") for line in given for tag in line.split(",")}
        return "*" in tags or self.tag.removeprefix("W/") in tags


def built() -> Traversable:
    """Where `npm run build` in `web/` puts the client: inside the package, also of a wheel."""
    return resources.files("server") / "static"


def install(app: FastAPI, logs: Logs, static: Traversable | None = None) -> None:
    """Add a route for each file of the client; if it was not built, `/` leads to the documentation."""
    found = built() if static is None else static
    if not (found / "index.html").is_file():
        logs.info("the web client is not built: / leads to /docs")
        app.add_api_route("/", _documentation, methods=["GET", "HEAD"], include_in_schema=False)
        return
    for name, file in _files(found):
        served = File(name, file.read_bytes())
        app.add_api_route(served.path, _endpoint(served), methods=["GET", "HEAD"], include_in_schema=False)


def _documentation() -> RedirectResponse:
    return RedirectResponse("/docs")


def _endpoint(file: File) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return file.answer(request)

    return endpoint


def _files(folder: Traversable, under: str = "") -> Iterator[tuple[str, Traversable]]:
    """Every file, by its path in the folder."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{under}{entry.name}/")
        elif not entry.name.startswith("."):
            yield f"{under}{entry.name}", entry
