"""Topics, conversations, and their members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection as Transaction

from tidings.actions.access import public_topic
from tidings.actions.context import Context
from tidings.actions.dispatch import action
from tidings.auth import names
from tidings.auth.limits import Limit
from tidings.contract import actions
from tidings.contract.actions import (
    MAX_GROUP,
    MAX_PAGE_BYTES,
    ConnectToRoom,
    Create,
    CreateConversation,
    CreateInvitationLink,
    GetInvitationLinks,
    GetMembers,
    GetReceipts,
    GetRooms,
    InvitationCode,
    Invite,
    RoomRef,
    Subscribe,
    Unsubscribe,
)
from tidings.contract.errors import ActionError, ErrorCode, invalid, not_found
from tidings.contract.models import (
    ConnectedRoom,
    Empty,
    InvitationLink,
    InvitationLinks,
    Member,
    Members,
    Posting,
    Receipt,
    Receipts,
    Role,
    Room,
    Rooms,
    TopicPreview,
    timestamp,
)
from tidings.contract.permissions import KeyScope, Permission
from tidings.log import views
from tidings.log.cursors import RECEIPT_MEMBERS
from tidings.log.memberships import CreateLink, DeleteLink, Join, JoinByLink, Leave
from tidings.log.preferences import Prefer
from tidings.log.rooms import (
    ChangePicture,
    ChangePosting,
    ChangePurpose,
    ChangeTitle,
    CreateGroup,
    CreateTopic,
    OpenDirect,
)
from tidings_db.queries import blocks, members, progress, rooms, users
from tidings_db.queries.members import LinkRow
from tidings_db.queries.rooms import Snapshot
from tidings_db.queries.rows import RoomRow, UserRow, entry_bytes, first_of

_TOO_MANY_ROOMS = "you are in the maximum number of rooms"


async def _view(ctx: Context, snapshot: Snapshot) -> Room:
    (view,) = await _views(ctx, [snapshot])
    return view


async def _views(ctx: Context, snapshots: Sequence[Snapshot]) -> list[Room]:
    """Rooms as the caller sees them."""
    caller_key = ctx.principal.user_key
    await ctx.hub.member_events.wait_until_sent(snapshot.room for snapshot in snapshots)
    await ctx.hub.count_online([snapshot.room for snapshot in snapshots])
    return [views.room(snapshot, caller_key, ctx.hub.online_seen(snapshot, caller_key)) for snapshot in snapshots]


@action(
    "create",
    scope=KeyScope.ROOMS,
    http="POST /api/topics",
    status=201,
    limit=Limit.ROOMS,
    errors={
        ErrorCode.CONFLICT: "the name is taken by a topic (perhaps one that you may not see) or a user",
        ErrorCode.TOO_LARGE: f"you own the maximum number of topics; {_TOO_MANY_ROOMS}",
    },
)
async def create(ctx: Context, req: Create) -> Room:
    """Create a public or private topic; the caller becomes its owner."""
    name = names.topic_name(req.topic_name)
    key = names.name_key(name)
    purpose = _purpose(req.purpose)
    ctx.check_conflicts()
    try:
        topic = CreateTopic(ctx.principal, None, name, key, req.is_private, req.posting, purpose)
        return await _view(ctx, await ctx.journal.write(topic))
    except ActionError as error:
        caller_key = ctx.principal.user_key
        if error.code is ErrorCode.CONFLICT and await ctx.db.read(
            lambda conn: rooms.is_hidden(conn, key, caller_key)
        ):
            ctx.count_conflict()
        raise


def _purpose(raw: str | None) -> str | None:
    return None if raw is None else names.title(raw, "purpose")


@action(
    "preview_topic",
    scope=KeyScope.READ,
    http="GET /api/topic-preview",
    anonymous=True,
    personal=True,
    errors={
        ErrorCode.UNAUTHENTICATED: "you sent no token, and not everybody may register",
        ErrorCode.NOT_FOUND: "no such topic, or a private one",
    },
)
async def preview_topic(ctx: Context, req: actions.PreviewTopic) -> TopicPreview:
    """Get what a public topic is about, before subscribing. No token is needed where registration is open."""
    caller_key = None
    if ctx.caller is None and await ctx.auth.registration.mode() == "open":
        ctx.count_anonymous()
    else:
        caller_key = ctx.principal.user_key
        ctx.count(Limit.READS)
    room, is_member = await ctx.db.read(
        lambda conn: public_topic(conn, caller_key, room_id=req.room_id, topic_name=req.topic_name)
    )
    return TopicPreview(
        room_id=room.room_id,
        topic_name=room.topic_name or "",
        purpose=room.purpose,
        members=room.members,
        is_member=is_member,
    )


@action(
    "subscribe",
    scope=KeyScope.ROOMS,
    aliases=("suscribe",),
    http="POST /api/subscriptions",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.FORBIDDEN: "banned from the topic",
        ErrorCode.NOT_FOUND: "no such topic, or a private one that you are not in",
        ErrorCode.CONFLICT: "already a member",
        ErrorCode.TOO_LARGE: _TOO_MANY_ROOMS,
    },
)
async def subscribe(ctx: Context, req: Subscribe) -> Room:
    """Become a member of a public topic."""
    key = await ctx.access.room_key(topic_name=req.topic_name)
    return await _view(ctx, await ctx.journal.write(_join(ctx, key)))


def _join(ctx: Context, room_key: int) -> Join:
    caller = ctx.principal
    return Join(caller, room_key, caller.user_key, caller.username, Permission.JOIN)


@action(
    "unsubscribe",
    scope=KeyScope.ROOMS,
    http="DELETE /api/subscriptions",
    limit=Limit.JOINS,
    errors={ErrorCode.FORBIDDEN: "you are not a member of the public topic; the room is a direct conversation"},
)
async def unsubscribe(ctx: Context, req: Unsubscribe) -> Empty:
    """Leave a topic or a group. The longest-standing moderator, or else member, replaces an owner who leaves."""
    await ctx.journal.write(Leave(ctx.principal, await ctx.access.existing(req)))
    return Empty()


@action(
    "invite",
    scope=KeyScope.ROOMS,
    http="POST /api/invitations",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: "no such user; no such room, or a private one that you are not in",
        ErrorCode.FORBIDDEN: "you are not a member of the public topic; the room is a direct conversation; the user"
        " is banned, or has blocked you",
        ErrorCode.CONFLICT: "the user is already a member",
        ErrorCode.TOO_LARGE: f"the group has {MAX_GROUP} members; the user is in the maximum number of rooms",
    },
)
async def invite(ctx: Context, req: Invite) -> Room:
    """Add another user to a topic or a group that the caller is in. The user becomes a member immediately."""
    # The user first, so that the error does not show whether the room exists.
    user = await ctx.parts.auth.user(req.username)
    key = await ctx.access.room_key(room_id=req.room_id, topic_name=req.topic_name)
    ctx.count_invites([user.key])
    await ctx.journal.write(Join(ctx.principal, key, user.key, user.username, Permission.INVITE))
    caller_key = ctx.principal.user_key
    return await _view(ctx, await ctx.db.read(lambda conn: rooms.snapshot(conn, caller_key, key)))


async def _refuse_if_blocked(ctx: Context, invited: Iterable[UserRow]) -> None:
    caller_key = ctx.principal.user_key
    blockers = await ctx.db.read(lambda conn: blocks.blockers_of(conn, caller_key))
    for user in invited:
        if user.key in blockers:
            raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} does not accept invitations from you")


@action(
    "create_conversation",
    scope=KeyScope.ROOMS,
    http="POST /api/conversations",
    limit=Limit.JOINS,
    status=201,
    errors={
        ErrorCode.NOT_FOUND: "no such user",
        ErrorCode.INVALID: "you named only yourself; a direct conversation has no purpose, and no moderators who"
        " could post",
        ErrorCode.FORBIDDEN: "one of the users has blocked you",
        ErrorCode.TOO_LARGE: "you own the maximum number of groups; one of the members is in the maximum number of"
        " rooms",
    },
)
async def create_conversation(ctx: Context, req: CreateConversation) -> Room:
    """Create a conversation. With one other user and no title it is direct, and there is one per pair of users."""
    caller = ctx.principal
    keys_by_name = {name: names.try_username_key(name.strip()) for name in req.usernames}
    user_rows = await ctx.db.read(
        lambda conn: users.by_keys(conn, [key for key in keys_by_name.values() if key is not None])
    )
    for name, username_key in keys_by_name.items():
        if username_key not in user_rows:
            raise ActionError(ErrorCode.NOT_FOUND, "no such user", username=name[:64])
    title, purpose = None if req.title is None else names.title(req.title), _purpose(req.purpose)
    invited = [user for user in user_rows.values() if user.key != caller.user_key]
    if not invited:
        raise invalid("usernames", "name at least one other user")
    if len(invited) == 1 and title is None:
        if req.posting is not Posting.MEMBERS:
            raise invalid("posting", "a direct conversation has no moderators")
        if purpose is not None:
            raise invalid("purpose", "a direct conversation has none")
        if (await ctx.access.find(RoomRef(username=invited[0].username))).room_key is None:
            ctx.count(Limit.ROOMS)
        key = await ctx.journal.write(OpenDirect(caller, None, invited[0].key))
        return await _view(ctx, await ctx.db.read(lambda conn: rooms.snapshot(conn, caller.user_key, key)))
    await _refuse_if_blocked(ctx, invited)
    ctx.count(Limit.ROOMS)
    ctx.count_invites(user.key for user in invited)
    keys = tuple(sorted(user.key for user in invited))
    group = CreateGroup(caller, None, keys, title, req.posting, purpose)
    return await _view(ctx, await ctx.journal.write(group))


@action(
    "set_title",
    scope=KeyScope.ROOMS,
    http="PUT /api/title",
    limit=Limit.SENDS,
    errors={ErrorCode.FORBIDDEN: "the room is not a group; you do not moderate it"},
)
async def set_title(ctx: Context, req: actions.SetTitle) -> Room:
    """Change the title of a group."""
    title = names.title(req.title)
    return await _view(
        ctx, await ctx.journal.write(ChangeTitle(ctx.principal, await ctx.access.existing(req), title))
    )


@action(
    "set_purpose",
    scope=KeyScope.ROOMS,
    http="PUT /api/purpose",
    limit=Limit.SENDS,
    errors={ErrorCode.FORBIDDEN: "you do not moderate the room; it is a direct conversation"},
)
async def set_purpose(ctx: Context, req: actions.SetPurpose) -> Room:
    """Say what a topic or group is for."""
    change = ChangePurpose(ctx.principal, await ctx.access.existing(req), _purpose(req.purpose))
    return await _view(ctx, await ctx.journal.write(change))


@action(
    "set_picture",
    scope=KeyScope.ROOMS,
    http="PUT /api/picture",
    limit=Limit.SENDS,
    errors={ErrorCode.FORBIDDEN: "you do not moderate the room; it is a direct conversation"},
)
async def set_picture(ctx: Context, req: actions.SetPicture) -> Room:
    """Choose the picture of a topic or group."""
    change = ChangePicture(ctx.principal, await ctx.access.existing(req), req.picture)
    return await _view(ctx, await ctx.journal.write(change))


@action(
    "set_preferences",
    http="PUT /api/preferences",
    limit=Limit.READS,
    errors={ErrorCode.INVALID: "`notify` or `favourite` is null"},
)
async def set_preferences(ctx: Context, req: actions.SetPreferences) -> Room:
    """Change the caller's own preferences for a room, on every device; they end with the membership."""
    changed = req.model_dump(include=req.model_fields_set & {"notify", "quiet_for", "favourite", "section"})
    for name in ("notify", "favourite"):
        if name in changed and changed[name] is None:
            raise invalid(name, "it has no null; leave it out to keep it")
    if req.section is not None:
        changed["section"] = names.title(req.section, "section")
    return await _view(ctx, await ctx.journal.write(Prefer(ctx.principal, await ctx.access.existing(req), changed)))


