"""Rooms, messages and events as text for a terminal, and as JSON.

All text of other users passes through `visible` before it reaches a terminal: it must not move the cursor, change
colours or reorder the line.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tidings.contract.events import MemberChange, MemberChanged, ProfileChanged, RoomEntry
from tidings.contract.models import (
    ApplicationEvent,
    Ban,
    Direction,
    EchoEntry,
    InvitationLink,
    LinkPreview,
    Member,
    Message,
    PendingRoom,
    Profile,
    Receipt,
    Report,
    Room,
    Session,
    Snippet,
    Thread,
    View,
)
from tidings_chat import attachments
from tidings_chat.colours import ALERT, CALL, GOOD, PEOPLE, QUIET, ROOM
from tidings_chat.i18n import day_of, m, moment_of, n, t
from tidings_chat.rooms import title

_BRIEF: Final = 60
"""Characters of a message of another room"""
_HIDDEN: Final = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_ALLOWED: Final = {"\u200c", "\u200d"}  # the zero-width joiners, which some scripts and emoji need
_NOT_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CHANGES: Final = {
    MemberChange.JOINED: m("{user} joined {room}"),
    MemberChange.LEFT: m("{user} left {room}"),
    MemberChange.KICKED: m("{user} was removed from {room}"),
    MemberChange.BANNED: m("{user} was banned from {room}"),
}
_OWN_CHANGES: Final = {
    MemberChange.JOINED: m("you joined {room}"),
    MemberChange.LEFT: m("you left {room}"),
    MemberChange.KICKED: m("you were removed from {room}"),
    MemberChange.BANNED: m("you were banned from {room}"),
}
_WORDS: Final = (
    m("owner"),
    m("moderator"),
    m("member"),
    m("direct"),
    m("group"),
    m("kicked"),
    m("banned"),
    m("left"),
    m("deleted"),
)
"""Words of the contract that are shown."""


def visible(text: str, keep: str = "") -> str:
    """Replace control, direction and other invisible characters by `�`, except those in `keep`."""
    return "".join(
        char if char in keep or char in _ALLOWED or unicodedata.category(char) not in _HIDDEN else "�"
        for char in text
    )


def as_json(view: View, event: str | None = None) -> str:
    """One line of JSON, as `{"event", "data"}` if the event is named, with control characters escaped."""
    data = view.model_dump(mode="json")
    data = data if event is None else {"event": event, "data": data}
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return _NOT_IN_JSON.sub(lambda char: f"\\u{ord(char[0]):04x}", line)


def clock(timestamp: str) -> str:
    """Hours and minutes of a timestamp, in local time."""
    return f"{_local(timestamp):%H:%M}"


def moment(timestamp: str) -> str:
    return moment_of(_local(timestamp))


def day(timestamp: str) -> str:
    return day_of(_local(timestamp))


def _local(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp).astimezone()


def name(username: str, me: str = "") -> Text:
    """A username in its own colour; the user's own name is bold green."""
    colour = GOOD if username == me else PEOPLE[zlib.crc32(username.encode()) % len(PEOPLE)]
    return Text(visible(username), style=f"bold {colour}")


def message(
    message: Message, me: str, room: str = "", replied: Message | None = None, *, brief: bool = False
) -> RenderableType:
    """One message: its number, time, sender and text.

    Args:
        room: the title of the room, unless it is the open one.
        replied: the message that this one replies to, or that began its thread, if known.
        brief: on one line, between the lines of another room.
    """
    calls = me in message.mentions and message.sender != me
    head = Text(f"{'' if room else message.seq:>3} ", style=f"bold {ALERT}" if calls else QUIET)
    head.append(clock(message.created_at), style=f"not bold {QUIET}")
    if room:
        head.append(f" {visible(room)} {message.seq}", style=f"not bold {ROOM}")
    head.append(" ").append_text(name(message.sender, me))
    if brief:
        return _row(head, _text(message, me, limit=_BRIEF))
    text = Text(style=QUIET if message.thread else "")
    if (message.reply_to or message.thread) and not message.deleted:
        text.append_text(_quote(replied, me)).append("\n")
    text.append_text(_text(message, me))
    for line in attachments.described(message):
        text.append("\n" if text.plain[-1:] not in ("", "\n") else "").append(visible(line), style=ROOM)
    if message.state == "interrupted":
        text.append(f" ({t('interrupted')})", style=ALERT)
    if message.reactions:
        text.append("\n").append_text(reactions(message))
    if message.replies and not message.thread:
        replies = n(
            "{count} reply: /thread {number}",
            "{count} replies: /thread {number}",
            message.replies,
            number=message.seq,
        )
        text.append(f"\n↳ {replies}", style=QUIET)
    return _row(head, text)


