"""The tables. Keys are integers, times are milliseconds since the Unix epoch (UTC).

The ids on the wire (`room_id`, `message_id`, `sid`) are random strings in columns of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import DDL, BigInteger, Connection, Index, Integer, MetaData, Table, Text, event, text
from sqlmodel import Field, SQLModel

from tidings_db import outbox_functions

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Base(SQLModel):
    metadata: ClassVar[MetaData] = metadata


def _key(**options: Any) -> Any:
    """A 64-bit key column; SQLite assigns keys only if the type is exactly INTEGER."""
    return Field(sa_type=BigInteger().with_variant(Integer(), "sqlite"), **options)


def _ms(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


class Name(Base, table=True):
    """Every name in use: usernames and topic names share one namespace, by case-folded NFKC.

    Two usernames may share a key (`username_key` distinguishes them); a topic never shares its key.
    """

    key: str = Field(primary_key=True)
    kind: str = Field(description="user or topic")


class User(Base, table=True):
    __table_args__: ClassVar[Any] = (Index("ix_user_directory", "username_key", "words"),)

    id: int | None = _key(default=None, primary_key=True)
    username: str = Field(description="As registered and shown")
    username_key: str = Field(unique=True, description="The key for look-ups: `tidings_db.names.username_key`")
    skeleton: str | None = Field(
        default=None, unique=True, description="The key of its visual form: no two users look the same"
    )
    password_hash: str | None = Field(default=None, description="None: cannot log in with a password")
    created_at: int = _ms()
    last_seen: int | None = _ms(default=None)
    disabled: bool = False
    admin: bool = False
    service: bool = Field(
        default=False, sa_column_kwargs={"server_default": text("false")}, description="The user of a key"
    )
    display_name: str | None = Field(default=None, description="Shown; the username stays the name")
    status_text: str | None = Field(default=None, description="None: no status")
    status_emoji: str | None = None
    status_until: int | None = _ms(default=None, description="None: until it is changed")
    do_not_disturb_until: int | None = _ms(default=None)
    picture: str | None = Field(default=None, description="The id of a `file`")
    folded: str | None = Field(default=None, description="JSON: the folded sections of the user's list of rooms")
    words: str = Field(
        default="",
        sa_column_kwargs={"server_default": text("''")},
        description="Of the username and the display name, folded, each after a space: for the directory",
    )
    deletion: str | None = Field(
        default=None,
        description="While the account is being deleted: whether to `keep` or `delete` its messages, a space, and the"
        " name that it gets",
    )
    issuer: str | None = Field(
        default=None, description="The issuer of the external token that made the user; None: made on this server"
    )


class Block(Base, table=True):
    """A block: `user_id` has blocked `blocked_id`."""

    __table_args__: ClassVar[Any] = (
        Index("ix_block_blocked_user", "blocked_id", "user_id"),
        {"sqlite_with_rowid": False},
    )

    user_id: int = _key(foreign_key="user.id", primary_key=True)
    blocked_id: int = _key(foreign_key="user.id", primary_key=True)
    created_at: int = _ms()


class Session(Base, table=True):
    """One login; tokens carry its `sid`."""

    __table_args__: ClassVar[Any] = (Index("ix_session_user_source", "user_id", "source"),)

    id: int | None = _key(default=None, primary_key=True)
    sid: str = Field(unique=True)
    user_id: int = _key(foreign_key="user.id")
    created_at: int = _ms()
    expires_at: int = _ms()
    revoked_at: int | None = _ms(default=None)
    user_agent: str | None = None
    source: str | None = Field(default=None, description="Keyed hash of the user and the source they signed in from")
    used_at: int | None = _ms(default=None, description="The last use, updated once an hour")
    until_logout: bool | None = Field(
        default=None, description="Ends with the user's other sessions of this kind, at a logout"
    )
    scopes: str | None = Field(default=None, description="Of a key, separated by spaces; None: not a key")
    only_room: int | None = _ms(default=None, description="The only room in which the scopes hold; None: any")
    external: bool | None = Field(
        default=None, description="Made by an external token: ends at its `exp` and is not extended here"
    )


class RegistrationLink(Base, table=True):
    """A code that lets newcomers register where registration is by invitation, or a user set a new password."""

    __tablename__: ClassVar[Any] = "registration_link"

    id: str = Field(primary_key=True, description="Names the link without its code")
    code_hash: str = Field(unique=True, description="SHA-256 of the code, which is not stored")
    user_id: int | None = _key(
        default=None, nullable=True, foreign_key="user.id", description="Its creator; None: the command line"
    )
    created_at: int = _ms()
    expires_at: int = _ms()
    uses_left: int = _ms()
    resets_id: int | None = _ms(
        default=None, index=True, description="The user whose password it sets; None: it is for registration"
    )


class Audit(Base, table=True):
    """A request of a key that changes rooms or users, or acts as a user; written before it takes effect."""

    id: int | None = _key(default=None, primary_key=True)
    at: int = _ms()
    key_name: str = Field(description="The username of the key")
    username: str | None = Field(default=None, description="The user as whom it acted")
    action: str
    request: str = Field(sa_type=Text, description="JSON: its fields, without contents and data")


class Device(Base, table=True):
    __table_args__: ClassVar[Any] = (Index("uq_device_user_name", "user_id", "name", unique=True),)

    id: int | None = _key(default=None, primary_key=True)
    user_id: int = _key(foreign_key="user.id")
    name: str
    created_at: int = _ms()
    seen_at: int | None = _ms(default=None, description="When its last connection closed")
    epoch: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="The log epoch that it has learned of",
    )


class Room(Base, table=True):
    """A log and its head. `last_seq` and `messages` are changed only together with the entries that they count.

    A private room without members (all have left, or it was deleted) is removed later.
    """

    id: int | None = _key(default=None, primary_key=True)
    room_id: str = Field(unique=True)
    kind: str = Field(description="topic, direct or group")
    is_private: bool
    topic_name: str | None = None
    title: str | None = None
    direct_key: str | None = Field(default=None, unique=True, description="smaller:larger user id, if direct")
    name_key: str | None = Field(default=None, unique=True)
    first_seq: int = _ms(default=1, description="The oldest entry that retention has kept; last_seq + 1 if none")
    first_messages: int = _ms(
        default=0, description="Of `messages`, those before first_seq, which retention has deleted"
    )
    last_seq: int = _ms(default=0)
    messages: int = _ms(default=0, description="Messages up to last_seq, without those in threads")
    last_message_seq: int = _ms(default=0, description="0: no message yet")
    members: int = _ms(default=0)
    removals: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="How many memberships have ended: a node delivers nothing beyond a removal that it does not know",
    )
    changes: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="How often members or their roles have changed: nodes tell of it in this order",
    )
    created_at: int = _ms()
    posting: str = Field(
        default="members", sa_column_kwargs={"server_default": "members"}, description="Who may write: see `Posting`"
    )
    purpose: str | None = Field(default=None, description="Of a topic or group: what it is for")
    picture: str | None = Field(default=None, description="Of a topic or group: the id of a `file`")


class Member(Base, table=True):
    __table_args__: ClassVar[Any] = (
        Index("ix_member_user_room", "user_id", "room_id"),
        {"sqlite_with_rowid": False},
    )

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    user_id: int = _key(foreign_key="user.id", primary_key=True)
    role: str
    joined_at: int = _ms()
    joined_seq: int = _ms(description="The room's head when the user became a member: cursors start here")
    joined_removals: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="The room's removals then: an earlier membership of the user is known by fewer of them",
    )
    muted_until: int | None = _ms(default=None, description="A copy of `mute`, so that sending need not query it")
    blocked: bool = Field(default=False, description="In a direct conversation: by the other member")
    notify: str | None = Field(default=None, description="See `Notify`; None: by the kind of the room")
    quiet_until: int | None = _ms(default=None)
    favourite: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    section: str | None = None
    unread_from: int | None = _ms(
        default=None, description="The room was marked as unread from this seq; see `Snapshot.unread_from`"
    )
    unread_messages: int | None = _ms(default=None, description="`entry.messages` before `unread_from`")
    unread_marked_at: int | None = _ms(default=None, description="The seq of the read marker when it was marked")


class Ban(Base, table=True):
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    user_id: int = _key(foreign_key="user.id", primary_key=True)
    created_at: int = _ms()
    expires_at: int | None = _ms(default=None)


class Mute(Base, table=True):
    """A user who may not send in a room. It outlives leaving and rejoining."""

    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    user_id: int = _key(foreign_key="user.id", primary_key=True)
    expires_at: int = _ms()


class InvitationLink(Base, table=True):
    __tablename__: ClassVar[Any] = "invitation_link"

    code: str = Field(primary_key=True)
    room_id: int = _key(foreign_key="room.id", index=True)
    user_id: int = _key(foreign_key="user.id", description="Its creator")
    created_at: int = _ms()
    expires_at: int | None = _ms(default=None)
    uses_left: int | None = _ms(default=None)


_HAS_CLIENT_ID = text("client_id IS NOT NULL")
_IS_EVENT, _IS_MESSAGE = text("kind = 'event'"), text("kind = 'message'")
_IN_THREAD = text("thread IS NOT NULL")
_IS_STREAMING = text("state IN ('streaming', 'stopping')")


class Entry(Base, table=True):
    """One position of a room's log, clustered by (room, seq)."""

    __table_args__: ClassVar[Any] = (
        Index(
            "uq_entry_client_id",
            "room_id",
            "sender_id",
            "client_id",
            unique=True,
            sqlite_where=_HAS_CLIENT_ID,
        ),
        # So that a page of one kind is not searched among thousands of entries of the other.
        Index("ix_entry_event", "room_id", "seq", sqlite_where=_IS_EVENT),
        Index("ix_entry_message", "room_id", "seq", sqlite_where=_IS_MESSAGE),
        Index("ix_entry_thread", "room_id", "thread", "seq", sqlite_where=_IN_THREAD),
        Index("ix_entry_streaming", "room_id", "seq", sqlite_where=_IS_STREAMING),
        {"sqlite_with_rowid": False},
    )

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    seq: int = _ms(primary_key=True)
    kind: str = Field(description="One of `tidings.contract.events.ENTRIES`")
    message_id: str | None = Field(
        default=None,
        unique=True,
        description="Only messages and application events have it. Starts with the time, so that the index grows at"
        " its end; the rest is random",
    )
    sender_id: int = _key(foreign_key="user.id", description="The user who created the entry")
    client_id: str | None = None
    content: str | None = Field(
        default=None, sa_type=Text, description="The text of a message; the name of an application event"
    )
    reply_to: str | None = Field(default=None, description="message_id of a message in the same room")
    body: str | None = Field(
        default=None, sa_type=Text, description="JSON: the mentions of a message; the data of other kinds of entries"
    )
    messages: int = _ms(
        description="Messages of the room up to this one, without those in threads: unread counts are differences"
    )
    created_at: int = _ms()
    edited_at: int | None = _ms(default=None)
    deleted: bool = False
    target_seq: int | None = _ms(default=None, description="The message that is edited, deleted or reacted to")
    reactions: str | None = Field(default=None, sa_type=Text, description="JSON, of a message: emoji -> usernames")
    data: str | None = Field(
        default=None, sa_type=Text, description="JSON: what an application attached to a message, or published"
    )
    state: str | None = Field(
        default=None,
        description="Of a message: streaming, stopping (a member has asked its author to stop), or interrupted; None:"
        " complete",
    )
    thread: str | None = Field(default=None, description="message_id of the message that began the thread")
    replies: int | None = _ms(
        default=None, description="Of a message that began a thread, its replies; of a reply, its number"
    )
    files: str | None = Field(default=None, sa_type=Text, description="JSON, of a message: its `Attachment`s")


