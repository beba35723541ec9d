"""The code of docs/client-python.md runs as printed, and its table has the whole API."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import tidings_client
from docs.generate import ROOT
from tests.support.node import RunningNode
from tidings_client import Client, Room

PAGE = (ROOT / "docs/client-python.md").read_text("utf-8")
DEADLINE_S = 60.0


@pytest.fixture
def program() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        exec(block, names)
    return names


async def test_the_ten_lines_send_and_print(
    server: RunningNode,
    omar: str,
    program: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    chatting = asyncio.create_task(program["chat"](server.url, lambda: omar))
    async with tidings_client.connect(server.url, omar) as client, asyncio.timeout(DEADLINE_S):
        room = client.room(topic_name="noticias")
        async for message in room.messages():
            assert message.content == "Hola"
            break
        await room.send("adiós")
        await chatting
    assert capsys.readouterr().out == "omar Hola\nomar adiós\n"


async def test_an_event_is_published_and_consumed(
    server: RunningNode, omar: str, program: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await program["work"](server.url, omar)
    assert capsys.readouterr().out == "omar 17\n"


async def test_the_timeline_is_drawn(server: RunningNode, omar: str, program: dict[str, Any]) -> None:
    drawn: list[Any] = []
    async with tidings_client.connect(server.url, omar) as client, asyncio.timeout(DEADLINE_S):
        room = await client.join("noticias")
        await room.send("Hola")
        await program["show"](room, drawn.append)
        await room.send("Adiós")
    assert drawn[0] == [("complete", "Hola")]
    assert [("complete", "Hola"), ("tried", "Adiós")] in drawn


async def test_a_stream_ends_when_a_member_asks(server: RunningNode, omar: str, program: dict[str, Any]) -> None:
    diego = await server.register("diego")
    async with (
        tidings_client.connect(server.url, omar) as author,
        tidings_client.connect(server.url, diego) as reader,
        asyncio.timeout(DEADLINE_S),
    ):
        room, reads = await author.join("noticias"), await reader.join("noticias")
        timeline = await reads.timeline()
        grown, written = asyncio.Event(), 0
        timeline.subscribe(lambda: grown.set() if timeline.items and timeline.items[0].content else None)

        async def words() -> AsyncIterator[str]:
            nonlocal written
            yield "uno "
            await grown.wait()
            assert timeline.items[0].message is not None
            await reader.actions.stop(message_id=timeline.items[0].message.id)
            while True:
                written += 1
                yield "más "
                await asyncio.sleep(0.02)

        await program["answer"](room, words())
        (message,) = (await room.history()).messages
        assert (message.state, message.content) == ("complete", "uno " + "más " * written)


async def test_files_are_sent_and_downloaded(
    server: RunningNode, omar: str, program: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    async with tidings_client.connect(server.url, omar) as client, asyncio.timeout(DEADLINE_S):
        message = await program["share"](await client.join("noticias"), b"no image")
        (tmp_path / "folder").mkdir()
        await program["collect"](client, message, tmp_path / "folder")
    assert [(file.name, file.alt) for file in message.files] == [
        ("report.pdf", None),
        ("load.png", "the load over time"),
    ]
    saved = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert saved == {"report.pdf": b"%PDF-1.7", "load.png": b"no image"}


@pytest.mark.parametrize("kind", [Client, Room])
def test_the_table_has_every_method_with_its_arguments(kind: type) -> None:
    table = PAGE.partition("## The API\n")[2]
    internal = {
        "ask",
        "drop",
        "insist",
        "enqueue",
        "start",
        "start_task",
        "ended",
        "room_infos",
        "resolve",
        "is_closed",
    }
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_") or (kind is Client and name in internal) or name in ("resolve", "on"):
            continue
        if name in ("edit", "delete", "react", "read", "typing"):
            assert f"`{name}`" in table
            continue
        parameters = list(inspect.signature(method).parameters.values())[1:]
        positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
        keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        assert f"`{name}({', '.join(positional + ['*'] * bool(keywords) + keywords)})`" in table


def test_every_exported_name_exists() -> None:
    assert all(hasattr(tidings_client, name) for name in tidings_client.__all__)
