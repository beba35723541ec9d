"""One interface to request actions over Socket.IO, the plain WebSocket, REST and the dialects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection

from tests.permissions.rights import DIRECT, Act
from tests.support.client import DEADLINE_S, REGISTRY, LiveClient
from tidings.contract.errors import ErrorCode


class Door:
    """A signed-in client of one gateway."""

    def __init__(self, name: str, live: LiveClient | None = None, http: httpx.AsyncClient | None = None) -> None:
        self.name = name
        self._live, self._http = live, http

    def has(self, act: Act, room: str) -> bool:
        """Whether the gateway offers the act."""
        definition = REGISTRY.get(act.action)
        assert definition is not None
        return definition.live if self._live is not None else definition.http is not None

    async def error(
        self, action: str, fields: dict[str, Any], topic_name: str | None = None
    ) -> dict[str, Any] | None:
        """Request an action; returns `code`, `message` and `details` of the error, or None.

        `topic_name`: that of the room, if it has one.
        """
        if self._live is not None:
            answer = await self._live.call(action, fields)
            return None if answer["ok"] else {name: answer["error"][name] for name in ("code", "message", "details")}
        assert self._http is not None
        answer = await request(self._http, action, fields)
        if answer.is_success:
            return None
        body = answer.json()
        return {"code": body["code"], "message": body["detail"], "details": body["details"]}


async def request(http: httpx.AsyncClient, action: str, fields: dict[str, Any]) -> httpx.Response:
    """Request an action over REST, by its route in the registry."""
    definition = REGISTRY.get(action)
    assert definition is not None
    assert definition.http is not None
    method, path = definition.http.split(" ", 1)
    for name in list(fields):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(fields[name]))
            fields = {other: value for other, value in fields.items() if other != name}
    if method in ("GET", "DELETE"):
        return await http.request(method, path, params=fields)
    return await http.request(method, path, json=fields)


class _Frames(Door):
    """A WebSocket of a dialect."""

    def __init__(self, name: str, socket: ClientConnection) -> None:
        super().__init__(name)
        self._socket = socket

    async def exchange(self, is_answer: Callable[[dict[str, Any]], bool], **frame: Any) -> dict[str, Any]:
        """Send a frame, and wait for its answer among pushed frames."""
        await self._socket.send(json.dumps(frame))
        while True:
            received: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), DEADLINE_S))
            if is_answer(received):
                return received


class ByTopics(_Frames):
    """Names rooms by their topic, a group by its id."""

    def has(self, act: Act, room: str) -> bool:
        return act.action in ("message", "invite", "subscribe") and room != DIRECT

    async def error(
        self, action: str, fields: dict[str, Any], topic_name: str | None = None
    ) -> dict[str, Any] | None:
        request_fields = {name: value for name, value in fields.items() if name not in ("room_id", "topic_name")}
        request_fields["topic_name"] = topic_name or fields["room_id"]
        answer = await self.exchange(lambda frame: "status" in frame, action=action, **request_fields)
        return None if answer["status"] == "ok" else {"code": answer["code"]}


class ByRooms(_Frames):
    def __init__(self, name: str, socket: ClientConnection, token: str) -> None:
        super().__init__(name, socket)
        self._token = token

    def has(self, act: Act, room: str) -> bool:
        return act.action == "connect_to_room"

    async def error(
        self, action: str, fields: dict[str, Any], topic_name: str | None = None
    ) -> dict[str, Any] | None:
        answer = await self.exchange(
            lambda frame: frame["type"] == action,
            token=self._token,
            action=action,
            args={"roomName": fields["topic_name"]},
        )
        return None if answer["statusCode"] == "ok" else {"code": answer["data"]["code"]}


class ByMessenger(Door):
    """The endpoints of the messenger, which report errors by the status."""

    def has(self, act: Act, room: str) -> bool:
        return act.action in ("message", "history", "edit", "delete")

    async def error(
        self, action: str, fields: dict[str, Any], topic_name: str | None = None
    ) -> dict[str, Any] | None:
        assert self._http is not None
        match action:
            case "message":
                body = {"ConversationId": fields["room_id"], "Message": fields["content"]}
                answer = await self._http.post("/message", json=body)
            case "history":
                answer = await self._http.get(f"/message/{fields['room_id']}")
            case "edit":
                body = {"MessageId": fields["message_id"], "Message": fields["content"]}
                answer = await self._http.put("/message", json=body)
            case _:
                answer = await self._http.delete(f"/message/{fields['message_id']}")
        assert answer.json().keys() == {"Message", "Data"}
        if answer.is_success:
            return None
        codes = (ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT)
        return {"code": next((code for code in codes if code.http_status == answer.status_code), answer.text)}