class File(Base, table=True):
    """A file: first an upload, then of a message, or a picture. An upload is deleted at `expires_at`."""

    __table_args__: ClassVar[Any] = (
        Index("ix_file_room_seq", "room_id", "seq"),
        Index("ix_file_expires_at", "expires_at"),
    )

    id: str = Field(primary_key=True, description="Like `entry.message_id`")
    user_id: int = _key(foreign_key="user.id", index=True, description="Who uploaded it")
    name: str
    size: int = _ms(description="Bytes; once it is complete, those of what is kept")
    received: int = _ms(default=0, description="Bytes that are durable")
    parts: str | None = Field(
        default="[]", sa_type=Text, description="JSON: the keys of the parts in the store, in order; None: complete"
    )
    type: str | None = Field(default=None, description="Media type, judged by the content; None: not complete")
    width: int | None = _ms(default=None, description="Of an image, in pixels")
    height: int | None = _ms(default=None)
    preview: bool = Field(default=False, description="Whether there is a small image of it")
    created_at: int = _ms()
    room_id: int | None = _key(default=None, nullable=True, foreign_key="room.id")
    seq: int | None = _ms(default=None, description="Of its message; 0: a picture, of the room or else of the user")
    expires_at: int | None = _ms(default=None, description="None: it is no upload any more")


