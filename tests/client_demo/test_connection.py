"""A PING is answered only after everything that arrived before it is recorded."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from tests.client_demo.conftest import DEADLINE
from tidings_chat.connection import _socket_class


async def test_a_ping_is_held_back_until_earlier_arrivals_are_recorded() -> None:
    recording, released = asyncio.Event(), asyncio.Event()

    async def recorded() -> None:
        recording.set()
        await released.wait()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('42["message",{}]')
        await socket.send_str("2")
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with (
            asyncio.timeout(DEADLINE),
            aiohttp.ClientSession(ws_response_class=_socket_class(recorded)) as http,
            http.ws_connect(f"http://{host}:{port}/") as socket,
        ):
            assert (await socket.receive()).data == '42["message",{}]'
            assert not recording.is_set()
            ping = asyncio.create_task(socket.receive())
            await recording.wait()
            assert not ping.done()
            released.set()
            assert (await ping).data == "2"
    finally:
        await runner.cleanup()
