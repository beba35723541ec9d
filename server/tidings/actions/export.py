"""The export of a user's data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import NoPayload
from tidings.contract.models import ExportLine, timestamp
from tidings_db.queries import export as records
from tidings_db.queries.export import Key, Written

PAGE = 500
RECORDS_PER_STEP = 50
"""Records encoded before other tasks run."""
_TIMES = (
    "created_at",
    "do_not_disturb_until",
    "edited_at",
    "expires_at",
    "joined_at",
    "quiet_until",
    "last_seen",
    "revoked_at",
    "seen_at",
    "status_until",
    "updated_at",
    "used_at",
)


@action("export", http="GET /api/me/export", live=False, limit=Limit.EXPORTS)
async def export(ctx: Context, req: NoPayload) -> AsyncIterator[ExportLine]:
    """Get all stored data of the caller as JSON lines. Each line is a record with a `type`; the order is fixed.

    The last line has the type `end` and the number of lines before it. Without it the export is incomplete: request
    it again. The export is read in pages, each in a snapshot of its own, so data that changes meanwhile may appear in
    either state.
    """
    caller_key, lines = ctx.principal.user_key, 0
    for kind in records.PARTS:
        after: Key | None = None
        while True:
            page, after = await ctx.db.read(
                partial(records.page, kind=kind, user_key=caller_key, after=after, limit=PAGE)
            )
            for record in page:
                lines += 1
                if not lines % RECORDS_PER_STEP:
                    await asyncio.sleep(0)
                yield _line(kind, record)
            if after is None:
                break
    position: tuple[int, int] | None = (0, 0)
    while position is not None:
        entries, position = await ctx.db.read(partial(records.written, user_key=caller_key, after=position))
        for entry in entries:
            lines += 1
            if not lines % RECORDS_PER_STEP:
                await asyncio.sleep(0)
            yield _line(entry.kind, _RECORDS[entry.kind](entry))
    yield _line("end", {"lines": lines})


def _line(kind: str, record: dict[str, Any]) -> ExportLine:
    for name in _TIMES:
        if record.get(name) is not None:
            record[name] = timestamp(record[name])
    if kind == "profile":
        record["folded"] = orjson.loads(record["folded"] or "[]")
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
        "thread": entry.thread,
        "data": orjson.loads(entry.data or "null"),
        "files": orjson.loads(entry.files or "[]"),
    }


def _event(entry: Written) -> dict[str, Any]:
    return {
        "id": entry.message_id,
        "room_id": entry.room_id,
        "topic_name": entry.topic_name,
        "seq": entry.seq,
        "event": entry.content,
        "data": orjson.loads(entry.data or "null"),
        "created_at": entry.created_at,
        "client_id": entry.client_id,
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


_RECORDS = {"message": _message, "event": _event, "reaction": _reaction}
