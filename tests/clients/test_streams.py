"""Messages that are written while they are read: the reader's rule, and what the author repeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tidings_client
from tests.support.node import RunningNode
from tidings.contract import models
from tidings_client import Client, MessageStream, NotFound, Refused, Room
from tidings_client.errors import Offline
from tidings_client.streams import MAX_TEXT, cut_and_add

DEADLINE_S = 60.0
TEXT = "¡Año 🎉 nuevo! 👩‍👧 ñ"


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_a_reader_has_the_whole_text_whatever_was_repeated(texts: list[str], data: st.DataObject) -> None:
    content, whole, offsets = "", "".join(texts), [0]
    for text in texts:
        start = data.draw(st.sampled_from(offsets))  # a repeat of some of what is there, with more
        end = offsets[-1] + len(text)
        content = cut_and_add(content, start, whole[start:end])
        offsets.append(end)
        assert content == whole[:end]


def test_an_offset_counts_code_points() -> None:
    offset = len("¡Año 🎉")
    assert offset == 6
    assert cut_and_add(TEXT, offset, "!") == "¡Año 🎉!"
    assert cut_and_add("¡Año 🎉", 0, TEXT) == TEXT


class Server:
    """The rules of `append` and `finish`, with a crash that takes exactly the text that was not stored."""

    def __init__(self, *, stored_behind: int) -> None:
        self.content = ""
        self.finished = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[str] = []
        self._stored_behind = stored_behind
        self._answered = asyncio.Event()

    async def enqueue(self, action: str, payload: dict[str, Any]) -> Server:
        self.asked.append((action, payload))
        return self

    async def sent(self) -> dict[str, Any]:
        return {"id": "m1"}

    async def insist(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                return await self._ask(action, payload)
            except Offline:
                continue

    async def _ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.asked.append((action, payload))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "crash":  # what was not stored is gone
            self.content = self.content[: max(0, len(self.content) - self._stored_behind)]
        offset = payload.get("offset", 0)
        if offset > len(self.content):
            raise Refused.read({"code": "conflict", "message": "beyond", "details": {"offset": len(self.content)}})
        if action == "append":
            text = payload["text"]
            assert 1 <= len(text) <= MAX_TEXT
            assert (self.content[offset:] + text).startswith(self.content[offset:])
            self.content = max(self.content, self.content[:offset] + text, key=len)
        else:
            self.finished = True
            self.content = payload.get("content", self.content)
        if fault == "lost":
            raise Offline("the answer was lost")
        if action == "finish":
            return {
                "id": "m1", "room_id": "r", "topic_name": None, "seq": 1, "sender": "bot", "content": self.content,
                "created_at": "2026-01-31T09:30:00.250Z",
            }  # fmt: skip
        end = len(self.content)
        return {"offset": end, "stored": max(0, end - self._stored_behind), "stop": False}


def stream(server: Server) -> MessageStream:
    return MessageStream(server, {"topic_name": "noticias", "content": "", "stream": True})  # type: ignore[arg-type]


@pytest.mark.parametrize("faults", [["lost"], ["lost", "lost"], ["", "crash"], ["", "lost", "crash", "lost"]])
async def test_the_whole_text_arrives_once_whatever_was_lost(faults: list[str]) -> None:
    server = Server(stored_behind=5)
    server.faults = faults
    async with stream(server) as author:
        for word in ("uno 🎉 ", "dos 🎉 ", "tres"):
            await author.write(word)
            await author._flush()
    assert (server.content, server.finished) == ("uno 🎉 dos 🎉 tres", True)


@pytest.fixture
async def author(server: RunningNode, omar: str) -> AsyncIterator[Client]:
    async with tidings_client.connect(server.url, omar) as client, asyncio.timeout(DEADLINE_S):
        yield client


async def read(room: Room) -> models.Message:
    (message,) = (await room.history()).messages
    return message


async def test_what_is_written_is_joined_and_finished(author: Client) -> None:
    room = await author.join("noticias")
    appends: list[Any] = []
    author.on("message_append", appends.append)
    async with room.stream(data={"model": "none"}) as stream:
        for character in TEXT:
            await stream.write(character)
    message = await read(room)
    assert (message.content, message.state, message.data) == (TEXT, "complete", {"model": "none"})
    assert len(appends) <= 2


async def test_a_long_text_is_sent_in_parts(author: Client) -> None:
    room, text = await author.join("noticias"), "🎉" * (3 * MAX_TEXT + 1)
    async with room.stream() as stream:
        await stream.write(text)
    assert (await read(room)).content == text


async def test_the_author_replaces_what_was_written(author: Client) -> None:
    room = await author.join("noticias")
    async with room.stream() as stream:
        await stream.write("uno")
        await stream.finish("dos", {"words": 1})
    message = await read(room)
    assert (message.content, message.data) == ("dos", {"words": 1})


async def test_a_block_that_fails_does_not_finish_the_message(author: Client) -> None:
    room = await author.join("noticias")

    async def fail() -> None:
        async with room.stream() as stream:
            await stream.write("uno")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await read(room)).state == "streaming"


async def test_a_refusal_reaches_the_author(author: Client) -> None:
    room = await author.join("noticias")

    async def write() -> None:
        async with room.stream() as stream:
            await room.delete(stream.message_id)
            await stream.write("uno")

    with pytest.raises(NotFound):
        await write()
