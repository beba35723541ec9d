"""Log epochs: how often the log went back to an earlier state, and where each room's log stood then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import func, insert, literal, select, text, update
from sqlalchemy.engine import Connection

from tidings_db.connections import on_postgresql
from tidings_db.models import epoch_heads, instances, members, rooms, witnesses
from tidings_db.queries.rows import insert_or

_LOST = """
SELECT room, min(place)
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[]) AS written (room, place, message, at)
LEFT JOIN entry ON entry.room_id = room AND entry.seq = place
LEFT JOIN room AS present ON present.id = room
WHERE CASE
    WHEN entry.seq IS NOT NULL THEN entry.created_at <> at OR entry.message_id IS DISTINCT FROM message
    WHEN present.id IS NOT NULL THEN present.last_seq < place
    ELSE room > (SELECT coalesce(max(id), 0) FROM room)
END
GROUP BY room"""
"""Retention removes entries, and rooms other than the one with the greatest key: these are not lost."""


class WrittenEntry(NamedTuple):
    """The identity of a committed entry."""

    room_key: int
    seq: int
    message_id: str | None
    created_at: int


def instance(conn: Connection) -> tuple[str, int] | None:
    """The id of this database, and its epoch; None before its first start."""
    row = conn.execute(select(instances.c.id, instances.c.epoch)).first()
    return None if row is None else (row[0], row[1])


def current(conn: Connection) -> int:
    epoch: int = conn.execute(select(instances.c.epoch)).scalar_one()
    return epoch


def ensure_instance(conn: Connection, instance_id: str) -> str:
    """The id of this database, which becomes `instance_id` if it has none."""
    if (found := instance(conn)) is None and conn.dialect.name != "sqlite":
        conn.execute(text("LOCK TABLE instance IN SHARE ROW EXCLUSIVE MODE"))  # two nodes may start at the same time
        found = instance(conn)
    if found is not None:
        return found[0]
    conn.execute(insert(instances).values(id=instance_id, epoch=0))
    return instance_id


def lost(conn: Connection, written: Sequence[WrittenEntry]) -> dict[int, int]:
    """The rooms in which some of these entries are missing, or are others now, with the lowest seq of those.

    Empty on SQLite.
    """
    if not written or conn.dialect.name == "sqlite":
        return {}
    return dict(on_postgresql(conn, _LOST, *map(list, zip(*written, strict=True))))


def begin_epoch(conn: Connection, lost_from: Mapping[int, int] | None = None) -> int:
    """Begin an epoch: entries beyond the present head of each room were lost. Returns the new epoch.

    `lost_from`: room -> the lowest lost seq, for rooms whose log may have grown since.
    """
    epoch: int = conn.execute(
        update(instances).values(epoch=instances.c.epoch + 1).returning(instances.c.epoch)
    ).scalar_one()
    heads = select(rooms.c.id, literal(epoch), rooms.c.last_seq)
    conn.execute(insert(epoch_heads).from_select(["room_id", "epoch", "last_seq"], heads))
    for room_key, seq in (lost_from or {}).items():
        of_room = epoch_heads.c.room_id == room_key, epoch_heads.c.epoch == epoch
        conn.execute(update(epoch_heads).where(*of_room, epoch_heads.c.last_seq >= seq).values(last_seq=seq - 1))
    return epoch


def covers(conn: Connection, known: int, lost: Mapping[int, int]) -> bool:
    """Whether an epoch later than a known one has begun, for which all `lost` entries are lost.

    No other epoch begins until the end of the transaction.
    """
    epoch: int = conn.execute(select(instances.c.epoch).with_for_update()).scalar_one()
    if epoch == known:
        return False
    begun = select(epoch_heads.c.room_id, epoch_heads.c.last_seq).where(
        epoch_heads.c.epoch == epoch, epoch_heads.c.room_id.in_(lost)
    )
    return all(head < lost[room_key] for room_key, head in conn.execute(begun))


def heads_since(conn: Connection, user_key: int, epoch: int) -> dict[int, int]:
    """For each room of a user: the lowest head with which an epoch after this one began."""
    rows = conn.execute(
        select(epoch_heads.c.room_id, func.min(epoch_heads.c.last_seq).label("head"))
        .join(members, members.c.room_id == epoch_heads.c.room_id)
        .where(members.c.user_id == user_key, epoch_heads.c.epoch > epoch)
        .group_by(epoch_heads.c.room_id)
    )
    return {row.room_id: row.head for row in rows}


def has_witnesses(conn: Connection) -> bool:
    return conn.execute(select(witnesses.c.node).limit(1)).first() is not None


def mark_of(conn: Connection, node: str) -> str | None:
    """The last mark of a node; None: this database has none."""
    return conn.execute(select(witnesses.c.mark).where(witnesses.c.node == node)).scalar()


def add_witness(conn: Connection, node: str, mark: str, now: int) -> None:
    """Write a node's mark; it replaces any earlier one."""
    statement = insert_or(conn.dialect.name, witnesses).values(node=node, mark=mark, marked_at=now)
    conn.execute(statement.on_conflict_do_update(index_elements=["node"], set_={"mark": mark, "marked_at": now}))


def move_mark(conn: Connection, node: str, marks: Collection[str], mark: str, now: int) -> bool:
    """Replace a node's mark, one of `marks`; False: the database has none of them."""
    replaced = conn.execute(
        update(witnesses)
        .where(witnesses.c.node == node, witnesses.c.mark.in_(marks))
        .values(mark=mark, marked_at=now)
        .returning(witnesses.c.node)
    )
    return replaced.first() is not None
