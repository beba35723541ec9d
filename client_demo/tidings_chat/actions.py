"""Commands of one request and one answer, the same in the chat and for scripts."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, TypeVar

from tidings.contract.models import (
    Bans,
    Echo,
    EchoHistory,
    History,
    InvitationLink,
    InvitationLinks,
    LinkPreviews,
    Members,
    Message,
    Pending,
    Profile,
    Published,
    PublishedEvents,
    Receipts,
    Reports,
    Role,
    Room,
    SearchResults,
    Sessions,
    Thread,
    Threads,
    Unread,
    Usernames,
    Users,
    View,
)
from tidings_chat import arguments, render
from tidings_chat.arguments import (
    conversation,
    duration,
    file_number,
    number,
    number_and_text,
    path,
    seconds,
    username,
    words,
)
from tidings_chat.errors import InvalidCommand, unusable
from tidings_chat.i18n import m, t
from tidings_chat.registry import CommandContext, CommandTable
from tidings_chat.rooms import title

ACTIONS: Final[CommandTable[CommandContext]] = CommandTable()
_command = ACTIONS.command

_MESSAGES, _ROOMS, _PEOPLE, _MODERATION, _ACCOUNT = (
    "messages",
    "rooms",
    "people",
    "moderation",
    "account",
)

_PREVIEWED_WITHIN: Final = 15
"""The server is asked so often, once a second, for previews that it is fetching."""

V = TypeVar("V", bound=View)


async def _ask(context: CommandContext, answer: type[V], action: str, payload: dict[str, Any]) -> V:
    """Request an action and parse its answer. Raises like `CommandContext.ask`."""
    return answer.model_validate(await context.ask(action, payload), extra="ignore")


async def _ask_in_room(context: CommandContext, answer: type[V], action: str, **payload: Any) -> V:
    """Request an action on the current room and parse its answer. Raises like `CommandContext.ask_in_room`."""
    return answer.model_validate(await context.ask_in_room(action, **payload), extra="ignore")


# Messages


@_command("edit", "N TEXT", "change one of your messages; . is your last one", group=_MESSAGES, needs_room=True)
async def edit(context: CommandContext, rest: str) -> None:
    reference, text = number_and_text(rest, m("/edit N TEXT"))
    message = await context.message(reference, own=True)
    context.show(views=[await _ask(context, Message, "edit", {"message_id": message.id, "content": text})])


@_command("delete", "N", "delete a message; . is your last one", group=_MESSAGES, needs_room=True)
async def delete(context: CommandContext, rest: str) -> None:
    message = await context.message(rest, own=True)
    await context.ask("delete", {"message_id": message.id})


@_command(
    "stop", "N", "ask the author of a message to stop writing it; . is the last one", group=_MESSAGES, needs_room=True
)
async def stop(context: CommandContext, rest: str) -> None:
    message = await context.message(rest)
    await context.ask("stop", {"message_id": message.id})
    context.show(render.note(t("{user} is asked to stop", user=message.sender)))


@_command("react", "N EMOJI", "put an emoji on message N; . is the last one", group=_MESSAGES, needs_room=True)
async def react(context: CommandContext, rest: str) -> None:
    await _react(context, rest, remove=False)


@_command("unreact", "N EMOJI", "remove your emoji from message N", group=_MESSAGES, needs_room=True)
async def unreact(context: CommandContext, rest: str) -> None:
    await _react(context, rest, remove=True)


async def _react(context: CommandContext, rest: str, *, remove: bool) -> None:
    reference, emoji = words(rest, m("which message, and what? N EMOJI"), 2, 2)
    message = await context.message(reference)
    payload = {"message_id": message.id, "emoji": emoji, "remove": remove}
    context.show(views=[await _ask(context, Message, "react", payload)])


@_command("save", "N [PATH]", "save the files of message N, or only one: 12.2", group=_MESSAGES, needs_room=True)
async def save(context: CommandContext, rest: str) -> None:
    reference, _, given = rest.partition(" ")
    number_, place = file_number(reference)
    message = await context.message(number_)
    files = message.files if place is None else message.files[max(place, 1) - 1 : place]
    if not files:
        raise InvalidCommand(t("message {number} has no such file", number=reference))
    target = path(given.strip() or ".")
    for file in files:
        try:
            saved = await context.download(file.id, target)
        except OSError as error:
            raise unusable(target, error) from None
        context.show(render.note(t("saved: {file}", file=saved)), views=[file])


@_command("preview", "N", "show where the links of a message lead; . is the last", group=_MESSAGES, needs_room=True)
async def preview(context: CommandContext, rest: str) -> None:
    payload = {"message_ids": [(await context.message(rest)).id]}
    answer = await _ask(context, LinkPreviews, "get_previews", payload)
    for _ in range(_PREVIEWED_WITHIN):
        if not answer.pending:
            break
        await asyncio.sleep(1)
        answer = await _ask(context, LinkPreviews, "get_previews", payload)
    if not answer.previews:
        context.show(render.note(t("none of its links has a preview")))
    context.show(*map(render.link_preview, answer.previews), views=answer.previews)


@_command(
    "search",
    "WORDS",
    'find messages with all these words; "a phrase", begin*, from:NAME, in:TOPIC, has:link, before:DATE',
    group=_MESSAGES,
)
async def search(context: CommandContext, rest: str) -> None:
    results = await _ask(context, SearchResults, "search", {"query": rest})
    if not results.messages:
        context.show(render.note(t("nothing found")))
    for message in reversed(results.messages):
        where = f"#{message.topic_name}" if message.topic_name else context.title_of(message.room_id)
        context.show(
            render.search_result(message, results.snippets.get(message.id, []), context.account.username, where)
        )
    context.show(
        *([render.note(t("↑ older ones are not shown"))] if results.next else []), views=reversed(results.messages)
    )


@_command("thread", "N", "show the thread of message N, and its replies", group=_MESSAGES, needs_room=True)
async def thread(context: CommandContext, rest: str) -> None:
    message = await context.message(rest)
    page = await _ask_in_room(context, History, "history", thread=message.thread or message.id, limit=200)
    shown = [*([page.began] if page.began else []), *page.messages]
    if page.has_more:
        context.show(render.note(t("↑ older ones are not shown")))
    me = context.account.username
    context.show(
        # As messages of their own: what they reply to is above them.
        *(render.message(one.model_copy(update={"thread": None, "replies": 0}), me) for one in shown),
        views=shown,
    )
    if page.messages:
        seq = page.messages[-1].seq
        await context.ask_in_room("read", seq=seq, thread=page.messages[-1].thread)


@_command("threads", "", "list the threads that you follow, in all rooms", group=_MESSAGES)
async def threads(context: CommandContext, _: str) -> None:
    page = await _ask(context, Threads, "get_threads", {})
    if not page.threads:
        context.show(render.note(t("you follow no thread yet")))
    context.show(
        *(
            render.thread(one, context.account.username, context.title_of(one.message.room_id))
            for one in reversed(page.threads)
        ),
        views=page.threads,
    )


@_command("follow", "N [off]", "follow the thread of message N, or stop", group=_MESSAGES, needs_room=True)
async def follow(context: CommandContext, rest: str) -> None:
    reference, *off = words(rest, m("/follow N [off]"), 1, 2)
    message = await context.message(reference)
    payload = {"message_id": message.id, "following": off != ["off"]}
    answer = await _ask(context, Thread, "follow_thread", payload)
    told = t("you follow this thread") if answer.following else t("you do not follow this thread")
    context.show(render.note(told), views=[answer])


@_command("publish", "EVENT JSON", "publish an application's event in this room", group=_MESSAGES, needs_room=True)
async def publish(context: CommandContext, rest: str) -> None:
    event, text = number_and_text(rest, m("/publish EVENT JSON"))
    try:
        data = json.loads(text)
    except ValueError:
        raise InvalidCommand(t("{text} is not JSON", text=text)) from None
    published = await _ask_in_room(context, Published, "publish", event=event, data=data)
    context.show(views=[published])


@_command("events", "[EVENT]", "list the newest events of applications", group=_MESSAGES, needs_room=True)
async def events(context: CommandContext, rest: str) -> None:
    page = await _ask_in_room(context, PublishedEvents, "get_events", **({"event": rest} if rest else {}))
    if not page.events:
        context.show(render.note(t("no event yet")))
    context.show(*(render.published(event, "") for event in page.events), views=page.events)


# Rooms


@_command("posting", "members|moderators", "choose who may write to this room", group=_ROOMS, needs_room=True)
async def set_posting(context: CommandContext, rest: str) -> None:
    context.show(views=[await _ask_in_room(context, Room, "set_posting", posting=rest)])


@_command("title", "TITLE", "change the title of this group", group=_ROOMS, needs_room=True)
async def set_title(context: CommandContext, rest: str) -> None:
    context.show(views=[await _ask_in_room(context, Room, "set_title", title=rest)])


@_command("purpose", "TEXT|off", "say what this room is for; off: remove it", group=_ROOMS, needs_room=True)
async def set_purpose(context: CommandContext, rest: str) -> None:
    context.show(views=[await _ask_in_room(context, Room, "set_purpose", purpose=None if rest == "off" else rest)])


_RINGS: Final = {
    "all": m("everything rings here"),
    "mentions": m("mentions ring here"),
    "nothing": m("nothing rings here"),
}


@_command("notify", "all|mentions|nothing", "choose what rings in this room", group=_ROOMS, needs_room=True)
async def notify(context: CommandContext, rest: str) -> None:
    await _prefer(context, t(_RINGS.get(rest, rest)), notify=rest)


@_command("quiet", "TIME|off", "let nothing ring in this room for a while", group=_ROOMS, needs_room=True)
async def quiet(context: CommandContext, rest: str) -> None:
    length = None if rest == "off" else seconds(rest)
    told = t("no longer quiet") if length is None else t("quiet for {time}", time=duration(length))
    await _prefer(context, told, quiet_for=length)


@_command("favourite", "[off]", "list this room first", group=_ROOMS, needs_room=True)
async def favourite(context: CommandContext, rest: str) -> None:
    if rest not in ("", "off"):
        raise InvalidCommand("/favourite [off]")
    await _prefer(context, t("no favourite") if rest else t("a favourite"), favourite=not rest)


async def _prefer(context: CommandContext, told: str, **changed: Any) -> None:
    room = await _ask_in_room(context, Room, "set_preferences", **changed)
    context.show(render.note(f"{title(room)}: {told}"), views=[room])


@_command("unread", "[N]", "mark this room as unread, from message N on or the last", group=_ROOMS, needs_room=True)
async def mark_unread(context: CommandContext, rest: str) -> None:
    message = await context.message(rest or ".")
    answer = await _ask_in_room(context, Unread, "mark_unread", seq=message.seq)
    context.show(render.note(t("{count} unread", count=answer.unread)), views=[answer])


@_command("invite", "USER", "add a user to this topic or group", group=_ROOMS, needs_room=True)
async def invite(context: CommandContext, rest: str) -> None:
    await context.ask_in_room("invite", username=username(rest))


@_command(
    "link",
    "[TIME|never] [USES]",
    "make an invitation link; default: 7d",
    group=_ROOMS,
    needs_room=True,
)
async def link(context: CommandContext, rest: str) -> None:
    options = words(rest, m("/link [TIME|never] [USES]"), 0, 2)
    payload: dict[str, Any] = {}
    if options:
        payload["expires_in"] = None if options[0] == "never" else seconds(options[0])
    if len(options) > 1:
        payload["uses"] = number(options[1])
    new_link = await _ask_in_room(context, InvitationLink, "create_invitation_link", **payload)
    works = render.works(new_link)
    context.show(
        render.note(t("/join-link {code}  works {works}; /unlink ends it", code=new_link.code, works=works)),
        views=[new_link],
    )


@_command(
    "links",
    "",
    "list the links that work; all, if you moderate this room",
    group=_ROOMS,
    needs_room=True,
)
async def links(context: CommandContext, _: str) -> None:
    page = await _ask_in_room(context, InvitationLinks, "get_invitation_links", limit=500)
    context.show(render.links(page.links, more=page.next is not None), views=page.links)


@_command("unlink", "CODE", "delete an invitation link", group=_ROOMS)
async def unlink(context: CommandContext, rest: str) -> None:
    await context.ask("delete_invitation_link", {"code": rest})
    context.show(render.note(t("the link is deleted")))


# People


@_command("members", "", "list the members of this room, and who is online", group=_PEOPLE, needs_room=True)
async def members(context: CommandContext, _: str) -> None:
    after: str | None = None
    while True:
        page = await _ask_in_room(context, Members, "get_members", limit=500, **({"after": after} if after else {}))
        context.show(render.members(page.members, context.account.username), views=page.members)
        after = page.next
        if after is None:
            return


@_command("receipts", "", "show how far the others have received and read this room", group=_PEOPLE, needs_room=True)
async def receipts(context: CommandContext, _: str) -> None:
    receipts_ = (await _ask_in_room(context, Receipts, "get_receipts")).receipts
    context.show(render.receipts(receipts_), views=receipts_)


@_command("who", "USER", "show a user's name, status, and whether they are online", group=_PEOPLE)
async def who(context: CommandContext, rest: str) -> None:
    profile = await _ask(context, Profile, "get_profile", {"username": username(rest)})
    context.show(render.profile(profile, context.account.username), views=[profile])


@_command("people", "[QUERY]", "list the users; those whose names have words that begin so", group=_PEOPLE)
async def people(context: CommandContext, rest: str) -> None:
    page = await _ask(context, Users, "get_users", {"query": rest})
    context.show(render.people(page.users, context.account.username, more=page.next is not None), views=page.users)


@_command("block", "USER", "refuse messages and invitations from a user", group=_PEOPLE)
async def block(context: CommandContext, rest: str) -> None:
    await context.ask("block", {"username": username(rest)})
    context.show(
        render.note(t("{user} is blocked: no direct messages, no invitations; /unblock ends it", user=username(rest)))
    )


@_command("unblock", "USER", "accept them again", group=_PEOPLE)
async def unblock(context: CommandContext, rest: str) -> None:
    await context.ask("unblock", {"username": username(rest)})
    context.show(render.note(t("{user} is not blocked", user=username(rest))))


@_command("blocks", "", "list the users you have blocked", group=_PEOPLE)
async def blocks(context: CommandContext, _: str) -> None:
    blocked = await _ask(context, Usernames, "get_blocks", {})
    context.show(render.note(", ".join(blocked.usernames) or t("nobody is blocked")), views=[blocked])


# Moderation


@_command("kick", "USER", "remove a member, who may come back", group=_MODERATION, needs_room=True)
async def kick(context: CommandContext, rest: str) -> None:
    await context.ask_in_room("kick", username=username(rest))


@_command("ban", "USER [TIME]", "remove a user for a time, or forever", group=_MODERATION, needs_room=True)
async def ban(context: CommandContext, rest: str) -> None:
    user, *time = words(rest, m("/ban USER [TIME]"), 1, 2)
    until = {"duration": seconds(time[0])} if time else {}
    await context.ask_in_room("ban", username=username(user), **until)
    told = (
        t("{user} is banned for {time}", user=username(user), time=duration(seconds(time[0])))
        if time
        else t("{user} is banned forever", user=username(user))
    )
    context.show(render.note(told))


@_command("unban", "USER", "let a user come back", group=_MODERATION, needs_room=True)
async def unban(context: CommandContext, rest: str) -> None:
    await context.ask_in_room("unban", username=username(rest))
    context.show(render.note(t("{user} is no longer banned", user=username(rest))))


@_command("bans", "", "list the users who are banned from this room", group=_MODERATION, needs_room=True)
async def bans(context: CommandContext, _: str) -> None:
    page = await _ask_in_room(context, Bans, "get_bans", limit=500)
    context.show(render.bans(page.bans, more=page.next is not None), views=page.bans)


@_command("report", "N REASON", "tell the moderators of a message", group=_MODERATION, needs_room=True)
async def report(context: CommandContext, rest: str) -> None:
    reference, reason = number_and_text(rest, m("/report N REASON"))
    message = await context.message(reference)
    await context.ask("report", {"message_id": message.id, "reason": reason})
    context.show(render.note(t("the moderators are told of what {user} wrote", user=message.sender)))


@_command("reports", "", "list the messages that were reported here", group=_MODERATION, needs_room=True)
async def reports(context: CommandContext, _: str) -> None:
    page = await _ask_in_room(context, Reports, "get_reports", limit=500)
    context.show(render.reports(page.reports), views=page.reports)


@_command("close", "N", "close a report, by its number in /reports", group=_MODERATION, needs_room=True)
async def close(context: CommandContext, rest: str) -> None:
    which = number(rest)
    page = await _ask_in_room(context, Reports, "get_reports", limit=500)
    if not 0 < which <= len(page.reports):
        raise InvalidCommand(t("there is no report {number}: /reports lists them", number=which))
    await context.ask("close_report", {"report_id": page.reports[which - 1].report_id})
    context.show(render.note(t("the report is closed")))


@_command(
    "mute",
    "USER [TIME]",
    "keep a member from sending (1h); 0 ends it",
    group=_MODERATION,
    needs_room=True,
)
async def mute(context: CommandContext, rest: str) -> None:
    user, *time = words(rest, m("/mute USER [TIME]"), 1, 2)
    length = seconds(time[0]) if time else 3600
    await context.ask_in_room("mute", username=username(user), duration=length)
    told = (
        t("{user} is muted for {time}", user=username(user), time=duration(length))
        if length
        else t("{user} may speak again", user=username(user))
    )
    context.show(render.note(told))


@_command("role", "USER ROLE", "make a user owner, moderator or member", group=_MODERATION, needs_room=True)
async def role(context: CommandContext, rest: str) -> None:
    user, role_name = words(rest, m("/role USER ROLE: owner, moderator or member"), 2, 2)
    if role_name not in list(Role):
        raise InvalidCommand(t("{role} is not a role: owner, moderator or member", role=role_name))
    await context.ask_in_room("set_role", username=username(user), role=role_name)


# The user's account


async def _set_profile(context: CommandContext, **fields: Any) -> None:
    profile = Profile.model_validate(await context.ask("set_profile", fields), extra="ignore")
    context.show(render.profile(profile, context.account.username), views=[profile])


@_command("name", "[TEXT]", "show this name beside your username; without TEXT none", group=_ACCOUNT)
async def name(context: CommandContext, rest: str) -> None:
    await _set_profile(context, display_name=rest or None)


@_command("status", "[[EMOJI] TEXT [for TIME]]", "show others what you do; without TEXT nothing", group=_ACCOUNT)
async def status(context: CommandContext, rest: str) -> None:
    await _set_profile(context, status=arguments.status(rest) if rest else None)


@_command("dnd", "TIME|off", "do not disturb: the terminal does not ring, and others see it", group=_ACCOUNT)
async def dnd(context: CommandContext, rest: str) -> None:
    await _set_profile(context, do_not_disturb=None if rest == "off" else seconds(rest))


@_command("sessions", "", "list where you are signed in", group=_ACCOUNT)
async def sessions(context: CommandContext, _: str) -> None:
    session_list = (await _ask(context, Sessions, "get_sessions", {})).sessions
    context.show(render.sessions(session_list), views=session_list)


@_command("revoke", "N", "sign out a session, by its number in /sessions", group=_ACCOUNT)
async def revoke(context: CommandContext, rest: str) -> None:
    session_list = (await _ask(context, Sessions, "get_sessions", {})).sessions
    session_id = rest.removeprefix("#")
    if session_id.isascii() and session_id.isdigit() and 1 <= int(session_id[:9]) <= len(session_list):
        session_id = session_list[int(session_id[:9]) - 1].session_id
    await context.ask("revoke_session", {"session_id": session_id})
    context.show(render.note(t("that session is signed out")))


@_command("passwd", "", "change your password; this ends your other sessions", group=_ACCOUNT)
async def passwd(context: CommandContext, _: str) -> None:
    current = await context.read_secret(t("Current password"))
    new = await context.read_secret(t("New password"))
    if await context.read_secret(t("New password, again")) != new:
        raise InvalidCommand(t("the two are not the same; the password is unchanged"))
    await context.ask("change_password", {"password": current, "new_password": new})
    context.account.forget_password()
    context.show(render.note(t("the password is changed; your other sessions are signed out")))


@_command("deactivate", "", "close your account; what you sent stays", group=_ACCOUNT)
async def deactivate(context: CommandContext, _: str) -> None:
    await context.ask("deactivate", {"password": await context.read_secret(t("Your password, to close the account"))})


@_command(
    "delete-account", "[messages]", "delete your account for ever; `messages`: what you sent, too", group=_ACCOUNT
)
async def delete_account(context: CommandContext, rest: str) -> None:
    if rest not in ("", "messages"):
        raise InvalidCommand(t("/delete-account, or /delete-account messages"))
    password = await context.read_secret(t("Your password, to delete the account for ever"))
    await context.ask("delete_account", {"password": password, "messages": "delete" if rest else "keep"})


@_command("pending", "[DEVICE]", "list what a device has not received; default: this device", group=_ACCOUNT)
async def pending(context: CommandContext, rest: str) -> None:
    payload = {"device": rest or context.device, "limit": 500}
    pending_rooms = (await _ask(context, Pending, "get_pending", payload)).rooms
    context.show(
        render.pending([(context.title_of(room.room_id), room) for room in pending_rooms], rest or context.device),
        views=pending_rooms,
    )


@_command("clear", "[DEVICE]", "drop what a device has not received", group=_ACCOUNT)
async def clear(context: CommandContext, rest: str) -> None:
    await context.ask("clear_pending", {"device": rest or context.device})
    context.show(render.note(t("nothing is pending for {device}", device=rest or context.device)))


@_command("echo", "TEXT", "have the server send TEXT back", group=_ACCOUNT)
async def echo(context: CommandContext, rest: str) -> None:
    echoed = await _ask(context, Echo, "echo", {"content": rest})
    context.show(render.note(t("echo: {content}", content=echoed.content)), views=[echoed])


@_command("echo-history", "", "list your echoes", group=_ACCOUNT)
async def echo_history(context: CommandContext, _: str) -> None:
    entries = (await _ask(context, EchoHistory, "echo_history", {})).entries
    context.show(*(render.echo(entry) for entry in entries), views=entries)
    if not entries:
        context.show(render.note(t("no echo yet")))


@_command("new", "USER… [: TITLE]", "start a group, or a conversation with one user", group=_ROOMS)
async def new(context: CommandContext, rest: str) -> None:
    room = await _ask(context, Room, "create_conversation", conversation(rest))
    context.show(render.note(t("you are in {room} now", room=title(room))), views=[room])
    await context.entered(room)


@_command("join-link", "CODE", "join a room by its invitation link", group=_ROOMS)
async def join_link(context: CommandContext, rest: str) -> None:
    code = rest.removeprefix("/join-link").strip()
    room = await _ask(context, Room, "join_by_link", {"code": code})
    context.show(render.note(t("you are in {room} now", room=title(room))), views=[room])
    await context.entered(room)
