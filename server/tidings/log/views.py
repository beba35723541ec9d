"""Rooms, entries and receipts in the form of the wire."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from tidings.contract.events import ENTRIES, EVENT, EVENTS, MessageChanged
from tidings.contract.models import (
    Attachment,
    Message,
    MessageState,
    Notify,
    Posting,
    Preferences,
    Role,
    Room,
    RoomKind,
    timestamp,
)
from tidings_db.queries.members import MemberRow
from tidings_db.queries.progress import ReceiptRow
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import STREAMING, EntryRow, RoomRow, UserRow
from tidings_db.queries.threads import ThreadRow

STATES: Final[Mapping[str | None, MessageState]] = {
    None: "complete",
    **dict.fromkeys(STREAMING, "streaming"),
    "interrupted": "interrupted",
}
"""A stored state -> the state on the wire."""


def profile(user: UserRow | MemberRow, now: int) -> dict[str, Any]:
    """A user as `tidings.contract.events.ProfileChanged` has it. What has ended by `now` (ms) is None."""
    status = None
    if user.status_text is not None and (user.status_until is None or user.status_until > now):
        until = None if user.status_until is None else timestamp(user.status_until)
        status = {"text": user.status_text, "emoji": user.status_emoji, "until": until}
    quiet = user.do_not_disturb_until
    return {
        "username": user.username,
        "display_name": user.display_name,
        "status": status,
        "do_not_disturb_until": None if quiet is None or quiet <= now else timestamp(quiet),
        "picture": user.picture,
    }


def folded(user: UserRow) -> list[str]:
    """The folded sections of the user's own list of rooms."""
    sections: list[str] = [] if user.folded is None else orjson.loads(user.folded)
    return sections


class RoomName(NamedTuple):
    """The constant fields of a room that each of its entries carries on the wire."""

    key: int
    room_id: str
    topic_name: str | None
    is_private: bool


def room_name(room: RoomRow) -> RoomName:
    return RoomName(room.key, room.room_id, room.topic_name, room.is_private)


def message(room: RoomName, entry: EntryRow, *, to_sender: bool) -> dict[str, Any]:
    """A `Message`, as `tidings.contract.models.Message` describes it."""
    view = {
        "id": entry.message_id,
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "seq": entry.seq,
        "sender": entry.sender,
        "content": "" if entry.deleted else entry.content,
        "created_at": timestamp(entry.created_at),
        "edited_at": None if entry.edited_at is None else timestamp(entry.edited_at),
        "deleted": bool(entry.deleted),
        "client_id": entry.client_id if to_sender else None,
        "reply_to": entry.reply_to,
        "reactions": orjson.loads(entry.reactions) if entry.reactions else {},
        "mentions": orjson.loads(entry.body) if entry.body else [],
        "data": orjson.loads(entry.data) if entry.data else None,
        "state": STATES[entry.state],
    }
    if entry.replies:
        view["replies"] = entry.replies
        if entry.thread is not None:
            view["thread"] = entry.thread
    if entry.files is not None:
        view["files"] = orjson.loads(entry.files)
    return view


def shown_message(room: RoomName, entry: EntryRow, user_key: int | None) -> Message:
    """A message as `user_key` sees it, as a model. It is not validated: a page has hundreds of them."""
    view = message(room, entry, to_sender=entry.sender_key == user_key)
    if "files" in view:
        view["files"] = [Attachment.model_construct(**file) for file in view["files"]]
    return Message.model_construct(**view)


def thread(row: ThreadRow, user_key: int) -> dict[str, Any]:
    """A thread as `user_key` has it, as `tidings.contract.models.Thread` describes it."""
    began = row.message
    return {
        "message": message(room_name(row.room), began, to_sender=began.sender_key == user_key),
        "following": row.following,
        "unread": max(0, (began.replies or 0) - row.read) if row.following else 0,
    }


def application_event(room: RoomName, entry: EntryRow, *, to_sender: bool) -> dict[str, Any]:
    """An `ApplicationEvent`, as `tidings.contract.models.ApplicationEvent` describes it."""
    view = {
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "seq": entry.seq,
        "id": entry.message_id,
        "event": entry.content,
        "sender": entry.sender,
        "created_at": timestamp(entry.created_at),
        "data": orjson.loads(entry.data or "null"),
    }
    if to_sender and entry.client_id is not None:
        view["client_id"] = entry.client_id
    return view


def _removed_message(room: RoomName, entry: EntryRow) -> dict[str, Any]:
    """The remains of a message that retention has removed; `entry` is a later change of it."""
    body = orjson.loads(entry.body or "{}")
    return {
        "id": body["id"],
        "room_id": room.room_id,
        "topic_name": room.topic_name,
        "seq": entry.target_seq,
        "sender": body["sender"],
        "content": "",
        "created_at": timestamp(body["created_at"]),
        "edited_at": None,
        "deleted": True,
        "client_id": None,
        "reply_to": None,
        "reactions": {},
        "mentions": [],
        "data": None,
        "state": "complete",
        **{name: body[name] for name in ("thread", "replies") if name in body},
    }