@action(
    "set_posting",
    scope=KeyScope.ROOMS,
    http="PUT /api/posting",
    limit=Limit.SENDS,
    errors={ErrorCode.FORBIDDEN: "you do not own the room; it is a direct conversation"},
)
async def set_posting(ctx: Context, req: actions.SetPosting) -> Room:
    """Choose who may write to a room: its members, or only moderators and the owner."""
    change = ChangePosting(ctx.principal, await ctx.access.existing(req), req.posting)
    room_key = await ctx.journal.write(change)
    ctx.parts.authors.recheck()
    return await _view(ctx, room_key)


@action(
    "create_invitation_link",
    http="POST /api/invitation-links",
    limit=Limit.ROOMS,
    status=201,
    errors={
        ErrorCode.FORBIDDEN: "the room is a public topic or a direct conversation",
        ErrorCode.TOO_LARGE: "you have the maximum number of links to the room",
    },
)
async def create_invitation_link(ctx: Context, req: CreateInvitationLink) -> InvitationLink:
    """Create an invitation link: anyone with its code may join the private topic or group.

    The link is valid until it expires, is used up or deleted, or its creator is no longer a member.
    """
    key = await ctx.access.existing(req)
    expires_at = None if req.expires_in is None else ctx.now + req.expires_in * 1000
    return _link(await ctx.journal.write(CreateLink(ctx.principal, key, expires_at, req.uses)))


