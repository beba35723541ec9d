"""The state of a client, and how answers and events change it: a complete reference for clients.

Pure: nothing is changed in place, so earlier states stay valid. The rules in short:

* Events change the state. Of the answers only those of three reading actions do (`with_rooms`, `with_members`,
  `with_history`): the effects of all other actions arrive as events, also at the acting connection, and an answer
  may arrive after newer events.
* The entries of a room's log are ordered by `seq`. A Room snapshot counts everything up to its `last_seq`: an entry
  at or below that goes to the timeline and changes no count. So a snapshot and events may arrive in any order.
* Events outside the log (members of public topics; the user's own rooms) have no order against answers: an answer
  that such an event may have overtaken is dropped, and requested again.
* `online` and typing are transient and not part of the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")
Message = Mapping[str, Any]
_GONE = ("left", "kicked", "banned")


class Gap(Exception):
    """An entry or a piece of text arrived before its predecessor, or a piece after the end: never by this server."""


@dataclass(frozen=True, slots=True)
class Room:
    """A room of the user."""

    room_id: str
    kind: str
    topic_name: str | None
    title: str | None
    is_private: bool
    role: str | None
    members: int
    last_seq: int
    read_seq: int
    unread: int | None
    """None: unknown until the pages of `wanted` have been read."""
    last_message: Message | None
    posting: str
    purpose: str | None
    picture: str | None

    @classmethod
    def of(cls, snapshot: Mapping[str, Any]) -> Room:
        """Make a room from a Room on the wire."""
        fields = {name: snapshot[name] for name in cls.__slots__}
        return cls(**fields | {"last_message": _preview(snapshot["last_message"])})


@dataclass(frozen=True, slots=True)
class Timeline:
    """Messages of a room by seq. From `complete_from` up to the room's `last_seq` none is missing."""

    messages: Mapping[int, Message] = field(default_factory=dict)
    complete_from: int = 1


@dataclass(frozen=True, slots=True)
class State:
    me: str
    rooms: Mapping[str, Room] = field(default_factory=dict)
    timelines: Mapping[str, Timeline] = field(default_factory=dict)
    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Members of the opened rooms: username -> role."""
    cursors: Mapping[str, int] = field(default_factory=dict)
    """How far each room's log has been received; sent at the next connect."""
    live: bool = False
    """`ready` has arrived on this connection."""
    unlogged: int = 0
    """The number of events outside the logs; an answer requested before the last of them is outdated."""


# -- connections and events ------------------------------------------------------------------------------------------


def reconnecting(state: State) -> State:
    """The state for a new connection that sends `state.cursors`.

    After `ready`, read the rooms again, and the members of opened public topics: only log entries are replayed.
    """
    return replace(state, live=False, unlogged=state.unlogged + 1)


def apply(state: State, event: str, payload: Mapping[str, Any]) -> State:
    """The state after an event. Raises `Gap`."""
    match event:
        case "message":
            return _message(_received(state, payload), payload)
        case "message_edited" | "message_deleted" | "reaction" | "message_finished":
            return _changed(_received(state, payload), payload)
        case "message_append":
            return _appended(state, payload)
        case "member":
            return _member(_received(state, payload), payload)
        case "room_changed":
            changed = {name: payload[name] for name in ("title", "posting", "purpose", "picture") if name in payload}
            return _entry(_received(state, payload), payload, **changed)
        case "room_added":
            return _room_added(state, payload["room"])
        case "room_removed":
            return _forget(replace(state, unlogged=state.unlogged + 1), payload["room_id"])
        case "receipt":
            return _receipt(state, payload)
        case "preferences":
            room = state.rooms.get(payload["room_id"])
            return state if room is None else _with_room(state, replace(room, unread=payload["unread"]))
        case "ready":
            return _ready(state, payload)
        case _ if "seq" in payload:
            return _entry(_received(state, payload), payload)
        case _:  # typing, presence, closing
            return state


def _received(state: State, entry: Mapping[str, Any]) -> State:
    """Advance the cursor of a room. An entry may be repeated, and none may be missing."""
    room_id, seq = entry["room_id"], entry["seq"]
    if seq is None:
        return state
    before = state.cursors.get(room_id)
    if before is not None and seq > before + 1:
        raise Gap(f"{room_id}: {seq} after {before}")
    return replace(state, cursors=_put(state.cursors, room_id, max(seq, before or 0)))


def _message(state: State, message: Message) -> State:
    """An own message moves the read marker to it, on all devices; a message of another user is unread beyond it.

    A reply in a thread does neither, and its number is that of the replies to the message that began it.
    """
    room_id, seq, thread = message["room_id"], message["seq"], message.get("thread")
    known = _timeline(state, room_id).messages.values()
    began = [_with_replies(other, message) for other in known if other["id"] == thread]
    state = _merge(state, room_id, [message, *began])
    room = state.rooms.get(room_id)
    if room is None or seq <= room.last_seq:
        return state
    if thread is not None:
        last = room.last_message
        if last is not None and last["id"] == thread:
            room = replace(room, last_message=_with_replies(last, message))
        return _with_room(state, replace(room, last_seq=seq))
    room = replace(room, last_seq=seq, last_message=_preview(message))
    if message["sender"] == state.me:
        room = replace(room, read_seq=max(room.read_seq, seq), unread=0)
    elif seq > room.read_seq and room.unread is not None:
        room = replace(room, unread=room.unread + 1)
    return _with_room(state, room)


