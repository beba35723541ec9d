"""Topics, conversations and who is in them."""

from __future__ import annotations

from sqlalchemy.engine import Connection as Transaction

from db.queries import rooms
from db.queries.rooms import Snapshot
from server import names
from server.context import Context
from server.contract.actions import (
    ConnectToRoom,
    Create,
    GetMembers,
    GetRooms,
    Invite,
    Subscribe,
    Unsubscribe,
)
from server.contract.errors import ActionError, ErrorCode, not_found
from server.contract.models import ConnectedRoom, Empty, Member, Members, Role, Room, Rooms, timestamp
from server.contract.permissions import Permission
from server.delivery import views
from server.delivery.operations import CreateTopic, Join, Leave
from server.dispatch import action
from server.limits import Limit


def _view(ctx: Context, snapshot: Snapshot) -> Room:
    return views.room(snapshot, ctx.principal.user_key, ctx.hub.online_in(snapshot.room.key))


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
        ErrorCode.NOT_FOUND: "no such topic, or a private one",
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
    found = await ctx.access.find(req)
    if found.room_key is None:
        raise not_found("conversation")
    await ctx.journal.write(Leave(ctx.principal, found.room_key))
    return Empty()


@action(
    "invite",
    http="POST /api/invitations",
    status=201,
    limit=Limit.JOINS,
    errors={
        ErrorCode.NOT_FOUND: "no such user; no such room, or a private one that you are not in",
        ErrorCode.FORBIDDEN: "the room is a public topic or a direct conversation; the invited is banned from it",
        ErrorCode.CONFLICT: "the invited is a member already",
    },
)
async def invite(ctx: Context, req: Invite) -> Room:
    """Make another user a member of a private topic or a group that the caller is in; at once."""
    user = await ctx.parts.auth.user(req.username)  # before the room: whether there is one is not told by this error
    key = await ctx.access.room_key(room_id=req.room_id, topic_name=req.topic_name)
    await ctx.journal.write(Join(ctx.principal, key, user.key, user.username, Permission.INVITE))
    me = ctx.principal.user_key
    return _view(ctx, await ctx.db.read(lambda conn: rooms.snapshot(conn, me, key)))


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
    errors={ErrorCode.NOT_FOUND: "no such topic, or a private one that you are not in"},
)
async def connect_to_room(ctx: Context, req: ConnectToRoom) -> ConnectedRoom:
    """Enter a topic, becoming a member if need be; answers with the members who are online."""
    key, me = await ctx.access.room_key(topic_name=req.topic_name), ctx.principal.user_key
    try:
        await ctx.journal.write(_join(ctx, key))
    except ActionError as error:
        if error.code is not ErrorCode.CONFLICT:  # a member already
            raise
    snapshot, members = await ctx.db.read(
        lambda conn: (rooms.snapshot(conn, me, key), rooms.member_usernames(conn, key))
    )
    online = await ctx.hub.online(members)
    return ConnectedRoom(
        roomName=snapshot.room.topic_name or "",
        usernames=sorted(members[user_key] for user_key in online),
        room=_view(ctx, snapshot),
    )


@action("get_members", http="GET /api/members", limit=Limit.READS)
async def get_members(ctx: Context, req: GetMembers) -> Members:
    """The members of a room that the caller is in, by username."""
    after = None if req.after is None else names.username(req.after)
    found = await ctx.access.room(
        req,
        Permission.READ,
        lambda conn, room: rooms.list_members(conn, room.key, after, req.limit + 1),
    )
    page = found[: req.limit]
    online = await ctx.hub.online([member.user_key for member in page])
    return Members(
        members=[
            Member(
                username=member.username,
                role=Role(member.role),
                online=member.user_key in online,
                last_seen=None if member.last_seen is None else timestamp(member.last_seen),
            )
            for member in page
        ],
        next=page[-1].username if len(found) > req.limit else None,
    )
