"""The story of the four users of the first chat system, with python-socketio's client against a real server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.client import Client, Refused, connected
from tests.support.process import ServerProcess

TRANSPORTS = (["websocket"], ["polling"], ["polling", "websocket"])


async def test_the_story_of_the_four_users(process: ServerProcess, tokens: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        omar, diego, satoshi = [
            await stack.enter_async_context(connected(process.url, tokens[name]))
            for name in ("omar", "diego", "satoshi")
        ]
        memoor = await Client(process.url, tokens["memoor"]).connect()

        # A public topic: anybody can subscribe.
        news = await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        await satoshi.ask("suscribe", topic_name="noticias")
        await memoor.ask("suscribe", topic_name="noticias")
        first = await omar.ask("message", topic_name="noticias", content="Buenos días")
        for client in (omar, diego, satoshi, memoor):
            assert (await client.event("message")) == {**first, "client_id": None}
            assert first["sender"] == "omar"

        # A private topic: by invitation only, and invisible to others.
        desk = await omar.ask("create", topic_name="redaccion", is_private=True)
        for stranger in (diego, memoor):
            for action in ("subscribe", "message", "history"):
                with pytest.raises(Refused) as refusal:
                    await stranger.ask(
                        action, {"topic_name": "redaccion"} | ({"content": "?"} if action == "message" else {})
                    )
                assert refusal.value.code == "not_found"
        await omar.ask("invite", topic_name="redaccion", username="diego")
        added = await diego.event("room_added", lambda event: event["room"]["topic_name"] == "redaccion")
        assert added["room"]["room_id"] == desk["room_id"]
        await diego.ask("message", topic_name="redaccion", content="entre nosotros")
        assert (await omar.event("message"))["content"] == "entre nosotros"

        # A direct message: the topic name is a username.
        direct = await satoshi.ask("message", topic_name="memoor", content="hola memoor")
        assert (await memoor.event("message", lambda m: m["room_id"] == direct["room_id"]))["sender"] == "satoshi"
        reply = await memoor.ask("message", topic_name="satoshi", content="hola satoshi")
        assert reply["room_id"] == direct["room_id"], "both users share one conversation"

        # Memoor confirms the received entries and disconnects.
        await memoor.until(lambda: len(memoor.of("message")) == 3)
        cursors = {m["room_id"]: m["seq"] for m in memoor.of("message")}
        await memoor.ask("delivered", cursors=cursors)
        await memoor.close()
        for number in range(40):
            await omar.ask("message", topic_name="noticias", content=f"noticia {number}")
        await satoshi.ask("message", topic_name="memoor", content="¿estás?")
        await omar.ask("invite", topic_name="redaccion", username="memoor")
        await diego.ask("message", topic_name="redaccion", content="bienvenido")

        # Memoor reconnects: pending messages once and in order, then live ones.
        memoor = Client(process.url, tokens["memoor"])
        await memoor.connect(["polling", "websocket"])
        assert memoor.contents(news["room_id"]) == [f"noticia {number}" for number in range(40)]
        assert memoor.contents(direct["room_id"]) == ["¿estás?"]
        assert memoor.contents(desk["room_id"]) == ["bienvenido"]
        await omar.ask("message", topic_name="noticias", content="en vivo")
        await memoor.until(lambda: memoor.contents(news["room_id"])[-1:] == ["en vivo"])
        assert len(memoor.of("message")) == 43

        # A reconnect with current cursors brings no message again.
        cursors = {m["room_id"]: m["seq"] for m in memoor.of("message")}
        await memoor.close()
        async with connected(process.url, tokens["memoor"], cursors=cursors) as memoor:
            assert memoor.of("message") == []
        assert diego.contents(news["room_id"]) == [
            "Buenos días",
            *(f"noticia {number}" for number in range(40)),
            "en vivo",
        ]
        assert satoshi.contents(desk["room_id"]) == []


async def test_a_stock_python_client_misses_nothing_while_it_connects_and_upgrades(
    process: ServerProcess, tokens: dict[str, str]
) -> None:
    async with connected(process.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        async with connected(process.url, tokens["diego"]) as diego:
            await diego.ask("subscribe", topic_name="noticias")
        stop = asyncio.Event()

        async def stream() -> int:
            number = 0
            while not stop.is_set():
                await omar.ask("message", topic_name="noticias", content=str(number))
                number += 1
            return number

        streaming = asyncio.create_task(stream())
        readers = []
        for transports in TRANSPORTS:
            reader = Client(process.url, tokens["diego"], device="-".join(transports), cursors={})
            readers.append(await reader.connect(transports))
            assert reader.sio.transport() == transports[-1]
            replayed = len(reader.of("message"))
            await reader.until(lambda reader=reader, replayed=replayed: len(reader.of("message")) >= replayed + 20)
        stop.set()
        sent = await streaming
        for reader in readers:
            await reader.until(lambda reader=reader: reader.of("message")[-1]["seq"] == sent)
            seqs = [m["seq"] for m in reader.of("message")]
            assert seqs == list(range(seqs[0], sent + 1)), reader.auth
            await reader.close()


async def test_a_restarted_server_has_every_acknowledged_message(
    process: ServerProcess, tokens: dict[str, str]
) -> None:
    async with connected(process.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="before")
        assert await process.terminate() == 0
        assert await omar.event("closing") == {"reason": "shutdown", "reconnect": True}
        await asyncio.wait_for(omar.closed.wait(), 30)
    await process.start()
    async with connected(process.url, tokens["omar"], cursors={}) as omar:
        await omar.ask("message", topic_name="noticias", content="between")
        await process.kill()
        await asyncio.wait_for(omar.closed.wait(), 30)
    await process.start()
    async with connected(process.url, tokens["omar"]) as omar:
        page = await omar.ask("history", topic_name="noticias")
        assert [(m["seq"], m["content"]) for m in page["messages"]] == [(1, "before"), (2, "between")]
