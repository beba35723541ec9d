"""Push notifications: a user's subscriptions. Sending is `tidings.push`."""

from __future__ import annotations

from functools import partial

from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth.limits import Limit
from tidings.contract.actions import NoPayload
from tidings.contract.errors import ErrorCode
from tidings.contract.models import Empty, PushSubscription, PushSubscriptions
from tidings.contract.push import PushSubscriptionRef, SubscribePush
from tidings.push import managing
from tidings.push.managing import MAX_SUBSCRIPTIONS
from tidings.push.provider import Address


@action("get_push", http="GET /api/push", limit=Limit.READS)
async def get_push(ctx: Context, req: NoPayload) -> PushSubscriptions:
    """Get the caller's push subscriptions, and the key with which a browser makes one."""
    caller, now = ctx.principal, ctx.now
    subscriptions = await ctx.db.read(lambda conn: managing.listed(conn, caller.user_key, caller.session_key, now))
    return PushSubscriptions(public_key=await ctx.parts.push.public_key(), subscriptions=subscriptions)


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
    sender, caller, now = ctx.parts.push, ctx.principal, ctx.now
    address = sender.check(req.provider, Address(req.endpoint, req.keys))
    subscribe = partial(
        managing.subscribe,
        user_key=caller.user_key,
        session_key=caller.session_key,
        provider=req.provider,
        address=address,
        now=now,
        with_content=req.with_content,
    )
    subscription = await ctx.db.write(subscribe)
    sender.check_soon()
    return subscription


@action(
    "unsubscribe_push",
    http="DELETE /api/push/{subscription_id}",
    status=204,
    limit=Limit.JOINS,
    errors={ErrorCode.NOT_FOUND: "the caller has no such subscription"},
)
async def unsubscribe_push(ctx: Context, req: PushSubscriptionRef) -> Empty:
    """Remove a push subscription."""
    caller_key = ctx.principal.user_key
    await ctx.db.write(lambda conn: managing.unsubscribe(conn, caller_key, req.subscription_id))
    return Empty()
