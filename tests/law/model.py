"""A model of the server: the memberships and roles, the messages, and the expected refusal of each action."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

RANK = {None: 0, "member": 1, "moderator": 2, "owner": 3}


@dataclass(eq=False)
class Message:
    id: str
    seq: int
    sender: str
    content: str
    reply_to: str | None
    deleted: bool = False
    edited: bool = False
    reactions: dict[str, list[str]] = field(default_factory=dict)
    mentions: list[str] = field(default_factory=list)
    state: str = "complete"
    streamed: bool = False
    stop: bool = False
    """Whether a member has asked its author to stop."""
    stored: int = 0
    """How much of the text was answered to be durable."""
    loose: bool = False
    """Set if its author lost the right to append: what was not stored by then may be gone."""

    thread: str | None = None
    replies: int = 0

    possible_contents: set[str] = field(default_factory=set)
    """Contents that concurrent edits may have given it."""

    @property
    def view(self) -> tuple[Any, ...]:
        return (
            self.id,
            self.seq,
            self.sender,
            self.content,
            self.reply_to,
            self.deleted,
            self.edited,
            self.reactions,
            self.mentions,
            self.state,
            self.thread,
            self.replies,
        )

    def agrees(self, wire: dict[str, Any]) -> bool:
        """Whether this is the server's version; the text of a message that streams may be behind."""
        if self.state == "streaming" and self.content.startswith(wire["content"]):
            wire = wire | {"content": self.content}
        return view_of(wire) == self.view

    def adopt_text(self, content: str) -> None:
        """Take over how much of a loose text the server has."""
        if self.loose and self.content.startswith(content) and len(content) >= self.stored:
            self.content = content

    def adopt(self, wire: dict[str, Any]) -> None:
        """Take over the server's version after concurrent steps, if it is possible."""
        if wire["deleted"]:
            self.content, self.deleted, self.edited = "", True, wire["edited_at"] is not None
            self.reactions, self.mentions, self.state = {}, [], "complete"
        elif not self.deleted and wire["content"] in self.possible_contents:
            self.content, self.edited, self.mentions = (
                wire["content"],
                wire["edited_at"] is not None,
                wire["mentions"],
            )
            self.stored = len(self.content)
        if not self.deleted:
            self.reactions = wire["reactions"]
            assert all(names and len(set(names)) == len(names) for names in self.reactions.values())
        self.possible_contents = set()


def view_of(wire: dict[str, Any]) -> tuple[Any, ...]:
    """The fields of a message on the wire that the model knows."""
    names = ("id", "seq", "sender", "content", "reply_to", "deleted", "edited_at", "reactions", "mentions", "state")
    known = tuple(wire[name] if name != "edited_at" else wire[name] is not None for name in names)
    return (*known, wire.get("thread"), wire.get("replies", 0))


