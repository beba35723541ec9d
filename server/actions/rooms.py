"""Topics, conversations and who is in them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Connection as Transaction

from db.queries import members, progress, rooms, users
from db.queries.rooms import Snapshot
from db.queries.rows import UserRow
from server import names
from server.context import Context
from server.contract import actions
from server.contract.actions import (
    MAX_GROUP,
    ConnectToRoom,
    Create,
    CreateConversation,
    CreateInvitationLink,
    GetMembers,
    GetReceipts,
    GetRooms,
    InvitationCode,
    Invite,
    Subscribe,
    Unsubscribe,
)
from server.contract.errors import ActionError, ErrorCode, invalid, not_found
from server.contract.models import (
    ConnectedRoom,
    Empty,
    InvitationLink,
    Member,
    Members,
    Receipt,
    Receipts,
    Role,
    Room,
    Rooms,
    timestamp,
)
from server.contract.permissions import Permission
from server.delivery import views
from server.delivery.cursors import RECEIPT_MEMBERS
from server.delivery.membership import (
    CreateGroup,
    CreateLink,
    CreateTopic,
    DeleteLink,
    Join,
    JoinByLink,
    Leave,
    OpenDirect,
    SetTitle,
)
from server.dispatch import action
from server.limits import Limit


def _view(ctx: Context, snapshot: Snapshot) -> Room:
    me = ctx.principal.user_key
    return views.room(snapshot, me, ctx.hub.online_seen(snapshot, me))


@action(
    "create",
    http="POST /api/topics",
    status=201,
    limit=Limit.JOINS,
    errors={ErrorCode.CONFLICT: "the name is taken, by a topic (also one you may not see) or a user"},
)
async def create(ctx: Context, req: Create) -> Room:
    """Make a topic, public or private; the caller is its owner."""
    name = names.topic_name(req.topic_name)
    key = names.name_key(name)
    return _view(ctx, await ctx.journal.write(CreateTopic(ctx.principal, None, name, key, req.is_private)))


@action(
    "subscribe",
    also=("suscribe",),
    http="POST /api/subscriptions",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.FORBIDDEN: "banned from the topic",
        ErrorCode.NOT_FOUND: "no such topic, or a private one that you are not in",
        ErrorCode.CONFLICT: "already a member",
    },
)
async def subscribe(ctx: Context, req: Subscribe) -> Room:
    """Become a member of a public topic."""
    key = await ctx.access.room_key(topic_name=req.topic_name)
    return _view(ctx, await ctx.journal.write(_join(ctx, key)))


def _join(ctx: Context, room_key: int) -> Join:
    me = ctx.principal
    return Join(me, room_key, me.user_key, me.username, Permission.JOIN)


@action(
    "unsubscribe",
    http="DELETE /api/subscriptions",
    limit=Limit.JOINS,
    errors={ErrorCode.FORBIDDEN: "not a member of the public topic; or a direct conversation"},
)
async def unsubscribe(ctx: Context, req: Unsubscribe) -> Empty:
    """Leave a topic or a group. An owner's place goes to the longest-standing moderator, else member."""
    await ctx.journal.write(Leave(ctx.principal, await ctx.access.existing(req)))
    return Empty()


@action(
    "invite",
    http="POST /api/invitations",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: "no such user; no such room, or a private one that you are not in",
        ErrorCode.FORBIDDEN: "a public topic or a direct conversation; the invited is banned, or has blocked you",
        ErrorCode.CONFLICT: "the invited is a member already",
        ErrorCode.TOO_LARGE: f"the group has {MAX_GROUP} members",
    },
)
async def invite(ctx: Context, req: Invite) -> Room:
    """Make another user a member of a private topic or a group that the caller is in; at once."""
    user = await ctx.parts.auth.user(req.username)  # before the room: whether there is one is not told by this error
    key = await ctx.access.room_key(room_id=req.room_id, topic_name=req.topic_name)
    await ctx.journal.write(Join(ctx.principal, key, user.key, user.username, Permission.INVITE))
    me = ctx.principal.user_key
    return _view(ctx, await ctx.db.read(lambda conn: rooms.snapshot(conn, me, key)))


