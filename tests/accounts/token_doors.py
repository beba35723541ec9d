"""Every gateway that accepts a token, and how it refuses a wrong one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx
import socketio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.client import DEADLINE_S, Client, PlainClient, Refused
from tests.support.node import NO_TLS

Door = Callable[[str, str], Awaitable[str]]
"""(url of the server, token) -> "ok", or how it was refused: the error's code, an HTTP status or a close code."""


async def by_socketio(url: str, token: str) -> str:
    client = Client(url, token)
    try:
        await client.connect()
    except socketio.exceptions.ConnectionError:
        return str(client.refusal["data"]["code"])
    finally:
        await client.close()
    return "ok"


async def by_plain_websocket(url: str, token: str) -> str:
    client = PlainClient(url, token)
    try:
        await client.connect()
    except Refused as refused:
        return refused.code
    finally:
        await client.close()
    return "ok"


def _by_http(path: str) -> Door:
    async def ask(url: str, token: str) -> str:
        async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=DEADLINE_S) as http:
            answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
        return "ok" if answer.is_success else str(answer.status_code)

    return ask


async def _opened(url: str, path: str) -> ClientConnection:
    return await connect(url.replace("http", "ws", 1) + path, proxy=None, compression=None)


async def _frame(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), DEADLINE_S))


def _by_address(path: str, *, speaks: bool) -> Door:
    """The token is in the address; `speaks`: the server greets the owner of a valid one with `ready`."""

    async def ask(url: str, token: str) -> str:
        try:
            socket = await _opened(url, path.format(quote(token, safe="")))
        except InvalidStatus as refused:
            return str(refused.response.status_code)
        async with socket:
            try:
                while speaks:
                    frame = await _frame(socket)
                    if frame.get("event") == "ready":
                        return "ok"
                await asyncio.wait_for(await socket.ping(), DEADLINE_S)
            except ConnectionClosed:
                return str(socket.close_code)
        return "ok"

    return ask


async def by_rooms(url: str, token: str) -> str:
    async with await _opened(url, "/") as socket:
        await socket.send(json.dumps({"username": "omar"}))
        await socket.send(json.dumps({"token": token, "action": "get_rooms", "args": {}}))
        answer = await _frame(socket)
    return "ok" if answer["statusCode"] == "ok" else str(answer["data"]["code"])


async def by_messenger(url: str, token: str) -> str:
    async with await _opened(url, "/websocket") as socket:
        assert await _frame(socket) == {"Message": "Websocket Open"}
        await socket.send(token)
        try:
            assert await _frame(socket) == {"Message": "Websocket Authenticated"}
        except ConnectionClosed:
            return str(socket.close_code)
    return "ok"


DOORS: dict[str, tuple[Door, str]] = {
    "socket.io": (by_socketio, "unauthenticated"),
    "/ws, frame": (by_plain_websocket, "unauthenticated"),
    "/ws?token=": (_by_address("/ws?token={}", speaks=True), "4401"),
    "REST": (_by_http("/api/me"), "401"),
    "messenger REST": (_by_http("/conversation"), "401"),
    "GET /echo_ws": (_by_http("/echo_ws"), "401"),
    "messenger": (by_messenger, "4401"),
    "rooms": (by_rooms, "unauthenticated"),
    "topics": (_by_address("/{}", speaks=False), "401"),
    "/echo_ws?token=": (_by_address("/echo_ws?token={}", speaks=False), "401"),
    "/pub_ws?token=": (_by_address("/pub_ws?token={}", speaks=False), "401"),
}
"""Each gateway, and its answer to a malformed token."""