def _link(row: LinkRow) -> InvitationLink:
    return InvitationLink(
        code=row.code,
        room_id=row.room_id,
        username=row.username,
        created_at=timestamp(row.created_at),
        expires_at=None if row.expires_at is None else timestamp(row.expires_at),
        uses_left=row.uses_left,
    )


@action(
    "get_invitation_links",
    http="GET /api/invitation-links",
    limit=Limit.READS,
    errors={ErrorCode.FORBIDDEN: "the room is a public topic or a direct conversation"},
)
async def get_invitation_links(ctx: Context, req: GetInvitationLinks) -> InvitationLinks:
    """Get the valid links to a room. Moderators get all of them, other members their own."""
    caller_key = ctx.principal.user_key

    def load(conn: Transaction, room: RoomRow) -> list[LinkRow]:
        role = members.standing(conn, room.key, caller_key, ctx.now).role
        creator = None if role != Role.MEMBER else caller_key
        return members.links_into(conn, room.key, ctx.now, creator=creator, after=req.after, limit=req.limit + 1)

    rows = await ctx.access.room(req, Permission.INVITE_BY_LINK, load)
    page = rows[: req.limit]
    return InvitationLinks(links=[_link(row) for row in page], next=page[-1].code if len(rows) > req.limit else None)


_NO_SUCH_LINK = "no such link; it has expired or is used up; its creator is no longer a member"


