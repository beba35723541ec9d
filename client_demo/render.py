"""How rooms, messages and what happens to them look, in a terminal and as JSON.

Everything that came over the wire passes through `visible` before it reaches a terminal: what others write must not
move the cursor, change colours or reorder the line.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from client_demo.rooms import title
from server.contract.events import MemberChange, MemberChanged
from server.contract.models import (
    Ban,
    Direction,
    EchoEntry,
    Member,
    Message,
    PendingRoom,
    Profile,
    Receipt,
    Room,
    Session,
    Snippet,
    View,
)

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


def as_json(view: View, event: str | None = None) -> str:
    """One line, as `{"event", "data"}` if the event is named; what a terminal could take for a command is escaped."""
    data = view.model_dump(mode="json")
    data = data if event is None else {"event": event, "data": data}
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return _NOT_IN_JSON.sub(lambda char: f"\\u{ord(char[0]):04x}", line)


def clock(timestamp: str) -> str:
    """Hours and minutes of a wire time, where we are."""
    return f"{_local(timestamp):%H:%M}"


def moment(timestamp: str) -> str:
    return f"{_local(timestamp):%d %b %H:%M}"


def day(timestamp: str) -> str:
    when = _local(timestamp)
    return f"{when:%A}, {when.day} {when:%B %Y}"


def _local(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp).astimezone()


def name(username: str, me: str = "") -> Text:
    """A username in its own colour; ours stands out."""
    colour = "bold green" if username == me else f"bold {_COLOURS[zlib.crc32(username.encode()) % len(_COLOURS)]}"
    return Text(visible(username), style=colour)


def message(message: Message, me: str, room: str = "", answers: Message | None = None) -> RenderableType:
    """One message: its number, time, sender, text; with the room in place of the number if it is not the one on
    screen, in which numbers point. `answers` is the message that it answers, if that is known."""
    calls = me in message.mentions and message.sender != me
    head = Text(f"{'' if room else message.seq:>3} ", style="bold yellow" if calls else "dim")
    head.append(clock(message.created_at), style="not bold dim white")
    if room:
        head.append(f" {visible(room)}", style="not bold cyan")
    head.append(" ").append_text(name(message.sender, me))
    text = Text()
    if message.reply_to and not message.deleted:
        text.append_text(_quote(answers, me)).append("\n")
    text.append_text(_text(message, me))
    if message.reactions:
        text.append("\n").append_text(reactions(message))
    return _row(head, text)


_MARKS: Final = {"message_edited": "✎", "message_deleted": "✗", "reaction": "+"}


def changed(what: str, before: Message | None, after: Message, me: str, room: str = "") -> RenderableType:
    """What a change made of a message, which stands further up on the screen."""
    head = Text(f"{'' if room else after.seq:>3} ", style="dim").append(
        f"{_MARKS.get('message_deleted' if after.deleted else what, '·'):>5}", style="yellow"
    )
    if room:
        head.append(f" {visible(room)}", style="cyan")
    head.append(" ").append_text(name(after.sender, me))
    if after.deleted:
        return _row(head, _text(after, me))
    if what == "reaction":
        text = _text(after, me, most=40)
        for emoji, who, on in _moved(before, after):
            text.append("  ").append_text(name(who, me)).append(f" {'' if on else 'took back '}{visible(emoji)}")
        if before is None or sum(map(len, after.reactions.values())) > 1:
            text.append("\n").append_text(reactions(after))
        return _row(head, text)
    return _row(head, _text(after, me))


def _row(head: Text, text: Text) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_row(head, text)
    return row


def _text(message: Message, me: str, most: int | None = None) -> Text:
    """What a message says, on `most` characters of one line if given; who is meant by it is marked."""
    if message.deleted:
        return Text("(deleted)", style="dim italic")
    if most is None:
        text = Text(visible(message.content, keep="\n\t"))
    else:
        text = Text(_short(message.content, most), style="dim")
    for who in message.mentions:
        style = "bold black on yellow" if who == me else "bold"
        text.highlight_regex(re.compile(rf"@{re.escape(visible(who))}(?!\w)", re.IGNORECASE), style)
    if message.edited_at:
        text.append(" (edited)", style="dim")
    return text


def _short(content: str, most: int) -> str:
    line = visible(" ".join(content.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _quote(answered: Message | None, me: str) -> Text:
    quote = Text("↳ ", style="dim")
    if answered is None:
        return quote.append("an earlier message")
    quote.append(f"{answered.seq} ").append_text(name(answered.sender, me)).append(" ")
    return quote.append("(deleted)" if answered.deleted else _short(answered.content, 50))


def reactions(message: Message) -> Text:
    """Each emoji and who put it; how many, if they are more than three."""
    shown = (
        f"{visible(emoji)} {', '.join(map(visible, who)) if len(who) <= 3 else len(who)}"
        for emoji, who in message.reactions.items()
    )
    return Text("  ".join(shown), style="dim")


def _moved(before: Message | None, after: Message) -> Iterable[tuple[str, str, bool]]:
    """Who put (True) or took back (False) which emoji."""
    if before is None:
        return
    for emoji in {**before.reactions, **after.reactions}:
        was, now = before.reactions.get(emoji, []), after.reactions.get(emoji, [])
        yield from ((emoji, who, True) for who in now if who not in was)
        yield from ((emoji, who, False) for who in was if who not in now)


def found(message: Message, snippet: Sequence[Snippet], me: str, room: str) -> RenderableType:
    """One hit of a search: where, when, who, and the part around the match."""
    head = Text(moment(message.created_at), style="dim").append(f" {visible(room)} {message.seq}", style="cyan")
    text = Text()
    for piece in snippet:
        text.append(visible(" ".join(piece.text.split("\n"))), style="bold yellow" if piece.match else "")
    return _row(head.append(" ").append_text(name(message.sender, me)), text if snippet else _text(message, me, 80))


def plain(message: Message, room: str, change: str = "") -> str:
    """The same for a pipe; with what has become of it, if this is told of a message that came before."""
    text = "(deleted)" if message.deleted else visible(message.content, keep="\n\t")
    if change:
        put = " ".join(f"{visible(emoji)} {len(who)}" for emoji, who in message.reactions.items())
        text = f"{message.seq} {change}: {put if change == 'reaction' else text}"
    return f"{message.created_at} {visible(room)} {visible(message.sender)}: {text}"


def note(text: str, style: str = "dim") -> Text:
    """Something that is not a message."""
    return Text(f"  {visible(text)}", style=style)


def heading(text: str) -> Rule:
    return Rule(Text(visible(text), style="dim"), style="dim", align="left")


def member(change: MemberChanged, room: str, *, mine: bool = False) -> Text:
    if change.change is MemberChange.ROLE:
        return note(f"{'you are' if mine else f'{change.username} is'} {change.role or 'gone'} in {room} now")
    if mine:
        return note(f"you {_CHANGES[change.change]} {room}")
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
        role = "" if who.role.value == "member" else who.role.value
        table.add_row(
            dot(who.online), name(who.username, me), Text(role, style="yellow"), Text(_seen(who), style="dim")
        )
    return table


def receipts(found: Sequence[Receipt]) -> RenderableType:
    if not found:
        return note("nobody else is here, or too many to tell")
    table = Table.grid(padding=(0, 2))
    for one in found:
        marks = f"received up to {one.delivered_seq}, read up to {one.read_seq}"
        table.add_row("", name(one.username), Text(marks, style="dim"))
    return table


def dot(online: bool) -> Text:
    return Text("●" if online else "○", style="green" if online else "dim")


def _seen(who: Member | Profile) -> str:
    if who.online:
        return "online"
    return f"last seen {moment(who.last_seen)}" if who.last_seen else "not seen yet"


def profile(who: Profile, me: str) -> RenderableType:
    row = dot(who.online).append(" ").append_text(name(who.username, me))
    return row.append(f"  {_seen(who)}, here since {moment(who.created_at)}", style="not bold dim white")


def bans(found: Sequence[Ban], *, more: bool) -> RenderableType:
    if not found:
        return note("nobody is banned")
    table = Table.grid(padding=(0, 2))
    for ban in found:
        until = f"until {moment(ban.expires_at)}" if ban.expires_at else "for ever"
        table.add_row("", name(ban.username), Text(until, style="dim"))
    if more:
        table.add_row("", "… and more")
    return table


def sessions(found: Sequence[Session]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for number, session in enumerate(found, 1):
        table.add_row(
            Text(f"{number:>3}", style="dim"),
            Text(f"since {moment(session.created_at)}"),
            Text(f"until {moment(session.expires_at)}", style="dim"),
            Text(_short(session.user_agent or "", 40), style="dim"),
            Text("this one" if session.current else "", style="green"),
        )
    return table


def pending(found: Sequence[tuple[str, PendingRoom]], device: str) -> RenderableType:
    if not found:
        return note(f"nothing is pending for {device}")
    table = Table.grid(padding=(0, 2))
    for title_, room in found:
        table.add_row("", Text(visible(title_)), Text(f"{room.pending} of {room.last_seq} to come", style="dim"))
    return table


def echo(entry: EchoEntry) -> Text:
    arrow = "→" if entry.direction is Direction.SENT else "←"
    return Text(f"{clock(entry.created_at)} {arrow} ", style="dim").append(visible(entry.content), style="not dim")
