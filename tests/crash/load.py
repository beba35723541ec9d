"""Nodes under load that are killed again and again; the events of their clients become a `History`.

The clients are stock ones, and each connects to any node that runs. A kill waits for the n-th event of a kind (a
message sent, acknowledged, received or replayed, a client connected). It follows in the same step of the event loop,
on the node of that event, so it interrupts commits, answers, replays and handshakes. The seed decides what the
clients do, the machine decides when.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import itertools
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import socketio

from tests.crash.checker import Ack, Change, Entry, History, Send
from tests.crash.lag import Delivery, LoopLag
from tests.crash.libraries import Libraries
from tests.crash.links import Arrival, Device, Link, events_of, history_of
from tests.crash.rooms import DIRECT, GUESTS, READERS, SENDERS, STRANGER, Rooms, devices
from tests.crash.senders import Sender
from tests.crash.victims import DEADLINE_S, Life, Node, Target, Victim
from tests.support.node import SECRET_KEY
from tests.support.redis import RedisServer

MOMENTS = {
    "sent": (4, 300),
    "acknowledged": (5, 300),
    "published": (2, 100),
    "received": (5, 900),
    "replayed": (3, 300),
    "edit": (4, 30),
    "reaction": (2, 30),
    "delete": (1, 6),
    "member": (1, 4),
    "connected": (2, 12),
}
"""The events that a kill may wait for: the weight of each kind, and the largest n."""
SLOW_DISK = Path(__file__).with_name("slow_disk")
"""On the server's PYTHONPATH: it delays commits."""
REDIS_AWAY = 400
"""The most messages that are acknowledged before a killed Redis is started again."""
REFUSALS = {
    "edit": (),
    "delete": (),
    "reaction": ("not_found",),  # the message was deleted meanwhile
    "member": ("not_found", "conflict"),
}
"""The codes with which a change may be refused."""


@dataclass
class Recorded:
    history: History
    kills: int
    in_flight: list[int]
    """The number of unacknowledged messages at each kill."""
    counts: Counter[str]
    """The number of events of each kind."""
    across: list[Delivery]
    """Of each message that was received on a live connection of another node than acknowledged it."""

    def __str__(self) -> str:
        return f"{self.kills} kills, {sum(self.in_flight)} messages in flight at them; {dict(self.counts)}"


