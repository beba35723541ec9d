"""Commands for scripts: one REST request each."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console, RenderableType

from tidings.contract.models import ConnectedRoom, History, Message, Room, View
from tidings_chat import render
from tidings_chat.account import Account
from tidings_chat.arguments import find_message
from tidings_chat.errors import InvalidCommand, unusable
from tidings_chat.i18n import t
from tidings_chat.rooms import all_rooms, title
from tidings_client import NotFound, Refused, TidingsError, UnsentFile
from tidings_client.files import Transfers

UNKNOWN: Final = ("not_found", "invalid")
"""The answers to a room or user that does not exist, or to a name that is not valid."""

_RETRY_AFTER: Final = 0.5


async def send(
    account: Account,
    room: str,
    content: str,
    *,
    client_id: str | None,
    timeout: float,
    reply_to: str | None = None,
    files: Sequence[Path] = (),
) -> Message:
    """Send a message and wait for the acknowledgement, retrying with the same `client_id` for `timeout` seconds.

    Raises `InvalidCommand` if there is no such file.
    """
    payload: dict[str, Any] = {"content": content, "client_id": client_id or str(uuid.uuid4())}
    uploads = [_unsent_file(path) for path in files]
    if reply_to is not None:
        payload["reply_to"] = reply_to
    deadline = time.monotonic() + timeout
    while True:
        try:
            if files:
                await _upload(account, uploads, files)
                payload["files"] = [{"id": file.upload_id} for file in uploads]
            return Message.model_validate(await _ask_in_room(account, room, "message", payload), extra="ignore")
        except TidingsError as error:
            wait = error.retry_after or _RETRY_AFTER
            if not error.retryable or time.monotonic() + wait > deadline:
                raise
            await asyncio.sleep(wait)


def _unsent_file(path: Path) -> UnsentFile:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise unusable(path, error) from None
    if not size:
        raise InvalidCommand(t("{file} is empty", file=path))
    return UnsentFile("", path.name, size)


async def _upload(account: Account, uploads: list[UnsentFile], paths: Sequence[Path]) -> None:
    """Upload what the server does not have yet; each file of `uploads` gets its upload."""
    for at, path in enumerate(paths):

        async def moved(file: UnsentFile, _: int, at: int = at) -> None:
            uploads[at] = file

        await Transfers(account.server, account.token).upload(account.ask, uploads[at], path, moved)


async def history(account: Account, room: str, **page: int) -> list[Message]:
    data = await _ask_in_room(account, room, "history", page)
    return History.model_validate(data, extra="ignore").messages


async def rooms(account: Account, *, everything: bool) -> list[Room]:
    """The user's rooms; or, with `everything`, all rooms that the user may see."""
    return await all_rooms(account.ask, **({} if everything else {"member": True}))


async def create(account: Account, topic: str, *, private: bool) -> Room:
    data = await account.ask("create", {"topic_name": topic, "is_private": private})
    return Room.model_validate(data, extra="ignore")


async def join(account: Account, topic: str) -> Room:
    data = await account.ask("connect_to_room", {"topic_name": topic})
    return ConnectedRoom.model_validate(data, extra="ignore").room


async def _ask_in_room(account: Account, room: str, action: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Request an action on a room given as a topic or a username, which share a namespace, or as a room_id."""
    try:
        return await account.ask(action, {"topic_name": room, **payload})
    except NotFound as error:
        try:
            return await account.ask(action, {"room_id": room, **payload})
        except Refused as error_by_id:
            raise (error if error_by_id.code in UNKNOWN else error_by_id) from None


class ScriptContext:
    """Implements `registry.CommandContext` over REST, for the room on the command line."""

    def __init__(self, account: Account, device: str, room: str, *, as_json: bool) -> None:
        self.account = account
        self.device = device
        self._room = room
        self._as_json = as_json
        self._titles: dict[str, str] = {}

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        data = await self.account.ask(action, payload)
        if action in ("search", "get_pending"):  # their answers name rooms by id only
            self._titles = {room.room_id: title(room) for room in await rooms(self.account, everything=False)}
        return data

    async def ask_in_room(self, action: str, **payload: Any) -> dict[str, Any]:
        return await _ask_in_room(self.account, self._room, action, payload)

    async def message(self, reference: str, *, own: bool = False) -> Message:
        async def last() -> Message | None:
            page = await history(self.account, self._room, limit=200)
            sender = self.account.username if own else None
            remaining = (m for m in reversed(page) if not m.deleted and sender in (None, m.sender))
            return next(remaining, None)

        async def at(seq: int) -> Message | None:
            page = await history(self.account, self._room, before=seq + 1, limit=1)
            return page[0] if page and page[0].seq == seq else None

        return await find_message(reference, last=last, at=at)

    async def download(self, file_id: str, target: Path) -> Path:
        return await Transfers(self.account.server, self.account.token).download(self.account.ask, file_id, target)

    def show(self, *renderables: RenderableType, views: Iterable[View] = ()) -> None:
        if self._as_json:
            for view in views:
                print(render.as_json(view))
        else:
            Console(highlight=False).print(*renderables, sep="\n", end="\n" if renderables else "")

    async def read_secret(self, prompt: str) -> str:
        if not sys.stdin.isatty():
            raise InvalidCommand(t("a password can only be typed in a terminal, not piped"))
        return await asyncio.to_thread(getpass.getpass, f"{prompt}: ")

    async def entered(self, room: Room) -> None:
        pass

    def title_of(self, room_id: str) -> str:
        return self._titles.get(room_id, "?")


def print_rooms(room_list: list[Room], *, as_json: bool) -> None:
    if as_json:
        for room in room_list:
            print(render.as_json(room))
    else:
        Console(highlight=False).print(render.rooms(room_list))


def print_messages(messages: list[Message], room: str, *, as_json: bool) -> None:
    for message in messages:
        where = f"@{room}" if message.topic_name is None else f"#{message.topic_name}"
        print(render.as_json(message) if as_json else render.plain(message, where))
