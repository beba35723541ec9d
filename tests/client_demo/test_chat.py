"""The interactive client on a real terminal: its screen and its input."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from tests.client_demo.conftest import DEADLINE, Cli, People, Terminals

pytestmark = pytest.mark.long

NAME = r"(?<!#)not\s*icias"
"""As it is typed, and completed by what follows; not in the list of rooms, where it has its #"""
AT = r"\d\d:\d\d "


async def test_two_people_meet_in_a_private_topic(terminals: Terminals) -> None:
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


async def test_a_direct_message_makes_a_conversation(terminals: Terminals) -> None:
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


async def test_who_was_away_gets_what_was_said(terminals: Terminals, cli: Cli) -> None:
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
    await diego.sees("#noticias ›")  # the room that was open


async def test_who_types_is_shown_to_the_others(terminals: Terminals) -> None:
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


async def test_a_message_that_cannot_be_sent_is_shown_as_such(terminals: Terminals, cli: Cli) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/msg nobody hola")
    await omar.sees("not sent: hola — .*not_found")
    await cli("diego", "rooms")
    omar.type("/msg diego hola")
    await omar.sees(AT + r"@diego \d+ omar +hola")


async def test_alt_and_a_digit_switch_rooms_and_the_bar_lists_them_with_what_is_unread(
    terminals: Terminals, people: People
) -> None:
    for topic in ("noticias", "planes"):
        await people.topic(topic, "omar", "diego")
    await people.say("omar", "planes", "¿quién viene?")
    await people.say("omar", "noticias", "buenos días")  # spoken in last, so it has the first key
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    await diego.sees(r"1 #noticias \(1\)  2 #planes \(1\)")
    diego.keys("begun")
    diego.keys("\x1b2")
    await diego.sees(AT + "omar +¿quién viene")
    await diego.sees("#planes › begun")  # what was typed stays
    diego.keys(" and sent\r")
    await diego.sees(AT + "diego +begun and sent")
    diego.keys("\x1b1")
    await diego.sees("#noticias ›")
    diego.keys("\x1b9")  # no such room
    diego.type("¿y la de la tarde?")
    await diego.sees(AT + "diego +¿y la de la tarde")
    assert await people.said("omar", "planes") == ["¿quién viene?", "begun and sent"]
    assert await people.said("omar", "noticias") == ["buenos días", "¿y la de la tarde?"]


async def test_what_is_typed_with_no_room_open_stays_in_the_line(terminals: Terminals, people: People) -> None:
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


async def test_tab_completes_a_command_and_a_room_and_goes_on_with_a_space(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar")
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    # The terminal gets only what is added.
    omar.keys("/op\t")
    await omar.sees(r"/op[\s\S]*\ben\b|/open")
    shown = len(re.findall(NAME, omar.text))
    omar.keys("not\t")
    await omar.sees(NAME, times=shown + 1)
    omar.keys("\r")
    await omar.sees("#noticias ›")


async def test_what_was_missed_in_another_room_is_answered_by_its_number_once_that_is_open(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    diego = terminals.open("diego")
    await diego.sees("/help lists the commands, Tab")
    diego.type("/quit")
    assert await diego.ends() == 0
    await people.say("omar", "noticias", "one", "two", "three")
    diego = terminals.open("diego")
    await diego.sees(AT + "#noticias 2 omar +two")
    await diego.sees("3 while you were away")
    diego.type("/open noticias")
    await diego.sees("  2 " + AT + "omar +two")
    diego.type("/reply 2 indeed")
    await diego.sees(r"↳ 2 omar two\s+indeed")


async def test_the_client_is_known_by_name_among_the_sessions(terminals: Terminals) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/sessions")
    await omar.sees(r"tidings-chat/\d")


async def test_one_device_is_used_by_one_process(terminals: Terminals) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    again = terminals.open("omar")
    assert await again.ends() == 1
    await again.sees("another process receives as device 'terminal'")


async def test_the_terminal_does_not_show_keys_typed_between_two_prompts(terminals: Terminals, cli: Cli) -> None:
    program = """
import sys, termios
from client_demo.screen import Screen

def echo() -> bool:
    return bool(termios.tcgetattr(sys.stdin)[3] & termios.ECHO)

before = echo()
with Screen(str, list, lambda line: [], lambda line: None):
    within = echo()
print("echo", before, within, echo())
"""
    screen = terminals.start([sys.executable, "-c", program], cli.environment)
    await screen.sees("echo True False True")


async def test_a_user_is_registered_only_after_being_asked(terminals: Terminals, cli: Cli) -> None:
    command = [part for part in cli.command("omar") if part != "--register"]
    environment = {name: value for name, value in cli.environment.items() if name != "TIDINGS_PASSWORD"}
    omar = terminals.start(command, environment)
    await omar.sees("Password of omar:")
    omar.type("correct horse")
    await omar.sees("Register omar with this password")
    omar.type("y")
    await omar.sees("/help lists the commands, Tab")


async def test_the_terminal_rings_for_mentions_and_direct_messages_alone(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.ask("lucia", "POST", "/api/subscriptions", topic_name="noticias")
    diego, lucia = terminals.open("diego"), terminals.open("lucia", "--no-bell")
    for one in (diego, lucia):
        await one.sees("/help lists the commands, Tab")
    await people.say("omar", "noticias", "to all")
    for one in (diego, lucia):
        await one.sees("to all")
    assert "\x07" not in diego.text
    await people.say("omar", "noticias", "@diego and @lucia: look")
    for one in (diego, lucia):
        await one.sees("@lucia: look")
    await diego.sees("\x07")
    rung = diego.text.count("\x07")
    await people.say("omar", "diego", "a word with you")
    await diego.sees("a word with you")
    await people.say("omar", "lucia", "a word with you")
    await lucia.sees("a word with you")
    assert diego.text.count("\x07") in (rung, rung + 1)  # once a second at most
    assert "\x07" not in lucia.text
