"""The commands that ask one thing and show the answer: the same in the chat and for scripts."""

from __future__ import annotations

import re
from typing import Any, Final

from client_demo import render
from client_demo.desk import Desk, Mistake, Table, number_and_text, person, seconds, span, words
from client_demo.rooms import title
from server.contract.models import (
    Bans,
    Echo,
    EchoHistory,
    Found,
    InvitationLink,
    Members,
    Message,
    Pending,
    Profile,
    Receipts,
    Role,
    Room,
    Sessions,
    Usernames,
)

ACTIONS: Final[Table[Desk]] = Table()
_command = ACTIONS.add

_MESSAGES, _ROOMS, _PEOPLE, _ORDER, _ME = "messages", "rooms", "people", "keeping order", "you"


# Messages


@_command("edit", "N TEXT", "change a message of yours; . is your last one", group=_MESSAGES, room=True)
async def edit(desk: Desk, rest: str) -> None:
    which, text = number_and_text(rest, "/edit N TEXT")
    message = await desk.message(which, mine=True)
    data = await desk.ask("edit", {"message_id": message.id, "content": text})
    desk.show(views=[Message.model_validate(data, extra="ignore")])


@_command("delete", "N", "delete one; . is your last one", group=_MESSAGES, room=True)
async def delete(desk: Desk, rest: str) -> None:
    message = await desk.message(rest, mine=True)
    await desk.ask("delete", {"message_id": message.id})


@_command("react", "N EMOJI", "put an emoji on message N; . is the last one", group=_MESSAGES, room=True)
async def react(desk: Desk, rest: str) -> None:
    await _react(desk, rest, remove=False)


@_command("unreact", "N EMOJI", "take yours off again", group=_MESSAGES, room=True)
async def unreact(desk: Desk, rest: str) -> None:
    await _react(desk, rest, remove=True)


async def _react(desk: Desk, rest: str, *, remove: bool) -> None:
    which, emoji = words(rest, "which message, and what? N EMOJI", 2, 2)
    message = await desk.message(which)
    data = await desk.ask("react", {"message_id": message.id, "emoji": emoji, "remove": remove})
    desk.show(views=[Message.model_validate(data, extra="ignore")])


@_command("search", "WORDS", 'messages with all these words, in your rooms; "a phrase", begin*', group=_MESSAGES)
async def search(desk: Desk, rest: str) -> None:
    found = Found.model_validate(await desk.ask("search", {"query": rest}), extra="ignore")
    if not found.messages:
        desk.show(render.note("nothing found"))
    for message in reversed(found.messages):
        where = f"#{message.topic_name}" if message.topic_name else desk.title_of(message.room_id)
        desk.show(render.found(message, found.snippets.get(message.id, []), desk.account.username, where))
    desk.show(*([render.note("↑ older ones are not shown")] if found.next else []), views=reversed(found.messages))


# Rooms


@_command("title", "TITLE", "give this group another title", group=_ROOMS, room=True)
async def set_title(desk: Desk, rest: str) -> None:
    desk.show(views=[Room.model_validate(await desk.about("set_title", title=rest), extra="ignore")])


@_command("invite", "USER", "bring somebody into this private topic or group", group=_ROOMS, room=True)
async def invite(desk: Desk, rest: str) -> None:
    await desk.about("invite", username=person(rest))


@_command("link", "[TIME|never] [USES]", "make a code by which others may come; 7d", group=_ROOMS, room=True)
async def link(desk: Desk, rest: str) -> None:
    given = words(rest, "/link [TIME|never] [USES]", 0, 2)
    payload: dict[str, Any] = {}
    if given:
        payload["expires_in"] = None if given[0] == "never" else seconds(given[0])
    if len(given) > 1:
        payload["uses"] = _number(given[1])
    made = InvitationLink.model_validate(await desk.about("create_invitation_link", **payload), extra="ignore")
    until = f"until {render.moment(made.expires_at)}" if made.expires_at else "for ever"
    uses = f", {made.uses_left} times" if made.uses_left is not None else ""
    desk.show(render.note(f"/join-link {made.code}  works {until}{uses}; /unlink ends it"), views=[made])


