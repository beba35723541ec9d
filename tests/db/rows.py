"""Rows for the tests of the database: a user (1), rooms, entries."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select

from tidings_db.models import entries, rooms, users


def add_user(conn: Connection) -> None:
    conn.execute(insert(users).values(id=1, username="ana", username_key="ana", created_at=0, disabled=False))


def add_room(conn: Connection, number: int) -> None:
    conn.execute(
        insert(rooms).values(
            id=number,
            room_id=f"r{number}",
            kind="group",
            is_private=True,
            last_seq=0,
            messages=0,
            last_message_seq=0,
            members=0,
            created_at=0,
        )
    )


def add_entries(conn: Connection, count: int, content: str) -> None:
    """Entries 1..count of room 1, by user 1, in one statement."""
    row = {"room_id": 1, "kind": "message", "sender_id": 1, "content": content, "created_at": 0, "deleted": False}
    conn.execute(insert(entries), [row | {"seq": seq, "messages": seq} for seq in range(1, count + 1)])


def count_rooms(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(rooms)).scalar_one()


def count_entries(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(entries)).scalar_one()