class ThreadFollower(Base, table=True):
    """A user's standing in a thread. No row: the user has nothing to do with it."""

    __tablename__: ClassVar[Any] = "thread_follower"
    __table_args__: ClassVar[Any] = (
        Index("ix_thread_follower_thread", "room_id", "seq"),
        {"sqlite_with_rowid": False},
    )

    user_id: int = _key(foreign_key="user.id", primary_key=True)
    room_id: int = _key(foreign_key="room.id", primary_key=True)
    seq: int = _ms(primary_key=True, description="Of the message that began the thread")
    following: bool
    read: int = _ms(description="Its replies that the user has read")


class Cursor(Base, table=True):
    """The seq up to which a device has received a room's log. No row: it does not know the room yet."""

    __table_args__: ClassVar[Any] = (
        Index("ix_cursor_room", "room_id"),  # for removing a room
        {"sqlite_with_rowid": False},
    )

    device_id: int = _key(foreign_key="device.id", primary_key=True)
    room_id: int = _key(foreign_key="room.id", primary_key=True)
    seq: int = _ms()


class EchoEntry(Base, table=True):
    """A content that a user sent to the echo channel, or received from it."""

    __tablename__: ClassVar[Any] = "echo_entry"
    __table_args__: ClassVar[Any] = (Index("ix_echo_entry_user", "user_id", "id"),)

    id: int | None = _key(default=None, primary_key=True)
    entry_id: str = Field(unique=True, description="Like `entry.message_id`")
    user_id: int = _key(foreign_key="user.id")
    direction: str = Field(description="sent or received")
    content: str = Field(sa_type=Text)
    created_at: int = _ms()


