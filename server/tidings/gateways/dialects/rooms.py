"""The chat-rooms protocol: a WebSocket at `/`, a token in every command, and one room at a time.

A room is a topic. A user who is connected to a room is a member with this connection open to it. A user who loses the
connection stays a member, and gets the missed messages at the next connect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from tidings.actions.context import Context
from tidings.actions.dispatch import Answer
from tidings.auth.limits import Limit
from tidings.auth.tokens import unauthenticated
from tidings.contract.actions import ConnectToRoom
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid, not_found
from tidings.contract.events import Closing, MemberChange, MemberChanged, Presence, RoomRemoved
from tidings.contract.models import Message, View
from tidings.fanout.connection import Connection
from tidings.gateways.client_session import Backend
from tidings.gateways.dialects.mounting import Dialects
from tidings.gateways.dialects.sequential import SequentialClient
from tidings.gateways.websocket_client import POLICY, UNAUTHENTICATED, json_object
from tidings.log.places import TakePlace
from tidings.supervision import Periodic
from tidings.transport.websocket_server import WebSocketSession
from tidings_db.engine import Database
from tidings_db.queries import places
from tidings_db.queries.places import PlaceRow

logger = logging.getLogger("tidings.places")

PAGE: Final = 500
"""Rooms or members per query."""
CHECK_S: Final = 0.5
"""The interval at which the clients of this node learn that their users have entered other rooms elsewhere."""
_COMMANDS: Final = ("get_rooms", "connect_to_room", "send_message")
ATTEMPTS: Final = 10
"""How often a client tries to enter a room while other connections of its user enter others."""
_NO_MEMBER: Final = (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN)
"""Refusals because the user is no longer a member."""
_LEFT: Final = (MemberChange.LEFT, MemberChange.KICKED, MemberChange.BANNED)


class PlaceCheck(Periodic):
    """Notices that a user has entered another room on another connection, of this node or another one."""

    def __init__(self, database: Database) -> None:
        super().__init__(CHECK_S, logger, "the check of places failed")
        self._db = database
        self.clients: set[RoomsClient] = set()
        """The signed-in clients on this node."""

    async def _round(self) -> None:
        in_rooms = [(client, place) for client in self.clients if (place := client.place) is not None]
        if in_rooms:
            user_keys = {client.user_key for client, _ in in_rooms}
            current = await self._db.read(partial(places.rooms_of, user_keys=user_keys))
            for client, place in in_rooms:
                if current.get(client.user_key) != place.room_id:
                    client.has_left(place)


def mount(dialects: Dialects) -> None:
    check = PlaceCheck(dialects.backend.parts.db)
    dialects.add_check(check)
    dialects.add_websocket("/", partial(RoomsClient, check))


class RoomsClient(SequentialClient):
    """One client. Its first frame has its username, and every command a token."""

    name = "rooms"

    def __init__(self, check: PlaceCheck, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._check_of_places = check
        self._claimed: str | None = None
        self._token = ""
        self._entering: asyncio.Future[Error | None] | None = None
        self._answer_type = "error"
        """`type` of the answer to the current frame."""
        self.place: PlaceRow | None = None
        """The room that this connection shows."""
        self._entering_room = False
        self._names: set[str] = set()
        """The names by which the client has referred to the room."""
        self._online: dict[str, bool] = {}
        """Members of the room -> whether they are online."""

    # -- frames --------------------------------------------------------------------------------------------------

    def opened(self, query: Mapping[str, str]) -> None:
        self.start_handling()

    async def handle(self, data: str | bytes) -> None:
        self._answer_type = "error"
        frame = json_object(data)
        if self._claimed is None:
            self._answer_type = "username"
            username = frame.get("username")
            if not isinstance(username, str) or not username:
                raise invalid("username", "the first frame must have it, as a text")
            self._claimed = username
            return
        action = frame.get("action")
        if action in _COMMANDS:
            self._answer_type = str(action)
        token, args = frame.get("token"), frame.get("args", {})
        if not isinstance(token, str) or not token:
            raise unauthenticated("every command must have a token")
        await self._check(token)
        if not isinstance(action, str):
            raise invalid("action", "must be a text")
        if not isinstance(args, dict):
            raise invalid("args", "must be an object")
        match action:
            case "get_rooms":
                await self._get_rooms()
            case "connect_to_room":
                await self._connect_to_room(args)
            case "send_message":
                self._send_message(args, len(data))
            case _:
                raise ActionError(ErrorCode.UNKNOWN_ACTION, f"no such action; the actions are {', '.join(_COMMANDS)}")

    def failed(self, error: Error) -> None:
        answer_type = self._answer_type
        self.after_answers(lambda: self._send_error(answer_type, error))

    async def _check(self, token: str) -> None:
        """Sign in with the token, or check it. Raises `forbidden` if it is not of the user named in the first frame.

        Also raises `unauthenticated`, `token_expired` or `token_revoked`.
        """
        if self.connection is None:
            principal = await self.parts.auth.authenticate(token)
            if not await self._is_spelling_of(principal.username, self._claimed):
                raise ActionError(ErrorCode.FORBIDDEN, "the token is of another user")
            self._entering = asyncio.get_running_loop().create_future()
            self.sign_in_by_token(token)
            error = await self._entering
            if error is not None:
                raise ActionError(error.code, error.message, **error.details)
            if self.place is not None:
                await self._resume(self.place)
        elif token != self._token:
            await self.run("authenticate", {"token": token})
        # The connection ends with the session of the last valid token.
        self._token = token

    async def _is_spelling_of(self, username: str, claimed: str | None) -> bool:
        """Whether `claimed` is a spelling of the username."""
        try:
            return claimed == username or (await self.parts.auth.user(claimed or "")).username == username
        except ActionError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            return False

    # -- commands ------------------------------------------------------------------------------------------------

    async def _get_rooms(self) -> None:
        online: dict[str, int] = {}
        after: str | None = None
        while True:
            page = await self.run("get_rooms", {"kind": "topic", "after": after, "limit": PAGE})
            online.update((room["topic_name"], room["online"]) for room in page["rooms"])
            after = page["next"]
            if after is None:
                break
        self._send_answer("get_rooms", {"rooms": online})

    async def _connect_to_room(self, args: Mapping[str, Any]) -> None:
        username, requested_name = args.get("username", self.username), args.get("roomName")
        if not isinstance(username, str):
            raise invalid("username", "must be a text")
        if not await self._is_spelling_of(self.username, username):
            raise ActionError(ErrorCode.FORBIDDEN, "you can only connect yourself")
        if not isinstance(requested_name, str):
            raise invalid("roomName", "must be a text")
        self._entering_room = True
        try:
            name, usernames = await self._enter(requested_name)
        finally:
            self._entering_room = False
        self._send_answer("connect_to_room", {"roomName": name, "usernames": usernames})
        if self.place is None:  # another connection of the user has entered another room meanwhile
            self.send(_frame("user_left", {"roomName": name, "username": self.username}))
        else:
            self._names = {name, requested_name}

    async def _enter(self, requested_name: str) -> tuple[str, list[str]]:
        """Connect the user to a room instead of the one before; returns its name, and the usernames in it.

        Another connection of the user may enter a room at the same time. The last one to take the place has it.
        """
        topic_name = ConnectToRoom.model_validate({"roomName": requested_name}).topic_name
        await self.answered()
        context = self.actions.context()
        context.count(Limit.JOINS)
        try:
            for _ in range(ATTEMPTS):
                entered = await self._try_to_enter(context, topic_name)
                if entered is not None:
                    return entered
        finally:
            for callback in context.afterwards:
                asyncio.get_running_loop().call_soon(callback)
        raise not_found()

    async def _try_to_enter(self, context: Context, topic_name: str) -> tuple[str, list[str]] | None:
        """`_enter`, or None: other connections of the user have changed the room meanwhile."""
        room_key = await context.access.room_key(topic_name=topic_name)
        former = await self._current_place()
        if former is None or former.room_key != room_key:
            former_key = None if former is None else former.room_key
            if not await self.parts.journal.write(TakePlace(context.principal, room_key, former_key)):
                return None
        room, usernames = await context.room_online(room_key)
        if room.role is None:
            return None
        await self.parts.hub.member_events.wait_until_sent([room.room])
        place = PlaceRow(room_key, room.room.room_id, room.room.topic_name or "", brought_in=False)
        if self.place is not None and self.place.room_key != room_key:
            self._leave_place(self.place)
        if self.place is None:
            await self._enter_place(place)
        return place.topic_name, usernames

    async def _current_place(self) -> PlaceRow | None:
        """The place that the user has taken last, on whichever node."""
        return await self.parts.db.read(partial(places.of, user_key=self.user_key))

    async def _enter_place(self, place: PlaceRow) -> None:
        """Show a room. Its events follow without a gap, because nothing is awaited after the entry.

        Not if another connection of the user has entered another room meanwhile.
        """
        try:
            online = await self._members(place)
            self.place, self._names, self._online = place, {place.topic_name}, online
            is_member = await self.enter_room(place.room_id)
        except ActionError as error:
            if error.code not in _NO_MEMBER:
                raise
            is_member = False
        if not is_member:
            self._forget_place()
            current = await self._current_place()
            if current is None or current.room_id == place.room_id:
                raise not_found()

    def _leave_place(self, place: PlaceRow) -> None:
        """Stop showing a room."""
        self.leave_room(place.room_id)
        self._forget_place()

    def has_left(self, place: PlaceRow) -> None:
        """The user has entered another room on another connection. Nothing if this client has done so, too."""
        if self.place is place and not self._entering_room:
            self._leave_place(place)
            self.send(_frame("user_left", {"roomName": place.topic_name, "username": self.username}))

    async def _resume(self, place: PlaceRow) -> None:
        """Load the members of the room that the user was in at the end of the last connection."""
        try:
            self._online |= await self._members(place)
        except ActionError as error:
            if error.code not in _NO_MEMBER:
                raise
            self._forget_place()  # removed meanwhile

    async def _members(self, place: PlaceRow) -> dict[str, bool]:
        """Members of the room -> whether they are online; of a large room, only the first page."""
        page = await self.run("get_members", {"room_id": place.room_id, "limit": PAGE})
        return {member["username"]: member["online"] for member in page["members"]}

    def _forget_place(self) -> None:
        """Forget the room, which the user is no longer in."""
        self.place, self._names, self._online = None, set(), {}

    @property
    def user_key(self) -> int:
        assert self.connection is not None
        return self.connection.principal.user_key

    def _send_message(self, args: Mapping[str, Any], size: int) -> None:
        place = self.place
        if place is None:
            raise ActionError(ErrorCode.FORBIDDEN, "connect to a room first")
        room_name = args.get("roomName", place.topic_name)
        if not isinstance(room_name, str):
            raise invalid("roomName", "must be a text")
        if room_name not in self._names:
            raise ActionError(ErrorCode.FORBIDDEN, f"you are connected to {place.topic_name}")
        payload = {"room_id": place.room_id, "content": args.get("message")}
        if "clientId" in args:
            payload["client_id"] = args["clientId"]

        def report(answer: Answer) -> None:
            if answer.error is not None:
                self._send_error("send_message", answer.error)
            else:
                self._send_answer("send_message", {"roomName": place.topic_name, "messageId": answer.data["id"]})

        self.actions.push("message", payload, size, report)

    # -- out -----------------------------------------------------------------------------------------------------

    def _send_answer(self, type_: str, data: Mapping[str, Any]) -> None:
        self.send(_frame(type_, data))

    def _send_error(self, type_: str, error: Error) -> None:
        self.send(_refusal(type_, error))

    async def prepare(self, connection: Connection) -> None:
        """Look up the room that the user is in."""
        self.place = await self.parts.db.read(partial(places.of, user_key=connection.principal.user_key))
        self._names = set() if self.place is None else {self.place.topic_name}

    def initial_rooms(self) -> set[str]:
        self._check_of_places.clients.add(self)
        return set() if self.place is None else {self.place.room_id}

    def ended(self) -> None:
        self._check_of_places.clients.discard(self)
        super().ended()

    def signed_in(self) -> None:
        """Sends nothing: the first command is answered after `entered`."""

    def entered(self) -> None:
        self._resolve_entry(None)

    def refused(self, error: Error) -> None:
        if self.signing_in or not self._resolve_entry(error):  # else the client may try again
            code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
            self.disconnect(code, _refusal("error", error))

    def _resolve_entry(self, error: Error | None) -> bool:
        """Resume the first command with the outcome of the sign-in; False if no command waits for it."""
        if self._entering is None or self._entering.done():
            return False
        self._entering.set_result(error)
        return True

    def translate(self, event: str, view: View) -> object | None:
        match view:
            case Closing():
                closing = {"code": view.reason, "message": "the connection is closed", "reconnect": view.reconnect}
                return _frame("closing", closing, "error")
            case Presence():
                return self._presence_frame(view.username, view.online)
        place = self.place
        if place is None or getattr(view, "room_id", None) != place.room_id:
            return None
        match view:
            case Message(deleted=False):
                data = {
                    "roomName": place.topic_name,
                    "username": view.sender,
                    "message": view.content,
                    "messageId": view.id,
                    "sentAt": view.created_at,
                }
                return _frame("message", data)
            case MemberChanged(change=MemberChange.JOINED):
                self._online.setdefault(view.username, False)
                return self._presence_frame(view.username, True)
            case MemberChanged() if view.change in _LEFT:
                frame = self._presence_frame(view.username, False)
                self._online.pop(view.username, None)
                return frame
            case RoomRemoved():
                self._forget_place()
                return _frame("user_left", {"roomName": place.topic_name, "username": self.username})
        return None

    def _presence_frame(self, username: str, present: bool) -> object | None:
        """The frame for a member of the room who went online or offline, joined or left; None without a change."""
        if self.place is None or self._online.get(username, present) is present or username == self.username:
            return None
        self._online[username] = present
        return _frame(
            "user_joined" if present else "user_left", {"roomName": self.place.topic_name, "username": username}
        )


def _frame(type_: str, data: Mapping[str, Any], status: str = "ok") -> dict[str, Any]:
    return {"statusCode": status, "type": type_, "data": data}


def _refusal(type_: str, error: Error) -> dict[str, Any]:
    return _frame(type_, error.model_dump(mode="json"), "error")
