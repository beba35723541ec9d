"""The interface that actions use: the caller, the connection, and the parts of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy.engine import Connection as Transaction

from tidings.actions.access import Access, Directory
from tidings.actions.echo_channel import EchoChannel
from tidings.actions.stream_authors import StreamAuthors
from tidings.auth.callers import CallersDatabase
from tidings.auth.keys import missing_scope
from tidings.auth.limits import SEND_SIZE, Limit, Limits, Turns
from tidings.auth.principal import Principal
from tidings.auth.sessions import Auth
from tidings.auth.tokens import now_ms, unauthenticated
from tidings.contract.actions import Payload, RoomRef
from tidings.contract.errors import ActionError, CloseReason, ErrorCode, invalid, no_image, no_upload
from tidings.contract.models import Profile, timestamp
from tidings.contract.permissions import KeyScope
from tidings.fanout.connection import Connection
from tidings.fanout.hub import Hub
from tidings.files.uploads import Files
from tidings.log import views
from tidings.log.cursors import Cursors
from tidings.log.deletion import Deletions
from tidings.log.health import Health
from tidings.log.indexer import Indexer
from tidings.log.journal import Journal
from tidings.log.rooms import OpenDirect
from tidings.log.threads import NO_SUCH_MESSAGE
from tidings.monitoring.vitals import Vitals
from tidings.previews.service import Previews
from tidings.push.sending import PushSender
from tidings.webhooks.delivery import Deliverer
from tidings_db.engine import Database
from tidings_db.queries import blocks, files, keys, members, online, rooms, users
from tidings_db.queries.members import MemberRow
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import UserRow

MAX_ONLINE = 500
"""Usernames in a list of the members of a room who are online."""
MAX_CANDIDATES = 2_000
"""Members of a larger room who are looked at, on this node and on the others."""
ENTRY_BYTES = 256
"""Approximate bytes that an entry takes in addition to its content."""
_NOT_AUDITED = {"content", "data", "password", "new_password", "token"}

SEARCHES_AT_A_TIME, SEARCHES_WAITING = 2, 16
"""Searches that run at a time, half of what the database reads; and those of one user that may wait."""


class Seen(NamedTuple):
    """The presence of a user, as another one sees it."""

    online: bool
    last_seen: str | None
    """A timestamp of the wire."""
    hidden: bool
    """Whether the user has blocked the viewer."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one node that actions work with."""

    db: Database
    auth: Auth
    directory: Directory
    journal: Journal
    hub: Hub
    cursors: Cursors
    echo: EchoChannel
    indexer: Indexer
    webhooks: Deliverer
    push: PushSender
    previews: Previews
    health: Health
    authors: StreamAuthors
    deletions: Deletions
    files: Files
    vitals: Vitals
    node: str
    """The name of this process."""
    data_dir: Path
    limits: Limits | None = None
    """None: rates are not limited."""
    closed_directory: bool = False
    """Whether users find only those with whom they share a room."""
    searches: Turns = field(default_factory=lambda: Turns(SEARCHES_AT_A_TIME, SEARCHES_WAITING))


ANONYMOUS_READ = 20
"""The reads of a user that one read without a token counts as, for its address."""