class ReadMarker(Base, table=True):
    """The seq up to which a user has read a room."""

    __tablename__: ClassVar[Any] = "read_marker"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    user_id: int = _key(foreign_key="user.id", primary_key=True)
    seq: int = _ms()
    messages: int = _ms(description="`entry.messages` at `seq`")
    updated_at: int = _ms()


class ConsumerCursor(Base, table=True):
    """The seq up to which a consumer inside the server has processed a room's log. No row: it has not begun."""

    __tablename__: ClassVar[Any] = "consumer_cursor"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    consumer: str = Field(primary_key=True)
    seq: int = _ms()
    claimed_by: str | None = Field(
        default=None, description="The node that delivers a webhook's entries of the room; void without a lease"
    )


class Report(Base, table=True):
    """A message that a member has brought to the moderators, until one of them closes the report."""

    __table_args__: ClassVar[Any] = (Index("uq_report_message_user", "room_id", "seq", "user_id", unique=True),)

    id: str = Field(primary_key=True, description="Like `entry.message_id`: sorted by time")
    room_id: int = _key(foreign_key="room.id")
    seq: int = _ms(description="Of the message")
    user_id: int = _key(foreign_key="user.id", index=True, description="The member who reported it")
    reason: str = Field(sa_type=Text)
    content: str = Field(sa_type=Text, description="That of the message when it was reported")
    created_at: int = _ms()


class Webhook(Base, table=True):
    """An address to which the entries of rooms are sent. Its cursors are those of the consumer `webhook:<id>`."""

    id: str = Field(primary_key=True)
    url: str
    secret: str = Field(description="Signs the requests: `whsec_<base64>`")
    events: str = Field(sa_type=Text, description="JSON: the names of its events, or `*`")
    room_id: int | None = _key(default=None, foreign_key="room.id", index=True, description="None: every room")
    created_at: int = _ms()
    failing_since: int | None = _ms(default=None, description="The first failure since it last succeeded")
    disabled_at: int | None = _ms(default=None)
    disabled_reason: str | None = None


class PushSubscription(Base, table=True):
    """An address for a user's notifications. It ends with its session."""

    __tablename__: ClassVar[Any] = "push_subscription"

    id: str = Field(primary_key=True, description="Random")
    user_id: int = _key(foreign_key="user.id", index=True)
    session_id: int = _key(foreign_key="session.id", index=True)
    provider: str
    endpoint: str = Field(unique=True, description="Where to send to, as the provider understands it")
    keys: str = Field(sa_type=Text, description="JSON: what the provider needs beside it")
    with_content: bool = Field(description="Whether notifications say who wrote what")
    created_at: int = _ms()


