"""Creating, replaying, enabling and deleting webhooks. Each function is called in a transaction."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy.engine import Connection as Transaction

from tidings.contract.errors import invalid, not_found
from tidings.transport.outgoing import check_url
from tidings.webhooks.sending import ALLOWED_BY, check_events, new_secret
from tidings_db.names import name_key
from tidings_db.queries import webhooks
from tidings_db.queries.webhooks import WebhookRow


def create(
    conn: Transaction, url: str, events: Iterable[str], room_key: int | None, *, private: bool, now: int
) -> WebhookRow:
    """Add a webhook, which begins at the current heads of the rooms. Raises `invalid`.

    Args:
        private: see `check_url`.
    """
    names = check_events(events)
    webhook_id = secrets.token_urlsafe(9)
    checked = check_url(url, private=private, allowed_by=ALLOWED_BY)
    webhooks.add(conn, webhook_id, checked, new_secret(), names, room_key, now)
    return load(conn, webhook_id)


def load(conn: Transaction, webhook_id: str) -> WebhookRow:
    """Raises `not_found`."""
    webhook = webhooks.get(conn, webhook_id)
    if webhook is None:
        raise not_found("webhook")
    return webhook


def delete(conn: Transaction, webhook_id: str) -> None:
    """Raises `not_found`."""
    if not webhooks.remove(conn, webhook_id):
        raise not_found("webhook")


def enable(conn: Transaction, webhook_id: str) -> None:
    """Continue a webhook where it was. Raises `not_found`."""
    if not webhooks.enable(conn, webhook_id):
        raise not_found("webhook")


def replay(
    conn: Transaction, webhook_id: str, room_key: int | None, *, after: int | None = None, since: str | None = None
) -> None:
    """Send entries again, and enable the webhook: those `after` a seq of a room, or those `since` a time (ISO 8601).

    Raises `not_found`, or `invalid` for `after` without a room, a time that cannot be read, or another room than the
    webhook's.
    """
    webhook = load(conn, webhook_id)
    if room_key is not None and webhook.room_key not in (None, room_key):
        raise invalid("room_id", "the webhook is of another room")
    room_key = webhook.room_key if room_key is None else room_key
    if since is not None:
        webhooks.replay_since(conn, webhook_id, room_key, _milliseconds(since))
    elif room_key is None:
        raise invalid("room_id", "a seq is of one room: name it")
    else:
        webhooks.replay_after(conn, webhook_id, room_key, after or 0)
    enable(conn, webhook_id)


def find_room(conn: Transaction, room_id: str | None, *, topic: bool = False) -> int | None:
    """The key of a room; None for None. Raises `not_found`.

    Args:
        topic: whether it may be the name of a topic as well.
    """
    if room_id is None:
        return None
    key = webhooks.find_room(conn, room_id, name_key(room_id.strip()) if topic else None)
    if key is None:
        raise not_found("room")
    return key


def _milliseconds(time: str) -> int:
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        raise invalid("since", "give a time like 2026-01-31T09:30:00.250Z") from None
    parsed = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return int(parsed.timestamp() * 1000)
