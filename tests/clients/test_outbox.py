"""A message that is edited while the server may have it already."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import tidings_client
from tests.clients.wire import Direction, wire
from tests.support.node import RunningNode
from tidings_client import Client

DEADLINE_S = 60.0


@pytest.mark.parametrize("ends", [False, True], ids=["", "and the process ends"])
async def test_a_message_edited_while_its_answer_is_lost_is_edited_on_the_server(
    server: RunningNode, omar: str, tmp_path: Path, ends: bool
) -> None:
    edited, lost, edit_lost = (asyncio.Event() for _ in range(3))
    async with wire(server.url) as proxy, asyncio.timeout(DEADLINE_S):

        def change(direction: Direction, packet: str) -> list[str] | None:
            if '["edit"' in packet and not edit_lost.is_set():
                edit_lost.set()
                return None
            if direction == "down" and '"helo"' in packet and '"ok":true' in packet:
                lost.set()
            return [packet] if edited.is_set() or not lost.is_set() else None

        def connect() -> tidings_client.Connecting:
            return tidings_client.connect(proxy.url, omar, store=tmp_path / "state.db", wait=False)

        client: Client = await connect()
        proxy.change = change
        unsent = await client.room(topic_name="noticias").enqueue("helo")
        await lost.wait()
        assert await unsent.edit("hello")
        assert not await unsent.withdraw()
        if ends:
            await client.close()
            client = await connect()
            (unsent,) = client.unsent
        edited.set()
        await edit_lost.wait()
        assert not await unsent.withdraw()
        assert (await unsent.sent())["content"] == "hello"
        assert not await unsent.edit("too late")
        page = await client.room(topic_name="noticias").history()
        assert [message.content for message in page.messages] == ["hello"]
        await client.close()
