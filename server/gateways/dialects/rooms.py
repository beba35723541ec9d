"""The chat rooms: at the WebSocket's root, commands with a token in each, and one room at a time.

A room is a topic. Being connected to one is being a member with this connection open to it: whoever loses the
connection stays in the room, and gets what was said meanwhile when they are back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from server.auth import unauthenticated
from server.contract.errors import ActionError, CloseReason, Error, ErrorCode, invalid, not_found
from server.dispatch import Answer
from server.gateways.dialects.speaker import SpeakerGateway
from server.gateways.dialects.turns import TurnTaker
from server.gateways.live import json_object
from server.gateways.websocket import POLICY, UNAUTHENTICATED
from server.transport.websocket import WebSocketSession

PAGE: Final = 500
"""Rooms and members that are asked for at once."""
KNOWN: Final = 50_000
"""Users whose room is remembered."""
_COMMANDS: Final = ("get_rooms", "connect_to_room", "send_message")
_JOINED: Final = "joined"
_LEFT: Final = ("left", "kicked", "banned")


class Place(NamedTuple):
    """The room that a user is connected to."""

    room_id: str
    name: str
    brought_in: bool
    """They became a member by connecting, and so leave by connecting to another."""


class Places:
    """Where the users of this dialect are, also while they are away. It is known on this node, while it runs."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Place] = OrderedDict()

    def of(self, user_key: int) -> Place | None:
        return self._known.get(user_key)

    def put(self, user_key: int, place: Place) -> None:
        self.forget(user_key)
        self._known[user_key] = place
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def forget(self, user_key: int) -> None:
        self._known.pop(user_key, None)