@dataclass(slots=True)
class Context:
    """The context of one action."""

    parts: Parts
    caller: Principal | None
    connection: Connection | None = None
    address: str = ""
    agent: str | None = None
    """The client's `User-Agent`."""
    until_logout: bool = False
    """Whether a session that the action creates lasts until its user logs out."""
    traceparent: str = ""
    """The header of the HTTP request (W3C Trace Context)."""
    request_id: str = ""
    """The id of the HTTP request; empty for a live connection."""
    room: str | None = None
    """The reference of the room, if known; for the log."""
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """Called after the answer is written."""

    @property
    def principal(self) -> Principal:
        """The authenticated caller. Raises `unauthenticated` without one."""
        if self.caller is None:
            raise unauthenticated()
        return self.caller

    @property
    def access(self) -> Access:
        return Access(self.db, self.parts.directory, self.principal)

    @property
    def now(self) -> int:
        """ms since the epoch."""
        return now_ms()

    @property
    def db(self) -> CallersDatabase:
        return CallersDatabase(self.parts.db, self.caller, self._close_withdrawn)

    def _close_withdrawn(self) -> None:
        """Close the connection after the answer: its session was withdrawn, and this node did not know it."""
        if self.connection is not None:
            self.afterwards.append(partial(self.connection.link.close, CloseReason.TOKEN_REVOKED))

    @property
    def auth(self) -> Auth:
        return self.parts.auth

    @property
    def journal(self) -> Journal:
        return self.parts.journal

    @property
    def hub(self) -> Hub:
        return self.parts.hub

    async def check_key(self, action: str, scope: KeyScope | None, request: Payload) -> None:
        """Check the scope of a key, and write a request that changes rooms or users, or acts, to the audit log.

        Raises `forbidden`.
        """
        caller = self.principal
        if caller.scopes is not None:
            if scope is None:
                raise ActionError(ErrorCode.FORBIDDEN, f"{action} is for users, not for keys")
            if scope not in caller.scopes:
                raise missing_scope(scope)
            if scope not in (KeyScope.ROOMS, KeyScope.USERS):
                return
        await self.audit(action, request)

    async def audit(self, action: str, request: Payload) -> None:
        """Write a request to the audit log."""
        caller = self.principal
        fields = orjson.dumps(request.model_dump(mode="json", exclude=_NOT_AUDITED, exclude_unset=True)).decode()
        key_name, username = (
            (caller.username, None) if caller.key_name is None else (caller.key_name, caller.username)
        )
        await self.db.write(lambda conn: keys.add_audit(conn, self.now, key_name, username, action, fields))

    def check_admin(self) -> None:
        """Raises `forbidden` unless the caller is an administrator."""
        if not self.principal.admin:
            raise ActionError(ErrorCode.FORBIDDEN, "for administrators only")

    async def presence(self, users_seen: Mapping[int, int | None], *, to: int | None = None) -> dict[int, Seen]:
        """Presence of users. One who has blocked the viewer appears offline and never seen.

        Args:
            users_seen: user key -> when the user was last seen, in ms since the epoch.
            to: the viewer's user key; default: the caller.
        """
        online = self.hub.online_users.among(users_seen)
        hidden: set[int] = set()
        if to is None and self.caller is not None:
            to = self.caller.user_key
        if to is not None:
            hidden = await self.db.read(partial(blocks.blockers_of, user_key=to))
        return {
            key: Seen(
                key in online and key not in hidden,
                None if seen is None or key in online or key in hidden else timestamp(seen),
                key in hidden,
            )
            for key, seen in users_seen.items()
        }

    async def profile(self, username: str) -> Profile:
        """A user's profile, as the caller sees it. Raises `not_found`."""
        return (await self.profiles([await self.auth.user(username)]))[0]

    async def profiles(self, rows: Sequence[UserRow]) -> list[Profile]:
        """The profiles of users, as the caller sees them."""
        presence = await self.presence({user.key: user.last_seen for user in rows})
        return [
            Profile(created_at=timestamp(user.created_at), **self.shown(user, presence[user.key])) for user in rows
        ]

    def shown(self, user: UserRow | MemberRow, seen: Seen) -> dict[str, Any]:
        """A user's presence, names, status and do-not-disturb; the last two are None if the presence is hidden."""
        fields = views.profile(user, self.now) | {"online": seen.online, "last_seen": seen.last_seen}
        return fields | {"status": None, "do_not_disturb_until": None} if seen.hidden else fields

    async def change_profile(self, user_key: int, changes: Mapping[str, Any]) -> None:
        """Change columns of a user's profile, and publish it; `folded` to the user's own devices only."""

        def change(conn: Transaction) -> UserRow:
            if "picture" in changes and not files.set_picture(conn, changes["picture"], user_key):
                raise no_image()
            return users.set_profile(conn, user_key, changes)

        user = await self.db.write(change)
        own = {"folded": views.folded(user)} if "folded" in changes else {}
        self.hub.notify(user_key, "profile", views.profile(user, self.now) | own)
        if changes.keys() - own.keys():
            self.hub.presence.profile_changed(user_key)

    async def room_online(self, room_key: int) -> tuple[Snapshot, list[str]]:
        """A room as the caller sees it, and its members who are online, sorted.

        Of a room with more than `MAX_ONLINE` members, those among `MAX_CANDIDATES` connected to this node, and
        as many others.
        """
        caller_key = self.principal.user_key
        connected, nodes = self.hub.users_in(room_key)[:MAX_CANDIDATES], self.hub.online_users.nodes_elsewhere()

        def load(conn: Transaction) -> tuple[Snapshot, dict[int, str]]:
            snapshot = rooms.snapshot(conn, caller_key, room_key)
            among = None
            if snapshot.room.members > MAX_ONLINE:
                elsewhere = online.members_on(conn, room_key, nodes, MAX_CANDIDATES) if nodes else []
                among = list({*connected, *elsewhere})
            return snapshot, members.usernames(conn, room_key, MAX_ONLINE, among)

        snapshot, usernames = await self.db.read(load)
        presence = await self.presence(dict.fromkeys(usernames))
        return snapshot, [name for user_key, name in usernames.items() if presence[user_key][0]]

    def count(self, kind: Limit, weight: int = 1) -> None:
        """Count an action of the caller, unless it is a key. Raises `rate_limited`."""
        if self.parts.limits is not None and self.principal.scopes is None:
            connection = None if self.connection is None else self.connection.id
            self.parts.limits.take(kind, self.principal.user_key, connection, weight)

    def count_anonymous(self) -> None:
        """Count a read by an address, as many of a user. Raises `rate_limited`."""
        if self.parts.limits is not None:
            self.parts.limits.take(Limit.READS, self.auth.source(self.address), weight=ANONYMOUS_READ)

    def check_conflicts(self) -> None:
        """Raises `rate_limited` if the caller has tried too many names of topics that are hidden from them."""
        if self.parts.limits is not None:
            self.parts.limits.check(Limit.CONFLICTS, self.principal.user_key)

    def may_fetch(self) -> bool:
        """Whether the caller may have another page fetched for a preview; counts it."""
        try:
            self.count(Limit.PREVIEWS)
        except ActionError:
            return False
        return True

    def count_conflict(self) -> None:
        """Count an attempt to take the name of a hidden topic."""
        if self.parts.limits is not None:
            self.parts.limits.count(Limit.CONFLICTS, self.principal.user_key)

    def count_content(self, content: str, *, copies: int = 1, shown: int = 0) -> None:
        """Count the bytes that are stored for a content, and a long one as further sends. Raises `rate_limited`.

        Args:
            copies: how often the content is stored.
            shown: characters that the entry carries beside it. Each `SEND_SIZE` of both count as another send.
        """
        if self.parts.limits is None:
            return
        size = copies * len(content) + shown
        if size > SEND_SIZE:
            self.count(Limit.SENDS, size // SEND_SIZE)
        stored = len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
        self.count(Limit.VOLUME, copies * (stored + ENTRY_BYTES))

    def count_appended(self, text: str, length: int) -> None:
        """Count text that makes a message `length` characters long. Raises `rate_limited`."""
        if self.parts.limits is not None and text:
            self.count(Limit.VOLUME, len(text) if text.isascii() else len(text.encode("utf-8", "replace")))
            sends = length // SEND_SIZE - (length - len(text)) // SEND_SIZE
            if sends:
                self.count(Limit.SENDS, sends)

    async def room_to_write(self, ref: RoomRef, file_ids: Sequence[str] = (), **messages: str | None) -> int:
        """The key of the room that the caller writes to: the first entry to a user makes the direct conversation.

        Args:
            file_ids: of the entry; they must be uploads that the caller can send.
            messages: by field, those that must be in that room.

        Raises `invalid`, `not_found`, or as `OpenDirect`.
        """
        target = await self.access.find(ref)
        if target.room_key is not None:
            return target.room_key
        assert target.user_key is not None
        # Before the conversation is created, so that a refused message does not leave one behind.
        for field_name, message_id in messages.items():
            if message_id is not None:
                raise invalid(field_name, NO_SUCH_MESSAGE)
        sent = partial(files.sendable, user_key=self.principal.user_key, file_ids=file_ids)
        if file_ids and len(await self.db.read(sent)) < len(file_ids):
            raise no_upload()
        self.count(Limit.ROOMS)
        return await self.journal.write(OpenDirect(self.principal, None, target.user_key))

    def count_invites(self, invited: Iterable[int]) -> None:
        """Count that the caller adds other users to a room. Raises `rate_limited`."""
        if self.parts.limits is not None and self.principal.scopes is None:
            for user_key in invited:
                self.parts.limits.take(Limit.INVITES, (self.principal.user_key, user_key))

    def live(self) -> Connection:
        """The live connection, for an action that requires one."""
        assert self.connection is not None, "this action requires a live connection"
        return self.connection
