"""Example values of fields, by name, for the documents. A field's own `examples` have priority."""

from __future__ import annotations

from typing import Any, Final

_ROOM = "Zm3kQ9vT2xLw"
_MESSAGE = "p7RbN4sYc1Hd"
_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvbWFyIn0.bm90LWEtdG9rZW4"

EXAMPLES: Final[dict[str, Any]] = {
    "client_id": "4f0c6a52-hola-1",
    "content": "Buenos días",
    "cursors": {_ROOM: 41},
    "data": {"id": 17},
    "delivered_seq": 41,
    "device": "laptop",
    "event": "order.paid",
    "id": _MESSAGE,
    "key_id": "q2Zr7VbT0y",
    "last_seq": 42,
    "limit": 50,
    "link_id": "k2Vd8QxWn0aT",
    "mentions": ["diego"],
    "message_id": _MESSAGE,
    "new_password": "battery staple",
    "next": None,
    "online": True,
    "purpose": "Lo que comemos hoy",
    "password": "correct horse",
    "reactions": {"👍": ["diego"]},
    "read_seq": 41,
    "report_id": "m1Yc6ZpT3eBu",
    "reset": [],
    "roomName": "noticias",
    "room_id": _ROOM,
    "sender": "omar",
    "seq": 42,
    "title": "Almuerzo",
    "token": _TOKEN,
    "topic_name": "noticias",
    "unread": 1,
    "username": "diego",
    "usernames": ["diego", "omar"],
    "webhook_id": "Vw5tK2nQ8rXa",
}
"""By the name of the field, which has the same meaning in every payload."""
