"""Rows of the log, of every kind."""

from __future__ import annotations

from typing import Any

from tidings_db.queries.rows import EntryRow

MESSAGE = EntryRow(
    7, 1, "message", "m1", 5, "omar", "c1", "hola 👋", None, '["diego"]', 1, 1_700_000_000_000, None, False
)
CONTENTS = [
    "plain",
    "",
    '"quotes" and \\ and </script>',
    "línea\nnueva\t\x01\x7f",
    "🦉" * 3,
    "\u2028",
    "x" * 70_000,
    "{}%d%b",
]
MEMBER_BODY = '{"change":"role","username":"omar","role":"moderator"}'
CHANGE_BODY = '{"id":"was","sender":"omar","created_at":1700000000000,"emoji":"👍","remove":false}'
CLIENT_ID = len(CONTENTS)
"""The index of the first kind with a `client_id`."""


def entries_of(room_key: int, senders: dict[str, int], after: int) -> list[EntryRow]:
    """Entries of every kind, one from each sender."""
    plain: dict[str, Any] = {
        "kind": "message",
        "content": "plain",
        "client_id": None,
        "reply_to": None,
        "body": None,
        "edited_at": None,
        "deleted": False,
    }
    kinds: list[dict[str, Any]] = [
        *({"content": content} for content in CONTENTS),
        {"client_id": "mine-1"},
        {"reply_to": "the-first"},
        {"edited_at": 1_700_000_000_007},
        {"deleted": True},
        {"deleted": True, "content": None},
        {"kind": "member", "content": None, "body": MEMBER_BODY},
        {"kind": "event", "content": "order.paid", "data": '{"é":[1,null]}'},
        {"kind": "event", "content": "tick", "data": "null", "client_id": "mine-4"},
        {"data": '{"order":17}', "content": ""},
        {"kind": "title", "content": None, "body": '{"title":"línea"}'},
        {"client_id": "mine-2", "reply_to": "the-first", "edited_at": 1_700_000_000_000, "content": 'é"'},
        {"client_id": "mine-3", "reactions": '{"🦉":["omar","diego"]}', "body": '["omar"]'},
        # Changes of a plain message, one with a `client_id`, a deleted one, and one that no longer exists.
        *(
            {"kind": kind, "content": None, "body": CHANGE_BODY, "of": target}
            for kind in ("edit", "delete", "reaction")
            for target in (0, CLIENT_ID, CLIENT_ID + 3, 1000)
        ),
        {},
    ]
    times = [1_700_000_000_000, 1_700_000_000_000, 1_700_000_000_999, 1_699_999_999_050, 1_767_225_599_999, 0]
    entries: list[EntryRow] = []
    for kind in kinds:
        for sender, key in senders.items():
            n = len(entries)
            seq = after + n + 1
            fields = plain | kind
            is_message = fields["kind"] == "message"
            client_id = fields["client_id"] and f"{fields['client_id']}-{sender}"
            message_id = f"{room_key}-{seq}" if is_message or fields["kind"] == "event" else None
            fields |= {"client_id": client_id, "message_id": message_id}
            at = times[n % len(times)]
            target = fields.pop("of", None)
            if target is not None:  # a message of the other sender
                fields["target_seq"] = after + 1 + target * len(senders) + (n + 1) % len(senders)
            entries.append(
                EntryRow(
                    room_key=room_key, seq=seq, sender_key=key, sender=sender, messages=seq, created_at=at, **fields
                )
            )
    known = {entry.seq: entry for entry in entries}
    return [
        entry if entry.target_seq is None else entry._replace(target=known.get(entry.target_seq)) for entry in entries
    ]
