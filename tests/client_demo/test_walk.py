"""A walk through every command of the terminal client: typed on one screen, checked on both."""

from __future__ import annotations

import json
import re

import pytest

from tests.client_demo.conftest import AT, PASSWORD, Cli, People, Terminals
from tidings_chat.actions import ACTIONS
from tidings_chat.chat_commands import ChatCommands

pytestmark = pytest.mark.long


async def test_commands_edit_delete_answer_find_and_react_to_messages(terminals: Terminals, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    omar, diego = terminals.open("omar"), terminals.open("diego")
    for terminal in (omar, diego):
        await terminal.sees("/help lists the commands, Tab")
        terminal.type("/open noticias")
        await terminal.sees("#noticias ›")
    await omar.sees("● diego")  # in the status bar

    omar.type("the first edishun, @diego")
    await diego.sees("  1 " + AT + "omar the first edishun, @diego")
    diego.type("/reply 1 edition?")
    await omar.sees("  2 " + AT + r"diego ↳ 1 omar the first edishun, @diego\s+edition\?")
    omar.type("/edit . the first edition, @diego")
    await diego.sees(r"  1 +✎ omar the first edition, @diego \(edited\)")
    diego.type("/react 1 🎉")
    await omar.sees(r"  1 +\+ omar the first edition, @diego \(edited\)  diego 🎉")
    omar.type("/react 1 👍")
    await diego.sees(r"omar 👍\s+🎉 diego  👍 omar")
    diego.type("/unreact 1 🎉")
    await omar.sees("diego took back 🎉")
    diego.type("oops")
    await diego.sees(AT + "diego oops")  # so it was sent
    diego.type("/delete .")
    await omar.sees(r"✗ diego \(deleted\)")
    omar.type("/search FIRST edition*")
    await omar.sees("#noticias 1 omar the first edition")
    omar.type("/search nothing like it")
    await omar.sees("nothing found")
    omar.type("/history")
    await omar.sees(AT + r"omar the first edition, @diego \(edited\)\s+👍 omar")
    await omar.sees(AT + r"diego \(deleted\)")

    for line, answer in (
        ("/edit 2 mine", r"only the author of a message may edit it \(forbidden\)"),
        ("/edit 99 nothing", "there is no message 99 here"),
        ("/react first 👍", "first is not the number of a message"),
        ("/react 1", "which message, and what"),
        ("/react 1 a\u202eb", r"invalid\)"),
        ("/delete", "/delete N: delete a message"),
        ("/reply 1", "/reply N TEXT"),
        ("/EDIT 1 by another name", "by another name"),
        ("/nothing at all", "there is no /nothing"),
    ):
        omar.type(line)
        await omar.sees(answer)

    await diego.sees("omar by another name")  # so diego does not miss this entry later
    diego.type("/quit")
    assert await diego.ends() == 0
    await omar.sees("○ diego")
    omar.type("/edit 1 nothing new")
    await omar.sees("nothing new")
    omar.type("/delete 1")
    await omar.sees(r"✗ omar \(deleted\)")
    diego = terminals.open("diego")
    await diego.sees(r"#noticias \d+ omar \(deleted\)")
    await diego.sees("2 while you were away")


async def test_commands_manage_the_members_of_a_group(terminals: Terminals, people: People) -> None:
    await people.ask("maria", "GET", "/api/me")
    omar, diego = terminals.open("omar"), terminals.open("diego")
    for terminal in (omar, diego):
        await terminal.sees("/help lists the commands, Tab")
    omar.type("/new maria, @diego : The editors")
    await diego.sees("you are in The editors now: /open The editors")
    await omar.sees("The editors ›")
    diego.type("/open the editors")
    await diego.sees("The editors ›")
    omar.type("/title Late shift")
    await diego.sees("omar named this group Late shift")
    await diego.sees("Late shift ›")
    diego.type("/title Mine")
    await diego.sees(r"\(forbidden\)")
    omar.type("/role diego king")
    await omar.sees("king is not a role")
    omar.type("/role diego moderator")
    await diego.sees("you are moderator in Late shift now")
    omar.type("/members")
    await omar.sees("● +diego +moderator +online")
    await omar.sees("○ +maria +last seen|○ +maria +not seen yet")
    omar.type("/receipts")
    await omar.sees(r"diego +received up to \d+, read up to \d+\s+maria +received up to 0, read up to 0")
    omar.type("/mute diego soon")
    await omar.sees("soon is not a time")
    omar.type("/mute diego 10m")
    await omar.sees("diego is muted for 10 m")
    diego.type("may I?")
    await diego.sees("not sent: may I[?] — muted until")
    omar.type("/mute diego 0")
    await omar.sees("diego may speak again")
    diego.type("thanks")
    await omar.sees(AT + "diego thanks")
    omar.type("never on Mondays")
    await diego.sees("omar never on Mondays")
    diego.type("/report . too late a shift")
    await diego.sees("the moderators are told of what")
    omar.type("/reports")
    await omar.sees(r"1 +omar +never on Mondays\s+diego: too late a shift")
    omar.type("/close 2")
    await omar.sees("there is no report 2")
    omar.type("/close 1")
    await omar.sees("the report is closed")
    omar.type("/kick diego")
    await diego.sees("you are no longer in Late shift: kicked")
    await omar.sees("diego was removed from Late shift")
    omar.type("/link 2h 1")
    await omar.sees("works until .*, 1 time;")
    link = re.search(r"/join-link (\S+)", omar.text)
    assert link
    diego.type(link[0])
    await diego.sees("you are in Late shift now")
    await omar.sees("diego joined Late shift")
    diego.type(link[0])
    await diego.sees(r"\((conflict|not_found)\)")
    omar.type("/link never")
    await omar.sees("works forever")
    omar.type("/links")
    await omar.sees(r"\S+ +omar +forever")
    omar.type("/unlink " + re.findall(r"/join-link (\S+)", omar.text)[-1])
    await omar.sees("the link is deleted")
    omar.type("/links")
    await omar.sees("there are no invitation links")
    omar.type("/ban diego 2h")
    await diego.sees("you are no longer in Late shift: banned")
    await omar.sees("diego is banned for 2 h")
    omar.type("/bans")
    await omar.sees("diego +until")
    omar.type("/unban diego")
    await omar.sees("diego is no longer banned")
    omar.type("/bans")
    await omar.sees("nobody is banned")
    omar.type("/invite diego")
    await diego.sees("you are in Late shift now: /open Late shift")

    omar.type("/block diego")
    await omar.sees("diego is blocked")
    omar.type("/blocks")
    await omar.sees("\n +diego +\n|  diego")
    diego.type("/msg omar hello?")
    await diego.sees("not sent: hello[?]")
    omar.type("/unblock diego")
    await omar.sees("diego is not blocked")
    omar.type("/blocks")
    await omar.sees("nobody is blocked")
    omar.type("/who diego")
    await omar.sees("● diego +online, registered")
    omar.type("/who nobody")
    await omar.sees(r"\(not_found\)")


async def test_commands_manage_the_own_account(terminals: Terminals, people: People) -> None:
    await people.ask("omar", "GET", "/api/me")  # another session
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/sessions")
    await omar.sees("this one")
    omar.type("/revoke 7")
    await omar.sees(r"\(not_found\)")
    omar.type("/revoke 2")
    await omar.sees("that session is signed out")
    omar.type("/echo hola\t¿qué tal?")
    await omar.sees("echo: hola")
    omar.type("/echo-history")
    await omar.sees("← hola")
    omar.type("/pending")
    await omar.sees("nothing is pending for terminal")
    omar.type("/pending nothing")
    await omar.sees(r"\(not_found\)", times=2)
    omar.type("/clear")
    await omar.sees("nothing is pending for terminal", times=2)
    attempts = (
        ((PASSWORD, "another horse", "other horse"), "the two are not the same"),
        (("wrong", "another horse", "another horse"), r"\(forbidden\)"),
        ((PASSWORD, "another horse", "another horse"), "the password is changed"),
    )
    for attempt, (answers, end) in enumerate(attempts, 1):
        omar.type("/passwd")
        for prompt, answer in zip(("Current password", "New password", "again"), answers, strict=True):
            await omar.sees(f"{prompt} ›", times=attempt)
            omar.type(answer)
        await omar.sees(end)
    assert "horse" not in omar.text
    omar.type("/help")
    await omar.sees("/help COMMAND explains")
    for name in ChatCommands.names:
        await omar.sees(f"/{name}[ \n]")
    omar.type("/help mute")
    await omar.sees(r"/mute USER \[TIME\] +keep a member from sending")
    assert "/kick USER" not in omar.text
    omar.type("/help all")
    await omar.sees("/kick USER +remove a member")
    await omar.sees("Ctrl-D quits", times=2)  # the last line of the list
    shown = omar.text.count("/echo-history")
    omar.keys("/echo-\t")
    await omar.sees("/echo-history", times=shown + 1)
    omar.keys("\r")
    await omar.sees("← hola", times=2)
    omar.type("/whoami")
    await omar.sees("device terminal, signed in for")
    omar.type("/deactivate")
    await omar.sees("to close the account ›")
    omar.type("another horse")
    assert await omar.ends() == 1
    await omar.sees("signed out by the server")


async def test_scripts_have_the_commands_of_the_chat(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "hola")
    await cli("diego", "send", "noticias", "qué tal", "--reply-to", "1")
    await cli("diego", "react", "noticias", "1", "👍")
    await cli("omar", "edit", "noticias", ".", "hola", "a", "todos")
    lines = (await cli("diego", "tail", "noticias", "--json", "--changes", "--count", "4")).splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["message", "message", "reaction", "message_edited"]
    edited = events[3]["data"]["message"]
    assert (edited["content"], edited["reactions"]) == ("hola a todos", {"👍": ["diego"]})
    assert events[1]["data"]["reply_to"] == edited["id"]
    (hit,) = (await cli("omar", "search", "todos", "--json")).splitlines()
    assert json.loads(hit)["id"] == edited["id"]
    assert re.search("diego +online|diego +last seen|diego +not seen", await cli("omar", "members", "noticias"))
    await cli("omar", "kick", "noticias", "diego")
    status, out, err = await cli.run("diego", "kick", "noticias", "omar")
    assert (status, out, err.partition(":")[0]) == (1, "", "forbidden")
    assert set(ACTIONS.commands) <= set(ChatCommands.names)