class PushDelivery(Base, table=True):
    """A room of which a subscription is to be notified; at most one notification, however many messages."""

    __tablename__: ClassVar[Any] = "push_delivery"
    __table_args__: ClassVar[Any] = (
        Index("ix_push_delivery_due_at", "due_at"),
        Index("ix_push_delivery_room_id", "room_id"),
        {"sqlite_with_rowid": False},
    )

    subscription_id: str = Field(foreign_key="push_subscription.id", primary_key=True)
    room_id: int = _key(foreign_key="room.id", primary_key=True)
    first_seq: int = _ms(description="Of the oldest message that it is about")
    last_seq: int = _ms(description="Of the newest one")
    due_at: int = _ms(description="Sent at this time; while a node is sending: tried again, if that node dies")
    attempts: int = 0


class Instance(Base, table=True):
    """This database, and the copies that are restored from its backups: one row, see `tidings.log.epochs`."""

    id: str = Field(primary_key=True)
    epoch: int = Field(sa_type=BigInteger, description="How often the log has gone back to an earlier state")
    key_fingerprint: str | None = Field(default=None, description="Of the key that signs tokens, on PostgreSQL")
    public_since: int | None = _ms(default=None, description="When the first of the nodes that run now started")
    registration: str | None = Field(
        default=None, description="Who may create an account; None: as `TIDINGS_REGISTRATION` says"
    )
    push_key: str | None = Field(default=None, description="PEM: signs the requests to push services")


class Witness(Base, table=True):
    """The mark that a node last left in the database, and also keeps in a file of its own."""

    node: str = Field(primary_key=True)
    mark: str
    marked_at: int = _ms()


class EpochHead(Base, table=True):
    """The head of a room when an epoch began. What earlier epochs had after it was lost."""

    __tablename__: ClassVar[Any] = "epoch_head"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    room_id: int = _key(foreign_key="room.id", primary_key=True)
    epoch: int = Field(sa_type=BigInteger, primary_key=True)
    last_seq: int = _ms()


class Feed(Base, table=True):
    """The changes of a transaction that other nodes must learn of. Empty on SQLite, which serves one node."""

    id: int | None = _key(default=None, primary_key=True)
    xid: int = Field(sa_type=BigInteger, index=True, description="The transaction; it becomes visible at its commit")
    node: str = Field(description="The node that wrote it; empty for the command line")
    at: int = _ms(description="By PostgreSQL's clock")
    body: str = Field(sa_type=Text, description="JSON: see `tidings_db.queries.feed`")


class Outbox(Base, table=True):
    """An event that an application has published by SQL, until it is in the log. Empty on SQLite."""

    id: int | None = _key(default=None, primary_key=True, description="Drawn again at the commit: in their order")
    room_id: int = _ms(description="No foreign key: a room may be deleted meanwhile")
    event: str
    data: str = Field(sa_type=Text, description="JSON, as given")
    client_id: str | None = None


class NodeLease(Base, table=True):
    """A node that serves this database on PostgreSQL, until its lease ends. All times are by PostgreSQL's clock."""

    __tablename__: ClassVar[Any] = "node"

    id: str = Field(primary_key=True, description="Random, new at each start")
    name: str
    version: str
    started_at: int = _ms()
    lease_until: int = _ms()
    leaving: bool = False
    url: str | None = Field(default=None, description="Where other nodes reach it over HTTP")


class Online(Base, table=True):
    """A user with a connection on a node. Holds while the node's lease does."""

    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    node: str = Field(primary_key=True)
    user_id: int = _key(primary_key=True)


class Place(Base, table=True):
    """The chat room that a user of that dialect is in, connected or not."""

    user_id: int = _key(foreign_key="user.id", primary_key=True)
    room_id: int = _key(foreign_key="room.id", index=True)
    brought_in: bool = Field(description="Whether entering made the user a member: entering another room ends that")


class LoginAttempt(Base, table=True):
    """Attempts to log in or to register, on all nodes, within a time window."""

    __tablename__: ClassVar[Any] = "login_attempt"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    key: str = Field(primary_key=True)
    began_at: int = _ms(primary_key=True, description="The start of the window")
    count: int = _ms()


