"""The commands that only the chat has: moving between rooms, and sending.

`/help` and completion list this table and that of `actions`. Of a name in both, this one runs; it may call the other.
"""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table as Grid
from rich.text import Text

from tidings.contract.models import ConnectedRoom, History, Profile, Room
from tidings_chat import actions, registry, render
from tidings_chat.actions import ACTIONS
from tidings_chat.arguments import number_and_text, path_and_text
from tidings_chat.chat import Chat
from tidings_chat.colours import QUIET
from tidings_chat.errors import InvalidCommand, unusable
from tidings_chat.i18n import m, t
from tidings_chat.navigation import CurrentRoom
from tidings_chat.registry import Command, CommandTable
from tidings_chat.rooms import all_rooms, title
from tidings_chat.scripts import UNKNOWN
from tidings_client import Refused

_TABLE: Final[CommandTable[Chat]] = CommandTable()
_command = _TABLE.command
_GROUPS: Final = (m("messages"), m("rooms"), m("people"), m("moderation"), m("account"), m("this client"))
_MESSAGES, _ROOMS, _CLIENT = "messages", "rooms", m("this client")


def _current(chat: Chat) -> CurrentRoom:
    if chat.navigation.current is None:
        raise InvalidCommand(t("no room is open"))
    return chat.navigation.current


@_command("rooms", "[all]", "list your rooms; or all rooms that you may see", group=_ROOMS)
async def rooms(chat: Chat, scope: str) -> None:
    filters: dict[str, Any] = {} if scope == "all" else {"member": True}
    chat.screen.print(render.rooms(await all_rooms(chat.ask, **filters), chat.keys.key))


@_command("join", "TOPIC", "open a topic, and become a member if you are not", group=_ROOMS)
async def join(chat: Chat, topic: str) -> None:
    topic = topic.removeprefix("#")
    with chat.navigation.joining(topic):
        data = await chat.ask("connect_to_room", {"topic_name": topic})
    entered = ConnectedRoom.model_validate(data, extra="ignore")
    chat.navigation.open(entered.room)
    chat.screen.print(
        render.note(
            t(
                "{room}: {users} online",
                room=title(entered.room),
                users=", ".join(entered.usernames) or t("nobody"),
            )
        )
    )
    await _show_recent(chat, entered.room)


@_command("create", "TOPIC [--private]", "make a topic; you are its owner", group=_ROOMS)
async def create(chat: Chat, rest: str) -> None:
    words = rest.split()
    name = " ".join(word for word in words if word != "--private")
    with chat.navigation.joining(name):
        data = await chat.ask("create", {"topic_name": name, "is_private": "--private" in words})
    room = Room.model_validate(data, extra="ignore")
    chat.navigation.open(room)
    told = (
        t("{room} is yours: /invite others", room=title(room))
        if room.is_private
        else t("{room} is yours: anybody may join", room=title(room))
    )
    chat.screen.print(render.note(told))


@_command("new", "USER… [: TITLE]", "start a group, or a conversation with one user", group=_ROOMS)
async def new(chat: Chat, rest: str) -> None:
    with chat.navigation.joining(None):
        await actions.new(chat, rest)
    await _show_recent_here(chat)


@_command("join-link", "CODE", "join a room by its invitation link", group=_ROOMS)
async def join_link(chat: Chat, rest: str) -> None:
    with chat.navigation.joining(None):
        await actions.join_link(chat, rest)
    await _show_recent_here(chat)


async def _show_recent_here(chat: Chat) -> None:
    room = chat.rooms.get(_current(chat).room_id or "")
    if room is not None and room.last_seq:
        await _show_recent(chat, room)


@_command("leave", "", "give up your membership of this room", group=_ROOMS)
async def leave(chat: Chat, _: str) -> None:
    current = _current(chat)
    await chat.ask("unsubscribe", current.ref)
    chat.navigation.close()
    chat.screen.print(render.note(t("you have left {room}", room=current.title)))


@_command("open", "ROOM-or-USER", "open one of your rooms, or a conversation", group=_ROOMS)
async def open_room(chat: Chat, name: str) -> None:
    room = chat.rooms.find(name) or chat.rooms.find(name.lstrip("#@"))
    if room is not None:
        chat.navigation.open(room)
        chat.screen.print(render.heading(title(room)))
        await _show_recent(chat, room)
        return
    try:
        profile = await chat.ask("get_profile", {"username": name.removeprefix("@")})
    except Refused as error:
        if error.code not in UNKNOWN:
            raise
        raise InvalidCommand(
            t("no room of yours and no user is called {name}; /join enters a topic", name=name)
        ) from None
    username = Profile.model_validate(profile, extra="ignore").username
    chat.navigation.open_conversation(username)
    chat.screen.print(render.note(t("nothing said to {user} yet", user=username)))


async def _show_recent(chat: Chat, room: Room, limit: int = 20) -> None:
    """Print the newest messages of the open room, and mark it as read."""
    data = await chat.ask("history", {"room_id": room.room_id, "limit": limit})
    page = History.model_validate(data, extra="ignore").messages
    chat.display.show_page(page)
    if page:
        chat.reads.mark(room.room_id, max(page[-1].seq, room.last_seq))


@_command("msg", "USER TEXT", "send a direct message without leaving this room", group=_MESSAGES)
async def msg(chat: Chat, rest: str) -> None:
    username, _, text = rest.partition(" ")
    if not text.strip():
        raise InvalidCommand(t("/msg USER TEXT"))
    await chat.send({"username": username.removeprefix("@")}, text.strip())


