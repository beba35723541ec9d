"""Stock clients that connect through a load balancer without sticky sessions, on every transport."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.campaign.nodes.cluster import Cluster, cluster
from tests.campaign.support.lab import Area, Check, Lab
from tests.campaign.support.report import NotTried, Seen
from tests.e2e.javascript import run
from tests.support.balancer import Balancer, balanced
from tests.support.client import Client, unread_answers

area = Area("connects")
TOGETHER = 5
"""Connections at the same time: an account may have a few devices with a connection each."""
BATCH = 50
"""Connections of one run of the JavaScript client, all open at its end: a user may have 64."""
TRANSPORTS = {"polling": ["polling"], "by default": ["polling", "websocket"], "websocket": ["websocket"]}


Refused = Counter[str]
"""Answers of 400 and above, by status and request."""


async def _python(balancer: Balancer, token: str, room: str, transports: list[str], count: int) -> Refused:
    async def visit(number: int) -> Client:
        client = await Client(balancer.url, token, device=f"d{number % TOGETHER}").connect(transports)
        assert client.sio.transport() == transports[-1]
        sent = await client.ask("message", room_id=room, content=str(number))
        await client.event("message", lambda message: message["seq"] == sent["seq"])
        return client

    for begin in range(0, count, TOGETHER):
        for client in await asyncio.gather(*(visit(begin + n) for n in range(min(TOGETHER, count - begin)))):
            await client.close()
    return Counter(balancer.refused)


async def _javascript(balancer: Balancer, token: str, room: str, transports: list[str], count: int) -> Refused:
    given = {"url": balancer.url, "token": token, "room_id": room, "transports": transports, "together": TOGETHER}
    refused: Refused = Counter()

    async def note() -> None:
        refused.update(balancer.refused)

    try:
        for begin in range(0, count, BATCH):
            balancer.refused.clear()
            await run("connects.mjs", {**given, "count": min(BATCH, count - begin)}, {"connected": note})
    except pytest.skip.Exception as missing:
        raise NotTried(str(missing)) from None
    return refused


async def _relayed(nodes: Cluster) -> Counter[str]:
    counts: Counter[str] = Counter()
    for node in nodes.nodes:
        for name, value in (await node.metrics()).items():
            for transport in ("polling", "websocket"):
                if name.startswith(f"tidings_relayed_{transport}_requests_total"):
                    counts[transport] += int(value)
    return counts


def _check(language: str, way: str) -> Check:
    connect = {"Python": _python, "JavaScript": _javascript}[language]
    transports = TRANSPORTS[way]

    async def connects(lab: Lab) -> Seen:
        count = lab.size(15, 500)
        async with cluster(lab, 2, published=True) as nodes:
            token = await nodes.token("omar")
            room = await nodes.nodes[0].topic("omar", "noticias")
            async with balanced([node.url for node in nodes.nodes]) as balancer:
                began = time.monotonic()
                with unread_answers():
                    refused = await connect(balancer, token, room, transports, count)
                seconds = time.monotonic() - began
                relayed = await _relayed(nodes)
            newest = (await nodes.nodes[1].get(f"/api/messages?room_id={room}&limit=1", token)).json()["messages"]
            last = newest[-1]["seq"] if newest else 0
        seen = (
            f"{last} messages in the log, refused {dict(refused)}, relayed {dict(relayed)}, {count / seconds:.0f}/s"
        )
        # The balancer sends an upgrade to the other node. A WebSocket without a session stays where it arrives.
        upgrades = count if len(transports) > 1 else 0
        is_relayed = relayed["websocket"] == upgrades and (way != "polling" or relayed["polling"] > 0)
        return Seen(count, f"{count} messages, none refused", seen, last == count and not refused and is_relayed)

    return connects


for _language in ("Python", "JavaScript"):
    for _way in TRANSPORTS:
        area.check(f"the stock {_language} client connects {_way} whichever node gets a request")(
            _check(_language, _way)
        )
