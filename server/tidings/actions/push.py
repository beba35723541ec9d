"""Push notifications: a user's subscriptions. Sending is `tidings.push`."""

from __future__ import annotations

import secrets

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import NoPayload
from tidings.contract.errors import ErrorCode
from tidings.contract.models import Empty, PushSubscription, PushSubscriptions
from tidings.contract.push import PushSubscriptionRef, SubscribePush
from tidings.push.provider import Address
from tidings.push.sending import MAX_SUBSCRIPTIONS


@action("get_push", http="GET /api/push", limit=Limit.READS)
async def get_push(ctx: Context, req: NoPayload) -> PushSubscriptions:
    """Get the caller's push subscriptions, and the key with which a browser makes one."""
    caller = ctx.principal
    return await ctx.parts.push.subscriptions(caller.user_key, caller.session_key)


@action(
    "subscribe_push",
    http="POST /api/push",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.FORBIDDEN: "push notifications are off on this server",
        ErrorCode.INVALID: "the endpoint, its keys or the provider is not possible",
        ErrorCode.TOO_LARGE: f"the caller has {MAX_SUBSCRIPTIONS} subscriptions already",
    },
)
async def subscribe_push(ctx: Context, req: SubscribePush) -> PushSubscription:
    """Notify the caller of messages through a push service, until the session ends.

    Of mentions, of direct messages, and of rooms as the caller's preferences say. It replaces an earlier subscription
    to the same endpoint.
    """
    caller = ctx.principal
    return await ctx.parts.push.subscribe(
        caller.user_key,
        caller.session_key,
        secrets.token_urlsafe(9),
        req.provider,
        Address(req.endpoint, req.keys),
        with_content=req.with_content,
    )


@action(
    "unsubscribe_push",
    http="DELETE /api/push/{subscription_id}",
    status=204,
    limit=Limit.JOINS,
    errors={ErrorCode.NOT_FOUND: "the caller has no such subscription"},
)
async def unsubscribe_push(ctx: Context, req: PushSubscriptionRef) -> Empty:
    """Remove a push subscription."""
    await ctx.parts.push.unsubscribe(ctx.principal.user_key, req.subscription_id)
    return Empty()
