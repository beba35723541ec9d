"""A large public topic whose members come and go while messages flow."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection as Transaction

from tests.campaign.nodes.cluster import AWAY, Cluster, cluster, figures, gaps, quantile, talk
from tests.campaign.support.clients import Plain
from tests.campaign.support.lab import Area, Lab
from tests.campaign.support.report import Seen
from tidings_db import models
from tidings_db.engine import Database

area = Area("crowds")
NODES = 3
PER_SECOND = 100
READERS = 30


@area.check("members who join and leave a large public topic do not delay its messages")
async def coming_and_going(lab: Lab) -> Seen:
    users, members, seconds = lab.size(60, 300), lab.size(500, 5_000), lab.size(10, 60)
    async with cluster(lab, NODES) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(5)}
        room = await nodes.nodes[0].topic("owner", "tides", *senders, "reader")
        await _fill(nodes, room, members)
        names = [f"passer{n}" for n in range(users)]
        await nodes.nodes[0].users(*names)
        ears = {await nodes.connect(n % NODES, "reader", device=f"d{n % 15}"): n % NODES for n in range(READERS)}
        passers = [await nodes.client(n % NODES, name) for n, name in enumerate(names)]
        done: list[float] = []
        until = time.monotonic() + seconds
        async with talk(nodes, room, senders, 0.5) as traffic:
            moving = [asyncio.create_task(_pass(passer, done, users / PER_SECOND, until)) for passer in passers]
            await asyncio.gather(*moving)
            last = await traffic.stop()
        whole = all([await ear.reaches(room, last) for ear in ears])
        broken = sum(gaps(ear.seqs(room)) for ear in ears)
        waits = traffic.across(ears)
        for passer in passers:
            passer.abort()
    seen = (
        f"{len(done) / seconds:.0f} changes/s, each {figures(done)}; {len(traffic.acked)} messages across in"
        f" p50/p99/max {figures(waits)}; {broken} gaps {dict(traffic.refused) or ''}"
    )
    return Seen(
        len(done), "messages p99 ≤ 0.5 s, no gap", seen, whole and not broken and quantile(waits, 0.99) <= 0.5
    )


async def _pass(passer: Plain, done: list[float], pause_s: float, until: float) -> None:
    """Join and leave again and again."""
    join = True
    while time.monotonic() < until:
        began = time.monotonic()
        with suppress(*AWAY):
            await passer.ask("subscribe" if join else "unsubscribe", topic_name="tides")
        join = not join
        done.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, pause_s - done[-1]))


async def _fill(nodes: Cluster, room_id: str, count: int) -> None:
    """Add members who never connect, directly to the database."""

    def fill(conn: Transaction) -> None:
        names = [f"absent{n}" for n in range(count)]
        added = [{"username": name, "username_key": name, "created_at": 0} for name in names]
        user_keys = conn.scalars(insert(models.users).returning(models.users.c.id), added).all()
        room = conn.scalars(select(models.rooms.c.id).where(models.rooms.c.room_id == room_id)).one()
        standing = {"room_id": room, "role": "member", "joined_at": 0, "joined_seq": 0}
        conn.execute(insert(models.members), [{**standing, "user_id": key} for key in user_keys])
        more = {"members": models.rooms.c.members + count}
        conn.execute(update(models.rooms).where(models.rooms.c.id == room).values(more))

    database = Database(nodes.url)
    await database.start()
    await database.write(fill)
    await database.stop()
