"""Threads in the terminal client: read and written beside the room."""

from __future__ import annotations

import json

import pytest

from tests.client_demo.conftest import Cli, People, Terminals


async def test_scripts_read_a_thread_and_list_what_is_followed(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "¿Quién viene?")
    (began,) = (await people.ask("omar", "GET", "/api/messages", topic_name="noticias"))["messages"]
    for content in ("yo", "y Ana"):
        await people.ask("diego", "POST", "/api/messages", topic_name="noticias", content=content, thread=began["id"])
    (followed,) = (await cli("omar", "threads", "--json")).splitlines()
    assert (json.loads(followed)["unread"], json.loads(followed)["message"]["replies"]) == (2, 2)
    shown = await cli("omar", "thread", "noticias", "1")
    assert [line.split()[-1] for line in shown.splitlines()] == ["viene?", "yo", "Ana"]
    (followed,) = (await cli("omar", "threads", "--json")).splitlines()
    assert json.loads(followed)["unread"] == 0, "what was shown is read"
    await cli("omar", "follow", "noticias", "1", "off")
    assert "no thread" in await cli("omar", "threads")


@pytest.mark.long
async def test_a_reply_in_a_thread_is_quiet_in_the_room_and_not_unread_there(
    terminals: Terminals, people: People
) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "¿Quién viene?")
    omar, diego = terminals.open("omar"), terminals.open("diego")
    for terminal in (omar, diego):
        await terminal.sees("/help lists the commands, Tab")
    diego.type("/open noticias")
    await diego.sees("noticias ›")
    diego.type("/thread 1 yo voy")
    await diego.sees(r"↳ 1 omar ¿Quién viene\?\s+yo voy")
    omar.type("/open noticias")
    await omar.sees(r"1 reply: /thread 1")
    omar.type("/thread 1")
    await omar.sees("yo voy")
    omar.type("/reply 2 y yo")
    await diego.sees(r"↳ 2 diego yo voy\s+y yo")
    room = (await people.ask("omar", "GET", "/api/rooms"))["rooms"][0]
    assert (room["unread"], room["last_message"]["content"]) == (0, "¿Quién viene?")