def thread(thread: Thread, me: str, room: str) -> RenderableType:
    """A thread in a list: the message that began it, and what is new in it."""
    row = message(thread.message, me, room)
    new = f"  {t('{count} new', count=thread.unread)}" if thread.unread else ""
    return Group(row, Text(new, style=f"bold {ALERT}")) if new else row


_MARKS: Final = {"message_edited": "✎", "message_deleted": "✗", "reaction": "+"}


def changed(event: str, before: Message | None, after: Message, me: str, room: str = "") -> RenderableType:
    """A message after a change; the message itself is further up on the screen. `event` is the change's event."""
    head = Text(f"{'' if room else after.seq:>3} ", style=QUIET).append(
        f"{_MARKS.get('message_deleted' if after.deleted else event, '·'):>5}", style=ALERT
    )
    if room:
        head.append(f" {visible(room)} {after.seq}", style=ROOM)
    head.append(" ").append_text(name(after.sender, me))
    if after.deleted:
        return _row(head, _text(after, me))
    if event == "reaction":
        text = _text(after, me, limit=40)
        for emoji, username, added in _reaction_changes(before, after):
            text.append("  ").append_text(name(username, me)).append(
                f" {visible(emoji) if added else t('took back {emoji}', emoji=visible(emoji))}"
            )
        if before is None or sum(map(len, after.reactions.values())) > 1:
            text.append("\n").append_text(reactions(after))
        return _row(head, text)
    return _row(head, _text(after, me))


def _row(head: Text, text: Text) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(overflow="fold")  # wraps a long URL instead of cutting it
    row.add_row(head, text)
    return row


def _text(message: Message, me: str, limit: int | None = None) -> Text:
    """The text of a message, cut to `limit` characters of one line if given, with mentions highlighted."""
    if message.deleted:
        return Text(t("(deleted)"), style=f"{QUIET} italic")
    if not (message.content or message.files):
        text = Text(_short(json.dumps(message.data, ensure_ascii=False), limit or 1000), style=QUIET)
    elif limit is None:
        text = Text(visible(message.content, keep="\n\t"))
    else:
        text = Text(_short(attachments.summary(message), limit), style=QUIET)
    for username in message.mentions:
        style = CALL if username == me else "bold"
        text.highlight_regex(re.compile(rf"@{re.escape(visible(username))}(?!\w)", re.IGNORECASE), style)
    if message.edited_at:
        text.append(f" ({t('edited')})", style=QUIET)
    return text