async def _refuse_if_blocked(ctx: Context, invited: Iterable[UserRow]) -> None:
    me = ctx.principal.user_key
    blockers = await ctx.db.read(lambda conn: users.blockers_of(conn, me))
    for user in invited:
        if user.key in blockers:
            raise ActionError(ErrorCode.FORBIDDEN, f"{user.username} does not take invitations from you")


@action(
    "create_conversation",
    http="POST /api/conversations",
    limit=Limit.JOINS,
    status=201,
    errors={
        ErrorCode.NOT_FOUND: "no such user",
        ErrorCode.INVALID: "nobody but yourself",
        ErrorCode.FORBIDDEN: "one of them has blocked you",
    },
)
async def create_conversation(ctx: Context, req: CreateConversation) -> Room:
    """Begin a conversation. With one other and no title it is direct, of which there is one for each two users."""
    me = ctx.principal
    wanted = {name: names.try_username(name.strip()) for name in req.usernames}
    found = await ctx.db.read(
        lambda conn: users.by_usernames(conn, [name for name in wanted.values() if name is not None])
    )
    for raw, name in wanted.items():
        if name not in found:
            raise ActionError(ErrorCode.NOT_FOUND, "no such user", username=raw[:64])
    others = [user for user in found.values() if user.key != me.user_key]
    if not others:
        raise invalid("usernames", "nobody but yourself")
    if len(others) == 1 and req.title is None:
        key = await ctx.journal.write(OpenDirect(me, None, others[0].key))
        return _view(ctx, await ctx.db.read(lambda conn: rooms.snapshot(conn, me.user_key, key)))
    await _refuse_if_blocked(ctx, others)
    keys = tuple(sorted(user.key for user in others))
    return _view(ctx, await ctx.journal.write(CreateGroup(me, None, keys, req.title)))


@action(
    "set_title",
    http="PUT /api/title",
    limit=Limit.SENDS,
    errors={ErrorCode.FORBIDDEN: "not a group; or you do not moderate it"},
)
async def set_title(ctx: Context, req: actions.SetTitle) -> Room:
    """Give a group another title."""
    return _view(ctx, await ctx.journal.write(SetTitle(ctx.principal, await ctx.access.existing(req), req.title)))


@action(
    "create_invitation_link",
    http="POST /api/invitation-links",
    limit=Limit.JOINS,
    status=201,
    errors={ErrorCode.FORBIDDEN: "the room is a public topic or a direct conversation"},
)
async def create_invitation_link(ctx: Context, req: CreateInvitationLink) -> InvitationLink:
    """Make a code by which whoever has it may become a member of a private topic or a group."""
    key = await ctx.access.existing(req)
    expires_at = None if req.expires_in is None else ctx.now + req.expires_in * 1000
    code = await ctx.journal.write(CreateLink(ctx.principal, key, expires_at, req.uses))
    return InvitationLink(
        code=code,
        room_id=await ctx.access.room(req, Permission.READ, lambda _, room: room.room_id),
        expires_at=None if expires_at is None else timestamp(expires_at),
        uses_left=req.uses,
    )


_NO_SUCH_LINK = "no such link; it has expired or is used up"


@action(
    "join_by_link",
    http="POST /api/invitation-links/{code}",
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: _NO_SUCH_LINK,
        ErrorCode.FORBIDDEN: "banned from the room",
        ErrorCode.CONFLICT: "already a member",
        ErrorCode.TOO_LARGE: f"the group has {MAX_GROUP} members",
    },
)
async def join_by_link(ctx: Context, req: InvitationCode) -> Room:
    """Become a member by an invitation link."""
    link = await ctx.access.link(req.code)
    return _view(ctx, await ctx.journal.write(JoinByLink(ctx.principal, link.room_key, req.code)))