@action(
    "join_by_link",
    http="POST /api/invitation-links/{code}",
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_LINK,
        ErrorCode.FORBIDDEN: "banned from the room",
        ErrorCode.CONFLICT: "already a member",
        ErrorCode.TOO_LARGE: f"the group has {MAX_GROUP} members; {_TOO_MANY_ROOMS}",
    },
)
async def join_by_link(ctx: Context, req: InvitationCode) -> Room:
    """Join a room with an invitation link."""
    link = await ctx.access.link(req.code)
    return await _view(ctx, await ctx.journal.write(JoinByLink(ctx.principal, link.room_key, req.code)))


@action(
    "delete_invitation_link",
    http="DELETE /api/invitation-links/{code}",
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: f"{_NO_SUCH_LINK}; or one of a room that you are not in",
        ErrorCode.FORBIDDEN: "another member's link, and you do not moderate the room",
    },
)
async def delete_invitation_link(ctx: Context, req: InvitationCode) -> Empty:
    """Delete an invitation link. Moderators may delete every link of the room, other members their own."""
    link = await ctx.access.link(req.code)
    await ctx.journal.write(DeleteLink(ctx.principal, link.room_key, req.code))
    return Empty()


@action(
    "get_rooms",
    scope=KeyScope.READ,
    http="GET /api/rooms",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "`after` names no room that you may see"},
)
async def get_rooms(ctx: Context, req: GetRooms) -> Rooms:
    """Get all rooms that the caller may see: their own, and public topics, in order of creation.

    A page with long last messages has fewer than `limit`; `next` tells whether there are more.
    """
    caller_key = ctx.principal.user_key

    def load(conn: Transaction) -> list[Snapshot]:
        after = None if req.after is None else rooms.find_visible(conn, caller_key, req.after)
        if req.after is not None and after is None:
            raise not_found()
        return rooms.visible(conn, caller_key, kind=req.kind, member=req.member, after=after, limit=req.limit + 1)

    snapshots = await ctx.db.read(load)
    page, more = first_of(snapshots, req.limit, MAX_PAGE_BYTES, _bytes)
    return Rooms.model_construct(rooms=await _views(ctx, page), next=page[-1].room.room_id if more else None)


