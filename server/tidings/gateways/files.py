"""The bytes of files over HTTP: uploads by tus 1.0 (core, creation and termination), and downloads by links.

https://tus.io/protocols/resumable-upload
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Dispatcher
from tidings.contract.errors import ActionError, ErrorCode, invalid, not_found
from tidings.files.uploads import CONTENT, MAX_PREVIEW, PREVIEW, UPLOADS, BrokenOff, purpose
from tidings.gateways.problems import problem
from tidings.gateways.request_log import RECORD
from tidings.gateways.rest import agent_of, bearer

TUS: Final = "1.0.0"
TUS_HEADERS: Final = ("tus-resumable", "upload-length", "upload-metadata", "upload-offset")
PART: Final = "application/offset+octet-stream"
SHOWN: Final = frozenset(
    (
        *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"),
        *("audio/mpeg", "audio/ogg", "audio/x-wav", "audio/mp4", "audio/aac", "video/mp4", "video/webm"),
    )
)
"""Types that a browser may show in its window; any other file is saved."""
GUARDS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; media-src 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600, immutable",
    "Accept-Ranges": "bytes",
}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
FileHandler = Callable[[Request], Awaitable[Response]]


def install(app: FastAPI, dispatcher: Dispatcher, parts: Parts) -> None:
    gateway = _Files(dispatcher, parts)
    one = f"/{UPLOADS}/{{file_id}}"
    for method, path, handler in (
        ("OPTIONS", f"/{UPLOADS}", gateway.options),
        ("POST", f"/{UPLOADS}", gateway.create),
        ("OPTIONS", one, gateway.options),
        ("HEAD", one, gateway.offset),
        ("PATCH", one, gateway.receive),
        ("DELETE", one, gateway.terminate),
        ("GET", "/files/{file_id}/{name}", gateway.send),
        ("HEAD", "/files/{file_id}/{name}", gateway.send),
    ):
        app.add_api_route(path, _answering(handler, dispatcher), methods=[method], include_in_schema=False)


def _answering(handler: FileHandler, dispatcher: Dispatcher) -> FileHandler:
    """Turn every failure into problem details."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)  # never read: the client is gone
        except Exception as error:
            refusal = dispatcher.describe(error, "a file", request.scope[RECORD].request_id)
            request.scope[RECORD].outcome = refusal.code
            return problem(refusal)

    return endpoint


class _Files:
    def __init__(self, dispatcher: Dispatcher, parts: Parts) -> None:
        self._dispatcher = dispatcher
        self._parts = parts

    async def options(self, _: Request) -> Response:
        return _tus(204, **{"Tus-Version": TUS, "Tus-Extension": "creation,termination"}, **self._limit)

    @property
    def _limit(self) -> dict[str, str]:
        return {"Tus-Max-Size": str(self._parts.files.max_bytes)}

    async def create(self, request: Request) -> Response:
        """`create_upload`, with the name of the file in `Upload-Metadata` as `filename`."""
        size = request.headers.get("upload-length", "")
        if not re.fullmatch(r"[0-9]{1,16}", size):
            raise invalid("Upload-Length", "not a number of bytes")
        name = _metadata(request.headers.get("upload-metadata", "")).get("filename", "file")
        upload = await self._ask(request, "create_upload", {"name": name, "size": int(size)})
        base = request.scope.get("root_path", "")
        return _tus(201, Location=f"{base}/{upload['url']}")

    async def offset(self, request: Request) -> Response:
        caller = await bearer(request, self._parts.auth)
        file = await self._parts.files.find(caller, request.path_params["file_id"])
        # A complete image may be smaller than its upload was.
        length = file.received if file.parts is None else file.size
        return _tus(200, **{"Upload-Offset": str(file.received), "Upload-Length": str(length)})

    async def receive(self, request: Request) -> Response:
        caller = await bearer(request, self._parts.auth)
        if request.headers.get("content-type") != PART:
            raise invalid("Content-Type", f"not {PART}")
        file = await self._parts.files.find(caller, request.path_params["file_id"])
        if request.headers.get("upload-offset") != str(file.received):
            raise ActionError(
                ErrorCode.CONFLICT, "the upload goes on at another offset", offset=file.received, size=file.size
            )
        received = await self._parts.files.receive(file, _part(request))
        return _tus(204, **{"Upload-Offset": str(received)})

    async def terminate(self, request: Request) -> Response:
        await self._ask(request, "delete_upload", {"file_id": request.path_params["file_id"]})
        return _tus(204)

    async def _ask(self, request: Request, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        caller = await bearer(request, self._parts.auth)
        address = request.client.host if request.client else ""
        request_id = request.scope[RECORD].request_id
        context = Context(self._parts, caller, address=address, agent=agent_of(request), request_id=request_id)
        result: dict[str, Any] = (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()
        return result

    async def send(self, request: Request) -> Response:
        """A file, or its preview, to whoever may read it now."""
        file_id, query = request.path_params["file_id"], request.query_params
        caller = await self._parts.auth.authenticate(query.get("ticket", ""), purpose(file_id))
        found_files = await self._parts.files.readable(caller, [file_id])
        preview = query.get("preview") == "1"
        if not found_files or (preview and not found_files[0].preview):
            raise not_found("file")
        file = found_files[0]
        key = f"{file.id}/{PREVIEW if preview else CONTENT}"
        media_type = "image/webp" if preview else file.type or ""
        headers = GUARDS | {
            "Cross-Origin-Resource-Policy": "cross-origin" if self._parts.files.origin else "same-origin",
            "Content-Disposition": f"{_disposition(media_type)}; filename*=utf-8''{quote(file.name, safe='')}",
        }
        if preview:
            return StreamingResponse(await self._content(key, 0, MAX_PREVIEW), 200, headers, media_type)
        start, end, size, status = 0, file.size, file.size, 200
        if (asked := request.headers.get("range")) is not None and (found := _range(asked, size)) is not None:
            start, end = found
            if start >= end:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        if request.method == "HEAD":
            return Response(None, status, headers, media_type)
        return StreamingResponse(await self._content(key, start, end), status, headers, media_type)

    async def _content(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Raises `not_found`: a restored database may have files whose contents were deleted since."""
        chunks = self._parts.files.store.read(key, start, end)
        try:
            first = await anext(chunks, b"")
        except FileNotFoundError:
            raise not_found("file") from None
        return _chained(first, chunks)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _part(request: Request) -> AsyncIterator[bytes]:
    """The bytes of a request. Raises `BrokenOff`."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise BrokenOff from None


def _tus(status: int, **headers: str) -> Response:
    return Response(status_code=status, headers={"Tus-Resumable": TUS, **headers})


def _metadata(header: str) -> dict[str, str]:
    """The pairs of `Upload-Metadata`. Raises `invalid`."""
    pairs = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        key, _, value = pair.partition(" ")
        try:
            pairs[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise invalid("Upload-Metadata", "not pairs of a key and a value in Base64") from None
    return pairs


def _disposition(media_type: str) -> str:
    return "inline" if media_type in SHOWN else "attachment"


def _range(header: str, size: int) -> tuple[int, int] | None:
    """A single range (RFC 9110, section 14.2) as start and end; None: the whole content is sent."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size if int(last) else 0
    return int(first), min(size, int(last) + 1 if last else size)
