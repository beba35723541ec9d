"""Changes of messages: operations of the journal."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import orjson

from tidings.auth import names
from tidings.contract.errors import ActionError, ErrorCode, invalid, no_upload, not_found
from tidings.contract.events import EVENT
from tidings.contract.models import Published
from tidings.contract.permissions import Permission
from tidings.log.threads import NO_SUCH_MESSAGE, add_reply, beginning
from tidings.log.transaction import Operation, RoomLog, Work
from tidings.log.views import application_event, message, room_name, without_client_id
from tidings_db.queries import files, log
from tidings_db.queries.progress import MarkerRow
from tidings_db.queries.rows import STREAMING, EntryRow, text_bytes

T = TypeVar("T")


def new_message_id(now: int) -> str:
    """128 bits in hex: the time first, so that the index grows at its end, then 80 random bits."""
    return (now.to_bytes(6, "big") + secrets.token_bytes(10)).hex()


@dataclass(frozen=True, slots=True)
class AppendMessage(Operation[dict[str, Any]]):
    """Append a message, once per `client_id`. The result is the message as its sender sees it.

    A muted or blocked member still gets the first result for a retry. A former member gets nothing, because the
    message may carry later changes.
    """

    kind: ClassVar[str] = "message"

    content: str
    client_id: str | None = None
    reply_to: str | None = None
    data: str | None = None
    """JSON."""
    streams: bool = False
    """Whether it is written later, by `tidings.log.streams`."""
    thread: str | None = None
    """The id of a message of the thread that it is a reply in."""
    files: tuple[tuple[str, str | None], ...] = ()
    """The ids of its files, and what they show."""

    @property
    def size(self) -> int:
        size = 512 + (len(self.content) if self.content.isascii() else 4 * len(self.content))
        return size if self.data is None else size + text_bytes(self.data)

    @property
    def names(self) -> int:
        return names.most_mentions(self.content) if "@" in self.content else 0

    @property
    def queries(self) -> bool:
        return "@" in self.content or self.thread is not None or bool(self.files)

    def apply(self, work: Work) -> dict[str, Any]:
        assert self.room_key is not None
        room = work.room(self.room_key)
        if self.client_id is not None:
            earlier = work.sent.get((self.room_key, self.actor.user_key, self.client_id))
            if earlier is not None:
                if Permission.SEND not in self.actor.granted_in(self.room_key):
                    work.check(room, self.actor, Permission.READ)
                if earlier.kind != self.kind:
                    raise ActionError(ErrorCode.CONFLICT, f"this `client_id` is that of another kind: {earlier.kind}")
                return self.answer(self.view(room, earlier))
        standing = work.check(room, self.actor, Permission.SEND)
        if self.reply_to is not None and (self.room_key, self.reply_to) not in work.known_messages:
            raise invalid("reply_to", NO_SUCH_MESSAGE)
        root = None if self.thread is None else beginning(work, room, self.thread)
        if root is None and self.thread is not None:
            raise invalid("thread", NO_SUCH_MESSAGE)
        attachments = self.attachments(work) if self.files else None
        message_id = new_message_id(work.now)
        entry = room.append(
            self.kind,
            self.actor,
            work.now,
            message_id=message_id,
            client_id=self.client_id,
            content=self.content,
            reply_to=self.reply_to,
            body=work.mentioned(room, self.content),
            data=self.data,
            state="streaming" if self.streams else None,
            thread=None if root is None else root.message_id,
            replies=None if root is None else (root.replies or 0) + 1,
            files=attachments,
        )
        if self.files:
            files.attach(work.conn, [file_id for file_id, _ in self.files], self.room_key, entry.seq)
        if self.client_id is not None:
            work.sent[self.room_key, self.actor.user_key, self.client_id] = entry
        if self.kind == "message" and root is None and standing.role is not None:
            work.markers[self.room_key, self.actor.user_key] = MarkerRow(entry.seq, entry.messages)
        view = room.views[entry.seq] = self.view(room, entry)
        if root is not None:
            add_reply(work, room, root, entry)
        return self.answer(view)

    def attachments(self, work: Work) -> str:
        """The files of the message, as JSON. Raises `invalid`."""
        alts = dict(self.files)
        taken = files.take(work.conn, self.actor.user_key, list(alts))
        if len(taken) < len(self.files):
            raise no_upload()
        shown = [
            {
                "id": file.id,
                "name": file.name,
                "type": file.type,
                "size": file.size,
                "width": file.width,
                "height": file.height,
                "alt": alts[file.id],
            }
            for file in map(taken.__getitem__, alts)
        ]
        return orjson.dumps(shown).decode()

    def view(self, room: RoomLog, entry: EntryRow) -> dict[str, Any]:
        """The entry on the wire, as its sender receives it."""
        return message(room_name(room.row), entry, to_sender=True)

    def answer(self, view: dict[str, Any]) -> dict[str, Any]:
        return view


@dataclass(frozen=True, slots=True)
class AppendEvent(AppendMessage):
    """Append an application's event, once per `client_id`; `content` is its name. The result is a `Published`."""

    kind: ClassVar[str] = EVENT

    def view(self, room: RoomLog, entry: EntryRow) -> dict[str, Any]:
        return application_event(room_name(room.row), entry, to_sender=True)

    def answer(self, view: dict[str, Any]) -> dict[str, Any]:
        return {name: view[name] for name in Published.model_fields}