def _with_replies(message: Message, reply: Message) -> Message:
    return {**message, "replies": max(message.get("replies", 0), reply["replies"])}


def _changed(state: State, change: Mapping[str, Any]) -> State:
    """A change of a message: an entry of its own that does not count as unread.

    It carries the current message, which may be newer than the change: then later changes follow, with a message that
    is as new or newer.
    """
    room_id, seq, message = change["room_id"], change["seq"], change["message"]
    state = _merge(state, room_id, [message])
    room = state.rooms.get(room_id)
    if room is None:
        return state
    if room.last_message is not None and room.last_message["seq"] == message["seq"] and seq > room.last_seq:
        room = replace(room, last_message=_preview(message))
    return _with_room(state, replace(room, last_seq=max(seq, room.last_seq)))


def _appended(state: State, piece: Mapping[str, Any]) -> State:
    """Text of a message that streams: cut to the offset, and add. Ignored if the message is not known."""
    messages = _timeline(state, piece["room_id"]).messages.values()
    message = next((known for known in messages if known["id"] == piece["message_id"]), None)
    if message is None:
        return state
    if message["state"] != "streaming" or piece["offset"] > len(message["content"]):
        raise Gap(f"{piece} for {message}")
    content = message["content"][: piece["offset"]] + piece["text"]
    return _merge(state, piece["room_id"], [{**message, "content": content}])


def _entry(state: State, entry: Mapping[str, Any], **changed: Any) -> State:
    """An entry of any kind; `changed` are the fields of the room that it sets."""
    room = state.rooms.get(entry["room_id"])
    if room is None or entry["seq"] <= room.last_seq:
        return state
    return _with_room(state, replace(room, last_seq=entry["seq"], **changed))


def _member(state: State, event: Mapping[str, Any]) -> State:
    """A membership change: with a `seq` an ordinary entry, without one it applies when it arrives.

    Entries that are repeated after a member list was read continue up to the head, so the last entry of each name is
    the newest one.
    """
    room_id, seq, username, gone = event["room_id"], event["seq"], event["username"], event["change"] in _GONE
    if seq is None:
        state = replace(state, unlogged=state.unlogged + 1)
    listed = state.members.get(room_id)
    was_listed = listed is not None and username in listed
    if listed is not None:
        listed = _drop(listed, username) if gone else _put(listed, username, event["role"])
        state = replace(state, members=_put(state.members, room_id, listed))
    room = state.rooms.get(room_id)
    if room is None or (seq is not None and seq <= room.last_seq):
        return state
    by = -1 if gone else event["change"] == "joined"
    if seq is not None:
        room = replace(room, last_seq=seq, members=room.members + by)
    elif listed is None or was_listed != (not gone):
        room = replace(room, members=room.members + by)
    if username == state.me and not gone:
        room = replace(room, role=event["role"])
    return _with_room(state, room)


def _room_added(state: State, snapshot: Mapping[str, Any]) -> State:
    """A room that the user joined, perhaps again: the earlier state of the room is dropped.

    Before `ready` the replay may still bring entries up to its `last_seq`, so that is not a cursor yet.
    """
    room = Room.of(snapshot)
    state = _forget(replace(state, unlogged=state.unlogged + 1), room.room_id)
    if state.live:
        state = replace(state, cursors=_put(state.cursors, room.room_id, room.last_seq))
    return _complete_from(_with_room(state, room), room.room_id, room.last_seq + 1)


def _receipt(state: State, receipt: Mapping[str, Any]) -> State:
    """Another device of the user moves the read marker, forwards only. Receipts of others do not change the state."""
    room = state.rooms.get(receipt["room_id"])
    if receipt["username"] != state.me or room is None or receipt["read_seq"] <= room.read_seq:
        return state
    return _with_room(state, _recounted(state, replace(room, read_seq=receipt["read_seq"])))


def _ready(state: State, ready: Mapping[str, Any]) -> State:
    """The replay is complete: every log is received up to its room's `last_seq`. Rooms in `reset` start anew."""
    for room_id in ready["reset"]:
        state = _forget(state, room_id)
    heads = {room.room_id: max(room.last_seq, state.cursors.get(room.room_id, 0)) for room in state.rooms.values()}
    return replace(state, live=True, cursors={**state.cursors, **heads})


# -- answers ---------------------------------------------------------------------------------------------------------


