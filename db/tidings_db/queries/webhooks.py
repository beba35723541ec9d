"""Webhooks, and their cursors in the rooms, which are those of the consumer `webhook:<id>`.

A node that delivers a webhook's entries of a room holds a claim: its id in the row of the cursor. A claim holds while
the lease of its node does (`tidings_db.queries.nodes`). SQLite serves one node and has no leases: the claims of an
earlier process are void. No transaction is open during a request. Why this is right:

* only the holder moves a cursor (`advance` compares both the holder and the seq), and only past an entry that was
  answered, so none is missed, whoever dies or pauses;
* a node that pauses beyond its lease sends at most the one entry that follows the cursor which it last saw. The next
  holder starts with the same entry, so an entry out of order is always a repeat.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from sqlalchemy import and_, delete, func, insert, literal, literal_column, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS
from tidings_db.models import consumer_cursors, entries, node_leases, rooms, webhooks
from tidings_db.queries import log
from tidings_db.queries.rows import ROOM_COLUMNS, EntryRow, RoomRow, insert_or

_CURSOR = consumer_cursors.c


class WebhookRow(NamedTuple):
    id: str
    url: str
    secret: str
    events: frozenset[str]
    """The names of its events, or `*`."""
    room_key: int | None
    room_id: str | None
    """None: every room."""
    created_at: int
    failing_since: int | None
    disabled_at: int | None
    disabled_reason: str | None


class Batch(NamedTuple):
    """The next entries of a room, which the node has claimed."""

    room: RoomRow | None
    """None: the room or the webhook is gone, or disabled."""
    seq: int
    """The cursor."""
    upto: int
    """The cursor after these entries."""
    entries: list[EntryRow]

    @property
    def is_last(self) -> bool:
        return self.room is None or self.upto >= self.room.last_seq


def _consumer(webhook_id: str) -> str:
    return f"webhook:{webhook_id}"


def _of(webhook_id: str, room_key: int) -> Any:
    return and_(_CURSOR.consumer == _consumer(webhook_id), _CURSOR.room_id == room_key)


# -- managing them ---------------------------------------------------------------------------------------------------


def add(
    conn: Connection, webhook_id: str, url: str, secret: str, events: list[str], room_key: int | None, now: int
) -> None:
    """Add a webhook, whose cursors are the current heads of the rooms."""
    conn.execute(
        insert(webhooks).values(
            id=webhook_id,
            url=url,
            secret=secret,
            events=orjson.dumps(events).decode(),
            room_id=room_key,
            created_at=now,
        )
    )
    heads = select(literal(_consumer(webhook_id)), rooms.c.id, rooms.c.last_seq).where(rooms.c.last_seq > 0)
    if room_key is not None:
        heads = heads.where(rooms.c.id == room_key)
    conn.execute(insert(consumer_cursors).from_select(["consumer", "room_id", "seq"], heads))


_LISTED = (
    select(
        webhooks.c.id,
        webhooks.c.url,
        webhooks.c.secret,
        webhooks.c.events,
        rooms.c.id,
        rooms.c.room_id,
        webhooks.c.created_at,
        webhooks.c.failing_since,
        webhooks.c.disabled_at,
        webhooks.c.disabled_reason,
    )
    .outerjoin_from(webhooks, rooms, rooms.c.id == webhooks.c.room_id)
    .order_by(webhooks.c.created_at, webhooks.c.id)
)


def _webhook(row: Any) -> WebhookRow:
    return WebhookRow(*row)._replace(events=frozenset(orjson.loads(row[3])))


def listed(conn: Connection) -> list[WebhookRow]:
    """All webhooks, the oldest first."""
    return [_webhook(row) for row in conn.execute(_LISTED)]


def get(conn: Connection, webhook_id: str) -> WebhookRow | None:
    row = conn.execute(_LISTED.where(webhooks.c.id == webhook_id)).first()
    return None if row is None else _webhook(row)


def find_room(conn: Connection, room_id: str, name_key: str | None = None) -> int | None:
    """The key of a room, by its id, or else by the key of its name."""
    named = rooms.c.room_id == room_id
    if name_key is not None:
        named = or_(named, rooms.c.name_key == name_key)
    return conn.execute(select(rooms.c.id).where(named).limit(1)).scalar()


def remove(conn: Connection, webhook_id: str) -> bool:
    """Delete a webhook with its cursors. Returns False if there is none."""
    found = conn.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount
    conn.execute(delete(consumer_cursors).where(_CURSOR.consumer == _consumer(webhook_id)))
    return bool(found)


def forget_room(conn: Connection, room_key: int) -> None:
    """Delete the webhooks of a room that is being removed."""
    conn.execute(delete(webhooks).where(webhooks.c.room_id == room_key))


def enable(conn: Connection, webhook_id: str) -> bool:
    """Enable a webhook, which continues after its cursors. Returns False if there is none."""
    enabled = {"disabled_at": None, "disabled_reason": None, "failing_since": None}
    return bool(conn.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(enabled)).rowcount)


def replay_after(conn: Connection, webhook_id: str, room_key: int, seq: int) -> None:
    """Move the cursor of a room to that seq, or to the head if it is before. Voids the claim to the room."""
    to = select(rooms.c.id, literal(_consumer(webhook_id)), _least(conn)(rooms.c.last_seq, seq)).where(
        rooms.c.id == room_key
    )
    statement = insert_or(conn.dialect.name, consumer_cursors).from_select(["room_id", "consumer", "seq"], to)
    moved = {"seq": statement.excluded.seq, "claimed_by": None}
    conn.execute(statement.on_conflict_do_update(index_elements=["room_id", "consumer"], set_=moved))


def replay_since(conn: Connection, webhook_id: str, room_key: int | None, ms: int) -> None:
    """Move cursors back to the last entry before a time. Takes longer the earlier that is."""
    last_before = (
        select(entries.c.seq)
        .where(entries.c.room_id == _CURSOR.room_id, entries.c.created_at < ms)
        .order_by(entries.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    of_webhook = _CURSOR.consumer == _consumer(webhook_id) if room_key is None else _of(webhook_id, room_key)
    seq = _least(conn)(_CURSOR.seq, func.coalesce(last_before, 0))
    conn.execute(update(consumer_cursors).where(of_webhook).values(seq=seq, claimed_by=None))


def _least(conn: Connection) -> Any:
    return func.min if conn.dialect.name == "sqlite" else func.least


# -- delivering them -------------------------------------------------------------------------------------------------


def behind(conn: Connection, webhook: WebhookRow, after: int, limit: int) -> list[int]:
    """A page of the rooms with entries after the webhook's cursors. `after`: the last key of the previous page."""
    cursor = and_(_CURSOR.consumer == _consumer(webhook.id), _CURSOR.room_id == rooms.c.id)
    statement = select(rooms.c.id).outerjoin_from(rooms, consumer_cursors, cursor)
    statement = statement.where(rooms.c.id > after, rooms.c.last_seq > func.coalesce(_CURSOR.seq, 0))
    if webhook.room_key is not None:
        statement = statement.where(rooms.c.id == webhook.room_key)
    return list(conn.scalars(statement.order_by(rooms.c.id).limit(limit)))


