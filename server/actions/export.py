"""All that is kept of the caller, for the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson

from db.queries import export as records
from db.queries.export import Key, Written
from server.context import Context
from server.contract.actions import NoPayload
from server.contract.models import ExportLine, timestamp
from server.dispatch import action
from server.limits import Limit

PAGE = 500
_TIMES = ("created_at", "edited_at", "expires_at", "joined_at", "last_seen", "revoked_at", "seen_at", "updated_at")


@action("export", http="GET /api/me/export", live=False, limit=Limit.EXPORTS)
async def export(ctx: Context, req: NoPayload) -> AsyncIterator[ExportLine]:
    """All that is kept of the caller, as JSON lines: one record each, told apart by `type`, always in the same order.

    The last line is of type `end` and says how many came before it. Without it the export is not whole: ask again.
    It is read in pages, each a snapshot of its own: what changes meanwhile is in it as before or as after.
    """
    me, lines = ctx.principal.user_key, 0
    for kind in records.PARTS:
        after: Key | None = None
        while True:
            found, after = await ctx.db.read(partial(records.page, kind=kind, user_key=me, after=after, limit=PAGE))
            for record in found:
                lines += 1
                yield _line(kind, record)
            if after is None:
                break
    place: tuple[int, int] | None = (0, 0)
    while place is not None:
        wrote, place = await ctx.db.read(partial(records.written, user_key=me, after=place))
        for entry in wrote:
            lines += 1
            yield _line(entry.kind, _message(entry) if entry.kind == "message" else _reaction(entry))
    yield _line("end", {"lines": lines})


def _line(kind: str, record: dict[str, Any]) -> ExportLine:
    for name in _TIMES:
        if record.get(name) is not None:
            record[name] = timestamp(record[name])
    return ExportLine.model_validate({"type": kind, **record})


def _message(entry: Written) -> dict[str, Any]:
    return {
        "id": entry.message_id,
        "room_id": entry.room_id,
        "topic_name": entry.topic_name,
        "seq": entry.seq,
        "content": entry.content or "",
        "created_at": entry.created_at,
        "edited_at": entry.edited_at,
        "deleted": bool(entry.deleted),
        "client_id": entry.client_id,
        "reply_to": entry.reply_to,
    }


def _reaction(entry: Written) -> dict[str, Any]:
    body = orjson.loads(entry.body or "{}")
    return {
        "message_id": body.get("id"),
        "room_id": entry.room_id,
        "topic_name": entry.topic_name,
        "seq": entry.seq,
        "emoji": body.get("emoji"),
        "remove": body.get("remove", False),
        "created_at": entry.created_at,
    }
