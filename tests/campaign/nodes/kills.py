"""Nodes that are killed under load, and what the clients of the others get."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.campaign.nodes.cluster import PATIENCE_S, cluster, figures, gaps, quantile, talk, wake_up
from tests.campaign.support.lab import Area, Lab
from tests.campaign.support.report import Seen
from tests.crash.checker import check
from tests.crash.load import record
from tests.crash.victims import Target
from tests.support.redis import redis_server

area = Area("kills")
NODES = 3
SENDER_PAUSE_S = 0.1
FROZEN_S = 15.0
AWAY_S = 0.5
"""The p99 of a delivery across nodes that Redis joins only at times."""


def bound_s(lab: Lab) -> float:
    """The p99 of a delivery across nodes."""
    return {"redis": 0.03, "on": 0.1, "off": 0.5}[lab.options.wake_up]


@area.check("kills of any of three nodes lose, repeat and reorder nothing for clients that move between nodes")
async def kills_of_nodes(lab: Lab) -> Seen:
    return await _kills(lab, lab.options.kills or lab.size(6, 50), Target.NODE)


@area.check("kills of Redis between three nodes lose, repeat and reorder nothing for their clients")
async def kills_of_redis(lab: Lab) -> Seen:
    return await _kills(lab, lab.options.kills or lab.size(6, 30), Target.REDIS)


@area.check("kills of Redis and one of three nodes at the same moment lose, repeat and reorder nothing")
async def kills_of_both(lab: Lab) -> Seen:
    return await _kills(lab, lab.options.kills or lab.size(4, 10), Target.NODE | Target.REDIS)


@area.check("stops of any of three nodes lose, repeat and reorder nothing, and end with status 0")
async def stops(lab: Lab) -> Seen:
    return await _kills(lab, lab.options.kills or lab.size(6, 150), Target.NODE, signal.SIGTERM)


async def _kills(lab: Lab, count: int, targets: Target, number: signal.Signals = signal.SIGKILL) -> Seen:
    async with AsyncExitStack() as stack:
        url = await lab.database_url(stack)
        folder = Path(tempfile.mkdtemp(dir=lab.folder))
        environment = {"TIDINGS_DATABASE_URL": url}
        redis = None
        if Target.REDIS in targets or lab.options.wake_up == "redis":
            redis = await stack.enter_async_context(redis_server())
        else:
            environment |= wake_up(lab)
        crashes = await record(
            folder,
            lab.seed,
            count,
            nodes=NODES,
            pause_s=lab.options.pause,
            redis=redis,
            targets=targets,
            number=number,
            **environment,
        )
    violations = check(crashes.history)
    wrong = "; ".join(f"{law}: {what}" for law, what in violations[:3]) or "whole"
    by_clock = [delivery.seconds for delivery in crashes.across]
    # All clients share this process. A node is not to blame for what a delivery waited for it.
    by_nodes = [delivery.seconds - delivery.lag for delivery in crashes.across]
    bound = AWAY_S if Target.REDIS in targets else bound_s(lab)
    seen = (
        f"{crashes.counts['acknowledged']} acked, {sum(crashes.in_flight)} in flight at the kills; {wrong};"
        f" {len(by_nodes)} across nodes in p50/p99/max {figures(by_nodes)}, {figures(by_clock)} with the lag of the"
        f" clients' process; load {os.getloadavg()[0]:.0f}"
    )
    return Seen(
        crashes.kills,
        f"nothing lost, repeated or reordered; no gap; nothing after a removal; across nodes p99 ≤ {bound:g} s",
        seen,
        not violations and bool(by_nodes) and quantile(by_nodes, 0.99) <= bound,
        {
            "seen": dict(crashes.counts),
            "across": [quantile(by_nodes, share) for share in (0.5, 0.99, 1)],
            "across with lag": [quantile(by_clock, share) for share in (0.5, 0.99, 1)],
        },
    )


@area.check("a message reaches the connections of other nodes soon after its acknowledgement")
async def across(lab: Lab) -> Seen:
    count = lab.size(400, 5_000)
    async with cluster(lab, NODES) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(6)}
        readers = {f"reader{n}": n % NODES for n in range(6)}
        room = await nodes.nodes[0].topic("owner", "tides", *senders, *readers)
        ears = {await nodes.connect(at, name): at for name, at in readers.items()}
        async with talk(nodes, room, senders, SENDER_PAUSE_S) as traffic:
            await traffic.reaches(count, 300)
            last = await traffic.stop()
        whole = all([await ear.reaches(room, last) for ear in ears])
        broken = sum(gaps(ear.seqs(room)) for ear in ears)
        waits = traffic.across(ears)
        bound = bound_s(lab)
        seen = f"{len(traffic.acked)} acked, {len(waits)} across in p50/p99/max {figures(waits)}, {broken} gaps"
        kept = whole and not broken and not traffic.refused and quantile(waits, 0.99) <= bound
        return Seen(len(waits), f"p99 ≤ {bound:g} s, no gap", seen + f" {dict(traffic.refused) or ''}", kept)


@area.check("a message whose node is killed right after the acknowledgement reaches the connections of other nodes")
async def killed_after_acknowledgement(lab: Lab) -> Seen:
    count, waits = lab.size(5, 100), []
    async with cluster(lab, 2) as nodes:
        room = await nodes.nodes[0].topic("owner", "tides", "reader", "sender")
        ear = await nodes.connect(1, "reader")
        for _ in range(count):
            sender = await nodes.client(0, "sender")
            pid, answered = nodes.nodes[0].pid, sender.send("message", {"room_id": room, "content": "hola"})

            def strike(_: object, pid: int = pid) -> None:
                os.kill(pid, signal.SIGKILL)

            answered.add_done_callback(strike)
            answer = await answered
            acked = time.monotonic()
            if await ear.reaches(room, answer["data"]["seq"]):
                waits.append(max(0.0, ear.entries(room)[-1][1] - acked))
            sender.abort()
            await nodes.nodes[0].kill()
            await nodes.nodes[0].start()
        broken = gaps(ear.seqs(room))
    seen = f"{len(waits)} of {count} arrived, in p50/p99/max {figures(waits)}, {broken} gaps"
    kept = len(waits) == count and not broken and max(waits) <= 0.5
    return Seen(count, "each within 0.5 s", seen, kept)


@area.check("a frozen node holds up the senders of others for a few seconds at most, and misses nothing")
async def frozen(lab: Lab) -> Seen:
    rounds, stalls, lags, broken = lab.size(2, 15), [], [], 0
    async with cluster(lab, NODES) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(9)}
        room = await nodes.nodes[0].topic("owner", "tides", *senders, "reader")
        ears = [await nodes.connect(at, "reader", device=f"d{at}") for at in range(NODES)]
        async with talk(nodes, room, senders, 0.005) as traffic:
            for n in range(rounds):
                await asyncio.sleep(lab.random.uniform(0.3, 1))
                at = n % NODES
                since = time.monotonic()
                os.kill(nodes.nodes[at].pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(FROZEN_S)
                finally:
                    os.kill(nodes.nodes[at].pid, signal.SIGCONT)
                resumed = time.monotonic()
                stalls.append(traffic.longest_gap([other for other in range(NODES) if other != at], since, resumed))
                head = max(acked.seq for acked in traffic.acked)
                await ears[at].reaches(room, head)
                lags.append(time.monotonic() - resumed)
            last = await traffic.stop()
        whole = all([await ear.reaches(room, last) for ear in ears])
        broken = sum(gaps(ear.seqs(room)) for ear in ears)
    refused = {code: number for code, number in traffic.refused.items() if code != "unavailable"}
    seen = f"others ≤ {max(stalls):.1f} s without an ack, caught up ≤ {max(lags):.1f} s after it, {broken} gaps"
    kept = whole and not broken and not refused and max(stalls) <= 6 and max(lags) <= 5
    return Seen(rounds, "others' acks within 6 s; whole", f"{seen} {dict(traffic.refused) or ''}", kept)


@area.check("what was acknowledged by one node comes before `ready` at another one")
async def before_ready(lab: Lab) -> Seen:
    count, late, readies = lab.size(50, 1_000), 0, []
    async with cluster(lab, 2, through_proxies=True) as nodes:
        room = await nodes.nodes[0].topic("owner", "tides", "reader", "sender")
        sender = await nodes.client(0, "sender")
        live = await nodes.connect(1, "reader", device="live")  # the room is live on that node
        seq = 0
        for n in range(count):
            if n % 10 == 9:
                nodes.proxies[1].hold_feed()
            seq = (await sender.ask("message", room_id=room, content="hola"))["seq"]
            began = time.monotonic()
            ear = await nodes.connect(1, "reader", device="new", cursors={room: seq - 1})
            readies.append(time.monotonic() - began)
            names = [event.name for event in ear.events]
            late += seq not in ear.seqs(room) or names.index("message") > names.index("ready")
            ear.client.abort()
            if n % 10 == 9:
                nodes.proxies[1].heal()
        whole = await live.reaches(room, seq, PATIENCE_S)
        broken = gaps(live.seqs(room))
    seen = f"{late} late; ready after p50/p99/max {figures(readies)}; {broken} gaps"
    return Seen(
        count, "none late, ready within 1.5 s", seen, not late and whole and not broken and max(readies) < 1.5
    )
