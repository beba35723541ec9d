"""Every gateway that needs a token, and the outcome of an attempt to enter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from tests.campaign.support.clients import ENGINE_PATH, dumps
from tests.campaign.support.wire import GONE, Ended, Refused, WebSocket, ask

IN, OUT = "let in", "refused"
REFUSALS = {"unauthenticated", "token_expired", "token_revoked"}
TOO_LONG = {"invalid", "too_large"}
"""Codes that may refuse a token of absurd size."""
Door = Callable[[str, str, str], Awaitable[str]]
"""(url, token, username) -> IN, OUT, or a description of a wrong answer."""


def _code(code: object) -> str:
    return OUT if code in REFUSALS | TOO_LONG else f"code {code}"


def _status(status: int) -> str:
    return IN if status in (101, 200) else OUT if status in (400, 401, 403, 404, 413, 414, 431) else f"HTTP {status}"


async def socketio(url: str, token: str, _: str) -> str:
    async with await WebSocket.connect(url, ENGINE_PATH) as socket:
        await socket.send("40" + dumps({"token": token}))
        while True:
            packet = await socket.receive()
            assert isinstance(packet, str)
            if packet.startswith("40"):
                return await _stays(socket)
            if packet.startswith("44"):
                return _code(json.loads(packet[2:]).get("data", {}).get("code"))


async def _stays(socket: WebSocket) -> str:
    """Check that an accepted connection answers requests."""
    await socket.send("421" + dumps(["get_profile", {"username": "nobody-at-all"}]))
    while True:
        packet = await socket.receive()
        if isinstance(packet, str) and packet.startswith("431"):
            return IN
        if isinstance(packet, str) and packet.startswith('42["closing"'):
            return f"let in, then {packet[2:80]}"


async def rest(url: str, token: str, _: str) -> str:
    return _status((await ask(url, "GET", "/api/me", token=token)).status)


async def messenger(url: str, token: str, _: str) -> str:
    return _status((await ask(url, "GET", "/conversation", token=token)).status)


async def echo_link(url: str, token: str, _: str) -> str:
    return _status((await ask(url, "GET", "/echo_ws", token=token)).status)


async def frame(url: str, token: str, _: str) -> str:
    async with await WebSocket.connect(url, "/ws") as socket:
        await socket.send(dumps({"id": 1, "action": "authenticate", "data": {"token": token}}))
        return await _plain(socket)


async def address(url: str, token: str, _: str) -> str:
    async with await WebSocket.connect(url, f"/ws?token={quote(token, safe='')}") as socket:
        return await _plain(socket)


async def _plain(socket: WebSocket) -> str:
    answered = ""
    try:
        while True:
            found = json.loads(await socket.receive())
            if found.get("event") == "ready":
                return IN
            if found.get("ok") is False:
                answered = _code(found["error"]["code"])
            elif found.get("event") == "closing":
                answered = answered or f"closing {found['data']}"
    except Ended as ended:
        return answered or (OUT if ended.args[0] == 4401 else f"closed with {ended.args[0]}")


async def topics(url: str, token: str, _: str) -> str:
    return await _handshake(url, f"/{quote(token, safe='')}")


async def echo_channel(url: str, token: str, _: str) -> str:
    return await _handshake(url, f"/echo_ws?token={quote(token, safe='')}")


async def public_channel(url: str, token: str, _: str) -> str:
    return await _handshake(url, f"/pub_ws?token={quote(token, safe='')}")


async def _handshake(url: str, path: str) -> str:
    async with await WebSocket.connect(url, path) as socket:
        ended, came = await socket.until_end(0.3)
        return f"let in, then closed with {socket.close_code}, {came[-1:]}" if ended else IN


async def rooms(url: str, token: str, username: str) -> str:
    async with await WebSocket.connect(url, "/") as socket:
        await socket.send(dumps({"username": username}))
        await socket.send(dumps({"token": token, "action": "get_rooms", "args": {}}))
        found = json.loads(await socket.receive())
        return IN if found["statusCode"] == "ok" else _code(found["data"].get("code"))


async def websocket(url: str, token: str, _: str) -> str:
    async with await WebSocket.connect(url, "/websocket") as socket:
        await socket.receive()
        await socket.send(token)
        try:
            return IN if "Authenticated" in str(await socket.receive()) else "answered something else"
        except Ended as ended:
            return OUT if ended.args[0] == 4401 else f"closed with {ended.args[0]}"


DOORS: dict[str, Door] = {
    "Socket.IO": socketio,
    "REST": rest,
    "messenger REST": messenger,
    "GET /echo_ws": echo_link,
    "/ws frame": frame,
    "/ws?token=": address,
    "/<token>": topics,
    "rooms": rooms,
    "/echo_ws?token=": echo_channel,
    "/pub_ws?token=": public_channel,
    "/websocket": websocket,
}
TOKEN_IN_ADDRESS = {"/ws?token=", "/<token>", "/echo_ws?token=", "/pub_ws?token="}


async def knock(door: str, url: str, token: str, username: str, deadline: float = 20.0) -> str:
    """Try to enter; returns IN, OUT, or a description of a wrong answer."""
    try:
        async with asyncio.timeout(deadline):
            return await DOORS[door](url, token, username)
    except TimeoutError:
        return "no answer"
    except Refused as refused:
        return OUT if refused.answer is None else _status(refused.answer.status)
    except Ended as ended:
        return f"closed with {ended.args[0]}"
    except GONE:
        return "cut off"
