"""A node that is cut off from PostgreSQL while the others serve; and a feed that is hard to read."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from tests.campaign.fault.disk import _until_status
from tests.campaign.nodes.cluster import PATIENCE_S, cluster, figures, gaps, quantile, talk
from tests.campaign.nodes.removals import BEHIND_S, TOPIC, remove, victims_of
from tests.campaign.support.clients import Plain
from tests.campaign.support.lab import Area, Lab, Server, pace
from tests.campaign.support.report import NotTried, Seen
from tests.campaign.support.wire import GONE, Ended

area = Area("partitions")
NODES = 3
CUT = 1
"""The number of the node that is cut off."""
HEALED_S = 5.0
NOTICED_S = 8.0
TRIMMED_S = 155.0
"""Longer than changes are kept in the feed, and the interval at which old ones are removed."""


@area.check("a node without PostgreSQL says so and delivers nothing, the others serve, and all end up with one log")
async def cut_off(lab: Lab) -> Seen:
    rounds = lab.size(2, 20)
    noticed, stalls, lags, told, latest = [], [], [], [], 0.0
    leaked = broken = beyond = 0
    kept = True
    async with cluster(lab, NODES, through_proxies=True) as nodes:
        here = nodes.nodes[CUT]
        senders = {f"sender{n}": at for n, at in enumerate((0, 2, 0, 2))}
        room = await nodes.nodes[0].topic("owner", TOPIC, *senders, "member", "typist")
        owner = await nodes.client(0, "owner")
        members = [await nodes.connect(at, "member", device=f"d{at}") for at in range(NODES)]
        for n in range(rounds):
            (victim,) = await victims_of(nodes, [f"victim{n}"], room, TOPIC, CUT)
            typist = await nodes.client(CUT, "typist", f"d{n}")
            async with talk(nodes, room, senders, 0.05) as traffic:
                await pace(0.5)
                since = time.monotonic()
                if n % 2:
                    await nodes.proxies[CUT].refuse()
                else:
                    nodes.proxies[CUT].silence()
                cut = time.monotonic()
                status_at = asyncio.create_task(_until_status(here, "/health/ready", 503, PATIENCE_S))
                typing = asyncio.create_task(_type(typist, room))
                first = await remove(owner, victim, room)
                await asyncio.sleep(lab.random.uniform(4, 10))
                refused = await _refused(nodes.nodes[0], room, await nodes.token("sender0"))
                noticed.append(await status_at or PATIENCE_S)
                events = len(members[CUT].seqs(room))
                await pace(1)
                beyond += len(members[CUT].seqs(room)) - events
                nodes.proxies[CUT].heal()
                healed = time.monotonic()
                stalls.append(traffic.longest_gap([0, 2], since, healed))
                head = max(acked.seq for acked in traffic.acked)
                kept = await members[CUT].reaches(room, head) and not refused and kept
                lags.append(time.monotonic() - healed)
                event = await victim.ear.event("room_removed")
                if event is None:
                    kept = False
                else:
                    told.append(max(0.0, event.time - healed))
                await _until_status(here, "/health/ready", 200, PATIENCE_S)
                typing.cancel()
                last = await traffic.stop()
            victim.forbidden.append((first, last))
            leaked += victim.leaked(room)
            broken += victim.broken(room)
            latest = max([latest, *(event.time - cut for event in victim.ear.of("typing"))])
            kept = all([await ear.reaches(room, last) for ear in members]) and kept
            victim.ear.client.abort()
            typist.abort()
        broken += sum(gaps(ear.seqs(room)) for ear in members)
        logs = [
            [(e.payload["seq"], e.payload["id"]) for e in ear.of("message") if e.payload["room_id"] == room]
            for ear in members
        ]
    seen = (
        f"503 after ≤ {max(noticed):.1f} s; others ≤ {max(stalls):.1f} s without an ack; {beyond} entries while cut"
        f" off, {leaked} after a removal; typing to the removed ≤ {latest:.1f} s after; whole ≤ {max(lags):.1f} s and"
        f" told ≤ {max(told, default=PATIENCE_S):.1f} s after healing; {broken} gaps, logs"
        f" {'equal' if logs[0] == logs[1] == logs[2] else 'different'}"
    )
    kept = kept and not (leaked or broken or beyond) and logs[0] == logs[1] == logs[2]
    kept = kept and max(noticed) <= NOTICED_S and max(stalls) <= 6 and max(lags) <= HEALED_S
    kept = kept and max(told) <= HEALED_S and latest <= BEHIND_S + 1
    return Seen(rounds, "503; others' acks within 6 s; whole within 5 s after healing; nothing leaks", seen, kept)


async def _refused(node: Server, room: str, token: str) -> bool:
    """Whether another node refuses a message now."""
    answer = await node.post("/api/messages", {"room_id": room, "content": "hola"}, token)
    return bool(answer.status >= 300)


async def _type(typist: Plain, room: str) -> None:
    typing = True
    while True:
        try:
            await typist.call("typing", {"room_id": room, "typing": typing}, PATIENCE_S)
        except (Ended, TimeoutError, *GONE):
            return
        typing = not typing
        await pace(0.1)


@area.check("a long transaction in another database does not delay what other nodes tell")
async def long_transaction(lab: Lab) -> Seen:
    seconds = lab.size(10, 600)
    async with cluster(lab, 2) as nodes:
        senders = {"sender0": 0, "sender1": 1}
        room = await nodes.nodes[0].topic("owner", TOPIC, *senders, "reader")
        ears = {await nodes.connect(at, "reader", device=f"d{at}"): at for at in range(2)}
        assert lab.postgres is not None
        conn = await asyncpg.connect(lab.postgres.replace("+asyncpg", ""))
        try:
            await conn.execute("BEGIN; CREATE TEMPORARY TABLE held (n int); INSERT INTO held VALUES (1)")
            async with talk(nodes, room, senders, 0.05) as traffic:
                await asyncio.sleep(seconds)
                last = await traffic.stop()
        finally:
            await conn.close()
        whole = all([await ear.reaches(room, last) for ear in ears])
        broken = sum(gaps(ear.seqs(room)) for ear in ears)
        waits = traffic.across(ears)
    seen = f"{len(waits)} across in p50/p99/max {figures(waits)}, {broken} gaps"
    return Seen(1, "p99 ≤ 0.5 s, no gap", seen, whole and not broken and quantile(waits, 0.99) <= 0.5)


@area.check("a node that could not read the feed until it had been trimmed compares everything with the database")
async def trimmed(lab: Lab) -> Seen:
    if lab.quick:
        raise NotTried(f"takes {TRIMMED_S:.0f} s")
    async with cluster(lab, 2, through_proxies=True) as nodes:
        room = await nodes.nodes[0].topic("owner", TOPIC, "member")
        private = await nodes.nodes[0].topic("owner", "private", private=True)
        owner = await nodes.client(0, "owner")
        member = await nodes.connect(1, "member")
        (victim,) = await victims_of(nodes, ["victim"], room, TOPIC, 1)
        outsider = await nodes.connect(1, "outsider")
        departed = await nodes.connect(1, "departed")
        nodes.proxies[1].hold_feed()
        try:
            first = await remove(owner, victim, room)
            await owner.ask("invite", room_id=private, username="outsider")
            seq = (await owner.ask("message", room_id=private, content="hola"))["seq"]
            assert (await nodes.nodes[0].post("/api/logout", {}, await nodes.token("departed"))).status == 204
            until = time.monotonic() + TRIMMED_S
            while time.monotonic() < until:
                last = (await owner.ask("message", room_id=room, content="hola"))["seq"]
                await pace(1)
            rows = await asyncio.to_thread(_rows_older_than, nodes.url, TRIMMED_S)
        finally:
            nodes.proxies[1].heal()
        resumed = time.monotonic()
        victim.forbidden.append((first, last))
        done = [
            await member.reaches(room, last, 5),
            await victim.ear.event("room_removed", within=5) is not None,
            await outsider.reaches(private, seq, 5),
            await departed.event("closing", within=5) is not None,
        ]
        took = time.monotonic() - resumed
        leaked = victim.leaked(room)
    seen = f"{rows} old rows left; done {done} in {took:.1f} s; {leaked} later entries"
    return Seen(1, "all within 2 s, 0 later entries", seen, all(done) and not leaked and took <= 2)


def _rows_older_than(url: str, seconds: float) -> int:
    async def count() -> int:
        conn = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            query = "SELECT count(*) FROM feed WHERE at < extract(epoch FROM clock_timestamp()) * 1000 - $1"
            return int(await conn.fetchval(query, seconds * 1000))
        finally:
            await conn.close()

    return asyncio.run(count())