class Rooms(TurnTaker):
    """One client. It says who it is in its first frame, and proves it in every command."""

    name = "rooms"

    def __init__(self, places: Places, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        super().__init__(gateway, session)
        self._places = places
        self._claimed: str | None = None
        self._token = ""
        self._entering: asyncio.Future[Error | None] | None = None
        self._doing = "error"
        """`type` of what is said of the frame that is dealt with."""
        self._place: Place | None = None
        self._called: set[str] = set()
        """By which names the client knows the room."""
        self._people: dict[str, bool] = {}
        """The room's members, and whether they are online."""

    # -- frames --------------------------------------------------------------------------------------------------

    def opened(self, query: Mapping[str, str]) -> None:
        self.begin()

    async def deal(self, data: str | bytes) -> None:
        self._doing = "error"
        frame = json_object(data)
        if self._claimed is None:
            self._doing = "username"
            username = frame.get("username")
            if not isinstance(username, str) or not username:
                raise invalid("username", "the first frame gives it, as a text")
            self._claimed = username
            return
        action = frame.get("action")
        if action in _COMMANDS:
            self._doing = str(action)
        token, args = frame.get("token"), frame.get("args", {})
        if not isinstance(token, str) or not token:
            raise unauthenticated("every command gives a token")
        await self._check(token)
        if not isinstance(action, str):
            raise invalid("action", "a text is wanted")
        if not isinstance(args, dict):
            raise invalid("args", "an object is wanted")
        match action:
            case "get_rooms":
                await self._get_rooms()
            case "connect_to_room":
                await self._connect_to_room(args)
            case "send_message":
                self._send_message(args, len(data))
            case _:
                raise ActionError(ErrorCode.UNKNOWN_ACTION, f"no such action; there are {', '.join(_COMMANDS)}")

    def failed(self, error: Error) -> None:
        doing = self._doing
        self.in_turn(lambda: self._say_error(doing, error))

    async def _check(self, token: str) -> None:
        """Raises `unauthenticated` and its kin, or `forbidden` if the token is not of whom the client said it is."""
        if self.connection is None:
            principal = await self.parts.auth.authenticate(token)
            if not await self._is_called(principal.username, self._claimed):
                raise ActionError(ErrorCode.FORBIDDEN, "the token is of another user")
            self._entering = asyncio.get_running_loop().create_future()
            self.sign_in(token)
            refused = await self._entering
            if refused is not None:
                raise ActionError(refused.code, refused.message, **refused.details)
            if self._place is not None:
                await self._resume(self._place)
        elif token != self._token:
            await self.do("authenticate", {"token": token})
        # The connection does not outlive the token that it was last shown.
        self._token = token

    async def _is_called(self, username: str, claimed: str | None) -> bool:
        """Whether that is a way to write the username."""
        try:
            return claimed == username or (await self.parts.auth.user(claimed or "")).username == username
        except ActionError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            return False

    # -- commands ------------------------------------------------------------------------------------------------

    async def _get_rooms(self) -> None:
        found: dict[str, int] = {}
        after: str | None = None
        while True:
            page = await self.do("get_rooms", {"kind": "topic", "after": after, "limit": PAGE})
            found.update((room["topic_name"], room["online"]) for room in page["rooms"])
            after = page["next"]
            if after is None:
                break
        self._say("get_rooms", {"rooms": found})

    async def _connect_to_room(self, args: Mapping[str, Any]) -> None:
        username, asked = args.get("username", self.username), args.get("roomName")
        if not isinstance(username, str):
            raise invalid("username", "a text is wanted")
        if not await self._is_called(self.username, username):
            raise ActionError(ErrorCode.FORBIDDEN, "one connects oneself, nobody else")
        if not isinstance(asked, str):
            raise invalid("roomName", "a text is wanted")
        brought_in = await self._subscribe(asked)
        connected = await self.do("connect_to_room", {"roomName": asked})
        name, room_id = connected["roomName"], connected["room"]["room_id"]
        before = self._places.of(self._user_key) or self._place  # another connection may have gone on
        if before is not None and before.room_id == room_id:
            brought_in = brought_in or before.brought_in
        else:
            await self._leave(before)
        if self._place is None or self._place.room_id != room_id:
            await self._settle(Place(room_id, name, brought_in))
        self._called = {name, asked}
        self._say("connect_to_room", {"roomName": name, "usernames": connected["usernames"]})

    async def _subscribe(self, name: str) -> bool:
        """Whether the user was no member before. If it is refused, `connect_to_room` will say why."""
        try:
            await self.do("subscribe", {"topic_name": name})
        except ActionError:
            return False
        return True

    async def _leave(self, place: Place | None) -> None:
        if self._place is not None:
            self.leave_room(self._place.room_id)
            self._lose(self._place)
        if place is not None and place.brought_in:
            try:
                await self.do("unsubscribe", {"room_id": place.room_id})
            except ActionError as error:
                if error.code not in (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN):  # not a member any more
                    raise

    async def _settle(self, place: Place) -> None:
        """Be in a room. What comes of it now follows what is said without another wait."""
        people = await self._members(place)
        self._places.put(self._user_key, place)
        self._place, self._called, self._people = place, {place.name}, people
        if not await self.enter(place.room_id):
            self._lose(place)
            raise not_found()

    async def _resume(self, place: Place) -> None:
        """The room in which the user was when they lost the connection."""
        try:
            self._people |= await self._members(place)
        except ActionError as error:
            if error.code not in (ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN):
                raise
            self._lose(place)  # they have been removed meanwhile

    async def _members(self, place: Place) -> dict[str, bool]:
        """Who is in the room, and online or not; of a large one, some."""
        page = await self.do("get_members", {"room_id": place.room_id, "limit": PAGE})
        return {member["username"]: member["online"] for member in page["members"]}

    def _lose(self, place: Place) -> None:
        """The user is not in the room any more."""
        self._place, self._called, self._people = None, set(), {}
        known = self._places.of(self._user_key)
        if known is not None and known.room_id == place.room_id:
            self._places.forget(self._user_key)

    @property
    def _user_key(self) -> int:
        assert self.connection is not None
        return self.connection.principal.user_key

    def _send_message(self, args: Mapping[str, Any], size: int) -> None:
        place = self._place
        if place is None:
            raise ActionError(ErrorCode.FORBIDDEN, "connect to a room first")
        named = args.get("roomName", place.name)
        if not isinstance(named, str):
            raise invalid("roomName", "a text is wanted")
        if named not in self._called:
            raise ActionError(ErrorCode.FORBIDDEN, f"you are connected to {place.name}")
        payload = {"room_id": place.room_id, "content": args.get("message")}
        if "clientId" in args:
            payload["client_id"] = args["clientId"]

        def answered(answer: Answer) -> None:
            if answer.error is not None:
                self._say_error("send_message", answer.error)
            else:
                self._say("send_message", {"roomName": place.name, "messageId": answer.data["id"]})

        self.ask("message", payload, size, answered)

    # -- out -----------------------------------------------------------------------------------------------------

    def _say(self, what: str, data: Mapping[str, Any]) -> None:
        self.say(_said(what, data))

    def _say_error(self, what: str, error: Error) -> None:
        self.say(_refusal(what, error))

    def hears(self) -> set[str]:
        self._place = self._places.of(self._user_key)
        if self._place is None:
            return set()
        self._called = {self._place.name}
        return {self._place.room_id}

    def arrived(self) -> None:
        """The first command waits until its user is counted where they are: see `entered`."""

    def entered(self) -> None:
        self._enter(None)

    def refused(self, error: Error) -> None:
        if self.signing_in or not self._enter(error):  # else it may try again
            code = UNAUTHENTICATED if error.code.http_status == 401 else POLICY
            self.leave(code, _refusal("error", error))

    def _enter(self, refused: Error | None) -> bool:
        if self._entering is None or self._entering.done():
            return False
        self._entering.set_result(refused)
        return True

    def told(self, event: str, payload: Any) -> object | None:
        match event:
            case "closing":
                reason = CloseReason(payload["reason"])
                closing = {"code": reason, "message": "the connection is closed", "reconnect": reason.reconnect}
                return _said("closing", closing, "error")
            case "presence":
                return self._moved(payload["username"], payload["online"])
        place = self._place
        if place is None or payload.get("room_id") != place.room_id:
            return None
        match event:
            case "message" if not payload["deleted"]:
                said = {
                    "roomName": place.name,
                    "username": payload["sender"],
                    "message": payload["content"],
                    "messageId": payload["id"],
                    "sentAt": payload["created_at"],
                }
                return _said("message", said)
            case "member" if payload["change"] == _JOINED:
                self._people.setdefault(payload["username"], False)
                return self._moved(payload["username"], True)
            case "member" if payload["change"] in _LEFT:
                moved = self._moved(payload["username"], False)
                self._people.pop(payload["username"], None)
                return moved
            case "room_removed":
                self._lose(place)
                return _said("user_left", {"roomName": place.name, "username": self.username})
        return None

    def _moved(self, username: str, here: bool) -> object | None:
        """What is said when a member of the room has come or gone."""
        if self._place is None or self._people.get(username, here) is here or username == self.username:
            return None
        self._people[username] = here
        return _said("user_joined" if here else "user_left", {"roomName": self._place.name, "username": username})


def _said(what: str, data: Mapping[str, Any], status: str = "ok") -> dict[str, Any]:
    return {"statusCode": status, "type": what, "data": data}


def _refusal(what: str, error: Error) -> dict[str, Any]:
    return _said(what, error.model_dump(mode="json"), "error")
