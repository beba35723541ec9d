"""Files: uploads, and links to what messages have. The bytes go by HTTP: `tidings.gateways.files`."""

from __future__ import annotations

from urllib.parse import quote

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import FileName, FileRef, GetFiles
from tidings.contract.errors import ErrorCode
from tidings.contract.models import Empty, LinkedFile, LinkedFiles, Upload, timestamp
from tidings.contract.permissions import KeyScope
from tidings.files.uploads import UPLOADS, purpose
from tidings_db.queries.files import FileRow

_NO_FILE = {ErrorCode.NOT_FOUND: "no such upload of the caller, or it is in a message"}


@action(
    "create_upload",
    scope=KeyScope.PUBLISH,
    http="POST /api/files",
    status=201,
    limit=Limit.SENDS,
    errors={ErrorCode.TOO_LARGE: "the file is too large, or all files of the caller together would be"},
)
async def create_upload(ctx: Context, req: FileName) -> Upload:
    """Begin the upload of a file. Its bytes follow by HTTP, in as many parts as it takes: `PATCH` its `url`.

    When it is complete, a message may have it. An upload that no message has is deleted after a day.
    """
    ctx.parts.files.check_size(req.size)
    ctx.count(Limit.VOLUME, req.size)
    file = await ctx.parts.files.create(ctx.principal, req.name, req.size)
    return Upload(id=file.id, url=f"{UPLOADS}/{file.id}", name=file.name, size=file.size, offset=file.received)


@action(
    "delete_upload", scope=KeyScope.PUBLISH, http="DELETE /api/files/{file_id}", limit=Limit.SENDS, errors=_NO_FILE
)
async def delete_upload(ctx: Context, req: FileRef) -> Empty:
    """Withdraw an upload, complete or not. A file of a message is deleted with the message."""
    await ctx.parts.files.discard(ctx.principal, req.file_id)
    return Empty()


@action("get_files", scope=KeyScope.READ, http="POST /api/file-links", limit=Limit.READS)
async def get_files(ctx: Context, req: GetFiles) -> LinkedFiles:
    """Get links to files of messages in the caller's rooms, and to the caller's own complete uploads.

    A link works for the caller's session only while the caller may read the file, for up to an hour.
    """
    readable = await ctx.parts.files.readable(ctx.principal, req.file_ids)
    return LinkedFiles(files=[_linked(ctx, file) for file in readable])


def _linked(ctx: Context, file: FileRow) -> LinkedFile:
    ticket, expires_at = ctx.auth.link_ticket(ctx.principal, purpose(file.id))
    url = f"{ctx.parts.files.origin}files/{file.id}/{quote(file.name, safe='')}?ticket={ticket}"
    return LinkedFile(
        id=file.id,
        name=file.name,
        type=file.type or "",
        size=file.size,
        width=file.width,
        height=file.height,
        url=url,
        preview_url=f"{url}&preview=1" if file.preview else None,
        expires_at=timestamp(expires_at),
    )
