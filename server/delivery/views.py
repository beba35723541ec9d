"""Rows as the contract's models see them."""

from __future__ import annotations

from typing import Any

from db.queries.progress import ReceiptRow
from db.queries.rooms import Snapshot
from server.contract.models import Room
from server.delivery.frames import message, room_name


def room(snapshot: Snapshot, user_key: int, online: int) -> Room:
    """A room as `user_key` sees it; `online`: how many of its members are."""
    row, last = snapshot.room, snapshot.last_message
    return Room.model_validate(
        {
            "room_id": row.room_id,
            "kind": row.kind,
            "topic_name": row.topic_name,
            "title": snapshot.other if row.kind == "direct" else row.title,
            "is_private": row.is_private,
            "role": snapshot.role,
            "members": row.members,
            "online": online,
            "last_seq": row.last_seq,
            "read_seq": snapshot.read_seq,
            "unread": snapshot.unread,
            "last_message": None
            if last is None
            else message(room_name(row), last, to_sender=last.sender_key == user_key),
        }
    )


def receipt(row: ReceiptRow) -> dict[str, Any]:
    return {
        "room_id": row.room_id,
        "username": row.username,
        "delivered_seq": row.delivered_seq,
        "read_seq": row.read_seq,
    }
