"""Nodes whose clocks disagree by some seconds."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from tests.campaign.nodes.cluster import PATIENCE_S, wake_up
from tests.campaign.support.clients import Plain, Refusal
from tests.campaign.support.clock import Clock
from tests.campaign.support.lab import Area, Lab, Server
from tests.campaign.support.report import Seen

area = Area("clocks")
AHEAD_S = (0, 5, -5)
"""The clock of each node, compared with that of PostgreSQL and of this process."""
BAN_S = 10
PRECISE_S = 1.0


@area.check("nodes whose clocks differ by 5 s accept each other's tokens, agree on time, and end bans on time")
async def apart(lab: Lab) -> Seen:
    rounds, wrong, times, ends = lab.size(20, 500), [], [], []
    async with AsyncExitStack() as stack:
        url = await lab.database_url(stack)
        folder = Path(tempfile.mkdtemp(dir=lab.folder))
        nodes = []
        for n, ahead in enumerate(AHEAD_S):
            clock = Clock(lab.folder)
            clock.set(ahead)
            environment = {**wake_up(lab), **clock.environment, "TIDINGS_DATABASE_URL": url}
            node = Server(folder / f"node{n}", TIDINGS_RATE_LIMITS="off", **environment)
            await node.start()
            stack.push_async_callback(node.kill)
            nodes.append(node)
        room = await nodes[0].topic("owner", "tides", "member")
        for n in range(rounds):
            token = await nodes[n % 3].login("owner", source=f"127.8.{n // 250}.{n % 250 + 1}")
            for at, node in enumerate(nodes):
                try:
                    client = await Plain.open(node.url, token, on_event=lambda *_: None)
                    message = await client.ask("message", room_id=room, content="hola")
                    times.append(datetime.fromisoformat(message["created_at"]).timestamp())
                    client.abort()
                except Refusal as refusal:
                    wrong.append(f"a token of node {n % 3} on node {at}: {refusal.code}")
        off = abs(times[-1] - time.time())
        for at, node in enumerate(nodes):
            owner = await Plain.open(nodes[at - 1].url, nodes[0].tokens["owner"], on_event=lambda *_: None)
            member = await Plain.open(node.url, nodes[0].tokens["member"], on_event=lambda *_: None)
            await owner.ask("ban", room_id=room, username="member", duration=BAN_S)
            ends.append(await _until_allowed(member))
            owner.abort()
            member.abort()
    backwards = sum(later < earlier for earlier, later in itertools.pairwise(times))
    late = max(abs(end - BAN_S) for end in ends)
    seen = (
        f"{len(wrong)} refused {wrong[:2] or ''}; {len(times)} times, {backwards} went back, {off:.1f} s off; bans of"
        f" {BAN_S} s ended after {', '.join(f'{end:.1f}' for end in ends)} s"
    )
    kept = not wrong and not backwards and off < PRECISE_S and late <= PRECISE_S
    return Seen(len(times), "none refused or back; each ban ends within 1 s of its time", seen, kept)


async def _until_allowed(banned: Plain) -> float:
    """Seconds until a banned user can join again; PATIENCE_S if they never can."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE_S:
        if (await banned.call("subscribe", {"topic_name": "tides"}, PATIENCE_S))["ok"]:
            return waited
        await asyncio.sleep(0.1)
    return PATIENCE_S
