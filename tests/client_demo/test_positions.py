"""Each entry is shown once, also if the client dies between recording it and showing it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import tidings_client
from tests.client_demo.conftest import AT, DEADLINE, Cli, People, Server, Terminals
from tidings_chat.positions import ScreenPosition
from tidings_chat.state import State, state_path
from tidings_client import Entry, SQLiteStore


@pytest.fixture
async def store() -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore()
    await store.open()
    yield store
    await store.close()


def entry(room_id: str, seq: int, name: str = "message") -> Entry:
    return Entry(room_id, seq, name, {"room_id": room_id, "seq": seq})


async def shown(position: ScreenPosition) -> list[tuple[str, int]]:
    return [(each.room_id, each.seq) async for each in position.not_shown() if position.passes(each.data)]


async def test_an_entry_is_shown_once_even_after_a_restart(store: SQLiteStore) -> None:
    await store.take([entry("r", 1), entry("r", 2)])
    first = ScreenPosition(store)
    assert [first.passes(entry("r", seq).data) for seq in (1, 2, 2, 1)] == [True, True, False, False]
    await first.store()
    await store.take([entry("r", 3)])
    second = ScreenPosition(store)
    assert await shown(second) == [("r", 3)]
    assert not second.passes(entry("r", 3).data)
    assert second.passes({"room_id": "r", "typing": True})


async def test_what_a_dead_process_has_recorded_is_shown_by_the_next(store: SQLiteStore) -> None:
    entries = [entry(room, seq, name) for room in "ab" for seq, name in ((4, "message"), (5, "reaction"))]
    await store.take(entries)
    first = ScreenPosition(store)
    assert first.passes(entries[0].data)
    await first.store()
    assert await shown(ScreenPosition(store)) == [("a", 5), ("b", 4), ("b", 5)]


async def test_a_log_that_went_back_is_shown_from_there(store: SQLiteStore) -> None:
    await store.take([entry("r", 7)])
    position = ScreenPosition(store)
    assert await shown(position) == [("r", 7)]
    await position.store()
    await store.replace("r", [entry("r", 3).data], 2, 2)
    position.forget("r")
    assert [each.seq async for each in position.not_shown("r") if position.passes(each.data)] == [3]


async def chat_store(cli: Cli, server: Server) -> SQLiteStore:
    """The store of omar's chat, while no chat has it open."""
    with State(state_path(cli.state, server.url, "omar", "terminal")) as state:
        return await state.store("chat", "terminal")


@pytest.mark.long
async def test_a_chat_shows_what_the_previous_one_had_received_but_not_shown(
    cli: Cli, server: Server, people: People, terminals: Terminals
) -> None:
    await people.topic("noticias", "omar", "diego")
    token = await server.login("omar")
    async with tidings_client.connect(
        server.url, token, store=await chat_store(cli, server), device="terminal"
    ) as client:
        await people.send("diego", "noticias", "recorded")
        async with asyncio.timeout(DEADLINE):
            async for message in client.room(topic_name="noticias").messages():
                assert message.content == "recorded"
                break
    await people.send("diego", "noticias", "missed")
    omar = terminals.open("omar")
    await omar.sees(AT + "#noticias 1 diego +recorded")
    await omar.sees(AT + "#noticias 2 diego +missed")
    omar.type("/quit")
    assert await omar.ends() == 0
    again = terminals.open("omar")
    await again.sees("/help lists the commands, Tab")
    assert "recorded" not in again.text


@pytest.mark.long
async def test_a_chat_shows_what_a_restored_log_has(
    cli: Cli, server: Server, people: People, terminals: Terminals
) -> None:
    """As after a restored backup: the log ends before the client's cursor."""
    await people.topic("noticias", "omar", "diego")
    await people.send("diego", "noticias", "old")
    (room,) = (await people.ask("omar", "GET", "/api/rooms"))["rooms"]
    store = await chat_store(cli, server)
    await store.open()
    await store.claim("omar on terminal")
    await store.take([entry(room["room_id"], 41, "taken before")])
    await store.close()
    omar = terminals.open("omar")
    await omar.sees("the history of #noticias has changed")
    await omar.sees("/help lists the commands, Tab")  # what came before is in the list of rooms
    await people.send("diego", "noticias", "new")
    await omar.sees(AT + "#noticias 2 diego +new")
