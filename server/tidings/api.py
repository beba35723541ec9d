"""The server's own API, for code in the same process: `app.tidings`.

Each method is an action, taken by an account of the server itself that may do what a key with all scopes may.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy.engine import Connection as Transaction

from tidings.actions.access import is_member, room_id_of, room_ids_of
from tidings.actions.context import Context, Parts
from tidings.actions.dispatch import Dispatcher
from tidings.auth.principal import Principal
from tidings.contract.actions import SubjectInRoom
from tidings.contract.errors import ActionError, ErrorCode
from tidings.contract.models import Member, Message, Posting, Profile, Published, Room, UserToken

T = TypeVar("T")


class ServerApi:
    """The server's API for an application. It works on every node, while the node runs.

    A `room` is a `room_id`, or the name of a topic. `sender` is a username: the user as whom the server acts, with
    that user's rights; None: the server's own account, which needs no membership.

    All methods may raise `ActionError`, with a `code` of the contract.
    """

    def __init__(self, parts: Parts, dispatcher: Dispatcher) -> None:
        self._parts = parts
        self._dispatcher = dispatcher
        self._account: Principal | None = None

    async def publish(
        self,
        room: str,
        event: str,
        data: Any,
        *,
        client_id: str | None = None,
        transient: bool = False,
        sender: str | None = None,
    ) -> Published:
        """Publish an event to the members of a room; on return it is durable, unless it is `transient`.

        With a `client_id` it takes effect once, however often it is published.
        """
        payload = {"event": event, "data": data, "client_id": client_id, "transient": transient}
        return Published.model_validate(await self._in_room("publish", room, payload, sender))

    async def send(
        self,
        room: str,
        content: str,
        *,
        data: dict[str, Any] | None = None,
        client_id: str | None = None,
        reply_to: str | None = None,
        thread: str | None = None,
        sender: str | None = None,
    ) -> Message:
        """Send a message; on return it is durable. A `room` that names a user is the conversation with that user."""
        payload = {
            "content": content,
            "data": data,
            "client_id": client_id,
            "reply_to": reply_to,
            "thread": thread,
        }
        return Message.model_validate(await self._in_room("message", room, payload, sender))

    async def create_room(
        self,
        topic_name: str | None = None,
        *,
        is_private: bool = False,
        usernames: Sequence[str] = (),
        title: str | None = None,
        posting: Posting = Posting.MEMBERS,
        owner: str | None = None,
    ) -> Room:
        """Create a topic, or without a `topic_name` a group or direct conversation with these users."""
        if topic_name is not None:
            payload = {"topic_name": topic_name, "is_private": is_private, "posting": posting}
            room = Room.model_validate(await self._ask("create", payload, owner))
            for username in usernames:
                await self.add_member(room.room_id, username)
            return room
        payload = {"usernames": list(usernames), "title": title, "posting": posting}
        return Room.model_validate(await self._ask("create_conversation", payload, owner))

    async def delete_room(self, room: str) -> None:
        """Delete a topic or a group with its log."""
        await self._ask("delete_room", {"room_id": await self._room_id(room)})

    async def add_member(self, room: str, username: str) -> None:
        """Make a user a member; nothing changes if they are one."""
        await self._ask("add_member", {"room_id": await self._room_id(room), "username": username})

    async def remove_member(self, room: str, username: str) -> None:
        await self._ask("remove_member", {"room_id": await self._room_id(room), "username": username})

    async def is_member(self, room: str, username: str) -> bool:
        """Whether a user is a member of a room now. False if there is no such room or user.

        An application may pass on whatever a client has sent, of any type.
        """
        try:
            SubjectInRoom.model_validate({"topic_name": room, "username": username}, strict=True)
        except ValidationError:
            return False

        def find(conn: Transaction) -> bool:
            return is_member(conn, room, username)

        return await self._done(self._parts.db.read(find))

    async def rooms_of(self, username: str) -> list[str]:
        """The ids of the rooms of a user."""
        user = await self._done(self._parts.auth.user(username))
        return await self._done(self._parts.db.read(lambda conn: room_ids_of(conn, user.key)))

    async def members(self, room: str) -> list[Member]:
        """All members of a room, by username."""
        listed: list[Member] = []
        after: str | None = None
        while True:
            page = await self._in_room("get_members", room, {"after": after, "limit": 500})
            listed += map(Member.model_validate, page["members"])
            if (after := page["next"]) is None:
                return listed

    async def user(self, username: str, *, create: bool = False, display_name: str | None = None) -> Profile:
        """A user's profile. `create`: makes the user if there is none, and sets the display name if given."""
        if not create:
            return Profile.model_validate(await self._ask("get_profile", {"username": username}))
        payload = {"username": username} | ({} if display_name is None else {"display_name": display_name})
        return Profile.model_validate(await self._ask("put_user", payload))

    async def token(self, username: str, *, minutes: int | None = None) -> UserToken:
        """A token of a new session of a user, who exists."""
        return UserToken.model_validate(await self._ask("create_token", {"username": username, "minutes": minutes}))

    async def disconnect(self, username: str) -> None:
        """Withdraw all sessions of a user, and close their connections."""
        await self._ask("end_sessions", {"username": username})

    async def _in_room(
        self, action: str, room: str, payload: dict[str, Any], sender: str | None = None
    ) -> dict[str, Any]:
        room_id = await self._done(self._parts.db.read(lambda conn: room_id_of(conn, room)))
        # A name may also be that of a user, whose conversation the action finds.
        ref = {"topic_name": room} if room_id is None else {"room_id": room_id}
        return await self._ask(action, ref | payload, sender)

    async def _room_id(self, room: str) -> str:
        """The id of a room. Raises `not_found`."""
        room_id = await self._done(self._parts.db.read(lambda conn: room_id_of(conn, room)))
        if room_id is None:
            raise ActionError(ErrorCode.NOT_FOUND, "no such room")
        return room_id

    async def _ask(self, action: str, payload: dict[str, Any], sender: str | None = None) -> dict[str, Any]:
        context = Context(self._parts, await self._done(self._caller(sender)))
        answer = (await self._dispatcher.execute(action, payload, context, gateway="rest")).result()
        for callback in context.afterwards:
            callback()
        data: dict[str, Any] = answer
        return data

    async def _done(self, access: Awaitable[T]) -> T:
        """The result of an access to the database outside an action. Fails as an action does."""
        try:
            return await access
        except ActionError:
            raise
        except Exception as error:
            described = self._dispatcher.describe(error, "app.tidings")
            raise ActionError(described.code, described.message, **described.details) from error

    async def _caller(self, username: str | None) -> Principal:
        if self._account is None:
            self._account = await self._parts.auth.server()
        return self._account if username is None else await self._parts.auth.act(self._account, username)
