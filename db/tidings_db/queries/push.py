"""Push notifications: subscriptions, and what is to be sent to them (`push_delivery`).

Deliveries follow the logs of all rooms, as the consumer `push`. A step is one transaction with the cursors that it
moves, so a message that somebody is to be notified of is in a delivery, whatever dies. A node that sends deliveries
defers them; if it dies, they are due again. So each is sent at least once, on any number of nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, and_, case, delete, exists, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from tidings_db.models import (
    blocks,
    entries,
    instances,
    members,
    push_deliveries,
    push_subscriptions,
    read_markers,
    rooms,
    sessions,
    thread_followers,
    users,
)
from tidings_db.queries import consumers, log
from tidings_db.queries.claims import claim
from tidings_db.queries.rooms import Preferences
from tidings_db.queries.rows import STREAMING, EntryRow, chunked, insert_or

CONSUMER = "push"
_SUBSCRIPTION, _DELIVERY = push_subscriptions.c, push_deliveries.c

# -- subscriptions ---------------------------------------------------------------------------------------------------


class SubscriptionRow(NamedTuple):
    """A subscription whose session is valid, with its user."""

    id: str
    provider: str
    endpoint: str
    keys: Mapping[str, str]
    with_content: bool
    created_at: int
    session_key: int
    user_agent: str | None
    """That of its session."""
    user_key: int
    username: str
    do_not_disturb_until: int | None
    """ms since the epoch; may have passed."""


def _valid(now: int) -> ColumnElement[bool]:
    return and_(sessions.c.revoked_at.is_(None), sessions.c.expires_at > now, users.c.disabled.is_(False))


def _subscriptions(conn: Connection, now: int, *where: ColumnElement[bool]) -> list[SubscriptionRow]:
    statement = (
        select(
            _SUBSCRIPTION.id,
            _SUBSCRIPTION.provider,
            _SUBSCRIPTION.endpoint,
            _SUBSCRIPTION["keys"],
            _SUBSCRIPTION.with_content,
            _SUBSCRIPTION.created_at,
            _SUBSCRIPTION.session_id,
            sessions.c.user_agent,
            users.c.id,
            users.c.username,
            users.c.do_not_disturb_until,
        )
        .join_from(push_subscriptions, sessions, sessions.c.id == _SUBSCRIPTION.session_id)
        .join(users, users.c.id == _SUBSCRIPTION.user_id)
        .where(_valid(now), *where)
        .order_by(_SUBSCRIPTION.created_at, _SUBSCRIPTION.id)
    )
    return [
        SubscriptionRow(subscription_id, provider, endpoint, orjson.loads(keys), bool(with_content), *rest)
        for subscription_id, provider, endpoint, keys, with_content, *rest in conn.execute(statement)
    ]


def of_user(conn: Connection, user_key: int, now: int) -> list[SubscriptionRow]:
    """The valid subscriptions of a user, the oldest first."""
    return _subscriptions(conn, now, _SUBSCRIPTION.user_id == user_key)


def subscription(conn: Connection, subscription_id: str, now: int) -> SubscriptionRow | None:
    return next(iter(_subscriptions(conn, now, _SUBSCRIPTION.id == subscription_id)), None)


def any_subscription(conn: Connection) -> bool:
    return bool(conn.execute(select(exists().where(_SUBSCRIPTION.id.is_not(None)))).scalar_one())


def lock(conn: Connection) -> None:
    """Let nobody else add a subscription until the end of the transaction. The first one begins at the heads.

    Else an append between two first ones would be skipped.
    """
    claim(conn, [CONSUMER], wait=True)
    if not any_subscription(conn):
        consumers.begin(conn, CONSUMER)


def add(
    conn: Connection,
    subscription_id: str,
    session: tuple[int, int],
    address: tuple[str, str, Mapping[str, str]],
    now: int,
    *,
    with_content: bool,
) -> None:
    """Store a subscription after `lock`, in place of an earlier one to the same endpoint.

    Args:
        session: the keys of the user and of the session.
        address: the provider, the endpoint and its keys.
    """
    user_key, session_key = session
    provider, endpoint, keys = address
    remove(conn, _SUBSCRIPTION.endpoint == endpoint)
    conn.execute(
        insert(push_subscriptions).values(
            id=subscription_id,
            user_id=user_key,
            session_id=session_key,
            provider=provider,
            endpoint=endpoint,
            keys=orjson.dumps(dict(keys)).decode(),
            with_content=with_content,
            created_at=now,
        )
    )


def remove(conn: Connection, *where: ColumnElement[bool]) -> bool:
    """Delete subscriptions with what is to be sent to them. Returns False if there is none."""
    wanted = select(_SUBSCRIPTION.id).where(*where).order_by(_SUBSCRIPTION.id)
    found = list(conn.scalars(wanted.with_for_update()))  # before their deliveries, as a step does
    for ids in chunked(found):
        conn.execute(delete(push_deliveries).where(_DELIVERY.subscription_id.in_(ids)))
        conn.execute(delete(push_subscriptions).where(_SUBSCRIPTION.id.in_(ids)))
    return bool(found)


def remove_one(conn: Connection, subscription_id: str, user_key: int | None = None) -> bool:
    """Delete a subscription, of that user. Returns False if there is none."""
    of_user = () if user_key is None else (_SUBSCRIPTION.user_id == user_key,)
    return remove(conn, _SUBSCRIPTION.id == subscription_id, *of_user)


def remove_of_user(conn: Connection, user_key: int) -> None:
    remove(conn, _SUBSCRIPTION.user_id == user_key)


def remove_of_sessions(conn: Connection, session_keys: Sequence[int]) -> None:
    remove(conn, _SUBSCRIPTION.session_id.in_(session_keys))


def remove_ended(conn: Connection, now: int) -> None:
    """Delete the subscriptions whose sessions have ended."""
    valid = select(sessions.c.id).join_from(sessions, users, users.c.id == sessions.c.user_id).where(_valid(now))
    remove(conn, _SUBSCRIPTION.session_id.not_in(valid))


def forget_room(conn: Connection, room_key: int) -> None:
    """Delete what is to be sent of a room that is being removed."""
    conn.execute(delete(push_deliveries).where(_DELIVERY.room_id == room_key))


def key(conn: Connection) -> str | None:
    """The key that signs requests; None: it was not made yet."""
    found: str | None = conn.execute(select(instances.c.push_key)).scalar()
    return found


def keep_key(conn: Connection, made: str) -> str:
    """Store the key, unless there is one; returns the one that is stored."""
    kept = func.coalesce(instances.c.push_key, made)
    stored: str = conn.execute(update(instances).values(push_key=kept).returning(instances.c.push_key)).scalar_one()
    return stored


# -- following the logs ----------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """A member of a room, as far as it decides which of its messages the member is notified of."""

    user_key: int
    username: str
    notify: str | None
    """None: by the kind of the room."""
    followed: Collection[str]
    """The ids of the messages that began the threads which the member follows."""
    blocked: Collection[int]
    """The users whom the member has blocked."""

    def is_wanted(self, kind: str, message: EntryRow, mentions: Mapping[int, Collection[str]]) -> bool:
        """Whether to notify of a message in a room of the kind: as the page does (`isWanted` in notifications.ts).

        `mentions`: see `mentions_of`.
        """
        if message.deleted or message.state in STREAMING or message.sender_key == self.user_key:
            return False
        notify = self.notify or ("mentions" if kind == "topic" else "all")
        if notify == "nothing" or message.sender_key in self.blocked:
            return False
        if self.username in mentions.get(message.seq, ()):
            return True
        return notify == "all" if message.thread is None else message.thread in self.followed


def mentions_of(messages: Iterable[EntryRow]) -> dict[int, frozenset[str]]:
    """The users whom each message mentions, by its seq."""
    return {message.seq: frozenset(orjson.loads(message.body)) for message in messages if message.body}


def readers(
    conn: Connection, room: tuple[int, str], messages: Collection[EntryRow], *where: ColumnElement[bool]
) -> list[tuple[str, Reader]]:
    """The subscriptions of a room (its key and kind) with their users, who may want some of the messages."""
    room_key, kind = room
    names = frozenset().union(*mentions_of(messages).values())
    threads = {message.thread for message in messages if message.thread is not None}
    began = and_(thread_followers.c.room_id == entries.c.room_id, thread_followers.c.seq == entries.c.seq)
    following = (
        select(thread_followers.c.user_id, entries.c.message_id)
        .join_from(entries, thread_followers, began)
        .where(entries.c.message_id.in_(threads), entries.c.room_id == room_key, thread_followers.c.following)
    )
    followed: dict[int, set[str]] = {}
    if threads:
        for user_key, message_id in conn.execute(following):
            followed.setdefault(user_key, set()).add(message_id)
    default = case((members.c.notify.is_(None), "mentions" if kind == "topic" else "all"), else_=members.c.notify)
    statement = (
        select(_SUBSCRIPTION.id, users.c.id, users.c.username, members.c.notify)
        .join_from(push_subscriptions, members, members.c.user_id == _SUBSCRIPTION.user_id)
        .join(users, users.c.id == members.c.user_id)
        .where(members.c.room_id == room_key, *where)
        .where(or_(default == "all", users.c.username.in_(names), users.c.id.in_(followed)))
    )
    found = conn.execute(statement).all()
    blocked: dict[int, set[int]] = {}
    senders = {message.sender_key for message in messages}
    of_senders = select(blocks.c.user_id, blocks.c.blocked_id).where(blocks.c.blocked_id.in_(senders))
    for user_key, sender_key in conn.execute(of_senders) if found else ():
        blocked.setdefault(user_key, set()).add(sender_key)
    return [
        (
            subscription_id,
            Reader(user_key, username, notify, followed.get(user_key, ()), blocked.get(user_key, ())),
        )
        for subscription_id, user_key, username, notify in found
    ]


class Wanted(NamedTuple):
    """The messages of a room that a subscription is to be notified of."""

    subscription_id: str
    room_key: int
    first_seq: int
    last_seq: int


class Step(NamedTuple):
    moves: Mapping[int, tuple[int, int]]
    """Room -> the cursor before and after."""
    wanted: Sequence[Wanted]
    unread: Collection[int]
    """Rooms with entries left to read."""


def behind(conn: Connection, after: int, limit: int) -> list[int]:
    """A page of the rooms with entries after the cursor. `after`: the last key of the previous page."""
    return consumers.behind(conn, CONSUMER, after, limit)


def read_step(conn: Connection, room_keys: Iterable[int], limit: int, max_bytes: int, since: int) -> Step:
    """The next entries of some rooms: of each up to `limit` and `max_bytes`, but at least one.

    Args:
        since: messages before this time (ms) are skipped.
    """
    moves, unread = {}, set()
    wanted: list[Wanted] = []
    kinds = {
        row[0]: row[1] for row in conn.execute(select(rooms.c.id, rooms.c.kind).where(rooms.c.id.in_(room_keys)))
    }
    for place in consumers.places(conn, CONSUMER, kinds):
        if place.last_seq <= place.seq:
            continue
        following = log.after(conn, place.room_key, max(place.seq, place.first_seq - 1), limit, max_bytes)
        high = following[-1].seq if following else place.last_seq
        moves[place.room_key] = place.seq, high
        if high < place.last_seq:
            unread.add(place.room_key)
        written = (entry.target if entry.kind == "finish" else entry for entry in following)
        messages = [
            entry for entry in written if entry is not None and entry.kind == "message" and entry.created_at >= since
        ]
        if messages:
            kind, mentions = kinds[place.room_key], mentions_of(messages)
            for subscription_id, reader in readers(conn, (place.room_key, kind), messages):
                seqs = [message.seq for message in messages if reader.is_wanted(kind, message, mentions)]
                if seqs:
                    wanted.append(Wanted(subscription_id, place.room_key, min(seqs), max(seqs)))
    return Step(moves, wanted, unread)


def write_step(conn: Connection, step: Step, due_at: int) -> set[int]:
    """Move the cursors, and add the deliveries. Returns the rooms that moved: not those that another node follows.

    A delivery that waits already takes the new messages in, and keeps its time.
    """
    moved = consumers.advance(conn, CONSUMER, step.moves)
    wanted = [one for one in step.wanted if one.room_key in moved]
    for some in chunked(wanted):
        existing = set(
            conn.scalars(
                select(_SUBSCRIPTION.id)
                .where(_SUBSCRIPTION.id.in_({one.subscription_id for one in some}))
                .order_by(_SUBSCRIPTION.id)
                .with_for_update(read=True, key_share=True)
            )
        )
        rows = [
            {
                "subscription_id": one.subscription_id,
                "room_id": one.room_key,
                "first_seq": one.first_seq,
                "last_seq": one.last_seq,
                "due_at": due_at,
                "attempts": 0,
            }
            for one in sorted(some)
            if one.subscription_id in existing
        ]
        if rows:
            statement = insert_or(conn.dialect.name, push_deliveries)
            newer = _greatest(conn)(_DELIVERY.last_seq, statement.excluded.last_seq)
            place = ["subscription_id", "room_id"]
            conn.execute(statement.on_conflict_do_update(index_elements=place, set_={"last_seq": newer}), rows)
    return moved


def _greatest(conn: Connection) -> Any:
    return func.max if conn.dialect.name == "sqlite" else func.greatest


# -- sending ---------------------------------------------------------------------------------------------------------


class DeliveryRow(NamedTuple):
    subscription_id: str
    room_key: int
    first_seq: int
    last_seq: int
    attempts: int


def take(conn: Connection, now: int, until: int, limit: int) -> list[DeliveryRow]:
    """Deliveries that are due, deferred `until` a time (ms): by then they are sent, or else this node has died."""
    due = (
        select(_DELIVERY.subscription_id, _DELIVERY.room_id)
        .where(_DELIVERY.due_at <= now)
        .order_by(_DELIVERY.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = []
    for subscription_id, room_key in conn.execute(due).all():
        deferred = update(push_deliveries).where(_at(subscription_id, room_key)).values(due_at=until)
        columns = (_DELIVERY.first_seq, _DELIVERY.last_seq, _DELIVERY.attempts)
        taken.append(DeliveryRow(subscription_id, room_key, *conn.execute(deferred.returning(*columns)).one()))
    return taken


def _at(subscription_id: str, room_key: int) -> ColumnElement[bool]:
    return and_(_DELIVERY.subscription_id == subscription_id, _DELIVERY.room_id == room_key)


def next_due(conn: Connection) -> int | None:
    """When the next delivery is due (ms)."""
    found: int | None = conn.execute(select(func.min(_DELIVERY.due_at))).scalar()
    return found


def sent(conn: Connection, delivery: DeliveryRow, due_at: int) -> None:
    """End a delivery; if there are newer messages by now, they are due at a time (ms)."""
    at = _at(delivery.subscription_id, delivery.room_key)
    conn.execute(delete(push_deliveries).where(at, _DELIVERY.last_seq <= delivery.last_seq))
    newer = update(push_deliveries).where(at, _DELIVERY.first_seq <= delivery.last_seq)
    conn.execute(newer.values(first_seq=delivery.last_seq + 1, due_at=due_at, attempts=0))


def retry(conn: Connection, delivery: DeliveryRow, due_at: int) -> None:
    """Try a delivery again at a time (ms)."""
    at = _at(delivery.subscription_id, delivery.room_key)
    conn.execute(update(push_deliveries).where(at).values(due_at=due_at, attempts=delivery.attempts + 1))


_CANDIDATES = 100


def newest_wanted(conn: Connection, delivery: DeliveryRow, kind: str, read_seq: int) -> EntryRow | None:
    """The newest message of a delivery that its user still wants and has not read; None if there is none.

    Only the newest `_CANDIDATES` messages are looked at.
    """
    page = log.PageOf(delivery.room_key, delivery.last_seq + 1, None, _CANDIDATES, 1024 * 1024)
    found, _ = log.messages(conn, page)
    messages = [message for message in found if message.seq >= delivery.first_seq]
    mentions = mentions_of(messages)
    of_subscription = _SUBSCRIPTION.id == delivery.subscription_id
    room = delivery.room_key, kind
    for _, reader in readers(conn, room, messages, of_subscription) if messages else ():
        threads = {message.thread for message in messages if message.thread is not None}
        replies_read = _replies_read(conn, room[0], reader.user_key, threads)
        for message in reversed(messages):
            if message.thread in replies_read:
                is_read = (message.replies or 0) <= replies_read[message.thread]
            else:
                is_read = message.seq <= read_seq
            if not is_read and reader.is_wanted(kind, message, mentions):
                return message
    return None


def _replies_read(conn: Connection, room_key: int, user_key: int, threads: Collection[str]) -> dict[str | None, int]:
    """How many replies the user has read, of those of the threads that the user has something to do with."""
    began = and_(thread_followers.c.room_id == entries.c.room_id, thread_followers.c.seq == entries.c.seq)
    statement = (
        select(entries.c.message_id, thread_followers.c.read)
        .join_from(entries, thread_followers, began)
        .where(
            entries.c.message_id.in_(threads), entries.c.room_id == room_key, thread_followers.c.user_id == user_key
        )
    )
    return {row[0]: row[1] for row in conn.execute(statement)} if threads else {}


def unread(conn: Connection, user_key: int) -> int:
    """The user's unread messages in all rooms but those of which the user wants to hear nothing."""
    statement = (
        select(
            rooms.c.messages,
            rooms.c.first_messages,
            func.coalesce(read_markers.c.seq, 0),
            func.coalesce(read_markers.c.messages, 0),
            *(members.c[name] for name in Preferences._fields),
        )
        .join_from(members, rooms, rooms.c.id == members.c.room_id)
        .outerjoin(
            read_markers,
            and_(read_markers.c.room_id == members.c.room_id, read_markers.c.user_id == members.c.user_id),
        )
        .where(members.c.user_id == user_key)
    )
    total = 0
    for messages, first_messages, read_seq, read_messages, *stored in conn.execute(statement):
        preferences = Preferences(*stored)
        if preferences.notify != "nothing":
            marked = preferences.unread(read_seq)
            before = read_messages if marked is None else min(read_messages, marked[1])
            total += messages - max(before, first_messages)
    return total