class LinkPreview(Base, table=True):
    """The summary of a web page, until it is fetched again. Without a title: it has none, or cannot be read."""

    __tablename__: ClassVar[Any] = "link_preview"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)

    url_hash: str = Field(primary_key=True, description="SHA-256 of the URL, which may be a secret of its room")
    expires_at: int = _ms(index=True)
    title: str | None = None
    description: str | None = None
    site_name: str | None = None


class SearchDocument(Base, table=True):
    """An indexed message; ids are in the order of indexing.

    Its words are in `search_words` (see below), unless the message was deleted.
    """

    __tablename__: ClassVar[Any] = "search_document"
    __table_args__: ClassVar[Any] = (Index("uq_search_document_room_seq", "room_id", "seq", unique=True),)

    id: int | None = _key(default=None, primary_key=True)
    room_id: int = _key(foreign_key="room.id")
    seq: int = _ms()


def _table(model: type[Base]) -> Table:
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table


names = _table(Name)
users = _table(User)
blocks = _table(Block)
sessions = _table(Session)
audit = _table(Audit)
registration_links = _table(RegistrationLink)
devices = _table(Device)
rooms = _table(Room)
members = _table(Member)
bans = _table(Ban)
mutes = _table(Mute)
invitation_links = _table(InvitationLink)
entries = _table(Entry)
files = _table(File)
thread_followers = _table(ThreadFollower)
cursors = _table(Cursor)
read_markers = _table(ReadMarker)
echo_entries = _table(EchoEntry)
consumer_cursors = _table(ConsumerCursor)
reports = _table(Report)
webhooks = _table(Webhook)
push_subscriptions = _table(PushSubscription)
push_deliveries = _table(PushDelivery)
instances = _table(Instance)
witnesses = _table(Witness)
epoch_heads = _table(EpochHead)
feed = _table(Feed)
node_leases = _table(NodeLease)
online = _table(Online)
places = _table(Place)
login_attempts = _table(LoginAttempt)
link_previews = _table(LinkPreview)
search_documents = _table(SearchDocument)

# Tables that differ between the databases, in addition to the models.
# `search_words`: by the id of a document, its words, folded and separated by spaces (queries/words.py). FTS5's
# tokenizer "ascii" splits only at ASCII separators, so it splits no word. Nothing is ranked: no sizes are stored.
# `search_removed`: removals whose words FTS5 may still hold (see `tidings_db.queries.search.to_purge`).
_DDL_BY_DIALECT = {
    "sqlite": (
        "CREATE VIRTUAL TABLE search_words USING fts5(words, tokenize='ascii', columnsize=0)",
        "INSERT INTO search_words (search_words, rank) VALUES ('automerge', 0)",  # see `queries.search.merge`
        "CREATE TABLE search_removed (id INTEGER PRIMARY KEY)",
    ),
    "postgresql": (
        "CREATE TABLE search_words (id BIGINT CONSTRAINT pk_search_words PRIMARY KEY, words TSVECTOR NOT NULL)",
        "CREATE INDEX ix_search_words_words ON search_words USING gin (words) WITH (gin_pending_list_limit = 256)",
    ),
}
_ddl: Any = DDL


@event.listens_for(entries, "before_create")
def _complete_index(table: Table, connection: Connection, **_: Any) -> None:
    """Here and not in the class: the name of an option of PostgreSQL imports all of its dialect, on SQLite too."""
    if connection.dialect.name == "postgresql":
        for index in table.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]


for _dialect, _statements in _DDL_BY_DIALECT.items():
    for _statement in _statements:
        event.listen(metadata, "after_create", _ddl(_statement).execute_if(dialect=_dialect))
event.listen(_table(Outbox), "after_create", lambda _, conn, **__: outbox_functions.create(conn))
event.listen(_table(Outbox), "after_drop", lambda _, conn, **__: outbox_functions.drop(conn))
event.listen(metadata, "before_drop", _ddl("DROP TABLE search_words"))
event.listen(metadata, "before_drop", _ddl("DROP TABLE search_removed").execute_if(dialect="sqlite"))


def in_models(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Whether an object belongs to the models, for Alembic's comparison with a database."""
    return not (kind == "table" and name is not None and name.startswith(("search_words", "search_removed")))
