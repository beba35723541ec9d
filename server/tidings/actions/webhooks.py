"""Webhooks, for administrators (`tidings webhook` has the same for operators). Available over REST only."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.administration import AdminCreateWebhook, AdminGetWebhooks, AdminReplayWebhook, AdminWebhookRef
from tidings.contract.errors import ErrorCode
from tidings.contract.models import AdminNewWebhook, AdminWebhook, AdminWebhooks, Empty, WebhookTest, timestamp
from tidings.webhooks import managing
from tidings_db.queries import webhooks
from tidings_db.queries.webhooks import WebhookRow

_NO_WEBHOOK = {ErrorCode.NOT_FOUND: "no such webhook"}


@action(
    "admin_create_webhook",
    http="POST /api/admin/webhooks",
    status=201,
    live=False,
    limit=Limit.READS,
    admin=True,
    errors={ErrorCode.INVALID: "the URL or an event is not possible", ErrorCode.NOT_FOUND: "no such room"},
)
async def admin_create_webhook(ctx: Context, req: AdminCreateWebhook) -> AdminNewWebhook:
    """Send the entries that are appended from now on to a URL."""
    deliverer, now = ctx.parts.webhooks, ctx.now

    def create(conn: Transaction) -> WebhookRow:
        room_key = managing.find_room(conn, req.room_id)
        return managing.create(conn, req.url, req.events, room_key, private=deliverer.sender.private, now=now)

    webhook = await ctx.db.write(create)
    deliverer.check_soon()
    return AdminNewWebhook(webhook_id=webhook.id, secret=webhook.secret)


@action("admin_get_webhooks", http="GET /api/admin/webhooks", live=False, limit=Limit.READS, admin=True)
async def admin_get_webhooks(ctx: Context, req: AdminGetWebhooks) -> AdminWebhooks:
    """Get all webhooks, without their secrets."""
    return AdminWebhooks(webhooks=[_view(webhook) for webhook in await ctx.db.read(webhooks.listed)])


@action(
    "admin_delete_webhook",
    http="DELETE /api/admin/webhooks/{webhook_id}",
    live=False,
    limit=Limit.READS,
    admin=True,
    errors=_NO_WEBHOOK,
)
async def admin_delete_webhook(ctx: Context, req: AdminWebhookRef) -> Empty:
    """Delete a webhook. A request that is under way may still arrive."""
    await ctx.db.write(partial(managing.delete, webhook_id=req.webhook_id))
    ctx.parts.webhooks.check_soon()
    return Empty()


@action(
    "admin_enable_webhook",
    http="POST /api/admin/webhooks/{webhook_id}/enable",
    live=False,
    limit=Limit.READS,
    admin=True,
    errors=_NO_WEBHOOK,
)
async def admin_enable_webhook(ctx: Context, req: AdminWebhookRef) -> Empty:
    """Continue a webhook that was disabled where it was, and try one that fails without a pause."""
    await ctx.db.write(partial(managing.enable, webhook_id=req.webhook_id))
    ctx.parts.webhooks.check_soon()
    return Empty()


@action(
    "admin_test_webhook",
    http="POST /api/admin/webhooks/{webhook_id}/test",
    live=False,
    limit=Limit.READS,
    admin=True,
    errors=_NO_WEBHOOK,
)
async def admin_test_webhook(ctx: Context, req: AdminWebhookRef) -> WebhookTest:
    """Send an event `webhook.test` now, also if the webhook is disabled, and wait for the answer."""
    webhook = await ctx.db.read(partial(managing.load, webhook_id=req.webhook_id))
    result = await ctx.parts.webhooks.sender.test(webhook.id, webhook.url, webhook.secret)
    return WebhookTest(delivered=result.delivered, status=result.status, reason=result.reason)


@action(
    "admin_replay_webhook",
    http="POST /api/admin/webhooks/{webhook_id}/replay",
    live=False,
    limit=Limit.READS,
    admin=True,
    errors={
        ErrorCode.INVALID: "`after` without a room, a room that is not the webhook's, or no such time",
        ErrorCode.NOT_FOUND: "no such webhook or room",
    },
)
async def admin_replay_webhook(ctx: Context, req: AdminReplayWebhook) -> Empty:
    """Send entries again that a webhook has sent before, and enable it."""

    def replay(conn: Transaction) -> None:
        room_key = managing.find_room(conn, req.room_id)
        managing.replay(conn, req.webhook_id, room_key, after=req.after, since=req.since)

    await ctx.db.write(replay)
    ctx.parts.webhooks.check_soon()
    return Empty()


def _view(webhook: WebhookRow) -> AdminWebhook:
    failing, disabled = webhook.failing_since, webhook.disabled_at
    return AdminWebhook(
        webhook_id=webhook.id,
        url=webhook.url,
        events=sorted(webhook.events),
        room_id=webhook.room_id,
        created_at=timestamp(webhook.created_at),
        failing_since=None if failing is None else timestamp(failing),
        disabled_at=None if disabled is None else timestamp(disabled),
        disabled_reason=webhook.disabled_reason,
    )