def message_of(entry: EntryRow | EncodedEntry) -> EntryRow | EncodedEntry:
    """The message that an entry changes, or else the entry itself."""
    return entry if entry.target is None else entry.target


class JsonPayload(NamedTuple):
    """The payload of an event, encoded as JSON."""

    text: bytes


class EncodedEntry(NamedTuple):
    """An entry as another node has encoded it: its event, as everybody but the sender of the message gets it."""

    seq: int
    kind: str
    payload: JsonPayload
    sender_key: int
    """The sender of the message that it is, or changes."""
    client_id: str | None
    """Of that message."""

    @property
    def body(self) -> str:
        """The payload, which has the fields of a change of members."""
        return self.payload.text.decode()

    @property
    def target(self) -> None:
        """The entry itself has the fields of the message that it changes."""
        return None

    def event(self, *, to_sender: bool) -> tuple[str, Any]:
        """See the function `event`."""
        if self.kind != EVENT and (not to_sender or self.client_id is None):
            return ENTRIES.get(self.kind, self.kind), self.payload
        payload = orjson.loads(self.payload.text)
        name = payload["event"] if self.kind == EVENT else ENTRIES.get(self.kind, self.kind)
        if not to_sender or self.client_id is None:
            return name, self.payload
        view = payload["message"] if self.kind in _CHANGES else payload
        view["client_id"] = self.client_id
        return name, payload


_CHANGES = {kind: name for kind, name in ENTRIES.items() if EVENTS[name] is MessageChanged}


def without_client_id(view: dict[str, Any]) -> dict[str, Any]:
    """A `message` or an `application_event` that was made for its sender, as everybody else sees it."""
    if view.get("client_id") is None:
        return view
    if "event" in view:
        return {name: value for name, value in view.items() if name != "client_id"}
    return {**view, "client_id": None}


def event(
    room: RoomName, entry: EntryRow | EncodedEntry, *, to_sender: bool = False, view: dict[str, Any] | None = None
) -> tuple[str, Any]:
    """The event of an entry; its payload is a dict, or the `JsonPayload` of another node.

    Args:
        to_sender: it goes to the sender of the message that it is about.
        view: that message as its sender sees it, if it is known.
    """
    if isinstance(entry, EncodedEntry):
        return entry.event(to_sender=to_sender)
    if view is not None and not to_sender:
        view = without_client_id(view)
    if entry.kind == "message":
        return "message", message(room, entry, to_sender=to_sender) if view is None else view
    if entry.kind == EVENT:
        view = application_event(room, entry, to_sender=to_sender) if view is None else view
        return view["event"], view
    change = _CHANGES.get(entry.kind)
    if change is not None:
        if view is None:
            view = (
                _removed_message(room, entry)
                if entry.target is None
                else message(room, entry.target, to_sender=to_sender)
            )
        return change, {"room_id": room.room_id, "seq": entry.seq, "message": view}
    body = orjson.loads(entry.body or "{}")
    # A newer version of the server may have written a kind that this one does not know.
    name = ENTRIES.get(entry.kind, entry.kind)
    return name, {"room_id": room.room_id, "seq": entry.seq, "username": entry.sender, **body}


def events(room: RoomName, entries: Iterable[EntryRow | EncodedEntry], user_key: int) -> list[tuple[str, Any]]:
    """The events of some entries as one user gets them."""
    return [event(room, entry, to_sender=message_of(entry).sender_key == user_key) for entry in entries]


def room(snapshot: Snapshot, user_key: int, online: int) -> Room:
    """A room as `user_key` sees it; `online`: the number of members who are online."""
    row, last = snapshot.room, snapshot.last_message
    shown = None
    if last is not None:
        shown = shown_message(room_name(row), last, user_key)
    # Not validated: a page has 500 of them.
    return Room.model_construct(
        room_id=row.room_id,
        kind=RoomKind(row.kind),
        topic_name=row.topic_name,
        title=snapshot.other if row.kind == "direct" else row.title,
        is_private=bool(row.is_private),
        role=None if snapshot.role is None else Role(snapshot.role),
        members=row.members,
        online=online,
        last_seq=row.last_seq,
        read_seq=snapshot.read_seq,
        unread=snapshot.unread,
        last_message=shown,
        posting=Posting(row.posting),
        purpose=row.purpose,
        picture=row.picture,
        preferences=None if snapshot.role is None else preferences(snapshot),
    )


def preferences(snapshot: Snapshot) -> Preferences:
    """A member's preferences for a room."""
    stored = snapshot.preferences
    until = stored.quiet_until
    is_quiet = until is not None and until > time.time_ns() // 1_000_000
    return Preferences.model_construct(
        notify=Notify(stored.notify or ("mentions" if snapshot.room.kind == RoomKind.TOPIC else "all")),
        quiet_until=timestamp(until) if until is not None and is_quiet else None,
        favourite=bool(stored.favourite),
        section=stored.section,
        unread_from=snapshot.unread_from,
    )


def receipt(row: ReceiptRow) -> dict[str, Any]:
    return {
        "room_id": row.room_id,
        "username": row.username,
        "delivered_seq": row.delivered_seq,
        "read_seq": row.read_seq,
    }