def _short(content: str, limit: int) -> str:
    line = visible(" ".join(content.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _quote(answered: Message | None, me: str) -> Text:
    quote = Text("↳ ", style=QUIET)
    if answered is None:
        return quote.append(t("an earlier message"))
    quote.append(f"{answered.seq} ").append_text(name(answered.sender, me)).append(" ")
    return quote.append(t("(deleted)") if answered.deleted else _short(attachments.summary(answered), 50))


def reactions(message: Message) -> Text:
    """Each emoji with its users, or with their number if they are more than three."""
    shown = (
        f"{visible(emoji)} {', '.join(map(visible, usernames)) if len(usernames) <= 3 else len(usernames)}"
        for emoji, usernames in message.reactions.items()
    )
    return Text("  ".join(shown), style=QUIET)


def _reaction_changes(before: Message | None, after: Message) -> Iterable[tuple[str, str, bool]]:
    """Yield (emoji, username, whether it was added)."""
    if before is None:
        return
    for emoji in {**before.reactions, **after.reactions}:
        was, now = before.reactions.get(emoji, []), after.reactions.get(emoji, [])
        yield from ((emoji, username, True) for username in now if username not in was)
        yield from ((emoji, username, False) for username in was if username not in now)


def search_result(message: Message, snippet: Sequence[Snippet], me: str, room: str) -> RenderableType:
    """A search result: its time, room, sender, and the text around the match."""
    head = Text(moment(message.created_at), style=QUIET).append(f" {visible(room)} {message.seq}", style=ROOM)
    text = Text()
    for piece in snippet:
        text.append(visible(" ".join(piece.text.split("\n"))), style=f"bold {ALERT}" if piece.match else "")
    return _row(head.append(" ").append_text(name(message.sender, me)), text if snippet else _text(message, me, 80))


def link_preview(preview: LinkPreview) -> Text:
    """The title, site and description of a linked page, and its link."""
    text = Text("  ").append(visible(preview.title), style="bold")
    if preview.site_name:
        text.append(f"  {visible(preview.site_name)}", style=QUIET)
    if preview.description:
        text.append(f"\n  {visible(preview.description)}")
    return text.append(f"\n  {visible(preview.url)}", style=QUIET)


def plain(message: Message, room: str, change: str = "") -> str:
    """A message for a pipe: only its first line is not indented. `change` is the event, if it changed the message."""
    shown = (visible(message.content, keep="\n\t"), *map(visible, attachments.described(message)))
    text = "(deleted)" if message.deleted else "\n".join(filter(None, shown))
    if change:
        counts = " ".join(f"{visible(emoji)} {len(usernames)}" for emoji, usernames in message.reactions.items())
        text = f"{message.seq} {change}: {counts if change == 'reaction' else text}"
    return f"{message.created_at} {visible(room)} {visible(message.sender)}: {text}".replace("\n", "\n    ")


def published(event: ApplicationEvent, room: str) -> Text:
    """An event of an application, in the chat; `room`: empty if it is the open one."""
    return note(f"{room} {_published(event)}".lstrip())


def plain_published(event: ApplicationEvent, room: str) -> str:
    """An event of an application, for a pipe."""
    return f"{event.created_at} {visible(room)} {visible(_published(event))}"


def _published(event: ApplicationEvent) -> str:
    return f"{event.sender}: {event.event} {json.dumps(event.data, ensure_ascii=False)}"


def note(text: str, style: str = QUIET) -> Text:
    """A line that is not a message."""
    return Text(f"  {visible(text)}", style=style)


def heading(text: str) -> Rule:
    return Rule(Text(visible(text), style=QUIET), style=QUIET, align="left")


def member(change: MemberChanged, room: str, *, is_me: bool = False) -> Text:
    if change.change is MemberChange.ROLE:
        told = m("you are {role} in {room} now") if is_me else m("{user} is {role} in {room} now")
        return note(t(told, user=change.username, role=t(change.role or m("gone")), room=room))
    told = (_OWN_CHANGES if is_me else _CHANGES)[change.change]
    return note(t(told, user=change.username, room=room))


def entry(event: RoomEntry, room: str) -> Text:
    """An entry that has no line of its own, in the contract's words for its kind."""
    kind = (type(event).__doc__ or "").partition("\n")[0]
    return note(": ".join(filter(None, (room, getattr(event, "username", ""), kind))))


def _place(room: Room) -> tuple[bool, bool, str]:
    is_favourite = room.preferences is not None and room.preferences.favourite
    return not is_favourite, room.unread == 0, title(room).casefold()


def rooms(room_list: Iterable[Room], key: Callable[[str], int | None] = lambda room_id: None) -> RenderableType:
    """The table of rooms: favourites, then then unread ones. `key` returns the digit that opens one, with Alt."""
    table = Table(box=None, header_style=QUIET, padding=(0, 2, 0, 0), expand=True)
    shown = sorted(room_list, key=_place)
    keys = {room.room_id: key(room.room_id) for room in shown}
    if any(keys.values()):
        table.add_column("Alt", justify="right", style=QUIET)
    table.add_column(t("room"), no_wrap=True)
    table.add_column(t("new"), justify="right")
    table.add_column(t("online"), justify="right")
    table.add_column("", no_wrap=True)
    table.add_column(t("last"), no_wrap=True, overflow="ellipsis", style=QUIET, ratio=1)
    for room in shown:
        kind = t(room.kind.value) if room.topic_name is None else t("private") if room.is_private else ""
        last = room.last_message
        table.add_row(
            *([str(keys[room.room_id] or "")] if any(keys.values()) else []),
            Text(visible(title(room)), style="bold" if room.unread else ""),
            Text(str(room.unread) if room.unread else "", style=f"bold {GOOD}"),
            Text(f"{room.online}/{room.members}"),
            Text(t("not joined") if room.role is None else kind, style=QUIET),
            Text(f"{visible(last.sender)}: {visible(' '.join(attachments.summary(last).split()))}" if last else ""),
        )
    return table if table.row_count else note(t("No rooms yet: /join a topic, or /create one."))


def members(member_list: Iterable[Member], me: str) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for member in member_list:
        role = "" if member.role.value == "member" else t(member.role.value)
        table.add_row(
            dot(member.online),
            name(member.username, me),
            Text(role, style=ALERT),
            Text(_presence(member), style=QUIET),
            Text(shown(member).strip()),
        )
    return table


def receipts(receipt_list: Sequence[Receipt]) -> RenderableType:
    if not receipt_list:
        return note(t("nobody else is a member, or too many are"))
    table = Table.grid(padding=(0, 2))
    for receipt in receipt_list:
        marks = t(
            "received up to {delivered}, read up to {read}", delivered=receipt.delivered_seq, read=receipt.read_seq
        )
        table.add_row("", name(receipt.username), Text(marks, style=QUIET))
    return table


def dot(online: bool) -> Text:
    return Text("●" if online else "○", style=GOOD if online else QUIET)


def _presence(user: Member | Profile) -> str:
    if user.online:
        return t("online")
    return t("last seen {time}", time=moment(user.last_seen)) if user.last_seen else t("not seen yet")


def profile(profile: Profile, me: str) -> RenderableType:
    row = dot(profile.online).append(" ").append_text(name(profile.username, me))
    registered = t("registered {time}", time=moment(profile.created_at))
    row.append(f"  {_presence(profile)}, {registered}", style=f"not bold {QUIET}")
    return row.append(shown(profile), style="not bold default")


def people(profiles: Iterable[Profile], me: str, *, more: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for user in profiles:
        table.add_row(dot(user.online), name(user.username, me), Text(shown(user).strip()))
    if not table.row_count:
        return note(t("nobody found"))
    if more:
        table.add_row("", t("… and more"))
    return table


def shown(user: Member | Profile | ProfileChanged) -> str:
    """The display name, the status and do-not-disturb, each after two spaces."""
    parts = [user.display_name]
    if user.status:
        status = f"{user.status.emoji or ''} {user.status.text}".strip()
        parts.append(status + (f" ({_until(user.status.until)})" if user.status.until else ""))
    if user.do_not_disturb_until:
        parts.append(t("do not disturb until {time}", time=moment(user.do_not_disturb_until)))
    return "".join(f"  {visible(part)}" for part in parts if part)


def _until(timestamp: str | None) -> str:
    return t("until {time}", time=moment(timestamp)) if timestamp else t("forever")


def bans(ban_list: Sequence[Ban], *, more: bool) -> RenderableType:
    if not ban_list:
        return note(t("nobody is banned"))
    table = Table.grid(padding=(0, 2))
    for ban in ban_list:
        table.add_row("", name(ban.username), Text(_until(ban.expires_at), style=QUIET))
    if more:
        table.add_row("", t("… and more"))
    return table


def reports(report_list: Sequence[Report]) -> RenderableType:
    if not report_list:
        return note(t("no message is reported"))
    table = Table.grid(padding=(0, 2))
    for number, report in enumerate(report_list, 1):
        table.add_row(str(number), name(report.message.sender), Text(visible(report.content, keep="\n\t")))
        table.add_row("", "", Text(visible(f"{report.username}: {report.reason}"), style=QUIET))
    return table


def works(link: InvitationLink) -> str:
    """Until when an invitation link works, and how often."""
    until = _until(link.expires_at)
    return until if link.uses_left is None else f"{until}, {n('{count} time', '{count} times', link.uses_left)}"


def links(link_list: Sequence[InvitationLink], *, more: bool) -> RenderableType:
    if not link_list:
        return note(t("there are no invitation links"))
    table = Table.grid(padding=(0, 2))
    for link in link_list:
        table.add_row("", Text(link.code), name(link.username), Text(works(link), style=QUIET))
    if more:
        table.add_row("", t("… and more"))
    return table


def sessions(session_list: Sequence[Session]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for number, session in enumerate(session_list, 1):
        table.add_row(
            Text(f"{number:>3}", style=QUIET),
            Text(t("since {time}", time=moment(session.created_at))),
            Text(
                t("online") if session.online else t("last used {time}", time=moment(session.last_used_at)),
                style=QUIET,
            ),
            Text(_until(session.expires_at), style=QUIET),
            Text(_short(session.user_agent or "", 40), style=QUIET),
            Text(t("this one") if session.current else "", style=GOOD),
        )
    return table


def pending(pending_rooms: Sequence[tuple[str, PendingRoom]], device: str) -> RenderableType:
    if not pending_rooms:
        return note(t("nothing is pending for {device}", device=device))
    table = Table.grid(padding=(0, 2))
    for title_, room in pending_rooms:
        waiting = t("{count} of {all} pending", count=room.pending, all=room.last_seq)
        table.add_row("", Text(visible(title_)), Text(waiting, style=QUIET))
    return table


def echo(entry: EchoEntry) -> Text:
    arrow = "→" if entry.direction is Direction.SENT else "←"
    return Text(f"{clock(entry.created_at)} {arrow} ", style=QUIET).append(visible(entry.content), style="default")