@_command("send", "FILE [TEXT]", "send a file; a path with spaces is in quotes", group=_MESSAGES)
async def send(chat: Chat, rest: str) -> None:
    path, text = path_and_text(rest)
    try:
        await chat.send(_current(chat).ref, text, files=[path])
    except OSError as error:
        raise unusable(path, error) from None
    except ValueError:
        raise InvalidCommand(t("{file} is empty", file=path)) from None


@_command("save", "N [PATH]", "save the files of message N, or only one: 12.2", group=_MESSAGES)
async def save(chat: Chat, rest: str) -> None:
    chat.start(actions.save(chat, rest))


@_command("preview", "N", "show where the links of a message lead; . is the last", group=_MESSAGES)
async def preview(chat: Chat, rest: str) -> None:
    chat.start(actions.preview(chat, rest))


@_command("reply", "N TEXT", "reply to message N; . is the last one", group=_MESSAGES)
async def reply(chat: Chat, rest: str) -> None:
    reference, text = number_and_text(rest, m("/reply N TEXT"))
    message = await chat.message(reference)
    await chat.send(_current(chat).ref, text, message.id, message.thread)


@_command("thread", "N [TEXT]", "reply in the thread of message N; without TEXT: show it", group=_MESSAGES)
async def thread(chat: Chat, rest: str) -> None:
    reference, _, text = rest.partition(" ")
    if not text.strip():
        return await actions.thread(chat, rest)
    message = await chat.message(reference)
    await chat.send(_current(chat).ref, text.strip(), thread=message.thread or message.id)


@_command("edit", "N TEXT", "change one of your messages; . is your last one", group=_MESSAGES)
async def edit(chat: Chat, rest: str) -> None:
    reference, text = number_and_text(rest, m("/edit N TEXT"))
    unsent = chat.last_unsent() if reference == "." else None
    if unsent is None or not await chat.change(unsent, text):
        await actions.edit(chat, rest)


@_command("delete", "N", "delete a message; . is your last one", group=_MESSAGES)
async def delete(chat: Chat, reference: str) -> None:
    unsent = chat.last_unsent() if reference == "." else None
    if unsent is None:
        await actions.delete(chat, reference)
    elif not await chat.withdraw(unsent):
        raise InvalidCommand(t("it is being sent: delete it when it is here"))


@_command("history", "[N]", "show the last N messages of this room (20)", group=_MESSAGES)
async def history(chat: Chat, count: str) -> None:
    if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 200):
        raise InvalidCommand(t("/history N, with N from 1 to 200"))
    data = await chat.ask("history", {**_current(chat).ref, "limit": int(count or 20)})
    chat.screen.print(render.heading(_current(chat).title))
    chat.display.show_page(History.model_validate(data, extra="ignore").messages)


@_command("whoami", "", "show your username, server and device", group=_CLIENT)
async def whoami(chat: Chat, _: str) -> None:
    hours = chat.account.expires_in() / 3600
    chat.screen.print(
        render.note(
            t(
                "{user} on {server}, device {device}, signed in for {hours} h",
                user=chat.account.username,
                server=chat.account.server,
                device=chat.device,
                hours=f"{hours:.1f}",
            )
        )
    )


@_command("help", "[COMMAND|all]", "list the commands; or explain one of them, or all", group=_CLIENT)
async def help_(chat: Chat, topic: str) -> None:
    commands: dict[str, Command[Any]] = {**_TABLE.commands, **ACTIONS.commands}
    topic = topic.removeprefix("/").casefold()
    if topic not in ("", "all", *commands):
        raise InvalidCommand(t("there is no /{command}; /help lists the commands", command=topic))
    grid = Grid.grid(padding=(0, 2))
    for group in _GROUPS:
        entries = [entry for entry in commands.values() if entry.group == group and topic in ("", "all", entry.name)]
        if not topic:
            names = " ".join(f"/{entry.name}" for entry in entries)
            grid.add_row(Text(f"  {t(group)}", style=QUIET), Text(names, style="bold"))
            continue
        if topic == "all":
            grid.add_row(Text(t(group), style=QUIET))
        for entry in entries:
            usage = f"  /{entry.name} {t(entry.arguments)}"
            grid.add_row(Text(usage, style="bold"), Text(t(entry.summary), style=QUIET))
    chat.screen.print(grid)
    if topic in ("", "all"):
        chat.screen.print(
            render.note(t("/help COMMAND explains a command, /help all explains all of them.")),
            render.note(t("N is the number at the left of a message. TIME is 90s, 10m, 2h, 7d or 2w.")),
            render.note(t("Anything else is sent to the open room; // sends a leading slash.")),
            render.note(t("A link in <…> shows no preview of its page to anybody.")),
            render.note(t("Tab completes, Alt+1 to Alt+9 switch rooms, Ctrl-D quits.")),
        )


@_command("quit", "", "quit; unsent messages are kept", group=_CLIENT)
async def quit_(chat: Chat, _: str) -> None:
    chat.leaving = True


class ChatCommands:
    """A `registry.Commands`: those of the chat, and those that scripts have, too."""

    names = tuple({**_TABLE.commands, **ACTIONS.commands})

    async def run(self, context: Chat, line: str) -> None:
        """See `registry.Commands.run`."""
        name, _, rest = line.removeprefix("/").partition(" ")
        name = name.casefold()
        if name in _TABLE.commands:
            await registry.run(_TABLE.commands[name], context, rest)
        elif name in ACTIONS.commands:
            await registry.run(ACTIONS.commands[name], context, rest)
        else:
            raise InvalidCommand(t("there is no /{command}; /help lists the commands", command=name))
