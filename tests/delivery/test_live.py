"""Live events reach every member in order."""

from __future__ import annotations

import pytest

from tests.support.client import connected
from tests.support.node import RunningNode
from tidings.contract import models
from tidings.log import views


@pytest.mark.bad_network("polling", "upgrade", "websocket", "plain")
async def test_every_member_gets_a_rooms_messages_in_seq_order(server: RunningNode) -> None:
    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        room = await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        sent = [omar.send("message", {"room_id": room["room_id"], "content": str(n)}) for n in range(100)]
        acknowledged = [(await answer)["data"]["seq"] for answer in sent]
        assert acknowledged == list(range(1, 101))
        for client in (omar, diego):
            await client.until(lambda client=client: len(client.of("message")) == 100)
            assert [m["seq"] for m in client.of("message")] == acknowledged
            assert client.contents() == [str(n) for n in range(100)]


async def test_the_wire_form_of_a_message_is_made_once(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    timestamps: list[int] = []

    def timestamp(ms: int) -> str:  # called once for each wire form of a message
        timestamps.append(ms)
        return models.timestamp(ms)

    tokens = {name: await server.register(name) for name in ("omar", "diego")}
    async with connected(server.url, tokens["omar"]) as omar, connected(server.url, tokens["diego"]) as diego:
        await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        monkeypatch.setattr(views, "timestamp", timestamp)
        acknowledged = await omar.ask("message", topic_name="noticias", content="hola", client_id="c1")
        assert await omar.event("message") == acknowledged
        assert await diego.event("message") == {**acknowledged, "client_id": None}
        assert acknowledged["client_id"] == "c1"
        assert len(timestamps) == 1