def take(conn: Connection, webhook_id: str, room_key: int, node: str, limit: int, max_bytes: int) -> Batch | None:
    """Claim a room and read its next entries: up to `max_bytes`, but at least one. None: another node has it."""
    enabled = select(webhooks.c.id).where(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))
    row: Any = conn.execute(select(*ROOM_COLUMNS).where(rooms.c.id == room_key)).first()
    # Locked, so that a webhook that is being deleted gets no new cursor.
    if row is None or conn.execute(enabled.with_for_update(read=True, key_share=True)).first() is None:
        return Batch(None, 0, 0, [])
    room = RoomRow(*row)
    live = select(node_leases.c.id)
    if conn.dialect.name != "sqlite":
        live = live.where(node_leases.c.lease_until > literal_column(NOW_MS))
    free = or_(_CURSOR.claimed_by.is_(None), _CURSOR.claimed_by == node, _CURSOR.claimed_by.not_in(live))
    claim = update(consumer_cursors).where(_of(webhook_id, room_key), free).values(claimed_by=node)
    seq = conn.execute(claim.returning(_CURSOR.seq)).scalar()
    if seq is None:
        first = insert_or(conn.dialect.name, consumer_cursors).values(
            consumer=_consumer(webhook_id), room_id=room_key, seq=0, claimed_by=node
        )
        seq = conn.execute(first.on_conflict_do_nothing().returning(_CURSOR.seq)).scalar()
        if seq is None:
            return None
    following = log.after(conn, room_key, max(seq, room.first_seq - 1), limit, max_bytes)
    return Batch(room, seq, following[-1].seq if following else max(seq, room.last_seq), following)


def advance(
    conn: Connection, webhook_id: str, room_key: int, node: str, move: tuple[int, int], *, release: bool
) -> bool:
    """Move a cursor (from, to). False: the claim was lost, or the cursor was moved, and nothing has changed."""
    low, high = move
    statement = update(consumer_cursors).where(
        _of(webhook_id, room_key), _CURSOR.claimed_by == node, _CURSOR.seq == low
    )
    return bool(conn.execute(statement.values(seq=high, claimed_by=None if release else node)).rowcount)


def record_failure(
    conn: Connection, webhook_id: str, room_key: int, node: str, now: int, disable_before: int, reason: str
) -> bool:
    """Release a room after a failed request. Returns True if that disables the webhook.

    Args:
        disable_before: a webhook that has been failing since before this time (ms) is disabled.
    """
    conn.execute(
        update(consumer_cursors).where(_of(webhook_id, room_key), _CURSOR.claimed_by == node).values(claimed_by=None)
    )
    enabled = and_(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))
    since = func.coalesce(webhooks.c.failing_since, now)
    failing_since = conn.execute(
        update(webhooks).where(enabled).values(failing_since=since).returning(webhooks.c.failing_since)
    ).scalar()
    if failing_since is None or failing_since > disable_before:
        return False
    conn.execute(update(webhooks).where(enabled).values(disabled_at=now, disabled_reason=reason))
    return True


def record_success(conn: Connection, webhook_id: str) -> None:
    """A webhook that was failing has succeeded, or has nothing left to send."""
    conn.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(failing_since=None))
