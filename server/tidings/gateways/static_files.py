"""The web client: the built page at `/` and `/admin`, the files that it loads, and socket.io-client for other pages.

Each file has its own route, so all other paths are answered as if there were no web client. The files are read once,
at the start, so a new build does not remove files that open pages still load. The build has compressed scripts and
styles by Brotli. By gzip a file is compressed at its first request, in a thread, and cached: that takes up to 50 ms.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from tidings.gateways.responses import accepts
from tidings.monitoring.logs import Logs

TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Listed here because the table of the operating system differs between machines."""
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",  # what the page shows of a file before it is sent
        "media-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",  # in CSP 3 it includes WebSockets
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",  # scripts submit the forms; without a script, a password must not end up in an address
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types tidings",  # the client's policy for the address of its service worker
    )
)
"""The browser enforces it: text from users never runs as script, and the page contacts no other host than that of the
files of messages, if they have one of their own (`guards`)."""
GUARDS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def guards(files_origin: str) -> dict[str, str]:
    """The headers of the page, which shows files of that origin; empty: of its own."""
    policy = POLICY
    for kind in ("img-src", "media-src") if files_origin else ():
        policy = policy.replace(f"{kind} 'self'", f"{kind} 'self' {files_origin}")
    return GUARDS | {"Content-Security-Policy": policy}


BROTLI: Final = ".br"
"""The build adds it to the name of a file's compressed form."""
LIBRARY: Final = "socket.io/"
"""This folder has socket.io-client, for pages of other origins, too."""
LIBRARY_GUARDS: Final = {"Cross-Origin-Resource-Policy": "cross-origin", "X-Content-Type-Options": "nosniff"}
NAMED_BY_CONTENT: Final = "assets/"
"""Files in this folder have a hash in their name, and never change."""


ICON: Final = "icon.svg"


@dataclass(frozen=True, slots=True)
class Brand:
    """The name and the logo of a server in the page."""

    name: str = "Tidings"
    logo: bytes | None = None
    """In place of that of Tidings."""
    logo_type: str = ""
    """Its media type."""

    def apply(self, name: str, body: bytes) -> bytes:
        """A file of the build with the name and the logo in it."""
        if self == Brand():
            return body
        if name == ICON and self.logo is not None:
            return self.logo
        if name == "index.html":
            shown = escape(self.name).encode()
            for tag in (b"title", b"h1"):
                body = body.replace(b"<%b>Tidings</%b>" % (tag, tag), b"<%b>%b</%b>" % (tag, shown, tag))
            return body if self.logo is None else body.replace(b"image/svg+xml", self.logo_type.encode())
        if name == "manifest.webmanifest":
            manifest = orjson.loads(body) | {"name": self.name, "short_name": self.name}
            if self.logo is not None:
                manifest["icons"] = [{"src": ICON, "sizes": "any", "type": self.logo_type, "purpose": "any"}]
            return orjson.dumps(manifest)
        return body


class File:
    """A file of the web client."""

    def __init__(self, name: str, body: bytes, brotli: bytes | None, brand: Brand, guards: dict[str, str]) -> None:
        """`brotli`: the body compressed by Brotli, if the build has made it."""
        self.paths = ("/", "/admin") if name == "index.html" else (f"/{name}",)
        self.body = brand.apply(name, body)
        self.brotli = brotli
        self.media_type = TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
        if name == ICON and brand.logo is not None:
            self.media_type = brand.logo_type
        self.guards = LIBRARY_GUARDS if name.startswith(LIBRARY) else guards
        self.cache = "public, max-age=31536000, immutable" if name.startswith(NAMED_BY_CONTENT) else "no-cache"

    @cached_property
    def tag(self) -> str:
        """Its ETag, a weak one (RFC 9110, section 8.8.1), because both encodings share it."""
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes | None:
        """The compressed file; None if it is not smaller."""
        compressed = gzip.compress(self.body, mtime=0)
        return compressed if len(compressed) < len(self.body) else None

    def answer(self, request: Request) -> Response:
        # Also on a 304: a browser updates the headers of its cached answer with them (RFC 9111, section 3.2).
        headers = {"Cache-Control": self.cache, "ETag": self.tag, "Vary": "Accept-Encoding", **self.guards}
        if self._has_current(request.headers.getlist("if-none-match")):
            return Response(status_code=304, headers=headers)
        body = self.body
        if self.brotli is not None and accepts(request, "br"):
            headers["Content-Encoding"], body = "br", self.brotli
        elif self.compressed is not None and accepts(request, "gzip"):
            headers["Content-Encoding"], body = "gzip", self.compressed
        return Response(body, headers=headers, media_type=self.media_type)

    def _has_current(self, header_lines: list[str]) -> bool:
        """Whether the client has the current version, by weak comparison (RFC 9110, section 13.1.2)."""
        tags = {tag.strip().removeprefix("W/") for line in header_lines for tag in line.split(",")}
        return "*" in tags or self.tag.removeprefix("W/") in tags


def built() -> Traversable:
    """The output folder of `npm run build` in `web/`: inside the package, also in a wheel."""
    return resources.files("tidings") / "static"


def install(
    app: FastAPI, logs: Logs, static: Traversable | None = None, brand: Brand = Brand(), files_origin: str = ""
) -> None:
    """Add a route for each file of the web client. If it was not built, `/` redirects to `/docs`."""
    folder = built() if static is None else static
    if not (folder / "index.html").is_file():
        logs.info("the web client is not built: / redirects to /docs")
        app.add_api_route("/", _documentation, methods=["GET", "HEAD"], include_in_schema=False)
        return
    files, headers = dict(_files(folder)), guards(files_origin)
    for name, file in files.items():
        if name.endswith(BROTLI):
            continue
        brotli = files.get(name + BROTLI)
        static_file = File(name, file.read_bytes(), None if brotli is None else brotli.read_bytes(), brand, headers)
        for path in static_file.paths:
            app.add_api_route(path, _endpoint(static_file), methods=["GET", "HEAD"], include_in_schema=False)


def _documentation() -> RedirectResponse:
    return RedirectResponse("docs")


def _endpoint(file: File) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        return file.answer(request)

    return endpoint


def _files(folder: Traversable, under: str = "") -> Iterator[tuple[str, Traversable]]:
    """Every file, with its path relative to the folder."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{under}{entry.name}/")
        elif not entry.name.startswith("."):
            yield f"{under}{entry.name}", entry
