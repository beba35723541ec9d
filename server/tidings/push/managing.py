"""Adding, listing and removing push subscriptions. Each function is called in a transaction."""

from __future__ import annotations

import secrets

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.models import PushSubscription, timestamp
from tidings.push.provider import Address
from tidings_db.queries import push
from tidings_db.queries.push import SubscriptionRow

MAX_SUBSCRIPTIONS = 20
"""Subscriptions of one user."""


def subscribe(
    conn: Transaction,
    user_key: int,
    session_key: int,
    provider: str,
    address: Address,
    now: int,
    *,
    with_content: bool,
) -> PushSubscription:
    """Add a subscription, in place of an earlier one to the same endpoint. Raises `too_large`."""
    push.lock(conn)
    others = [row for row in push.of_user(conn, user_key, now) if row.endpoint != address.endpoint]
    if len(others) >= MAX_SUBSCRIPTIONS:
        message = f"you have {MAX_SUBSCRIPTIONS} subscriptions already"
        raise ActionError(ErrorCode.TOO_LARGE, message, limit=MAX_SUBSCRIPTIONS)
    subscription_id = secrets.token_urlsafe(9)
    owner = user_key, session_key
    push.add(conn, subscription_id, owner, (provider, *address), now, with_content=with_content)
    row = push.subscription(conn, subscription_id, now)
    if row is None:
        raise ActionError(ErrorCode.TOKEN_REVOKED, "the session was withdrawn")
    return _view(row, session_key)


def unsubscribe(conn: Transaction, user_key: int, subscription_id: str) -> None:
    """Raises `not_found`."""
    if not push.remove_one(conn, subscription_id, user_key):
        raise not_found("subscription")


def listed(conn: Transaction, user_key: int, session_key: int, now: int) -> list[PushSubscription]:
    """The subscriptions of a user, as a session of theirs sees them, the oldest first."""
    return [_view(row, session_key) for row in push.of_user(conn, user_key, now)]


def _view(row: SubscriptionRow, session_key: int) -> PushSubscription:
    return PushSubscription(
        subscription_id=row.id,
        provider=row.provider,
        with_content=row.with_content,
        created_at=timestamp(row.created_at),
        current=row.session_key == session_key,
        user_agent=row.user_agent,
    )
