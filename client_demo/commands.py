"""The commands of the chat alone: where one is, and what is written there.

`/help` and completion are made from the two tables, this one and `actions`'. A name in both is done here, and goes on
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.table import Table as Grid
from rich.text import Text

from client_demo import actions, desk, render
from client_demo.actions import ACTIONS
from client_demo.desk import Command, Mistake, Table, number_and_text
from client_demo.errors import Refused
from client_demo.rooms import all_rooms, title
from server.contract.errors import ErrorCode
from server.contract.models import ConnectedRoom, History, Profile, Room

if TYPE_CHECKING:
    from client_demo.chat import Chat, Current

_TABLE: Final[Table[Chat]] = Table()
_command = _TABLE.add
_GROUPS: Final = ("messages", "rooms", "people", "keeping order", "you", "this client")
_MESSAGES, _ROOMS, _CLIENT = "messages", "rooms", "this client"


async def run(chat: Chat, line: str) -> None:
    """Run a line that begins with a slash. Raises `ClientError`."""
    name, _, rest = line.removeprefix("/").partition(" ")
    name = name.casefold()
    if name in _TABLE.commands:
        await desk.run(_TABLE.commands[name], chat, rest)
    elif name in ACTIONS.commands:
        await desk.run(ACTIONS.commands[name], chat, rest)
    else:
        raise Mistake(f"there is no /{name}; /help lists the commands")


def _current(chat: Chat) -> Current:
    if chat.current is None:
        raise Mistake("no room is open")
    return chat.current


@_command("rooms", "[all]", "your rooms; or all that you may see", group=_ROOMS)
async def rooms(chat: Chat, which: str) -> None:
    only: dict[str, Any] = {} if which == "all" else {"member": True}
    chat.screen.print(render.rooms(await all_rooms(chat.ask, **only)))


@_command("join", "TOPIC", "enter a topic, becoming a member if need be", group=_ROOMS)
async def join(chat: Chat, topic: str) -> None:
    topic = topic.removeprefix("#")
    with chat.entering(topic):
        data = await chat.ask("connect_to_room", {"topic_name": topic})
    entered = ConnectedRoom.model_validate(data, extra="ignore")
    chat.enter(entered.room)
    chat.screen.print(render.note(f"{title(entered.room)}: {', '.join(entered.usernames) or 'nobody'} online"))
    await _recent(chat, entered.room)


@_command("create", "TOPIC [--private]", "make a topic; you are its owner", group=_ROOMS)
async def create(chat: Chat, rest: str) -> None:
    words = rest.split()
    name = " ".join(word for word in words if word != "--private")
    with chat.entering(name):
        data = await chat.ask("create", {"topic_name": name, "is_private": "--private" in words})
    room = Room.model_validate(data, extra="ignore")
    chat.enter(room)
    how = "/invite others" if room.is_private else "anybody may join"
    chat.screen.print(render.note(f"{title(room)} is yours: {how}"))


@_command("new", "USER… [: TITLE]", "a group; or the conversation with one", group=_ROOMS)
async def new(chat: Chat, rest: str) -> None:
    with chat.entering(None):
        await actions.new(chat, rest)
    await _here(chat)


@_command("join-link", "CODE", "come in by an invitation link", group=_ROOMS)
async def join_link(chat: Chat, rest: str) -> None:
    with chat.entering(None):
        await actions.join_link(chat, rest)
    await _here(chat)


async def _here(chat: Chat) -> None:
    room = chat.client.rooms.get(_current(chat).room_id or "")
    if room is not None and room.last_seq:
        await _recent(chat, room)


@_command("leave", "", "leave this room for good", group=_ROOMS)
async def leave(chat: Chat, _: str) -> None:
    current = _current(chat)
    await chat.ask("unsubscribe", current.ref)
    chat.leave()
    chat.screen.print(render.note(f"you have left {current.title}"))


@_command("open", "ROOM-or-USER", "go to a room of yours, or to a conversation", group=_ROOMS)
async def open_room(chat: Chat, name: str) -> None:
    room = chat.client.rooms.find(name) or chat.client.rooms.find(name.lstrip("#@"))
    if room is not None:
        chat.enter(room)
        chat.screen.print(render.heading(title(room)))
        await _recent(chat, room)
        return
    try:
        profile = await chat.ask("get_profile", {"username": name.removeprefix("@")})
    except Refused as why:
        if why.code not in (ErrorCode.NOT_FOUND, ErrorCode.INVALID):
            raise
        raise Mistake(f"no room of yours and no user is called {name}; /join enters a topic") from None
    username = Profile.model_validate(profile, extra="ignore").username
    chat.enter_conversation(username)
    chat.screen.print(render.note(f"nothing said to {username} yet"))


async def _recent(chat: Chat, room: Room, limit: int = 20) -> None:
    data = await chat.ask("history", {"room_id": room.room_id, "limit": limit})
    page = History.model_validate(data, extra="ignore").messages
    chat.show_history(page)
    if page:
        chat.client.read(room.room_id, max(page[-1].seq, room.last_seq))


@_command("msg", "USER TEXT", "send a direct message, and stay where you are", group=_MESSAGES)
async def msg(chat: Chat, rest: str) -> None:
    username, _, text = rest.partition(" ")
    if not text.strip():
        raise Mistake("/msg USER TEXT")
    chat.send({"username": username.removeprefix("@")}, text.strip())


@_command("reply", "N TEXT", "answer message N; . is the last one", group=_MESSAGES)
async def reply(chat: Chat, rest: str) -> None:
    which, text = number_and_text(rest, "/reply N TEXT")
    message = await chat.message(which)
    chat.send(_current(chat).ref, text, message.id)


@_command("edit", "N TEXT", "change a message of yours; . is your last one", group=_MESSAGES)
async def edit(chat: Chat, rest: str) -> None:
    which, text = number_and_text(rest, "/edit N TEXT")
    unsent = chat.waiting() if which == "." else None
    if unsent is None or not chat.change(unsent, text):
        await actions.edit(chat, rest)


@_command("delete", "N", "delete one; . is your last one", group=_MESSAGES)
async def delete(chat: Chat, which: str) -> None:
    unsent = chat.waiting() if which == "." else None
    if unsent is None:
        await actions.delete(chat, which)
    elif not chat.withdraw(unsent):
        raise Mistake("it is on its way: delete it when it is here")


@_command("history", "[N]", "the last N messages of this room (20)", group=_MESSAGES)
async def history(chat: Chat, count: str) -> None:
    if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 200):
        raise Mistake("/history N, with N from 1 to 200")
    data = await chat.ask("history", {**_current(chat).ref, "limit": int(count or 20)})
    chat.screen.print(render.heading(_current(chat).title))
    chat.show_history(History.model_validate(data, extra="ignore").messages)


@_command("whoami", "", "who you are here", group=_CLIENT)
async def whoami(chat: Chat, _: str) -> None:
    left = chat.account.expires_in / 3600
    chat.screen.print(
        render.note(
            f"{chat.account.username} on {chat.account.server}, device {chat.device}, signed in for {left:.1f} h"
        )
    )


@_command("help", "[COMMAND]", "this", group=_CLIENT)
async def help_(chat: Chat, which: str) -> None:
    commands: dict[str, Command[Any]] = {**_TABLE.commands, **ACTIONS.commands}
    one = which.removeprefix("/").casefold()
    if one and one not in NAMES:
        raise Mistake(f"there is no /{one}; /help lists the commands")
    grid = Grid.grid(padding=(0, 2))
    for group in _GROUPS:
        if not one:
            grid.add_row(Text(group, style="dim"))
        for entry in commands.values():
            if entry.group == group and one in ("", entry.name):
                grid.add_row(
                    Text(f"  /{entry.name} {entry.arguments}", style="bold"), Text(entry.summary, style="dim")
                )
    chat.screen.print(grid)
    if not one:
        chat.screen.print(
            render.note("N is the number at the left of a message. TIME is 90s, 10m, 2h, 7d or 2w."),
            render.note("Anything else goes to the room that is open; // sends a leading slash."),
            render.note("Tab completes; Ctrl-D leaves."),
        )


@_command("quit", "", "leave; what is not sent yet is kept", group=_CLIENT)
async def quit_(chat: Chat, _: str) -> None:
    chat.leaving = True


NAMES: Final = tuple({**_TABLE.commands, **ACTIONS.commands})