@action(
    "delete_invitation_link",
    http="DELETE /api/invitation-links/{code}",
    limit=Limit.JOINS,
    errors={ErrorCode.NOT_FOUND: f"{_NO_SUCH_LINK}; or one of a room that you are not in"},
)
async def delete_invitation_link(ctx: Context, req: InvitationCode) -> Empty:
    """Make an invitation link void; any member may who may invite."""
    link = await ctx.access.link(req.code)
    await ctx.journal.write(DeleteLink(ctx.principal, link.room_key, req.code))
    return Empty()


@action(
    "get_rooms",
    http="GET /api/rooms",
    limit=Limit.READS,
    errors={ErrorCode.NOT_FOUND: "`after` names no room that you may see"},
)
async def get_rooms(ctx: Context, req: GetRooms) -> Rooms:
    """All rooms that the caller may see: their own, and public topics. In the order in which they were made."""
    me = ctx.principal.user_key

    def load(conn: Transaction) -> list[Snapshot]:
        after = None if req.after is None else rooms.find_visible(conn, me, req.after)
        if req.after is not None and after is None:
            raise not_found()
        return rooms.visible(conn, me, kind=req.kind, member=req.member, after=after, limit=req.limit + 1)

    found = await ctx.db.read(load)
    page = found[: req.limit]
    return Rooms(
        rooms=[_view(ctx, snapshot) for snapshot in page],
        next=page[-1].room.room_id if len(found) > req.limit else None,
    )


@action(
    "connect_to_room",
    http="POST /api/rooms/connect",
    limit=Limit.JOINS,
    errors={
        ErrorCode.FORBIDDEN: "banned from the topic",
        ErrorCode.NOT_FOUND: "no such topic, or a private one that you are not in",
    },
)
async def connect_to_room(ctx: Context, req: ConnectToRoom) -> ConnectedRoom:
    """Enter a topic, becoming a member if need be; answers with the members who are online."""
    key, me = await ctx.access.room_key(topic_name=req.topic_name), ctx.principal.user_key
    try:
        await ctx.journal.write(_join(ctx, key))
    except ActionError as error:
        if error.code is not ErrorCode.CONFLICT:  # a member already
            raise
    snapshot, usernames = await ctx.db.read(
        lambda conn: (rooms.snapshot(conn, me, key), members.usernames(conn, key))
    )
    presence = await ctx.presence(dict.fromkeys(usernames))
    return ConnectedRoom(
        roomName=snapshot.room.topic_name or "",
        usernames=sorted(usernames[user_key] for user_key, (online, _) in presence.items() if online),
        room=_view(ctx, snapshot),
    )


@action("get_members", http="GET /api/members", limit=Limit.READS)
async def get_members(ctx: Context, req: GetMembers) -> Members:
    """The members of a room that the caller is in, by username."""
    after = None if req.after is None else names.username(req.after)
    found = await ctx.access.room(
        req,
        Permission.READ,
        lambda conn, room: members.list_members(conn, room.key, after, req.limit + 1),
    )
    page = found[: req.limit]
    presence = await ctx.presence({member.user_key: member.last_seen for member in page})
    return Members(
        members=[
            Member(
                username=member.username,
                role=Role(member.role),
                online=presence[member.user_key][0],
                last_seen=presence[member.user_key][1],
            )
            for member in page
        ],
        next=page[-1].username if len(found) > req.limit else None,
    )


@action("get_receipts", http="GET /api/receipts", limit=Limit.READS)
async def get_receipts(ctx: Context, req: GetReceipts) -> Receipts:
    """How far the other members of a room that the caller is in have received and read it.

    What moves afterwards comes as `receipt`, to rooms of the same size.
    """
    me = ctx.principal.user_key
    found = await ctx.access.room(
        req,
        Permission.READ,
        lambda conn, room: [] if room.members > RECEIPT_MEMBERS else progress.receipts_of_others(conn, room.key, me),
    )
    return Receipts(receipts=[Receipt.model_validate(views.receipt(row)) for row in found])
