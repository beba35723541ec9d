"""What the four of the first chat system did, with python-socketio's client against a real server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.client import Client, Refused, connected
from tests.support.process import ServerProcess

TRANSPORTS = (["websocket"], ["polling"], ["polling", "websocket"])


async def test_omar_diego_satoshi_and_memoor(process: ServerProcess, tokens: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        omar, diego, satoshi = [
            await stack.enter_async_context(connected(process.url, tokens[name]))
            for name in ("omar", "diego", "satoshi")
        ]
        memoor = await Client(process.url, tokens["memoor"]).connect()

        # A public topic: whoever wants to, subscribes.
        news = await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        await satoshi.ask("suscribe", topic_name="noticias")
        await memoor.ask("suscribe", topic_name="noticias")
        first = await omar.ask("message", topic_name="noticias", content="Buenos días")
        for client in (omar, diego, satoshi, memoor):
            assert (await client.event("message")) == {**first, "client_id": None}
            assert first["sender"] == "omar"

        # A private one: by invitation, and unknown to everybody else.
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

        # A direct message: the topic's name is a user's.
        direct = await satoshi.ask("message", topic_name="memoor", content="hola memoor")
        assert (await memoor.event("message", lambda m: m["room_id"] == direct["room_id"]))["sender"] == "satoshi"
        answered = await memoor.ask("message", topic_name="satoshi", content="hola satoshi")
        assert answered["room_id"] == direct["room_id"], "one conversation, whoever begins"

        # Memoor says what it has received, and leaves.
        await memoor.until(lambda: len(memoor.of("message")) == 3)
        cursors = {m["room_id"]: m["seq"] for m in memoor.of("message")}
        await memoor.ask("delivered", cursors=cursors)
        await memoor.close()
        for number in range(40):
            await omar.ask("message", topic_name="noticias", content=f"noticia {number}")
        await satoshi.ask("message", topic_name="memoor", content="¿estás?")
        await omar.ask("invite", topic_name="redaccion", username="memoor")
        await diego.ask("message", topic_name="redaccion", content="bienvenido")

        # Back: what was pending, in order, once; then what is live.
        memoor = Client(process.url, tokens["memoor"])
        await memoor.connect(["polling", "websocket"])
        assert memoor.contents(news["room_id"]) == [f"noticia {number}" for number in range(40)]
        assert memoor.contents(direct["room_id"]) == ["¿estás?"]
        assert memoor.contents(desk["room_id"]) == ["bienvenido"]
        await omar.ask("message", topic_name="noticias", content="en vivo")
        await memoor.until(lambda: memoor.contents(news["room_id"])[-1:] == ["en vivo"])
        assert len(memoor.of("message")) == 43

        # Once: it comes again, with its cursors, and there is nothing.
        cursors = {m["room_id"]: m["seq"] for m in memoor.of("message")}
        await memoor.close()
        async with connected(process.url, tokens["memoor"], cursors=cursors) as again:
            assert again.of("message") == []
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
            seen = len(reader.of("message"))
            await reader.until(lambda reader=reader, seen=seen: len(reader.of("message")) >= seen + 20)
        stop.set()
        sent = await streaming
        for reader in readers:
            await reader.until(lambda reader=reader: reader.of("message")[-1]["seq"] == sent)
            seqs = [m["seq"] for m in reader.of("message")]
            assert seqs == list(range(seqs[0], sent + 1)), reader.auth
            await reader.close()


async def test_a_restarted_server_has_everything_that_it_acknowledged(
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