def _bytes(snapshot: Snapshot) -> int:
    return 0 if snapshot.last_message is None else entry_bytes(snapshot.last_message)


@action(
    "connect_to_room",
    scope=KeyScope.ROOMS,
    http="POST /api/rooms/connect",
    limit=Limit.JOINS,
    errors={
        ErrorCode.FORBIDDEN: "banned from the topic; or `username` is another user's",
        ErrorCode.NOT_FOUND: "no such topic, or a private one that you are not in",
        ErrorCode.TOO_LARGE: _TOO_MANY_ROOMS,
    },
)
async def connect_to_room(ctx: Context, req: ConnectToRoom) -> ConnectedRoom:
    """Enter a topic, joining it if necessary; answers with the members who are online.

    The answer has up to 500 usernames, sorted. In a topic with more members than that, it covers 2,000 of those who
    are connected to the answering server, and 2,000 of the others. `get_members` has all members, in pages.
    """
    if req.username is not None and names.try_username_key(req.username) != names.username_key(
        ctx.principal.username
    ):
        raise ActionError(ErrorCode.FORBIDDEN, "username is not the caller's")
    key = await ctx.access.room_key(topic_name=req.topic_name)
    try:
        await ctx.journal.write(_join(ctx, key))
    except ActionError as error:
        if error.code is not ErrorCode.CONFLICT:  # already a member
            raise
    snapshot, usernames = await ctx.room_online(key)
    return ConnectedRoom(
        roomName=snapshot.room.topic_name or "", usernames=usernames, room=await _view(ctx, snapshot)
    )


@action("get_members", scope=KeyScope.READ, http="GET /api/members", limit=Limit.READS)
async def get_members(ctx: Context, req: GetMembers) -> Members:
    """Get the members of a room that the caller is in, sorted by username."""
    after = names.after(req.after)
    caller_key, now = ctx.principal.user_key, ctx.now
    room, standing, rows = await ctx.access.room(
        req,
        Permission.READ,
        lambda conn, room: (
            room,
            members.standing(conn, room.key, caller_key, now),
            members.list_members(conn, room.key, after, req.limit + 1),
        ),
    )
    await ctx.hub.member_events.wait_until_sent([room])
    page = rows[: req.limit]
    presence = await ctx.presence({member.user_key: member.last_seen for member in page})
    moderates = standing.role in (Role.MODERATOR, Role.OWNER)

    def muted_until(member: members.MemberRow) -> str | None:
        visible = moderates or member.user_key == caller_key
        until = member.muted_until if visible else None
        return None if until is None or until <= now else timestamp(until)

    return Members(
        members=[
            Member(
                role=Role(member.role),
                muted_until=muted_until(member),
                **ctx.shown(member, presence[member.user_key]),
            )
            for member in page
        ],
        next=page[-1].username if len(rows) > req.limit else None,
    )


@action("get_receipts", scope=KeyScope.READ, http="GET /api/receipts", limit=Limit.READS)
async def get_receipts(ctx: Context, req: GetReceipts) -> Receipts:
    """Get the cursors and read markers of the other members of a room that the caller is in.

    Later changes come as `receipt` events, in rooms of the same size.
    """
    caller_key = ctx.principal.user_key
    rows = await ctx.access.room(
        req,
        Permission.READ,
        lambda conn, room: (
            [] if room.members > RECEIPT_MEMBERS else progress.receipts_of_others(conn, room.key, caller_key)
        ),
    )
    return Receipts(receipts=[Receipt.model_validate(views.receipt(row)) for row in rows])