MAX_EMOJIS = 64
"""The most different emojis on one message."""
MAX_REACTIONS = 2000
"""The most reactions to one message: each of its events carries all of them."""


@dataclass(frozen=True, slots=True)
class MessageChange(Operation[T]):
    """Change a sent message. The change is an entry, so devices that were offline get it, too."""

    seq: int
    message_bytes: int
    """Approximate bytes of the message."""

    @property
    def size(self) -> int:
        return 512 + self.message_bytes

    def message(self, work: Work, need: Permission) -> tuple[RoomLog, EntryRow]:
        """The current message. Raises `not_found` if retention has removed it, or `ActionError` as `check`."""
        assert self.room_key is not None
        room = work.room(self.room_key)
        work.check(room, self.actor, need)
        work.save()
        entry = log.at(work.conn, [(self.room_key, self.seq)]).get((self.room_key, self.seq))
        if entry is None:
            raise not_found("message")
        return room, entry

    def write(self, work: Work, room: RoomLog, kind: str, new: EntryRow, **body: Any) -> dict[str, Any]:
        """Store the changed message and append the entry of the change. Returns the message as the actor sees it."""
        log.rewrite(work.conn, new)
        if new.client_id is not None:  # the result of a retry
            claim = (new.room_key, new.sender_key, new.client_id)
            if claim in work.sent:
                work.sent[claim] = new
        # The entry keeps these for the time after retention has removed the message.
        body |= {"id": new.message_id, "sender": new.sender, "created_at": new.created_at}
        if new.thread is not None:
            body |= {"thread": new.thread, "replies": new.replies}
        encoded = orjson.dumps(body).decode()
        entry = room.append(kind, self.actor, work.now, target=new, target_seq=new.seq, body=encoded)
        view = room.views[entry.seq] = message(room_name(room.row), new, to_sender=True)
        return view if new.sender_key == self.actor.user_key else without_client_id(view)

    def view(self, room: RoomLog, entry: EntryRow) -> dict[str, Any]:
        return message(room_name(room.row), entry, to_sender=entry.sender_key == self.actor.user_key)


@dataclass(frozen=True, slots=True)
class EditMessage(MessageChange[dict[str, Any]]):
    """Replace the content and data of the actor's message; the result is the message.

    The same ones are no change, unless it streams.
    """

    content: str
    data: str | None = None
    """JSON; None: no data."""
    keeps_data: bool = True
    """Whether `data` is ignored, and the message keeps its own."""

    @property
    def names(self) -> int:
        return names.most_mentions(self.content) if "@" in self.content else 0

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.EDIT)
        if before.deleted:
            raise not_found("message")
        if before.sender_key != self.actor.user_key:
            raise ActionError(ErrorCode.FORBIDDEN, "only the author of a message may edit it")
        data = before.data if self.keeps_data else self.data
        same = before.content == self.content and before.data == data
        if same and before.state not in STREAMING:  # of one that streams, more may be shown than is stored
            return self.view(room, before)
        if not self.content and data is None and before.files is None:
            raise invalid("content", "empty, and the message has neither data nor files")
        body = work.mentioned(room, self.content)
        after = before._replace(content=self.content, body=body, data=data, edited_at=work.now)
        return self.write(work, room, "edit", after)


@dataclass(frozen=True, slots=True)
class DeleteMessage(MessageChange[dict[str, Any]]):
    """Replace a message by a tombstone without content. Deleting it again is no change."""

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.DELETE)
        if before.sender_key != self.actor.user_key:
            work.check(room, self.actor, Permission.DELETE_ANY)
        if not before.deleted:
            if before.files is not None:
                files.release(work.conn, before.room_key, seq=before.seq)
            after = before._replace(
                content=None, body=None, reactions=None, data=None, files=None, deleted=True, state=None
            )
            self.write(work, room, "delete", after)
        return {}


@dataclass(frozen=True, slots=True)
class ChangeReaction(MessageChange[dict[str, Any]]):
    """Add or remove a reaction; the result is the message. Repeating it is no change."""

    emoji: str
    remove: bool

    def apply(self, work: Work) -> dict[str, Any]:
        room, before = self.message(work, Permission.REACT)
        if before.deleted:
            raise not_found("message")
        username = self.actor.username
        reactions: dict[str, list[str]] = orjson.loads(before.reactions) if before.reactions else {}
        users_of = reactions.get(self.emoji, [])
        if (username in users_of) is not self.remove:
            return self.view(room, before)
        if self.remove:
            users_of.remove(username)
            if not users_of:
                del reactions[self.emoji]
        else:
            if self.emoji not in reactions and len(reactions) >= MAX_EMOJIS:
                raise ActionError(ErrorCode.TOO_LARGE, "too many different emojis", limit=MAX_EMOJIS)
            if sum(map(len, reactions.values())) >= MAX_REACTIONS:
                raise ActionError(ErrorCode.TOO_LARGE, "too many reactions", limit=MAX_REACTIONS)
            reactions[self.emoji] = [*users_of, username]
        after = before._replace(reactions=orjson.dumps(reactions).decode() if reactions else None)
        return self.write(work, room, "reaction", after, emoji=self.emoji, remove=self.remove)
