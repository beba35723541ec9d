"""Messages that are written while they are read: the reader's rule, and what the author repeats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings_client import Conflict, MessageStream, Refused
from tidings_client.errors import Offline
from tidings_client.streams import MAX_TEXT, cut_and_add

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
    """The rules of `append` and `finish`, with answers that get lost and text that a crash takes."""

    def __init__(self, *, stored_behind: int = 0) -> None:
        self.content = ""
        self.finished = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[str] = []
        self.stop_at: int | None = None
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
        stop = self.stop_at is not None and end >= self.stop_at
        return {"offset": end, "stored": max(0, end - self._stored_behind), "stop": stop}


def stream(server: Server) -> MessageStream:
    return MessageStream(server, {"topic_name": "noticias", "content": "", "stream": True})  # type: ignore[arg-type]


async def test_what_is_written_is_joined_and_finished() -> None:
    server = Server()
    async with stream(server) as author:
        for character in TEXT:
            await author.write(character)
    assert (server.content, server.finished) == (TEXT, True)
    appends = [payload for action, payload in server.asked if action == "append"]
    assert appends == [{"message_id": "m1", "offset": 0, "text": TEXT}]
    assert server.asked[-1] == ("finish", {"message_id": "m1", "offset": len(TEXT)})


@pytest.mark.parametrize("faults", [["lost"], ["lost", "lost"], ["", "crash"], ["", "lost", "crash", "lost"]])
async def test_the_whole_text_arrives_once_whatever_was_lost(faults: list[str]) -> None:
    server = Server(stored_behind=5)
    server.faults = faults
    async with stream(server) as author:
        for word in ("uno 🎉 ", "dos 🎉 ", "tres"):
            await author.write(word)
            await author._flush()
    assert (server.content, server.finished) == ("uno 🎉 dos 🎉 tres", True)


async def test_a_long_text_is_sent_in_parts() -> None:
    server, text = Server(), "🎉" * (3 * MAX_TEXT + 1)
    async with stream(server) as author:
        await author.write(text)
    assert server.content == text


async def test_the_author_sees_that_a_member_asks_to_stop() -> None:
    server = Server()
    server.stop_at = 4
    async with stream(server) as author:
        await author.write("uno")
        await author._flush()
        assert not author.stopped
        await author.write("dos")
        await author._flush()
        assert author.stopped


async def test_a_block_that_fails_does_not_finish_the_message() -> None:
    server = Server()

    async def fail() -> None:
        async with stream(server) as author:
            await author.write("uno")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not server.finished


async def test_a_refusal_reaches_the_author() -> None:
    server = Server()

    async def refuse(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise Refused.read({"code": "conflict", "message": "it was finished"})

    async def write() -> None:
        async with stream(server) as author:
            server.insist = refuse  # type: ignore[method-assign]
            await author.write("uno")
            await author.finish()

    with pytest.raises(Conflict):
        await write()
