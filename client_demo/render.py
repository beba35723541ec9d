"""How rooms, messages and what happens to them look, in a terminal and as JSON.

Everything that came over the wire passes through `visible` before it reaches a terminal: what others write must not
move the cursor, change colours or reorder the line.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from client_demo.rooms import title
from server.contract.events import MemberChange, MemberChanged
from server.contract.models import Member, Message, Room, View

_COLOURS: Final = (
    "cyan",
    "magenta",
    "yellow",
    "blue",
    "bright_cyan",
    "bright_magenta",
    "bright_yellow",
    "bright_blue",
)
_HIDDEN: Final = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_KEPT: Final = {"\u200c", "\u200d"}  # the joiners, which scripts and emoji need
_NOT_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CHANGES: Final = {
    MemberChange.JOINED: "joined",
    MemberChange.LEFT: "left",
    MemberChange.KICKED: "was removed from",
    MemberChange.BANNED: "was banned from",
}


def visible(text: str, keep: str = "") -> str:
    """The text with every control, direction and other invisible character shown as `�`, except those to `keep`."""
    return "".join(
        char if char in keep or char in _KEPT or unicodedata.category(char) not in _HIDDEN else "�" for char in text
    )


def as_json(view: View) -> str:
    """One line; what a terminal could take for a command is escaped."""
    line = json.dumps(view.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
    return _NOT_IN_JSON.sub(lambda char: f"\\u{ord(char[0]):04x}", line)


def clock(timestamp: str) -> str:
    """Hours and minutes of a wire time, where we are."""
    return f"{_local(timestamp):%H:%M}"


def day(timestamp: str) -> str:
    when = _local(timestamp)
    return f"{when:%A}, {when.day} {when:%B %Y}"


def _local(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp).astimezone()


def name(username: str, me: str = "") -> Text:
    """A username in its own colour; ours stands out."""
    colour = "bold green" if username == me else f"bold {_COLOURS[zlib.crc32(username.encode()) % len(_COLOURS)]}"
    return Text(visible(username), style=colour)


def message(message: Message, me: str, room: str = "") -> RenderableType:
    """One message as a row: time, room if it is not the one on screen, sender, text."""
    text = Text("(deleted)", style="dim italic") if message.deleted else Text(visible(message.content, keep="\n\t"))
    if f"@{me}".casefold() in message.content.casefold() and message.sender != me:
        text.stylize("bold")
    if message.edited_at and not message.deleted:
        text.append(" (edited)", style="dim")
    for emoji, who in message.reactions.items():
        text.append(f"  {visible(emoji)} {len(who)}", style="dim")
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    head = Text(clock(message.created_at), style="dim")
    if room:
        head.append(f" {visible(room)}", style="cyan")
    head.append(" ").append_text(name(message.sender, me))
    row.add_row(head, text)
    return row


def plain(message: Message, room: str) -> str:
    """The same for a pipe."""
    text = "(deleted)" if message.deleted else visible(message.content, keep="\n\t")
    return f"{message.created_at} {visible(room)} {visible(message.sender)}: {text}"


def note(text: str, style: str = "dim") -> Text:
    """Something that is not a message."""
    return Text(f"  {visible(text)}", style=style)


def heading(text: str) -> Rule:
    return Rule(Text(visible(text), style="dim"), style="dim", align="left")


def member(change: MemberChanged, room: str) -> Text:
    if change.change is MemberChange.ROLE:
        return note(f"{change.username} is now {change.role or 'gone'} in {room}")
    return note(f"{change.username} {_CHANGES[change.change]} {room}")


def rooms(found: Iterable[Room]) -> RenderableType:
    """The table of rooms: those with something unread first."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    table.add_column("room", no_wrap=True)
    table.add_column("new", justify="right")
    table.add_column("online", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("last", no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    for room in sorted(found, key=lambda room: (room.unread == 0, title(room).casefold())):
        kind = room.kind.value if room.topic_name is None else "private" if room.is_private else ""
        last = room.last_message
        table.add_row(
            Text(visible(title(room)), style="bold" if room.unread else ""),
            Text(str(room.unread) if room.unread else "", style="bold green"),
            Text(f"{room.online}/{room.members}"),
            Text("not joined" if room.role is None else kind, style="dim"),
            Text(f"{visible(last.sender)}: {visible(' '.join(last.content.split()))}" if last else ""),
        )
    return table if table.row_count else note("No rooms yet: /join a topic, or /create one.")


def members(found: Iterable[Member], me: str) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for who in found:
        seen = "online" if who.online else f"last seen {_local(who.last_seen):%d %b %H:%M}" if who.last_seen else ""
        role = "" if who.role.value == "member" else who.role.value
        table.add_row(
            Text("●" if who.online else "○", style="green" if who.online else "dim"),
            name(who.username, me),
            Text(role, style="yellow"),
            Text(seen, style="dim"),
        )
    return table