@dataclass(eq=False)
class Room:
    room_id: str
    kind: str
    topic_name: str | None
    is_private: bool
    members: dict[str, str]
    """username -> role, in the order of joining."""
    title: str | None = None
    posting: str = "members"
    events: list[dict[str, Any]] = field(default_factory=list)
    """The application events, as its publishers got them answered, with their `sender` and `data`."""
    log: list[Message] = field(default_factory=list)
    claimed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(sender, client_id) -> id of the message or event."""
    banned: set[str] = field(default_factory=set)
    past_memberships: Counter[str] = field(default_factory=Counter)
    """How many memberships of a user have ended."""
    muted: set[str] = field(default_factory=set)
    """A mute outlives the membership."""
    unsure: bool = False
    """Set after concurrent steps: the outcome is taken from the server."""
    unordered: bool = False
    """Set if several users joined concurrently, so that the order of joining is unknown."""

    def add_member(self, username: str) -> None:
        heir = not self.members and self.kind != "direct"
        self.members[username] = "owner" if heir else "member"

    def remove_member(self, username: str) -> None:
        """Ownership passes to the longest-standing moderator, otherwise member."""
        role = self.members.pop(username, None)
        self.past_memberships[username] += role is not None
        self.loosen(username)
        if role == "owner" and self.members:
            heir = next(
                (name for name, role in self.members.items() if role == "moderator"), next(iter(self.members))
            )
            self.members[heir] = "owner"
            self.unsure |= self.unordered

    def loosen(self, author: str) -> None:
        """An author may not append any more."""
        for message in self.streams:
            message.loose |= message.sender == author

    @property
    def streams(self) -> list[Message]:
        return [message for message in self.log if message.state == "streaming"]


@dataclass
class Link:
    code: str
    room: Room
    uses: int | None
    maker: str
    past_memberships: int
    """Of the maker when the link was made: the link ends with that membership."""

    @property
    def valid(self) -> bool:
        return (
            self.uses != 0
            and self.maker in self.room.members
            and self.room.past_memberships[self.maker] == self.past_memberships
        )


class Refusal(Exception):
    """The expected error code of an action."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Model:
    def __init__(self, users: list[str]) -> None:
        self.users = users
        self.rooms: list[Room] = []
        self.links: list[Link] = []
        self.blocks: set[tuple[str, str]] = set()
        """(blocker, blocked)"""

    def of(self, user: str) -> set[str]:
        """The ids of the rooms of a user."""
        return {room.room_id for room in self.rooms if user in room.members}

    @property
    def messages(self) -> list[tuple[Room, Message]]:
        return [(room, message) for room in self.rooms for message in room.log]

    def topic(self, name: str) -> Room | None:
        return next((room for room in self.rooms if room.topic_name == name), None)

    def direct(self, a: str, b: str) -> Room | None:
        pair = {a, b}
        return next((room for room in self.rooms if room.kind == "direct" and room.members.keys() == pair), None)

    def find(self, me: str, ref: dict[str, Any]) -> Room | str:
        """The target of a room reference: a room, or a user without a conversation yet."""
        name = ref.get("topic_name", ref.get("username"))
        if (room_id := ref.get("room_id")) is not None:
            found = next((room for room in self.rooms if room.room_id == room_id), None)
        else:
            assert isinstance(name, str)
            found = self.topic(name) if "topic_name" in ref else None
            if found is None and name in self.users:
                if name == me:
                    raise Refusal("invalid")
                return self.direct(me, name) or name
        if found is None:
            raise Refusal("not_found")
        return found

    def find_by_topic_name(self, ref: dict[str, Any]) -> Room:
        """The target of a reference in which a name can only be a topic's."""
        found = self.topic(ref["topic_name"]) if "topic_name" in ref else self.find("", ref)
        if not isinstance(found, Room):
            raise Refusal("not_found")
        return found

    def require_member(self, me: str, ref: dict[str, Any]) -> Room:
        """The room of a reference; refuses a non-member."""
        room = self.find(me, ref)
        if isinstance(room, str):
            raise Refusal("not_found")
        if me not in room.members:
            raise Refusal("not_found" if room.is_private else "forbidden")
        return room

    # -- rooms -----------------------------------------------------------------------------------------------------

    def may_create(self, name: str) -> None:
        if self.topic(name) is not None or name in self.users:
            raise Refusal("conflict")

    def may_join(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.find_by_topic_name(ref)
        if room.is_private and me not in room.members:
            raise Refusal("not_found")
        if me in room.members:
            raise Refusal("conflict")
        if me in room.banned:
            raise Refusal("forbidden")
        return room

    def may_leave(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.require_member(me, ref)
        if room.kind == "direct":
            raise Refusal("forbidden")
        return room

    def may_invite(self, me: str, ref: dict[str, Any], username: str) -> Room:
        room = self.find_by_topic_name(ref)
        if username not in self.users or (room.is_private and me not in room.members):
            raise Refusal("not_found")
        if room.kind == "direct" or me not in room.members or (username, me) in self.blocks:
            raise Refusal("forbidden")
        if username in room.members:
            raise Refusal("conflict")
        if username in room.banned:
            raise Refusal("forbidden")
        return room

    def may_open_conversation(self, me: str, usernames: list[str], title: str | None) -> Room | None:
        """The existing conversation, or None."""
        if not set(usernames) <= set(self.users):
            raise Refusal("not_found")
        others = set(usernames) - {me}
        if not others:
            raise Refusal("invalid")
        if len(others) == 1 and title is None:
            (other,) = others
            if (found := self.direct(me, other)) is not None:
                return found
        if any((other, me) in self.blocks for other in others):
            raise Refusal("forbidden")
        return None

    def may_set_title(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.require_member(me, ref)
        if room.kind != "group" or room.members[me] == "member":
            raise Refusal("forbidden")
        return room

    def may_set_posting(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.require_member(me, ref)
        if room.kind == "direct" or room.members[me] != "owner":
            raise Refusal("forbidden")
        return room

    def may_create_link(self, me: str, ref: dict[str, Any]) -> Room:
        room = self.require_member(me, ref)
        if room.kind == "direct" or not room.is_private:
            raise Refusal("forbidden")
        return room

    def may_join_by_link(self, me: str, code: str) -> Link:
        link = next((known for known in self.links if known.code == code and known.valid), None)
        if link is None:
            raise Refusal("not_found")
        if me in link.room.members:
            raise Refusal("conflict")
        if me in link.room.banned:
            raise Refusal("forbidden")
        return link

    def may_delete_link(self, me: str, code: str) -> Link:
        link = next((known for known in self.links if known.code == code and known.valid), None)
        if link is None or me not in link.room.members:
            raise Refusal("not_found")
        if link.room.members[me] == "member" and link.maker != me:
            raise Refusal("forbidden")
        return link

    # -- moderation ------------------------------------------------------------------------------------------------

    def may_moderate(self, me: str, ref: dict[str, Any], username: str, kind: str, role: str | None) -> Room:
        """`kind`: kick, ban, unban, mute, unmute, set_role."""
        if username not in self.users:
            raise Refusal("not_found")
        room = self.find_by_topic_name(ref)
        if me not in room.members:
            raise Refusal("not_found" if room.is_private else "forbidden")
        if room.kind == "direct" or room.members[me] == "member":
            raise Refusal("forbidden")
        if username == me:
            raise Refusal("invalid")
        mine, theirs = RANK[room.members[me]], RANK[room.members.get(username)]
        if theirs >= mine or RANK[role] > mine:
            raise Refusal("forbidden")
        if username not in room.members and kind not in ("ban", "unban"):
            raise Refusal("not_found")
        if kind == "unban" and username not in room.banned:
            raise Refusal("not_found")
        return room

    def apply_moderation(self, me: str, room: Room, username: str, kind: str, role: str | None) -> None:
        match kind:
            case "kick":
                room.remove_member(username)
            case "ban":
                room.remove_member(username)
                room.banned.add(username)
            case "unban":
                room.banned.discard(username)
            case "mute":
                room.muted.add(username)
                room.loosen(username)
            case "unmute":
                room.muted.discard(username)
            case "set_role" if role is not None:
                changed = {username: role} | ({me: "moderator"} if role == "owner" else {})
                room.members |= {name: role for name, role in changed.items() if name in room.members}

    def may_block(self, me: str, username: str) -> None:
        if username not in self.users:
            raise Refusal("not_found")
        if username == me:
            raise Refusal("invalid")

    # -- messages --------------------------------------------------------------------------------------------------

    def may_not_write(self, me: str, room: Room) -> bool:
        """Whether only moderators write there, or the user is muted or blocked."""
        return (room.posting == "moderators" and room.members[me] == "member") or self.is_silenced(me, room)

    def is_silenced(self, me: str, room: Room) -> bool:
        """Whether the user is muted, or blocked by the other member of a direct conversation."""
        return me in room.muted or (
            room.kind == "direct" and any((other, me) in self.blocks for other in room.members)
        )

    def may_publish(self, me: str, ref: dict[str, Any], client_id: str | None) -> str | None:
        """The id of the original event if this is a retry, otherwise None."""
        return self.may_send(me, ref, client_id, None, is_event=True)

    def may_send(
        self,
        me: str,
        ref: dict[str, Any],
        client_id: str | None,
        reply_to: str | None,
        thread: str | None = None,
        is_event: bool = False,
    ) -> str | None:
        """The id of the original message if this is a retry, otherwise None."""
        room = self.find(me, ref)
        if isinstance(room, str):
            if reply_to is not None or thread is not None:
                raise Refusal("invalid")
            if (room, me) in self.blocks:
                raise Refusal("forbidden")
            return None
        self.require_member(me, ref)
        if client_id is not None and (before := room.claimed.get((me, client_id))) is not None:
            if (before in [event["id"] for event in room.events]) is not is_event:
                raise Refusal("conflict")
            return before
        if self.may_not_write(me, room):
            raise Refusal("forbidden")
        if {reply_to, thread} - {None} - {message.id for message in room.log}:
            raise Refusal("invalid")
        return None

    def written_to(self, me: str, ref: dict[str, Any], entry: dict[str, Any]) -> Room:
        """The room of an acknowledged entry; the first one to a user creates the conversation."""
        room = self.find(me, ref)
        if isinstance(room, str):
            room = Room(entry["room_id"], "direct", None, True, {me: "member", room: "member"})
            self.rooms.append(room)
        assert entry["room_id"] == room.room_id
        return room

    def apply_message(self, me: str, ref: dict[str, Any], message: dict[str, Any]) -> None:
        """Add an acknowledged message."""
        room = self.written_to(me, ref, message)
        if message["id"] not in [known.id for known in room.log]:
            content: str = message["content"]
            mentions = self.mentioned(room, content)
            known = Message(message["id"], message["seq"], me, content, message["reply_to"], mentions=mentions)
            known.state, known.streamed, known.stored = message["state"], message["state"] != "complete", len(content)
            for began in room.log:
                if began.id == message.get("thread"):
                    began.replies += 1
                    known.thread, known.replies = began.id, began.replies
            room.log.append(known)
            room.log.sort(key=lambda known: known.seq)
            if message["client_id"] is not None:
                room.claimed[me, message["client_id"]] = message["id"]

    def mentioned(self, room: Room, content: str) -> list[str]:
        return [word[1:] for word in content.split() if word.startswith("@") and word[1:] in room.members]

    def message_for_member(self, me: str, message_id: str) -> tuple[Room, Message]:
        for room, message in self.messages:
            if message.id == message_id and me in room.members:
                return room, message
        raise Refusal("not_found")

    def may_edit(self, me: str, message_id: str) -> tuple[Room, Message]:
        room, message = self.message_for_member(me, message_id)
        if self.may_not_write(me, room):
            raise Refusal("forbidden")
        if message.deleted:
            raise Refusal("not_found")
        if message.sender != me:
            raise Refusal("forbidden")
        return room, message

    def may_append(self, me: str, message_id: str) -> tuple[Room, Message]:
        room, message = self.may_edit(me, message_id)
        if message.state != "streaming":
            raise Refusal("conflict")
        return room, message

    def may_finish(self, me: str, message_id: str, offset: int | None) -> tuple[Room, Message]:
        room, message = self.may_edit(me, message_id)
        wrong = message.state == "streaming" and offset not in (None, len(message.content))
        if wrong or message.state == "interrupted":
            raise Refusal("conflict")
        return room, message

    def apply_end(self, room: Room, message: Message, content: str, state: str = "complete") -> None:
        message.content, message.state = content, state
        message.mentions = self.mentioned(room, content)

    def loosen(self) -> None:
        """Note which authors may not append any more."""
        for room in self.rooms:
            for message in room.streams:
                if message.sender not in room.members or self.may_not_write(message.sender, room):
                    message.loose = True

    def may_delete(self, me: str, message_id: str) -> tuple[Room, Message]:
        room, message = self.message_for_member(me, message_id)
        if message.sender != me and (room.kind == "direct" or room.members[me] == "member"):
            raise Refusal("forbidden")
        return room, message

    def may_react(self, me: str, message_id: str) -> tuple[Room, Message]:
        room, message = self.message_for_member(me, message_id)
        if self.is_silenced(me, room):
            raise Refusal("forbidden")
        if message.deleted:
            raise Refusal("not_found")
        return room, message

    def apply_edit(self, room: Room, message: Message, content: str) -> None:
        if content != message.content and not message.deleted:
            message.content, message.edited, message.stored = content, True, len(content)
            message.mentions = self.mentioned(room, content)

    def apply_delete(self, message: Message) -> None:
        message.content, message.deleted, message.mentions, message.reactions = "", True, [], {}
        message.state = "complete"

    def apply_reaction(self, me: str, message: Message, emoji: str, remove: bool) -> None:
        if message.deleted:
            return
        names = message.reactions.pop(emoji, [])
        at = names.index(me) if me in names else None
        if remove and at is not None:
            names.remove(me)
        elif not remove and at is None:
            names = [*names, me]
        if names:
            message.reactions[emoji] = names
