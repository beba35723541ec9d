"""The commands of the interactive client. One function each; `/help` and completion are made from this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from client_demo import render
from client_demo.errors import ClientError, Refused
from client_demo.rooms import all_rooms, title
from server.contract.errors import ErrorCode
from server.contract.models import ConnectedRoom, History, Members, Profile, Room

if TYPE_CHECKING:
    from client_demo.chat import Chat, Current


class Mistake(ClientError):
    """What was typed cannot be done."""


Do = Callable[["Chat", str], Awaitable[None]]


@dataclass(frozen=True)
class Command:
    name: str
    arguments: str
    summary: str
    do: Do


_COMMANDS: Final[dict[str, Command]] = {}


def command(name: str, arguments: str, summary: str) -> Callable[[Do], Do]:
    def add(do: Do) -> Do:
        _COMMANDS[name] = Command(name, arguments, summary, do)
        return do

    return add


async def run(chat: Chat, line: str) -> None:
    """Run a line that begins with a slash. Raises `ClientError`."""
    name, _, rest = line.removeprefix("/").partition(" ")
    found = _COMMANDS.get(name.casefold())
    if found is None:
        raise Mistake(f"there is no /{name}; /help lists the commands")
    if found.arguments and not found.arguments.startswith("[") and not rest.strip():
        raise Mistake(f"/{found.name} {found.arguments}: {found.summary}")
    await found.do(chat, rest.strip())


def _current(chat: Chat) -> Current:
    if chat.current is None:
        raise Mistake("no room is open")
    return chat.current


@command("rooms", "[all]", "your rooms; or all that you may see")
async def rooms(chat: Chat, which: str) -> None:
    only: dict[str, Any] = {} if which == "all" else {"member": True}
    chat.screen.print(render.rooms(await all_rooms(chat.client.ask, **only)))


@command("join", "TOPIC", "enter a topic, becoming a member if need be")
async def join(chat: Chat, topic: str) -> None:
    topic = topic.removeprefix("#")
    with chat.entering(topic):
        data = await chat.client.ask("connect_to_room", {"topic_name": topic})
    entered = ConnectedRoom.model_validate(data, extra="ignore")
    chat.enter(entered.room)
    chat.screen.print(render.note(f"{title(entered.room)}: {', '.join(entered.usernames) or 'nobody'} online"))
    await _recent(chat, entered.room)


@command("create", "TOPIC [--private]", "make a topic; you are its owner")
async def create(chat: Chat, rest: str) -> None:
    words = rest.split()
    name = " ".join(word for word in words if word != "--private")
    with chat.entering(name):
        data = await chat.client.ask("create", {"topic_name": name, "is_private": "--private" in words})
    room = Room.model_validate(data, extra="ignore")
    chat.enter(room)
    how = "/invite others" if room.is_private else "anybody may join"
    chat.screen.print(render.note(f"{title(room)} is yours: {how}"))


@command("invite", "USER", "bring somebody into this private room")
async def invite(chat: Chat, username: str) -> None:
    current = _current(chat)
    if "username" in current.ref:
        raise Mistake("a conversation is between two; /create a private topic for more")
    await chat.client.ask("invite", {**current.ref, "username": username.removeprefix("@")})


@command("leave", "", "leave this room for good")
async def leave(chat: Chat, _: str) -> None:
    current = _current(chat)
    await chat.client.ask("unsubscribe", current.ref)
    chat.leave()
    chat.screen.print(render.note(f"you have left {current.title}"))


@command("open", "ROOM-or-USER", "go to a room of yours, or to a conversation")
async def open_room(chat: Chat, name: str) -> None:
    room = chat.client.rooms.find(name) or chat.client.rooms.find(name.lstrip("#@"))
    if room is not None:
        chat.enter(room)
        chat.screen.print(render.heading(title(room)))
        await _recent(chat, room)
        return
    try:
        profile = await chat.client.ask("get_profile", {"username": name.removeprefix("@")})
    except Refused as why:
        if why.code not in (ErrorCode.NOT_FOUND, ErrorCode.INVALID):
            raise
        raise Mistake(f"no room of yours and no user is called {name}; /join enters a topic") from None
    username = Profile.model_validate(profile, extra="ignore").username
    chat.enter_conversation(username)
    chat.screen.print(render.note(f"nothing said to {username} yet"))


async def _recent(chat: Chat, room: Room, limit: int = 20) -> None:
    data = await chat.client.ask("history", {"room_id": room.room_id, "limit": limit})
    page = History.model_validate(data, extra="ignore").messages
    chat.show_history(page)
    if page:
        chat.client.read(room.room_id, max(page[-1].seq, room.last_seq))


@command("msg", "USER TEXT", "send a direct message, and stay where you are")
async def msg(chat: Chat, rest: str) -> None:
    username, _, text = rest.partition(" ")
    if not text.strip():
        raise Mistake("/msg USER TEXT")
    chat.send({"username": username.removeprefix("@")}, text.strip())


@command("members", "", "who is in this room")
async def members(chat: Chat, _: str) -> None:
    data = await chat.client.ask("get_members", dict(_current(chat).ref))
    page = Members.model_validate(data, extra="ignore")
    chat.screen.print(render.members(page.members, chat.account.username))
    if page.next is not None:
        chat.screen.print(render.note("… and more"))


@command("history", "[N]", "the last N messages of this room (20)")
async def history(chat: Chat, count: str) -> None:
    if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 200):
        raise Mistake("/history N, with N from 1 to 200")
    data = await chat.client.ask("history", {**_current(chat).ref, "limit": int(count or 20)})
    chat.screen.print(render.heading(_current(chat).title))
    chat.show_history(History.model_validate(data, extra="ignore").messages)


@command("whoami", "", "who you are here")
async def whoami(chat: Chat, _: str) -> None:
    left = chat.account.expires_in / 3600
    chat.screen.print(
        render.note(
            f"{chat.account.username} on {chat.account.server}, device {chat.device}, signed in for {left:.1f} h"
        )
    )


@command("help", "", "this")
async def help_(chat: Chat, _: str) -> None:
    table = Table.grid(padding=(0, 2))
    for entry in _COMMANDS.values():
        table.add_row(Text(f"  /{entry.name} {entry.arguments}", style="bold"), Text(entry.summary, style="dim"))
    chat.screen.print(table, render.note("Anything else goes to the room that is open; // sends a leading slash."))
    chat.screen.print(render.note("Tab completes; Ctrl-D leaves."))


@command("quit", "", "leave; what is not sent yet is kept")
async def quit_(chat: Chat, _: str) -> None:
    chat.leaving = True


NAMES: Final = tuple(_COMMANDS)
