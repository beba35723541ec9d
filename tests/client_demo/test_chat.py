"""The interactive client on a real terminal: its screen and its input."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from tests.client_demo.conftest import AT, DEADLINE, Cli, People, Terminals

pytestmark = pytest.mark.long

NAME = r"(?<!#)not\s*icias"
"""The name as typed or completed, but not in the list of rooms, where a # precedes it."""


async def test_two_users_chat_in_a_private_topic(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help lists the commands, Tab")
    await diego.sees("/help lists the commands, Tab")
    omar.type("/create planes --private")
    await omar.sees("#planes is yours")
    omar.type("/invite diego")
    await omar.sees("diego joined #planes")
    await diego.sees("you are in #planes now")
    omar.type("¿vamos al cine?")
    await omar.sees(AT + r"omar +¿vamos al cine\?")
    await diego.sees(AT + r"#planes \d+ omar +¿vamos al cine\?")
    diego.type("/open planes")
    await diego.sees(AT + r"omar +¿vamos al cine\?")
    await omar.sees("read by diego")
    diego.type("sí, a las ocho")
    await omar.sees(AT + r"diego +sí, a las ocho")
    diego.type("/members")
    await diego.sees("● +omar +owner +online")
    diego.type("/quit")
    assert await diego.ends() == 0


async def test_opening_a_conversation_shows_the_receipts_of_the_last_message(
    terminals: Terminals, cli: Cli, people: People
) -> None:
    await cli("diego", "rooms")
    await cli("omar", "send", "diego", "¿vamos?")
    diego = terminals.open("diego")
    await diego.sees("¿vamos")
    diego.type("/open omar")
    await diego.sees("@omar ›")
    diego.type("/receipts")
    await diego.sees("omar +received up to")
    async with asyncio.timeout(DEADLINE):
        while not any(
            receipt["username"] == "diego" and receipt["read_seq"]
            for receipt in (await people.ask("omar", "GET", "/api/receipts", username="diego"))["receipts"]
        ):
            pass
    diego.type("/quit")
    assert await diego.ends() == 0
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/open diego")
    await omar.sees("read by diego")


async def test_a_direct_message_creates_a_conversation(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help lists the commands, Tab")
    await diego.sees("/help lists the commands, Tab")
    omar.type("/open diego")
    await omar.sees("nothing said to diego yet")
    omar.type("hola diego")
    await omar.sees(AT + "omar +hola diego")
    await diego.sees(AT + r"@omar 1 omar +hola diego")
    diego.type("/msg omar hola omar")
    await omar.sees(AT + "diego +hola omar")


async def test_a_returning_user_sees_the_missed_messages(terminals: Terminals, cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/join noticias")
    await diego.sees("#noticias: diego, omar online|#noticias: diego online")
    diego.type("/quit")
    assert await diego.ends() == 0
    await cli("omar", "send", "noticias", "mientras tanto")
    diego = terminals.open("diego")
    await diego.sees(AT + "#noticias 1 omar +mientras tanto")
    await diego.sees("1 while you were away")
    await diego.sees("#noticias +1 ")  # unread
    await diego.sees("#noticias ›")  # the room that was open before


async def test_other_rooms_are_not_printed_into_the_open_one(terminals: Terminals, people: People) -> None:
    for topic in ("noticias", "planes"):
        await people.topic(topic, "omar", "diego")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/open noticias")
    await diego.sees("#noticias ›")
    await people.send("omar", "planes", "not for this room")
    await people.ask("ana", "POST", "/api/subscriptions", topic_name="planes")
    await people.send("omar", "planes", "@diego for you")
    await people.send("omar", "diego", "only for you")
    await people.send("omar", "noticias", "buenos días")
    await diego.sees(AT + r"#planes \d+ omar +@diego for you")
    await diego.sees(AT + r"@omar \d+ omar +only for you")
    await diego.sees(AT + "omar +buenos días")
    await diego.sees(r"#planes \(2\)")  # the unread counts of the bar
    assert "not for this room" not in diego.text


async def test_typing_is_shown_to_other_members(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help lists the commands, Tab")
    await diego.sees("/help lists the commands, Tab")
    omar.type("/create noticias")
    await omar.sees("#noticias is yours")
    diego.type("/join noticias")
    await diego.sees("#noticias: diego, omar online")
    await omar.sees("diego joined #noticias")
    diego.keys("escri")
    await omar.sees("diego is typing…")


async def test_a_refused_message_is_shown_as_not_sent(terminals: Terminals, cli: Cli) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/msg nobody hola")
    await omar.sees("not sent: hola — .*not_found")
    await cli("diego", "rooms")
    omar.type("/msg diego hola")
    await omar.sees(AT + r"@diego \d+ omar +hola")


async def test_alt_and_a_digit_open_a_room_of_the_bar_which_shows_unread_counts(
    terminals: Terminals, people: People
) -> None:
    for topic in ("noticias", "planes"):
        await people.topic(topic, "omar", "diego")
    await people.send("omar", "planes", "¿quién viene?")
    await people.send("omar", "noticias", "buenos días")  # the latest message, so the first key
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    await diego.sees(r"1 #noticias \(1\)  2 #planes \(1\)")
    diego.keys("begun")
    diego.keys("\x1b2")
    await diego.sees(AT + "omar +¿quién viene")
    await diego.sees("#planes › begun")  # the typed text stays
    diego.keys(" and sent\r")
    await diego.sees(AT + "diego +begun and sent")
    diego.keys("\x1b1")
    await diego.sees("#noticias ›")
    diego.keys("\x1b9")  # no such room
    diego.type("¿y la de la tarde?")
    await diego.sees(AT + "diego +¿y la de la tarde")
    assert await people.contents("omar", "planes") == ["¿quién viene?", "begun and sent"]
    assert await people.contents("omar", "noticias") == ["buenos días", "¿y la de la tarde?"]


async def test_text_typed_without_an_open_room_stays_in_the_line(terminals: Terminals, people: People) -> None:
    await people.topic("noticias", "omar")
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("hola a todos")
    await omar.sees("No room is open")
    await omar.sees("no room › hola a todos")
    omar.keys("\x1b1")
    await omar.sees("#noticias › hola a todos")
    omar.keys("\r")
    await omar.sees(AT + "omar +hola a todos")


async def test_tab_completes_a_command_and_a_room_with_a_space_after_it(terminals: Terminals, people: People) -> None:
    await people.topic("noticias", "omar")
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    # The terminal gets only the added characters.
    omar.keys("/op\t")
    await omar.sees(r"/op[\s\S]*\ben\b|/open")
    shown = len(re.findall(NAME, omar.text))
    omar.keys("not\t")
    await omar.sees(NAME, times=shown + 1)
    omar.keys("\r")
    await omar.sees("#noticias ›")


async def test_a_missed_message_can_be_answered_by_its_number_in_its_room(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/quit")
    assert await diego.ends() == 0
    await people.send("omar", "noticias", "one", "two", "three")
    diego = terminals.open("diego")
    await diego.sees(AT + "#noticias 2 omar +two")
    await diego.sees("3 while you were away")
    diego.type("/open noticias")
    await diego.sees("  2 " + AT + "omar +two")
    diego.type("/reply 2 indeed")
    await diego.sees(r"↳ 2 omar two\s+indeed")


async def test_the_list_of_sessions_names_the_client(terminals: Terminals) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/sessions")
    await omar.sees(r"tidings-chat/\d")


async def test_a_second_process_cannot_use_the_same_device(terminals: Terminals) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    second = terminals.open("omar")
    assert await second.ends() == 1
    await second.sees("another process receives as device 'terminal'")


async def test_the_terminal_does_not_echo_keys_between_prompts(terminals: Terminals, cli: Cli) -> None:
    program = """
import sys, termios
from tidings_chat.screen import Screen

def echo() -> bool:
    return bool(termios.tcgetattr(sys.stdin)[3] & termios.ECHO)

before = echo()
with Screen(str, list, lambda line: [], lambda line: None):
    within = echo()
print("echo", before, within, echo())
"""
    screen = terminals.start([sys.executable, "-c", program], cli.environment)
    await screen.sees("echo True False True")


async def test_the_terminal_does_not_echo_a_password_while_a_message_is_printed(
    terminals: Terminals, cli: Cli
) -> None:
    program = """
import asyncio, sys, termios
from prompt_toolkit.application import get_app_or_none, run_in_terminal
from tidings_chat.screen import Screen

def echo() -> bool:
    return bool(termios.tcgetattr(sys.stdin)[3] & termios.ECHO)

async def read_and_print() -> bool:
    with Screen(str, list, lambda line: [], lambda line: None) as screen:
        secret = asyncio.ensure_future(screen.secret("Current password"))
        while (app := get_app_or_none()) is None:
            await asyncio.sleep(0)
        echoes = await run_in_terminal(echo)
        app.exit(result="")
        await secret
    return echoes

print("echo", asyncio.run(read_and_print()))
"""
    screen = terminals.start([sys.executable, "-c", program], cli.environment)
    await screen.sees("echo False")


async def test_a_new_user_is_registered_only_after_confirming(terminals: Terminals, cli: Cli) -> None:
    command = [part for part in cli.command("omar") if part != "--register"]
    environment = {name: value for name, value in cli.environment.items() if name != "TIDINGS_PASSWORD"}
    omar = terminals.start(command, environment)
    await omar.sees("Password of omar:")
    omar.type("correct horse")
    await omar.sees("Register omar with this password")
    omar.type("y")
    await omar.sees("/help lists the commands, Tab")


async def test_the_terminal_rings_only_for_mentions_and_direct_messages(terminals: Terminals, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.ask("lucia", "POST", "/api/subscriptions", topic_name="noticias")
    diego, lucia = terminals.open("diego"), terminals.open("lucia", "--no-bell")
    for terminal in (diego, lucia):
        await terminal.sees("/help lists the commands, Tab")
    await people.send("omar", "noticias", "to all")
    for terminal in (diego, lucia):
        await terminal.sees("to all")
    assert "\x07" not in diego.text
    await people.send("omar", "noticias", "@diego and @lucia: look")
    for terminal in (diego, lucia):
        await terminal.sees("@lucia: look")
    await diego.sees("\x07")
    rings = diego.text.count("\x07")
    await people.send("omar", "diego", "a word with you")
    await diego.sees("a word with you")
    await people.send("omar", "lucia", "a word with you")
    await lucia.sees("a word with you")
    assert diego.text.count("\x07") in (rings, rings + 1)  # once a second at most
    assert "\x07" not in lucia.text


async def test_a_terminal_that_must_not_disturb_rings_only_after_it_was_told_so(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.ask("diego", "PUT", "/api/me", do_not_disturb=3600)
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    await people.send("omar", "noticias", "@diego: later")
    await diego.sees("@diego: later")
    diego.type("/dnd off")
    await diego.sees("diego +(online|last seen)")
    assert "\x07" not in diego.text
    await people.send("omar", "noticias", "@diego: now")
    await diego.sees("\x07")


async def test_people_see_what_others_show_of_themselves(terminals: Terminals, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    omar, diego = terminals.open("omar"), terminals.open("diego")
    for terminal in (omar, diego):
        await terminal.sees("/help lists the commands, Tab")
    diego.type("/msg omar hello")
    await omar.sees("diego hello")
    omar.type("/open diego")
    await omar.sees("@diego ›")
    for line, shown in (
        ("/name Diego Pérez", "Diego Pérez"),
        (
            "/status 🌴 waiting for summer for 2h",
            r"Diego Pérez  🌴 waiting for summer\s+\(until \d\d \w+ \d\d:\d\d\)",
        ),
        ("/status in a meeting", "Diego Pérez  in a meeting"),
        ("/dnd 1h", r"in a meeting  do not disturb until \d\d"),
    ):
        diego.type(line)
        wrapped = re.sub(" +", r"\\s+", shown)  # a long line may be wrapped anywhere
        await diego.sees(rf"registered [^●]*{wrapped}")
        await omar.sees(rf"diego  [^●]*{wrapped}")
    for line, answer in (
        ("/who @diego", r"● diego  online, registered [^●]*in\s+a\s+meeting\s+do\s+not\s+disturb"),
        ("/people per", r"● +diego +Diego Pérez"),
        ("/people nobody", "nobody found"),
        ("/dnd later", "later is not a time"),
        ("/name " + "x" * 65, r"\(invalid\)"),
    ):
        omar.type(line)
        await omar.sees(answer)
    for line in ("/name", "/status", "/dnd off"):
        diego.type(line)
    await omar.sees("diego  has no status now")


async def test_a_message_that_streams_is_printed_once_when_it_is_finished(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/open noticias")
    await diego.sees("#noticias ›")
    sent = await people.ask("omar", "POST", "/api/messages", topic_name="noticias", content="", stream=True)
    await diego.sees("1 omar is writing: /stop 1")
    append = f"/api/messages/{sent['id']}/append"
    await people.ask("omar", "POST", append, offset=0, text="Había una vez")
    await diego.sees("omar is typing…")
    diego.type("/stop 1")
    await diego.sees("omar is asked to stop")
    assert (await people.ask("omar", "POST", append, offset=13, text="!"))["stop"]
    await people.ask("omar", "POST", f"/api/messages/{sent['id']}/finish")
    await diego.sees(AT + "omar +Había una vez!")