class Load:
    def __init__(
        self,
        servers: Sequence[Victim],
        rng: Random,
        pause_s: float = 0.0,
        redis: RedisServer | None = None,
        number: signal.Signals = signal.SIGKILL,
        beside: Libraries | None = None,
    ) -> None:
        """As `record`. `number`: the signal."""
        self.nodes = [Node(server) for server in servers]
        self.pause_s = pause_s
        self.redis = redis
        self.is_gentle = number == signal.SIGTERM
        """Whether nodes stop by themselves; then they may refuse requests with `unavailable`."""
        self._number = number
        self._beside = beside
        self.tokens: dict[str, str] = {}
        self.arrivals: list[Arrival] = []
        self.counts: Counter[str] = Counter()
        self.lag = LoopLag()
        self.finishing = asyncio.Event()
        self._rng = rng
        self._up = asyncio.Event()
        self._awaited: str | None = None
        self._countdown = 0
        self._aimed_at = Target.NODE
        """Of the kill that waits."""
        self._in_flight: list[int] = []
        self._kills = 0
        self._struck: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()
        self._links: list[Link] = []
        self._sends: list[Send] = []
        self._acks: list[Ack] = []
        self._acked_at: dict[str, tuple[Node, float]] = {}
        """Id of a message or event -> by which node and when it was acknowledged, unless sent again to another one"""
        self._changes: dict[int, Change] = {}
        self.clock = 0
        """The number of acknowledged changes."""
        self.rooms = Rooms()
        self._senders: list[Sender] = []
        self._devices: list[Device] = []

    # -- events --------------------------------------------------------------------------------------------------

    def observe(self, kind: str, node: Node) -> None:
        """Count an event on a node; kill the node if a kill waits for it."""
        self.counts[kind] += 1
        if kind == "acknowledged":
            while self._waiting and self._waiting[0][0] <= self.counts[kind]:
                _wake(heapq.heappop(self._waiting)[2])
        if kind == self._awaited and node.up:
            self._countdown -= 1
            if self._countdown <= 0:
                self._strike(node)

    def fail(self, problem: str) -> None:
        """Report a failure that no kill explains."""
        if not self._failed.done():
            self._failed.set_exception(AssertionError(problem))

    def later(self, acknowledgements: int) -> asyncio.Future[None]:
        """Done after that many more acknowledgements, or when the load ends."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self.counts["acknowledged"] + acknowledgements, next(self._ticket), future))
        return future

    def _strike(self, node: Node) -> None:
        if Target.REDIS in self._aimed_at:
            assert self.redis is not None
            self.redis.strike()
        if Target.NODE in self._aimed_at:
            node.server.strike(self._number)
        self._awaited = None
        self._kills += 1
        self._in_flight.append(sum(len(sender.pending) for sender in self._senders))
        self._struck.set_result(node)
        if Target.NODE in self._aimed_at:
            node.up = False
            if not any(other.up for other in self.nodes):
                self._up.clear()
            node.life.over.set_result(None)

    async def connect(self, device: Device, brought: Mapping[str, int] | None = None) -> Link | None:
        """Connect a device to any node that runs; None if that node was killed first."""
        await self._up.wait()
        node = self._rng.choice([node for node in self.nodes if node.up])
        link = Link(self, node, device, brought or (dict(device.reached) if device.exact else None))
        self._links.append(link)
        return link if await link.open() else None

    # -- the run -------------------------------------------------------------------------------------------------

    async def run(self, kills: Sequence[Target]) -> Recorded:
        measuring = asyncio.create_task(self.lag.measure())
        try:
            for node in self.nodes:
                await self._start(node)
            running = asyncio.create_task(self._all(kills))
            await asyncio.wait({running, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.cancel()
                await asyncio.wait({running})
                self._failed.result()
            history = running.result()
            if self._failed.done():
                self._failed.result()
        finally:
            measuring.cancel()
            for node in self.nodes:
                await node.server.kill()
            await asyncio.gather(*(link.end() for link in self._links))
        return Recorded(history, self._kills, self._in_flight, self.counts, list(self._across()))

    def _across(self) -> Iterator[Delivery]:
        """Only connections that were live before the acknowledgement: coming back to another node is no delivery."""
        for arrival in self.arrivals:
            node, acked_at = self._acked_at.get(arrival.message_id, (arrival.link.node, 0.0))
            if node is not arrival.link.node and arrival.link.ready.result() < acked_at:
                lag = self.lag.between(acked_at, arrival.time)
                yield Delivery(max(0.0, arrival.time - acked_at), lag)

    async def _all(self, kills: Sequence[Target]) -> History:
        first = await self._connect_devices()
        await self.rooms.create({link.device.user: link for link in first}, self._rng)
        for link in first:
            await link.end(politely=True)
        for device in self._devices[: len(SENDERS)]:
            rooms = self.rooms.targets(device.user)
            self._senders.append(Sender(self, device, rooms, Random(self._rng.random())))
        async with asyncio.TaskGroup() as group:
            if self._beside is not None:
                await self._beside.begin(self)
                group.create_task(self._beside.run(Random(self._rng.random())))
            for sender in self._senders:
                group.create_task(sender.run())
            for device in self._devices[len(self._senders) :]:
                group.create_task(self._come_and_go(device, Random(self._rng.random())))
            await self.later(1)  # an earlier kill may find no message in flight
            weights = [weight for weight, _ in MOMENTS.values()]
            kinds = self._rng.choices(list(MOMENTS), weights, k=len(kills) - 1)
            for kind, targets in zip(kinds, kills[:-1], strict=True):
                await self._kill_at(kind, self._rng.randint(1, MOMENTS[kind][1]), targets)
            self.finishing.set()
            while self._waiting:
                _wake(self._waiting.pop()[2])
            for sender in self._senders:
                sender.wake()
            # The last kill follows the last acknowledgement, so no later retry can repair what it undid.
            await self._kill_at("all acknowledged", 1, kills[-1])
        return await self._read_back()

    async def _kill_at(self, kind: str, count: int, targets: Target) -> None:
        self._struck = asyncio.get_running_loop().create_future()
        self._awaited, self._countdown, self._aimed_at = kind, count, targets
        node = await self._struck
        await asyncio.gather(
            *([self._restart(node)] if Target.NODE in targets else []),
            *([self._restart_redis()] if Target.REDIS in targets else []),
        )

    async def _restart(self, node: Node) -> None:
        status = await node.server.ended()
        if self.is_gentle and status:
            self.fail(f"a node has stopped with status {status}")
        await self._start(node)

    async def _restart_redis(self) -> None:
        """Half of the next kills find all nodes joined by Redis again, the others do not wait for that."""
        redis = self.redis
        assert redis is not None
        await redis.kill()
        if not self.finishing.is_set():
            await self.later(self._rng.randint(1, REDIS_AWAY))
        await redis.start()
        if self._rng.random() < 0.5:
            await redis.until_joined(len([node for node in self.nodes if node.up]))

    async def _start(self, node: Node) -> None:
        await node.server.start()
        node.life = Life()
        node.up = True
        self._up.set()

    async def _connect_devices(self) -> list[Link]:
        """Create the accounts, and connect all devices: a new device begins at its user's cursors."""
        users = [*SENDERS, *READERS, *GUESTS, STRANGER]
        tokens = await asyncio.gather(*(self.nodes[0].server.register(user) for user in users))
        self.tokens = dict(zip(users, tokens, strict=True))
        self._devices = devices()
        links = [await self.connect(device) for device in self._devices]
        return [link for link in links if link is not None]

    async def _come_and_go(self, device: Device, rng: Random) -> None:
        while not self.finishing.is_set():
            link = await self.connect(device)
            if link is None:
                continue
            link.enough_after = rng.randint(1, 600)
            ending = asyncio.create_task(self.finishing.wait())
            await asyncio.wait({link.enough, link.lost, ending}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            lost = link.lost.done()
            if device.user in GUESTS and not lost and rng.random() < 0.3:
                await self._leave(link, rng.choice(self.rooms.open))
            await link.end(politely=not lost and rng.random() < 0.5)
            if not lost and not self.finishing.is_set():
                await self.later(rng.randint(1, 200))

    async def _leave(self, link: Link, room: str) -> None:
        change = Change(link.device.user, "member", room, f"left:{link.device.user}")
        answered = asyncio.Event()
        payload = {"room_id": room}
        with contextlib.suppress(socketio.exceptions.BadNamespaceError):
            await link.sio.emit(
                "unsubscribe", payload, callback=self.change(change, payload, link.node, answered.set)
            )
            waiting = asyncio.create_task(answered.wait())
            await asyncio.wait({waiting, link.lost}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
            waiting.cancel()

    # -- requests ------------------------------------------------------------------------------------------------

    def sends(self, send: Send) -> None:
        self._sends.append(send)

    def acknowledged(self, ack: Ack, node: Node, *, first: bool) -> None:
        """`first`: for the first time, and by the only node that it was sent to."""
        self._acks.append(ack)
        if first:
            self._acked_at[ack.message_id] = node, time.monotonic()
        self.observe("acknowledged", node)
        if self.finishing.is_set() and all(sender.done for sender in self._senders):
            self.observe("all acknowledged", node)

    def change(
        self, change: Change, payload: dict[str, Any], node: Node, done: Callable[[], None]
    ) -> Callable[[Any], None]:
        """Record a change that a node was asked for; returns the callback for its answer."""
        number = len(self._changes)
        self._changes[number] = change

        def take(answer: dict[str, Any]) -> None:
            done()
            if answer["ok"]:
                self._changes[number] = change._replace(acked=self.clock)
                self.clock += 1
                self.observe(change.kind, node)
            elif answer["error"]["code"] in REFUSALS[change.kind] or self.is_refused_by_a_stop(answer):
                self._changes[number] = change._replace(kind="refused")
            else:
                self.fail(f"{change} {payload} was refused: {answer}")

        return take

    def is_refused_by_a_stop(self, answer: Mapping[str, Any]) -> bool:
        return self.is_gentle and answer["error"]["code"] == "unavailable"

    # -- afterwards ----------------------------------------------------------------------------------------------

    async def _read_back(self) -> History:
        """Connect every device once more; then read the log, and replay it from its beginning."""
        direct: dict[str, str] = {}
        owned: dict[str, list[str]] = {}
        for room, members in self.rooms.members.items():
            owned.setdefault(members[0], []).append(room)
        heads: dict[str, int] = {}
        log: list[Entry] = []
        ids = {ack.message_id: ack.client_id for ack in self._acks}
        for device in self._devices:
            link = await self._catch_up(device)
            if device.name == "phone":
                for room in (await link.ask("get_rooms", member=True))["rooms"]:
                    heads[room["room_id"]] = room["last_seq"]
                    if room["kind"] == "direct":
                        pair = (device.user, room["title"])
                        if pair in DIRECT:
                            direct["+".join(pair)] = room["room_id"]
                            owned.setdefault(device.user, []).append(room["room_id"])
            await link.end(politely=True)
        members = {room: frozenset(users) for room, users in self.rooms.members.items()}
        members |= {direct[name]: frozenset(pair) for pair in DIRECT if (name := "+".join(pair)) in direct}
        for user, rooms in owned.items():
            cursors = {room: 0 if room in rooms else heads[room] for room in members if user in members[room]}
            link = await self._catch_up(Device(user, "auditor", exact=True), cursors)
            for room in rooms:
                changes = [
                    Entry(room, reception.seq, None, "", None, reception.kind, reception.about)
                    for reception in link.received
                    if reception.room == room and reception.message_id is None
                ]
                parts = await history_of(link, room, ids), await events_of(link, room), changes
                log += heapq.merge(*parts, key=lambda entry: entry.seq)
            await link.end(politely=True)
        moves = {(entry.room, entry.about) for entry in log}
        for room in self.rooms.open:
            members[room] |= {guest for guest in GUESTS if (room, f"joined:{guest}") in moves}
        return History(
            members=members,
            heads=heads,
            sends=[send._replace(room=direct.get(send.room, send.room)) for send in self._sends],
            acks=self._acks,
            connections=[link.record() for link in self._links],
            log=log,
            changes=[change for change in self._changes.values() if change.kind != "refused"],
        )

    async def _catch_up(self, device: Device, brought: Mapping[str, int] | None = None) -> Link:
        link = await self.connect(device, brought)
        assert link is not None
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait({link.ready, link.lost}, return_when=asyncio.FIRST_COMPLETED)
        assert link.ready.done(), f"{device} lost its connection"
        link.at_end = True
        return link


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def record(
    folder: Path,
    seed: int,
    kills: int,
    *,
    nodes: int = 1,
    pause_s: float = 0.0,
    redis: RedisServer | None = None,
    targets: Target = Target.NODE,
    number: signal.Signals = signal.SIGKILL,
    beside: Libraries | None = None,
    **environment: str,
) -> Recorded:
    """Kill under load `kills` times; returns the history. Raises any failure that no kill explains.

    Args:
        folder: for the data directories.
        pause_s: the mean pause of a sender between two messages.
        redis: joins the nodes.
        targets: what every kill ends, at the same moment.
        number: the signal for nodes; those that get SIGTERM must end with status 0.
        beside: runs with the load, in topics of its own, on the first node.
    """
    if redis is not None:
        environment["TIDINGS_REDIS_URL"] = redis.url
    with warnings.catch_warnings():
        # The client library leaks sockets when a connection ends during a handshake or a poll.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            path = os.pathsep.join(filter(None, [str(SLOW_DISK), os.environ.get("PYTHONPATH")]))
            common = {"PYTHONPATH": path, "TIDINGS_SECRET_KEY": SECRET_KEY, **environment}
            servers = [Victim(folder / f"node{n}", **common) for n in range(nodes)]
            return await Load(servers, Random(seed), pause_s, redis, number, beside).run([targets] * kills)
        except BaseException as error:
            error.add_note(f"TIDINGS_CRASH_SEED={seed}")
            raise
        finally:
            gc.collect()
