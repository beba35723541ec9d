"""The interactive client on a real terminal: what people see, and what becomes of what they type."""

from __future__ import annotations

import sys

from tests.client_demo.conftest import Cli, Terminals

AT = r"\d\d:\d\d "


async def test_two_people_meet_in_a_private_topic(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help says")
    await diego.sees("/help says")
    omar.type("/create planes --private")
    await omar.sees("#planes is yours")
    omar.type("/invite diego")
    await omar.sees("diego joined #planes")
    await diego.sees("you are in #planes now")
    omar.type("¿vamos al cine?")
    await omar.sees(AT + r"omar +¿vamos al cine\?")
    await diego.sees(AT + r"#planes omar +¿vamos al cine\?")
    diego.type("/open planes")
    await diego.sees(AT + r"omar +¿vamos al cine\?")
    await omar.sees("read by diego")
    diego.type("sí, a las ocho")
    await omar.sees(AT + r"diego +sí, a las ocho")
    diego.type("/members")
    await diego.sees("● +omar +owner +online")
    diego.type("/quit")
    assert await diego.ends() == 0


async def test_who_opens_a_conversation_sees_how_far_the_last_message_has_got(terminals: Terminals, cli: Cli) -> None:
    await cli("diego", "rooms")
    await cli("omar", "send", "diego", "¿vamos?")
    diego = terminals.open("diego")
    await diego.sees("¿vamos")
    diego.type("/open omar")
    await diego.sees("@omar ›")
    diego.type("/receipts")
    await diego.sees("omar +received up to")
    diego.type("/quit")
    assert await diego.ends() == 0
    omar = terminals.open("omar")
    await omar.sees("/help says")
    omar.type("/open diego")
    await omar.sees("read by diego")


async def test_a_direct_message_makes_a_conversation(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help says")
    await diego.sees("/help says")
    omar.type("/open diego")
    await omar.sees("nothing said to diego yet")
    omar.type("hola diego")
    await omar.sees(AT + "omar +hola diego")
    await diego.sees(AT + "@omar omar +hola diego")
    diego.type("/msg omar hola omar")
    await omar.sees(AT + "diego +hola omar")


async def test_who_was_away_gets_what_was_said(terminals: Terminals, cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    diego = terminals.open("diego")
    await diego.sees("/help says")
    diego.type("/join noticias")
    await diego.sees("#noticias: diego, omar online|#noticias: diego online")
    diego.type("/quit")
    assert await diego.ends() == 0
    await cli("omar", "send", "noticias", "mientras tanto")
    diego = terminals.open("diego")
    await diego.sees(AT + "#noticias omar +mientras tanto")
    await diego.sees("1 while you were away")
    await diego.sees("#noticias +1 ")  # unread
    await diego.sees("#noticias ›")  # the room that was open


async def test_who_types_is_shown_to_the_others(terminals: Terminals) -> None:
    omar, diego = terminals.open("omar"), terminals.open("diego")
    await omar.sees("/help says")
    await diego.sees("/help says")
    omar.type("/create noticias")
    await omar.sees("#noticias is yours")
    diego.type("/join noticias")
    await diego.sees("#noticias: diego, omar online")
    await omar.sees("diego joined #noticias")
    diego.keys("escri")
    await omar.sees("diego is typing…")


async def test_a_message_that_cannot_be_sent_is_shown_as_such(terminals: Terminals, cli: Cli) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help says")
    omar.type("/msg nobody hola")
    await omar.sees("not sent: hola — .*not_found")
    await cli("diego", "rooms")
    omar.type("/msg diego hola")
    await omar.sees(AT + "@diego omar +hola")


async def test_one_device_is_used_by_one_process(terminals: Terminals) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help says")
    again = terminals.open("omar")
    assert await again.ends() == 1
    await again.sees("another process receives as device 'terminal'")


async def test_what_is_typed_between_two_prompts_is_not_shown_by_the_terminal(terminals: Terminals, cli: Cli) -> None:
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
    await omar.sees("/help says")
