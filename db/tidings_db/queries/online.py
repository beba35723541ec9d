"""The users who are online on each node, on PostgreSQL. The rows of a node hold while its lease does.

A crash of PostgreSQL empties the table. So each node also has a row of user 0: without it, the node's rows are not
complete.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.engine import Connection

from tidings_db.connections import NOW_MS, on_postgresql
from tidings_db.queries import feed
from tidings_db.queries.feed import OnlineChange

_BEGIN = f"""
INSERT INTO online (node, user_id) SELECT id, 0 FROM node WHERE id = $1 AND lease_until > {NOW_MS}
ON CONFLICT (node, user_id) DO UPDATE SET user_id = 0 RETURNING xmax = 0"""
"""Returns whether the row is new; nothing without a lease.

Locks the row, so that the writes of a node follow each other even if one was lost.
"""
_DELETE_ALL = "DELETE FROM online WHERE node = $1 AND user_id <> 0"
_DELETE = "DELETE FROM online WHERE node = $1 AND user_id = ANY($2::bigint[])"
_INSERT = "INSERT INTO online (node, user_id) SELECT $1, unnest($2::bigint[]) ON CONFLICT DO NOTHING"
_READ = f"""
SELECT node, array_agg(user_id) FROM online
WHERE node <> $1 AND node IN (SELECT id FROM node WHERE lease_until > {NOW_MS}) GROUP BY node"""
_END = f"""
WITH live AS MATERIALIZED (SELECT id FROM node WHERE lease_until > {NOW_MS}),
ended AS (DELETE FROM online WHERE node NOT IN (SELECT id FROM live) RETURNING node, user_id),
seen AS (
    SELECT user_id, max(lease_until) AS at FROM ended JOIN node ON node.id = ended.node
    WHERE NOT EXISTS (SELECT FROM online JOIN live ON live.id = online.node WHERE online.user_id = ended.user_id)
    GROUP BY user_id
)
UPDATE "user" SET last_seen = greatest(last_seen, seen.at) FROM seen WHERE "user".id = seen.user_id"""


def write(
    conn: Connection, node: str, users: Collection[int], came: Collection[int], went: Collection[int], *, whole: bool
) -> bool:
    """Write which users of a node came and went, and tell the other nodes.

    `users`: all users of the node, which are written if its rows are not complete, or if `whole`. Returns False, and
    writes nothing, if the node has no lease.
    """
    found = on_postgresql(conn, _BEGIN, node)
    if not found:
        return False
    ((is_new,),) = found
    if is_new or whole:
        on_postgresql(conn, _DELETE_ALL, node)
        on_postgresql(conn, _INSERT, node, list(users))
        feed.add(conn, online=[OnlineChange(node, True, list(users), [])])
    elif came or went:
        on_postgresql(conn, _DELETE, node, list(went))
        on_postgresql(conn, _INSERT, node, list(came))
        feed.add(conn, online=[OnlineChange(node, False, list(came), list(went))])
    return True


def read(conn: Connection, node: str) -> dict[str, set[int]]:
    """The users of the other live nodes whose rows are complete."""
    by_node = {other: set(users) for other, users in on_postgresql(conn, _READ, node)}
    return {other: users - {0} for other, users in by_node.items() if 0 in users}


def end_absent(conn: Connection) -> None:
    """Delete the rows of nodes without a lease, and set `last_seen` of their users. Idempotent."""
    on_postgresql(conn, _END)


_COUNT = """
SELECT room_id, count(*) FROM member
WHERE room_id = ANY($1::bigint[])
    AND EXISTS (SELECT FROM online WHERE node = ANY($2::text[]) AND online.user_id = member.user_id)
    AND NOT EXISTS (SELECT FROM online WHERE node = $3 AND online.user_id = member.user_id)
GROUP BY room_id"""
_MEMBERS = """
SELECT user_id FROM member
WHERE room_id = $1
    AND EXISTS (SELECT FROM online WHERE node = ANY($2::text[]) AND online.user_id = member.user_id)
LIMIT $3"""


def count(conn: Connection, room_keys: Collection[int], nodes: Collection[str], but_on: str) -> dict[int, int]:
    """How many members of rooms are online on any of `nodes`, but not on the node `but_on`; without rooms of none."""
    return dict(on_postgresql(conn, _COUNT, list(room_keys), list(nodes), but_on))


def members_on(conn: Connection, room_key: int, nodes: Collection[str], limit: int) -> list[int]:
    """Members of a room who are online on any of `nodes`: `limit` of them at most."""
    return [user_key for (user_key,) in on_postgresql(conn, _MEMBERS, room_key, list(nodes), limit)]
