"""Messages that members report to the moderators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import CloseReport, GetReports, ReportMessage
from tidings.contract.administration import AdminGetReports
from tidings.contract.errors import ActionError, ErrorCode, invalid, not_found
from tidings.contract.models import Empty, Report, Reports, timestamp
from tidings.contract.permissions import Permission
from tidings.log.messages import new_message_id
from tidings.log.views import room_name, shown_message
from tidings_db.queries import reports
from tidings_db.queries.reports import Reported
from tidings_db.queries.rows import RoomRow


@action(
    "report",
    http="POST /api/messages/{message_id}/reports",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.INVALID: "the message is your own, or was deleted",
        ErrorCode.NOT_FOUND: "no such message, or one of a room that you are not in",
        ErrorCode.CONFLICT: "you have reported the message already",
    },
)
async def report(ctx: Context, req: ReportMessage) -> Empty:
    """Report a message to those who moderate its room, and to the administrators.

    They see the content as it is now, also after an edit, and who reports it. Of a direct conversation, which has no
    moderators, only the administrators learn.
    """
    entry, caller_key, now = await ctx.access.message(req.message_id), ctx.principal.user_key, ctx.now
    if entry.sender_key == caller_key or entry.deleted:
        raise invalid("message_id", "that is your own message" if not entry.deleted else "the message was deleted")
    report_id = new_message_id(now)

    def write(conn: Transaction) -> tuple[bool, Sequence[Reported], list[int]]:
        added = reports.add(conn, report_id, entry, caller_key, req.reason, now)
        return added, reports.page(conn, report_id=report_id), reports.moderators(conn, entry.room_key)

    added, found, moderators = await ctx.db.write(write)
    if not added:
        raise ActionError(ErrorCode.CONFLICT, "you have reported this message already")
    for reported in found:
        event = {"room_id": reported.room.room_id, "report": _view(reported, None).model_dump(mode="json")}
        for user_key in moderators:
            ctx.hub.notify(user_key, "reported", event)
    return Empty()


@action(
    "get_reports",
    http="GET /api/reports",
    limit=Limit.READS,
    errors={ErrorCode.FORBIDDEN: "you do not moderate the room"},
)
async def get_reports(ctx: Context, req: GetReports) -> Reports:
    """Get the open reports of messages in a room that the caller moderates, oldest first."""

    def load(conn: Transaction, room: RoomRow) -> Sequence[Reported]:
        return reports.page(conn, room_key=room.key, after=req.after, limit=req.limit + 1)

    return _page(ctx, await ctx.access.room(req, Permission.BAN, load), req.limit)


@action("admin_get_reports", http="GET /api/admin/reports", limit=Limit.READS, live=False, admin=True)
async def admin_get_reports(ctx: Context, req: AdminGetReports) -> Reports:
    """Get the open reports of messages in all rooms, oldest first."""
    rows = await ctx.db.read(partial(reports.page, after=req.after, limit=req.limit + 1))
    return _page(ctx, rows, req.limit)


@action(
    "close_report",
    http="DELETE /api/reports/{report_id}",
    limit=Limit.JOINS,
    errors={ErrorCode.NOT_FOUND: "no such report, or one of a room that you do not moderate; it is closed already"},
)
async def close_report(ctx: Context, req: CloseReport) -> Empty:
    """Close a report: for those who moderate the message's room, and administrators. The message stays as it is."""
    caller = ctx.principal

    def write(conn: Transaction) -> bool:
        found = reports.page(conn, report_id=req.report_id)
        return (
            bool(found)
            and (caller.admin or caller.user_key in reports.moderators(conn, found[0].room.key))
            and reports.close(conn, req.report_id)
        )

    if not await ctx.db.write(write):
        raise not_found("report")
    return Empty()


def _page(ctx: Context, rows: Sequence[Reported], limit: int) -> Reports:
    page = rows[:limit]
    return Reports(
        reports=[_view(row, ctx.principal.user_key) for row in page],
        next=page[-1].report.id if len(rows) > limit else None,
    )


def _view(reported: Reported, viewer_key: int | None) -> Report:
    row, room, entry = reported
    return Report(
        report_id=row.id,
        message=shown_message(room_name(room), entry, viewer_key),
        content=row.content,
        username=row.reporter,
        reason=row.reason,
        created_at=timestamp(row.created_at),
    )