@_command("unlink", "CODE", "make such a code void", group=_ROOMS)
async def unlink(desk: Desk, rest: str) -> None:
    await desk.ask("delete_invitation_link", {"code": rest})
    desk.show(render.note("that link is void"))


# People


@_command("members", "", "who is in this room, and who is there", group=_PEOPLE, room=True)
async def members(desk: Desk, _: str) -> None:
    after: str | None = None
    while True:
        data = await desk.about("get_members", limit=500, **({"after": after} if after else {}))
        page = Members.model_validate(data, extra="ignore")
        desk.show(render.members(page.members, desk.account.username), views=page.members)
        after = page.next
        if after is None:
            return


@_command("receipts", "", "how far the others have received and read this room", group=_PEOPLE, room=True)
async def receipts(desk: Desk, _: str) -> None:
    found = Receipts.model_validate(await desk.about("get_receipts"), extra="ignore").receipts
    desk.show(render.receipts(found), views=found)


@_command("whois", "USER", "whether somebody is there, and since when", group=_PEOPLE)
async def whois(desk: Desk, rest: str) -> None:
    profile = Profile.model_validate(await desk.ask("get_profile", {"username": person(rest)}), extra="ignore")
    desk.show(render.profile(profile, desk.account.username), views=[profile])


@_command("block", "USER", "take no messages and invitations from somebody", group=_PEOPLE)
async def block(desk: Desk, rest: str) -> None:
    await desk.ask("block", {"username": person(rest)})
    desk.show(render.note(f"{person(rest)} is blocked: no direct messages, no invitations; /unblock ends it"))


@_command("unblock", "USER", "take them again", group=_PEOPLE)
async def unblock(desk: Desk, rest: str) -> None:
    await desk.ask("unblock", {"username": person(rest)})
    desk.show(render.note(f"{person(rest)} is not blocked"))


@_command("blocks", "", "whom you have blocked", group=_PEOPLE)
async def blocks(desk: Desk, _: str) -> None:
    found = Usernames.model_validate(await desk.ask("get_blocks", {}), extra="ignore")
    desk.show(render.note(", ".join(found.usernames) or "nobody is blocked"), views=[found])


# Keeping order


@_command("kick", "USER", "remove a member, who may come back", group=_ORDER, room=True)
async def kick(desk: Desk, rest: str) -> None:
    await desk.about("kick", username=person(rest))


@_command("ban", "USER [TIME]", "remove somebody for a time, or for ever", group=_ORDER, room=True)
async def ban(desk: Desk, rest: str) -> None:
    who, *time = words(rest, "/ban USER [TIME]", 1, 2)
    duration = {"duration": seconds(time[0])} if time else {}
    await desk.about("ban", username=person(who), **duration)
    desk.show(render.note(f"{person(who)} is banned {f'for {span(seconds(time[0]))}' if time else 'for ever'}"))


@_command("unban", "USER", "let them come back", group=_ORDER, room=True)
async def unban(desk: Desk, rest: str) -> None:
    await desk.about("unban", username=person(rest))
    desk.show(render.note(f"{person(rest)} is not banned any more, and may come back"))


@_command("bans", "", "who is banned from this room", group=_ORDER, room=True)
async def bans(desk: Desk, _: str) -> None:
    found = Bans.model_validate(await desk.about("get_bans", limit=500), extra="ignore")
    desk.show(render.bans(found.bans, more=found.next is not None), views=found.bans)


@_command("mute", "USER [TIME]", "let a member not speak for a while (1h); 0 ends it", group=_ORDER, room=True)
async def mute(desk: Desk, rest: str) -> None:
    who, *time = words(rest, "/mute USER [TIME]", 1, 2)
    duration = seconds(time[0]) if time else 3600
    await desk.about("mute", username=person(who), duration=duration)
    desk.show(render.note(f"{person(who)} {f'is muted for {span(duration)}' if duration else 'may speak again'}"))


@_command("role", "USER ROLE", "make somebody owner, moderator or member", group=_ORDER, room=True)
async def role(desk: Desk, rest: str) -> None:
    who, name = words(rest, "/role USER ROLE: owner, moderator or member", 2, 2)
    if name not in list(Role):
        raise Mistake(f"{name} is no role: owner, moderator or member")
    await desk.about("set_role", username=person(who), role=name)


