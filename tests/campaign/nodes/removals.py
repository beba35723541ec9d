"""Removed members, invitations, and memberships that several nodes change."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.campaign.fault.disk import _status
from tests.campaign.nodes.cluster import PATIENCE_S, Cluster, Ear, cluster, figures, gaps, quantile, talk
from tests.campaign.support.clients import Plain
from tests.campaign.support.lab import Area, Lab
from tests.campaign.support.report import Seen

area = Area("removals")
NODES = 3
RETRY_S = 0.2
TALK_S = 0.5
"""How long there is traffic before a fault."""
TYPING_S = 0.1
TOPIC = "tides"
REMOVED_S = 1.0
"""Within this, the client of a removed member is told, and gets no transient event any more."""
BEHIND_S = 2.0
"""A node that has not read the feed for so long delivers no transient events."""


@dataclass
class Victim:
    """A user who is removed from a topic while connected to a node."""

    name: str
    ear: Ear
    node: int
    forbidden: list[tuple[int, int]] = field(default_factory=list)
    """The first and the last seq that was acknowledged between a removal and the next join."""
    removed_at: list[float] = field(default_factory=list)
    """When each removal was acknowledged."""

    def leaked(self, room: str) -> int:
        """How many entries came although they are after a removal and before the next join."""
        return sum(first <= seq <= last for seq in self.ear.seqs(room) for first, last in self.forbidden)

    def broken(self, room: str) -> int:
        """Gaps within a membership; it begins at the head that `room_added` names, or before."""
        wrong, before = 0, None
        for event in self.ear.events:
            if event.name == "room_added" and event.payload["room"]["room_id"] == room:
                before = None
                head = event.payload["room"]["last_seq"]
            elif event.name == "message" and event.payload["room_id"] == room:
                seq = event.payload["seq"]
                wrong += seq != before + 1 if before is not None else seq > head + 1
                before = seq
        return wrong


async def remove(owner: Plain, victim: Victim, room: str) -> int:
    """Kick; returns the seq of a message that follows the removal immediately."""
    for _ in range(20):
        kicked = owner.send("kick", {"room_id": room, "username": victim.name})
        marked = owner.send("message", {"room_id": room, "content": "after the removal"})
        answer, message = await kicked, await marked
        if answer["ok"] and message["ok"]:
            victim.removed_at.append(time.monotonic())
            seq: int = message["data"]["seq"]
            return seq
        # A stopped node may hold the room.
        refused = [one["error"] for one in (answer, message) if not one["ok"]]
        assert all(error["retryable"] for error in refused) or answer["ok"] is not message["ok"], refused
        await asyncio.sleep(RETRY_S)
    raise TimeoutError("a kick is refused again and again")


async def victims_of(nodes: Cluster, names: list[str], room: str, topic: str, at: int) -> list[Victim]:
    found = []
    for name in names:
        await nodes.token(name)
        ear = await nodes.connect(at, name)
        await nodes.subscribe(at, name, topic)
        await ear.event("room_added")
        found.append(Victim(name, ear, at))
    return found


@area.check("who is kicked from a public topic by another node gets no later entry")
async def kicked(lab: Lab) -> Seen:
    rounds, count = lab.size(50, 1_000), 5
    async with cluster(lab, NODES) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(5)}
        room = await nodes.nodes[0].topic("owner", TOPIC, *senders, "member")
        owner = await nodes.client(0, "owner")
        members = {await nodes.connect(at, "member", device=f"d{at}"): at for at in range(NODES)}
        victims = await victims_of(nodes, [f"victim{n}" for n in range(count)], room, TOPIC, 1)

        async def suffer(victim: Victim) -> None:
            for n in range(1, rounds // count + 1):
                first = await remove(owner, victim, room)
                if await victim.ear.event("room_removed", n) is None:
                    return
                last = (await owner.ask("message", room_id=room, content="before the next join"))["seq"]
                victim.forbidden.append((first, last))
                await nodes.subscribe(n % NODES, victim.name, TOPIC)
                if await victim.ear.event("room_added", n + 1) is None:
                    return

        async with talk(nodes, room, senders, 0.05) as traffic:
            await asyncio.gather(*(suffer(victim) for victim in victims))
            last = await traffic.stop()
        waits = told(victims)
        whole = all([await ear.reaches(room, last) for ear in (*members, *(victim.ear for victim in victims))])
        broken = sum(gaps(ear.seqs(room)) for ear in members) + sum(victim.broken(room) for victim in victims)
        leaked = sum(victim.leaked(room) for victim in victims)
        done = sum(len(victim.forbidden) for victim in victims)
        seen = (
            f"{done} removals, {len(traffic.acked)} messages: {leaked} later entries, {broken} gaps;"
            f" told in p50/p99/max {figures(waits)}"
        )
        kept = not leaked and not broken and whole and done == rounds // count * count
        return Seen(done, "0 later entries; told within 1 s", seen, kept and max(waits) <= REMOVED_S)


def told(victims: list[Victim]) -> list[float]:
    """Seconds from each removal until the victim was told."""
    return [
        max(0.0, event.time - removed)
        for victim in victims
        for event, removed in zip(victim.ear.of("room_removed"), victim.removed_at, strict=False)
    ]


@area.check("who is kicked while their node is stopped gets no later entry when it goes on")
async def kicked_under_a_stopped_node(lab: Lab) -> Seen:
    return await _kicked_behind(lab, stopped=True)


@area.check("who is kicked while their node cannot read the feed gets no later entry")
async def kicked_under_a_node_that_is_behind(lab: Lab) -> Seen:
    return await _kicked_behind(lab, stopped=False)


async def _kicked_behind(lab: Lab, *, stopped: bool) -> Seen:
    lengths = [3.0, 10.0] if lab.quick else [1.0, 3.0, 10.0, 20.0, 30.0]
    leaked = broken = removals = unready = 0
    waits, transients, whole = [], [], True
    async with cluster(lab, NODES, through_proxies=not stopped) as nodes:
        senders = {f"sender{n}": n % NODES for n in range(5)}
        room = await nodes.nodes[0].topic("owner", TOPIC, *senders, "member", "typist")
        owner = await nodes.client(0, "owner")
        typist = await nodes.client(1, "typist")  # on the victims' node
        members = [await nodes.connect(at, "member", device=f"d{at}") for at in range(NODES)]
        for n, length in enumerate(lengths):
            victims = await victims_of(nodes, [f"victim{n}of{k}" for k in range(5)], room, TOPIC, 1)
            async with talk(nodes, room, senders, 0.05) as traffic:
                await asyncio.sleep(TALK_S)
                if stopped:
                    os.kill(nodes.nodes[1].pid, signal.SIGSTOP)
                else:
                    nodes.proxies[1].hold_feed()
                try:
                    firsts = [await remove(owner, victim, room) for victim in victims]
                    typing = asyncio.create_task(_type(typist, room))
                    await asyncio.sleep(length)
                    behind = not stopped and await _status(nodes.nodes[1], "/health/ready") == 503
                    unready += stopped or length < BEHIND_S + 1 or behind
                finally:
                    os.kill(nodes.nodes[1].pid, signal.SIGCONT)
                    if not stopped:
                        nodes.proxies[1].heal()
                healed = time.monotonic()
                for victim in victims:
                    await victim.ear.event("room_removed")
                await asyncio.sleep(REMOVED_S)  # for transient events that must not come
                typing.cancel()
                last = await traffic.stop()
            await owner.ask("message", room_id=room, content="the end")
            for victim, first in zip(victims, firsts, strict=True):
                victim.forbidden.append((first, last + 1))
                since = healed if stopped else victim.removed_at[0]
                waits += [max(0.0, event.time - healed) for event in victim.ear.of("room_removed")]
                transients += [
                    event.time - since for event in victim.ear.of("typing") if event.time > victim.removed_at[0]
                ]
                leaked += victim.leaked(room)
                broken += victim.broken(room)
                removals += 1
                victim.ear.client.abort()
            whole = whole and all([await ear.reaches(room, last + 1) for ear in members])
        broken += sum(gaps(ear.seqs(room)) for ear in members)
    latest = max(transients, default=0.0)
    seen = (
        f"{leaked} later entries, {broken} gaps; told in p50/p99/max {figures(waits)} after it went on;"
        f" {len(transients)} typing events after the removal, the last {latest:.1f} s after"
    )
    bound = REMOVED_S if stopped else BEHIND_S + REMOVED_S
    kept = not leaked and not broken and whole and len(waits) == removals and max(waits) <= 2 and latest <= bound
    kept = kept and unready == len(lengths)
    return Seen(removals, f"0 later entries; told within 2 s; no typing after {bound:g} s; 503 if behind", seen, kept)


async def _type(typist: Plain, room: str) -> None:
    typing = True
    while True:
        await typist.call("typing", {"room_id": room, "typing": typing}, PATIENCE_S * 2)
        typing = not typing
        await asyncio.sleep(TYPING_S)


@area.check("who is invited by one node gets the room on another one soon, and every message")
async def invited(lab: Lab) -> Seen:
    count, waits, missed = lab.size(20, 300), [], 0
    async with cluster(lab, NODES) as nodes:
        owner = await nodes.client(0, "owner")
        ears = [await nodes.connect(at, "guest", device=f"d{at}") for at in range(1, NODES)]
        for n in range(1, count + 1):
            if n % 2:
                made = await owner.ask("create", topic_name=f"private {n}", is_private=True)
                await owner.ask("invite", room_id=made["room_id"], username="guest")
            else:
                made = await owner.ask("create_conversation", usernames=["guest"], title=f"group {n}")
            acked = time.monotonic()
            room = made["room_id"]
            sent = [(await owner.ask("message", room_id=room, content="hola"))["seq"] for _ in range(3)]
            for ear in ears:
                if (event := await ear.event("room_added", n)) is not None:
                    waits.append(max(0.0, event.time - acked))
                missed += not await ear.reaches(room, sent[-1]) or not set(sent) <= set(ear.seqs(room))
                missed += gaps(ear.seqs(room))
    seen = f"told in p50/p99/max {figures(waits)}; {missed} without a message"
    kept = not missed and len(waits) == count * len(ears) and quantile(waits, 0.99) <= 0.5
    return Seen(len(waits), "p99 ≤ 0.5 s, all messages", seen, kept)


@area.check("kicks and invitations by several nodes leave every connection as the database has it")
async def shuffled(lab: Lab) -> Seen:
    rounds, per_round = lab.size(10, 50), 10
    wrong, broken, waits, transitions = [], 0, [], 0
    async with cluster(lab, NODES) as nodes:
        room = await nodes.nodes[0].topic("owner", "private", "member", "guest", private=True)
        public = await nodes.nodes[0].topic("owner", TOPIC, "member", "guest")
        owners = [await nodes.client(at, "owner", f"d{at}") for at in range(NODES)]
        members = [await nodes.connect(at, "member", device=f"d{at}") for at in range(NODES)]
        guests = [await nodes.connect(at, "guest", device=f"d{at}") for at in range(NODES)]
        joined = {ear: {room: True, public: True} for ear in guests}

        def agrees(ear: Ear, about: str, is_member: bool) -> bool:
            state = joined[ear][about]
            for event in ear.events:
                if event.name == "room_added" and event.payload["room"]["room_id"] == about:
                    state = True
                elif event.name == "room_removed" and event.payload["room_id"] == about:
                    state = False
            return state is is_member

        for _ in range(rounds):
            for _ in range(per_round):
                about, owner = lab.random.choice([room, public]), lab.random.choice(owners)
                kick = lab.random.random() < 0.5
                asked: asyncio.Future[Any]
                if kick:
                    asked = owner.send("kick", {"room_id": about, "username": "guest"})
                elif about == room:
                    asked = owner.send("invite", {"room_id": about, "username": "guest"})
                else:
                    at = lab.random.randrange(NODES)
                    asked = asyncio.ensure_future(_subscribe(nodes, at))
                if lab.random.random() < 0.6:
                    await asked
                transitions += 1
            stands = {}
            for about in (room, public):
                sent = [
                    (await owner.ask("message", room_id=about, content="all done"))["seq"] for owner in owners
                ]  # each follows what was asked on its connection
                found = await owners[0].ask("get_members", room_id=about, limit=100)
                stands[about] = (any(one["username"] == "guest" for one in found["members"]), sent[-1])
            settled = time.monotonic()
            for about, (is_member, last) in stands.items():
                for ear in guests:
                    within = max(0.0, settled + 5 - time.monotonic())
                    if not await ear.until(partial(agrees, ear, about, is_member), within):
                        wrong.append(f"{is_member} in the database, not at a connection")
                    elif is_member and not await ear.reaches(about, last, within):
                        wrong.append("a message is missing")
                for ear in members:
                    if not await ear.reaches(about, last):
                        wrong.append("a message is missing for a bystander")
            waits.append(time.monotonic() - settled)
        broken = sum(gaps(ear.seqs(about)) for ear in members for about in (room, public))
    seen = f"{len(wrong)} wrong {wrong[:2] or ''}, {broken} gaps; settled in p50/p99/max {figures(waits)}"
    return Seen(transitions, "as the database within 1 s", seen, not wrong and not broken and max(waits) <= REMOVED_S)


async def _subscribe(nodes: Cluster, at: int) -> None:
    await nodes.nodes[at].post("/api/subscriptions", {"topic_name": TOPIC}, await nodes.token("guest"))
