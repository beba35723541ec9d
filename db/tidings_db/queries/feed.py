"""The feed: what each transaction changed that other nodes must learn of, written in that transaction.

A change is a hint to look: its receiver reads the database. So a row may be late, repeated, or about nothing new.
SQLite serves one node and has no feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS, on_postgresql

NODE = "tidings.node"
"""Key in the `info` of a PostgreSQL connection: the id of the node that writes."""
KEPT_MS = 120_000
"""How long changes are kept. A node that has read nothing for almost this long reads everything anew."""

INSERT = f"INSERT INTO feed (xid, node, at, body) SELECT pg_current_xact_id()::text::bigint, {{}}, {NOW_MS}, {{}}"
"""The statement with two parameters to be filled in: the node, and the body."""
_INSERT = INSERT.format("$1", "$2")
TAIL = """
SELECT pg_current_snapshot()::text, (
    SELECT json_agg(body::json)::text
    FROM (SELECT body FROM feed WHERE (xid >= $1 OR xid = ANY($2::bigint[])) AND node <> $3 ORDER BY id) AS row
), coalesce((SELECT max(id) FROM feed), 0)"""
"""Feed rows of other nodes than `$3` that became visible since the earlier snapshot.

The last column is the id of the newest row, 0 without any.

`$1` and `$2` are the first transaction id after the earlier snapshot, and the ids under way at its time. So a
transaction that commits late is neither missed nor waited for.
"""
RESUME = """
SELECT pg_postmaster_start_time()::text,
    EXISTS (SELECT FROM feed WHERE id = $1) OR coalesce((SELECT min(id) = $1 + 1 FROM feed), false)"""
"""Which run of which server answers, and whether it still has all rows after the row `$1`.

True only if that row or the next one is there: rows are trimmed in their order.
"""
TRIM = f"DELETE FROM feed WHERE at < {NOW_MS} - {KEPT_MS}"


class Snapshot(NamedTuple):
    """Which transactions a snapshot of PostgreSQL shows: those before `next_xid` without `under_way`."""

    next_xid: int
    under_way: Sequence[int]

    @classmethod
    def parse(cls, value: str) -> Snapshot:
        """From the text of a `pg_snapshot`: "xmin:xmax:xid,xid"."""
        _, next_xid, under_way = value.split(":")
        return cls(int(next_xid), [int(xid) for xid in under_way.split(",") if xid])


class OnlineChange(NamedTuple):
    """Users who have come online or gone offline on a node."""

    node: str
    whole: bool
    """Whether `came` are all users of the node."""
    came: Sequence[int]
    went: Sequence[int]


class MembershipChange(NamedTuple):
    """A member of a room who has come, gone, or got another role."""

    room: int
    user: int
    username: str
    change: str
    """joined, left, kicked, banned or role."""
    role: str | None
    """After the change; None: no longer a member."""
    members: int
    removals: int
    number: int
    """`members`, `removals` and `changes` of the room after the change: of each room, the numbers have no gap."""

    @property
    def is_removal(self) -> bool:
        return self.role is None


@dataclass(slots=True)
class Changes:
    """The changes of one or several transactions."""

    heads: dict[int, tuple[int, int]] = field(default_factory=dict)
    """room -> (last_seq, removals)"""
    memberships: list[MembershipChange] = field(default_factory=list)
    """Of each room in the order of their numbers. Those of new rooms are not among them."""
    members: set[tuple[int, int]] = field(default_factory=set)
    """(room, user) whose membership began or ended."""
    gone: set[int] = field(default_factory=set)
    """Rooms that were deleted."""
    sessions: set[tuple[int, int | None]] = field(default_factory=set)
    """(user, session) that were withdrawn; None: all sessions of the user."""
    blocks: set[tuple[int, int]] = field(default_factory=set)
    """(user, other) of whom the first has blocked or unblocked the second."""
    profiles: set[int] = field(default_factory=set)
    """Users who have changed their profile."""
    online: list[OnlineChange] = field(default_factory=list)
    """In the order in which each node has written its own."""


def body(
    *,
    heads: Iterable[tuple[int, int, int]] = (),
    memberships: Iterable[MembershipChange] = (),
    members: Iterable[tuple[int, int]] = (),
    gone: Iterable[int] = (),
    sessions: Iterable[tuple[int, int | None]] = (),
    blocks: Iterable[tuple[int, int]] = (),
    profiles: Iterable[int] = (),
    online: Iterable[OnlineChange] = (),
) -> str:
    """The body of a row: JSON with the fields of `Changes` that are not empty.

    `heads`: (room, last_seq, removals).
    """
    changes = {
        "heads": list(heads),
        "memberships": [list(change) for change in memberships],
        "members": list(members),
        "gone": list(gone),
        "sessions": list(sessions),
        "blocks": list(blocks),
        "profiles": list(profiles),
        "online": [list(change) for change in online],
    }
    return orjson.dumps({name: rows for name, rows in changes.items() if rows}).decode()


def add(
    conn: Connection,
    *,
    members: Iterable[tuple[int, int]] = (),
    gone: Iterable[int] = (),
    sessions: Iterable[tuple[int, int | None]] = (),
    blocks: Iterable[tuple[int, int]] = (),
    profiles: Iterable[int] = (),
    online: Iterable[OnlineChange] = (),
) -> None:
    """Tell the other nodes of changes, when the transaction has committed. Nothing on SQLite."""
    if conn.dialect.name != "sqlite":
        changes = body(members=members, gone=gone, sessions=sessions, blocks=blocks, profiles=profiles, online=online)
        on_postgresql(conn, _INSERT, node_of(conn), changes)


def node_of(conn: Connection) -> str:
    """The id of the node that a PostgreSQL connection belongs to; empty for a command."""
    node: str = conn.info.get(NODE, "")
    return node


def merged(bodies: str | None) -> Changes:
    """The changes of several rows, from a JSON list of their bodies. Fields of a later version are ignored."""
    changes = Changes()
    for row in orjson.loads(bodies) if bodies else ():
        for room, last_seq, removals in row.get("heads", ()):
            changes.heads[room] = max(changes.heads.get(room, (0, 0)), (last_seq, removals))
        changes.memberships.extend(MembershipChange(*change) for change in row.get("memberships", ()))
        changes.members.update((room, user) for room, user in row.get("members", ()))
        changes.gone.update(row.get("gone", ()))
        changes.sessions.update((user, session) for user, session in row.get("sessions", ()))
        changes.blocks.update((user, other) for user, other in row.get("blocks", ()))
        changes.profiles.update(row.get("profiles", ()))
        changes.online.extend(OnlineChange(*change) for change in row.get("online", ()))
    changes.members.update((change.room, change.user) for change in changes.memberships if change.change != "role")
    return changes