# The user's own


@_command("sessions", "", "where you are signed in", group=_ME)
async def sessions(desk: Desk, _: str) -> None:
    found = Sessions.model_validate(await desk.ask("get_sessions", {}), extra="ignore").sessions
    desk.show(render.sessions(found), views=found)


@_command("revoke", "N", "sign one out, by its number in /sessions", group=_ME)
async def revoke(desk: Desk, rest: str) -> None:
    found = Sessions.model_validate(await desk.ask("get_sessions", {}), extra="ignore").sessions
    which = rest.removeprefix("#")
    if which.isascii() and which.isdigit() and 1 <= int(which[:9]) <= len(found):
        which = found[int(which[:9]) - 1].session_id
    await desk.ask("revoke_session", {"session_id": which})
    desk.show(render.note("that session is signed out"))


@_command("passwd", "", "another password; ends your other sessions", group=_ME)
async def passwd(desk: Desk, _: str) -> None:
    present = await desk.secret("Present password")
    new = await desk.secret("New password")
    if await desk.secret("New password, again") != new:
        raise Mistake("these were not the same; the password is as it was")
    await desk.ask("change_password", {"password": present, "new_password": new})
    desk.account.forget_password()
    desk.show(render.note("the password is changed; your other sessions are signed out"))


@_command("deactivate", "", "close your account; what you sent stays", group=_ME)
async def deactivate(desk: Desk, _: str) -> None:
    await desk.ask("deactivate", {"password": await desk.secret("Your password, to close the account")})


@_command("pending", "[DEVICE]", "what a device of yours still misses; this one", group=_ME)
async def pending(desk: Desk, rest: str) -> None:
    payload = {"device": rest or desk.device, "limit": 500}
    found = Pending.model_validate(await desk.ask("get_pending", payload), extra="ignore").rooms
    desk.show(
        render.pending([(desk.title_of(room.room_id), room) for room in found], rest or desk.device), views=found
    )


@_command("clear", "[DEVICE]", "let it miss that", group=_ME)
async def clear(desk: Desk, rest: str) -> None:
    await desk.ask("clear_pending", {"device": rest or desk.device})
    desk.show(render.note(f"nothing is pending for {rest or desk.device}"))


@_command("echo", "TEXT", "have the server say it back", group=_ME)
async def echo(desk: Desk, rest: str) -> None:
    said = Echo.model_validate(await desk.ask("echo", {"content": rest}), extra="ignore")
    desk.show(render.note(f"echo: {said.content}"), views=[said])


@_command("echo-history", "", "what it said back before", group=_ME)
async def echo_history(desk: Desk, _: str) -> None:
    found = EchoHistory.model_validate(await desk.ask("echo_history", {}), extra="ignore").entries
    desk.show(*(render.echo(entry) for entry in found), views=found)
    if not found:
        desk.show(render.note("no echo yet"))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Mistake(f"{text} is no number")
    return int(text)


def conversation(rest: str) -> dict[str, Any]:
    """`USER… [: TITLE]` as the payload of `create_conversation`."""
    people, colon, name = rest.partition(":")
    usernames = [person(who) for who in re.split(r"[\s,]+", people) if person(who)]
    if not usernames or (colon and not name.strip()):
        raise Mistake("/new USER… [: TITLE]")
    return {"usernames": usernames, **({"title": name.strip()} if colon else {})}


@_command("new", "USER… [: TITLE]", "a group; or the conversation with one", group=_ROOMS)
async def new(desk: Desk, rest: str) -> None:
    room = Room.model_validate(await desk.ask("create_conversation", conversation(rest)), extra="ignore")
    desk.show(render.note(f"you are in {title(room)} now"), views=[room])
    desk.enter(room)


@_command("join-link", "CODE", "come in by such a code", group=_ROOMS)
async def join_link(desk: Desk, rest: str) -> None:
    code = rest.removeprefix("/join-link").strip()
    room = Room.model_validate(await desk.ask("join_by_link", {"code": code}), extra="ignore")
    desk.show(render.note(f"you are in {title(room)} now"), views=[room])
    desk.enter(room)
