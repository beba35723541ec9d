"""Missed entries of rooms, read once for many members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, case, select
from sqlalchemy.engine import Connection

from tidings_db.connections import fetch, stepwise
from tidings_db.models import entries, members
from tidings_db.queries.log import Span, select_missed
from tidings_db.queries.rows import relation, values_of

NOBODY = 0
"""No user has this key."""


@cache
def _select_memberships(dialect: str) -> Select[Any]:
    pair = relation(dialect, "pairs", room_key=int, user_key=int)
    same = and_(members.c.room_id == pair.c.room_key, members.c.user_id == pair.c.user_key)
    return select(members.c.room_id, members.c.user_id).join_from(pair, members, same)


def memberships(conn: Connection, pairs: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """The (room, user) pairs in which the user is a member."""
    rows = fetch(conn, _select_memberships, {"pairs": values_of(pairs)})
    return {(room_key, user_key) for room_key, user_key in rows}


@cache
def _select_of_all(dialect: str) -> Select[Any]:
    target = entries.alias("own_target")
    changed = (
        select(target.c.sender_id)
        .where(target.c.room_id == entries.c.room_id, target.c.seq == entries.c.target_seq)
        .correlate(entries)
        .scalar_subquery()
    )
    recipient = case(
        (entries.c.target_seq.is_not(None), changed), (entries.c.client_id.is_not(None), entries.c.sender_id)
    )
    span = relation(dialect, "spans", room_key=int, low=int, high=int)
    within = and_(entries.c.room_id == span.c.room_key, entries.c.seq > span.c.low, entries.c.seq <= span.c.high)
    return select_missed(dialect).add_columns(recipient).join(span, within).order_by(entries.c.room_id, entries.c.seq)


@contextmanager
def missed_by_all(conn: Connection, spans: Sequence[Span]) -> Iterator[Iterable[Sequence[Any]]]:
    """The entries of spans that do not overlap, sorted by room and seq. The caller checks the memberships.

    Each has the fields of a `MissedRow` for a user who is not the sender, and then the key of the user who gets the
    entry in a different form (with their `client_id`), or None.
    """
    with stepwise(conn, _select_of_all, {"spans": values_of(spans), "user": NOBODY}) as rows:
        yield rows
