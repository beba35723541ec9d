"""What scripts use for one question and one answer: REST."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, Final

from rich.console import Console

from client_demo import render
from client_demo.account import Account
from client_demo.errors import Offline, Refused
from client_demo.rooms import all_rooms
from server.contract.errors import ErrorCode
from server.contract.models import ConnectedRoom, History, Message, Room

UNKNOWN: Final = (ErrorCode.NOT_FOUND, ErrorCode.INVALID)
"""What the server answers when a name names nothing, or cannot be one."""

_AGAIN_AFTER: Final = 0.5


async def send(account: Account, room: str, content: str, *, client_id: str | None, timeout: float) -> Message:
    """Send, and wait for the acknowledgement. Tries again, with the same `client_id`, until the time is out."""
    payload = {"content": content, "client_id": client_id or str(uuid.uuid4())}
    until = time.monotonic() + timeout
    while True:
        try:
            return Message.model_validate(await _about(account, room, "message", payload), extra="ignore")
        except (Offline, Refused) as why:
            wait = _AGAIN_AFTER
            if isinstance(why, Refused):
                if not why.error.retryable:
                    raise
                wait = why.retry_after or wait
            if time.monotonic() + wait > until:
                raise
            await asyncio.sleep(wait)


async def history(account: Account, room: str, *, limit: int) -> list[Message]:
    data = await _about(account, room, "history", {"limit": limit})
    return History.model_validate(data, extra="ignore").messages


async def rooms(account: Account, *, everything: bool) -> list[Room]:
    return await all_rooms(account.ask, **({} if everything else {"member": True}))


async def create(account: Account, topic: str, *, private: bool) -> Room:
    data = await account.ask("create", {"topic_name": topic, "is_private": private})
    return Room.model_validate(data, extra="ignore")


async def join(account: Account, topic: str) -> Room:
    data = await account.ask("connect_to_room", {"topic_name": topic})
    return ConnectedRoom.model_validate(data, extra="ignore").room


async def invite(account: Account, room: str, username: str) -> Room:
    data = await _about(account, room, "invite", {"username": username})
    return Room.model_validate(data, extra="ignore")


async def _about(account: Account, room: str, action: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Ask about a room given as people give it: a topic or a username, which share one namespace; or a room_id."""
    try:
        return await account.ask(action, {"topic_name": room, **payload})
    except Refused as why:
        if why.code is not ErrorCode.NOT_FOUND:
            raise
        try:
            return await account.ask(action, {"room_id": room, **payload})
        except Refused as by_id:
            raise (why if by_id.code in UNKNOWN else by_id) from None


def print_rooms(found: list[Room], *, as_json: bool) -> None:
    if as_json:
        for room in found:
            print(render.as_json(room))
    else:
        Console(highlight=False).print(render.rooms(found))


def print_messages(found: list[Message], room: str, *, as_json: bool) -> None:
    for message in found:
        where = f"@{room}" if message.topic_name is None else f"#{message.topic_name}"
        print(render.as_json(message) if as_json else render.plain(message, where))