def with_rooms(state: State, asked: State, rooms: Sequence[Mapping[str, Any]]) -> State | None:
    """Apply all of `get_rooms` with `member: true`; `asked` is the state at the request. None: request again."""
    if state.unlogged != asked.unlogged:
        return None
    answered = {snapshot["room_id"]: Room.of(snapshot) for snapshot in rooms}
    for room_id in state.rooms.keys() - answered.keys():
        state = _forget(state, room_id)
    for room_id, theirs in answered.items():
        ours = state.rooms.get(room_id)
        if ours is None or theirs.last_seq > ours.last_seq:
            state = _complete_from(state, room_id, theirs.last_seq + 1)
        state = _with_room(state, theirs if ours is None else _newer(state, ours, theirs))
        if room_id not in state.cursors:
            state = replace(state, cursors=_put(state.cursors, room_id, theirs.last_seq))
    return state


def _newer(state: State, ours: Room, theirs: Room) -> Room:
    """Take fields that the log orders from the version with more of the log, the others from the answer."""
    log, other = (theirs, ours) if theirs.last_seq >= ours.last_seq else (ours, theirs)
    unlogged = log if log.is_private else theirs
    newest = replace(log, role=unlogged.role, members=unlogged.members)
    if log.read_seq >= other.read_seq:
        return newest
    return _recounted(state, replace(newest, read_seq=other.read_seq))


def with_members(state: State, asked: State, room_id: str, members: Sequence[Mapping[str, Any]]) -> State | None:
    """Apply all pages of `get_members`: the room is open, and its list is kept. None: request again."""
    room, before = state.rooms.get(room_id), asked.rooms.get(room_id)
    if room is None or before is None:
        return state
    if state.unlogged != asked.unlogged or room.last_seq != before.last_seq:
        return None
    return replace(
        state, members=_put(state.members, room_id, {member["username"]: member["role"] for member in members})
    )


def wanted(state: State) -> dict[str, int]:
    """Pages of `history` to read until all unread messages are known: room_id -> `before`."""
    return {
        room.room_id: _timeline(state, room.room_id).complete_from
        for room in state.rooms.values()
        if room.unread is None
    }


def with_history(
    state: State, asked: State, room_id: str, before: int | None, page: Mapping[str, Any]
) -> State | None:
    """Apply a page of `history`, the newest or before a seq. None: request again.

    A message that an event has brought since the request is kept: the page may be older.
    """
    if state.unlogged != asked.unlogged:
        return None
    room = state.rooms.get(room_id)
    ours, theirs = _timeline(state, room_id).messages, _timeline(asked, room_id).messages
    new = [message for message in page["messages"] if ours.get(message["seq"]) is theirs.get(message["seq"])]
    state = _merge(state, room_id, new)
    if room is None or (before is not None and before < _timeline(state, room_id).complete_from):
        return state
    first = page["messages"][0]["seq"] if page["has_more"] else 1
    state = _complete_from(state, room_id, min(first, _timeline(state, room_id).complete_from))
    return state if room.unread is not None else _with_room(state, _recounted(state, room))


# -- parts -----------------------------------------------------------------------------------------------------------


def _preview(message: Message | None) -> Message | None:
    """The last message of a room: the timeline has the text of one that streams."""
    if message is None or message["state"] != "streaming":
        return message
    return {**message, "content": ""}


def _recounted(state: State, room: Room) -> Room:
    """Count the unread messages, if the timeline reaches back to the read marker."""
    if room.read_seq >= room.last_seq:
        return replace(room, unread=0)
    timeline = _timeline(state, room.room_id)
    if timeline.complete_from > room.read_seq + 1:
        return replace(room, unread=None)
    return replace(
        room,
        unread=sum(
            room.read_seq < seq <= room.last_seq and message.get("thread") is None
            for seq, message in timeline.messages.items()
        ),
    )


def _timeline(state: State, room_id: str) -> Timeline:
    return state.timelines.get(room_id, Timeline())


def _merge(state: State, room_id: str, messages: Sequence[Message]) -> State:
    timeline = _timeline(state, room_id)
    known = {**timeline.messages, **{message["seq"]: message for message in messages}}
    return replace(state, timelines=_put(state.timelines, room_id, replace(timeline, messages=known)))


def _complete_from(state: State, room_id: str, seq: int) -> State:
    timeline = replace(_timeline(state, room_id), complete_from=seq)
    return replace(state, timelines=_put(state.timelines, room_id, timeline))


def _with_room(state: State, room: Room) -> State:
    return replace(state, rooms=_put(state.rooms, room.room_id, room))


def _forget(state: State, room_id: str) -> State:
    return replace(
        state,
        rooms=_drop(state.rooms, room_id),
        timelines=_drop(state.timelines, room_id),
        members=_drop(state.members, room_id),
        cursors=_drop(state.cursors, room_id),
    )


def _put(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    return MappingProxyType({**mapping, key: value})


def _drop(mapping: Mapping[K, V], key: K) -> Mapping[K, V]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != key})
