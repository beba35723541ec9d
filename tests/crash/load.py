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
import socket
import time
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
import socketio

from tests.crash.checker import Ack, Change, Connection, Entry, History, Reception, Send
from tests.support.node import SECRET_KEY
from tests.support.process import ServerProcess
from tests.support.redis import RedisServer

IN_FLIGHT = 8
"""Unacknowledged messages of one sender."""
SENDERS = [f"sender{n}" for n in range(8)]
READERS = [f"reader{n}" for n in range(4)]
GUESTS = [f"guest{n}" for n in range(3)]
"""Users who join and leave some private topics, by themselves or through the owners."""
STRANGER = "stranger"
PUBLIC, PRIVATE, OPEN_TO_GUESTS, GROUPS = 6, 6, 4, 2
DIRECT = [
    ("sender0", "sender1"),
    ("sender2", "sender3"),
    ("sender4", "sender5"),
    ("sender6", "sender7"),
    ("sender2", "reader0"),
    ("sender5", "reader2"),
]
MOMENTS = {
    "sent": (4, 300),
    "acknowledged": (5, 300),
    "received": (5, 900),
    "replayed": (3, 300),
    "edit": (4, 30),
    "reaction": (2, 30),
    "delete": (1, 6),
    "member": (1, 4),
    "connected": (2, 12),
}
"""The events that a kill may wait for: the weight of each kind, and the largest n."""
CHANGES_IN_FLIGHT = 6
"""Unanswered edits, deletions, reactions and membership changes of one sender."""
CHANGES = {"edit": 4, "delete": 1, "reaction": 4, "member": 12}
"""The weight of each kind; `member` is only for senders with guests."""
DELIVERED_EVERY = 25
SLOW_DISK = Path(__file__).with_name("slow_disk")
"""On the server's PYTHONPATH: it delays commits."""
DEADLINE_S = 30.0
REDIS_AWAY = 400
"""The most messages that are acknowledged before a killed Redis is started again."""
REFUSALS = {
    "edit": (),
    "delete": (),
    "reaction": ("not_found",),  # the message was deleted meanwhile
    "member": ("not_found", "conflict"),
}
"""The codes with which a change may be refused."""


class Target(Flag):
    """What a kill ends."""

    NODE = auto()
    REDIS = auto()


class Victim(ServerProcess):
    def strike(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def ended(self) -> int:
        """Wait for the process to end after `strike`; returns its exit status."""
        process, self._process = self._process, None
        assert process is not None
        async with asyncio.timeout(DEADLINE_S):
            return await process.wait()


class Delivery(NamedTuple):
    seconds: float
    """From the acknowledgement of the message until its reception."""
    lag: float
    """For how many of these seconds the event loop of the clients was late: it was busy, or had no processor."""


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


@dataclass(eq=False)
class Device:
    user: str
    name: str
    exact: bool
    """It connects with its cursors."""
    transports: list[str] = field(default_factory=lambda: ["websocket"])
    reports: bool = False
    """It sends `delivered` now and then."""
    reached: dict[str, int] = field(default_factory=dict)

    def note(self, room: str, seq: int) -> None:
        self.reached[room] = max(seq, self.reached.get(room, 0))


class Life:
    """The life of a node from one start to the next kill."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Node:
    def __init__(self, server: Victim) -> None:
        self.server = server
        self.life = Life()
        self.up = False
        """Whether clients may connect."""


class Link:
    """One connection of a device, with its receptions in order."""

    def __init__(self, load: Load, node: Node, device: Device, brought: Mapping[str, int] | None) -> None:
        self._load = load
        self.node = node
        self._life = node.life
        self.device = device
        self.brought = brought
        self.received: list[Reception] = []
        self.opened = load.clock
        self.reset: list[str] = []
        self.at_end = False
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[float] = loop.create_future()
        """Done when the replay has ended, with the time."""
        self.enough: asyncio.Future[None] = loop.create_future()
        """Done after `enough_after` entries."""
        self.enough_after: int | None = None
        self.lost: asyncio.Future[Any] = loop.create_future()
        self._reports: set[asyncio.Task[None]] = set()
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._http = aiohttp.ClientSession()
        self.sio = socketio.AsyncClient(reconnection=False, handle_sigint=False, http_session=self._http)
        self.sio.on("*", self._take)
        self.sio.on("connect", self._connected)
        self.sio.on("connect_error", self._refused)

    async def open(self) -> bool:
        """Connect; returns False if the node was killed first. Any other failure raises."""
        load, life = self._load, self._life
        auth: dict[str, Any] = {"token": load.tokens[self.device.user], "device": self.device.name}
        if self.brought is not None:
            auth["cursors"] = dict(self.brought)
        opening = asyncio.ensure_future(
            self.sio.connect(self.node.server.url, auth=auth, transports=self.device.transports, wait=False)
        )
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait({opening, life.over}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                opening.cancel()
            (problem,) = await asyncio.gather(opening, return_exceptions=True)
            if problem is not None and not life.over.done():
                raise AssertionError(f"{self.device} could not connect: {problem!r}")
            if self.sio.eio.read_loop_task is None:
                await self.end()
                return False
            self.lost, self._ws = self.sio.eio.read_loop_task, self.sio.eio.ws
            await asyncio.wait({self.accepted, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if self.accepted.done():
            load.observe("connected", self.node)
            return True
        assert life.over.done(), f"{self.device} was not accepted"
        await self.end()
        return False

    async def end(self, *, politely: bool = False) -> None:
        """Close the connection, if necessary; nothing is received afterwards."""
        if politely and self.sio.connected:
            async with asyncio.timeout(DEADLINE_S):
                await self.sio.disconnect()
        eio = self.sio.eio
        if self._ws is None:
            if eio.queue is not None:
                eio.state = "disconnected"  # or it may poll again, over a session of its own
                eio.queue.put_nowait(None)
            await self._http.close()
        elif (connection := self._ws.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):  # already closed
                connection.shutdown(socket.SHUT_RDWR)
        tasks = {task for task in (eio.read_loop_task, eio.write_loop_task, *self._reports) if task is not None}
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=DEADLINE_S)
            assert not hanging, f"{self.device} does not end: {hanging}"
        if self._ws is not None:
            await self._ws.close()  # the library leaves it open
        await self._http.close()
        if eio.http is not None and eio.http is not self._http:
            await eio.http.close()  # the library opens another session to write after the end

    async def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        answer = await self.sio.call(action, fields, timeout=DEADLINE_S)
        assert answer["ok"], f"{action} {fields}: {answer}"
        data: dict[str, Any] = answer["data"]
        return data

    def record(self) -> Connection:
        return Connection(
            self.device.user,
            self.device.name,
            self.brought,
            tuple(self.received),
            tuple(self.reset),
            self.at_end,
            self.opened,
        )

    def _connected(self) -> None:
        self.accepted.done() or self.accepted.set_result(None)

    def _refused(self, *data: Any) -> None:
        if not self._life.over.done():
            self._load.fail(f"{self.device} was refused: {data}")

    def _take(self, event: str, payload: dict[str, Any]) -> None:
        if (reception := _reception(event, payload)) is not None:
            self._entry(reception)
        elif event == "ready":
            self.reset += payload["reset"]
            self.ready.done() or self.ready.set_result(time.monotonic())
        elif event == "closing":
            self._load.counts[f"closed: {payload['reason']}"] += 1

    def _entry(self, reception: Reception) -> None:
        self.received.append(reception)
        self.device.note(reception.room, reception.seq)
        if self.enough_after is not None and len(self.received) >= self.enough_after:
            self.enough.done() or self.enough.set_result(None)
        if self.device.reports and len(self.received) % DELIVERED_EVERY == 0:
            task = asyncio.create_task(self._report())
            self._reports.add(task)
            task.add_done_callback(self._reports.discard)
        if self.ready.done() and reception.message_id is not None:
            self._load.arrivals.append(Arrival(reception.message_id, self, time.monotonic()))
        self._load.observe("received" if self.ready.done() else "replayed", self.node)

    async def _report(self) -> None:
        def answered(answer: dict[str, Any]) -> None:
            self._load.counts["delivered"] += 1
            if not answer["ok"] and not self._load.is_refused_by_a_stop(answer):
                self._load.fail(f"delivered: {answer}")

        if self.sio.namespaces:
            await self.sio.emit("delivered", {"cursors": self.device.reached}, callback=answered)


class LoopLag:
    """How late the event loop of this process was, all the time."""

    INTERVAL_S = 0.02
    ALLOWED_S = 0.005

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        """From when until when a timer was overdue, in the order of time."""

    async def measure(self) -> None:
        while True:
            due_at = time.monotonic() + self.INTERVAL_S
            await asyncio.sleep(self.INTERVAL_S)
            if (now := time.monotonic()) > due_at + self.ALLOWED_S:
                self._late.append((due_at, now))

    def between(self, begin: float, end: float) -> float:
        """For how many seconds it was late in this time."""
        first = max(0, bisect_right(self._late, (begin,)) - 1)
        late = 0.0
        for since, until in itertools.islice(self._late, first, None):
            if since >= end:
                break
            late += max(0.0, min(until, end) - max(since, begin))
        return late


class Arrival(NamedTuple):
    """A message was received on a live connection."""

    message_id: str
    link: Link
    time: float


class Load:
    def __init__(
        self,
        servers: Sequence[Victim],
        rng: Random,
        pause_s: float = 0.0,
        redis: RedisServer | None = None,
        number: signal.Signals = signal.SIGKILL,
    ) -> None:
        """As `record`. `number`: the signal."""
        self.nodes = [Node(server) for server in servers]
        self.pause_s = pause_s
        self.redis = redis
        self.is_gentle = number == signal.SIGTERM
        """Whether nodes stop by themselves; then they may refuse requests with `unavailable`."""
        self._number = number
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
        """Message id -> by which node and when it was acknowledged, unless it was sent again to another one"""
        self._changes: dict[int, Change] = {}
        self.clock = 0
        """The number of acknowledged changes."""
        self._topics: dict[str, list[str]] = {}
        """room_id -> members, its owner first"""
        self._open: list[str] = []
        """Topics with guests"""
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
        await self._prepare()
        async with asyncio.TaskGroup() as group:
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

    async def _prepare(self) -> None:
        """Create accounts, devices and topics. The direct conversations are created under load."""
        rng, users = self._rng, [*SENDERS, *READERS, *GUESTS, STRANGER]
        tokens = await asyncio.gather(*(self.nodes[0].server.register(user) for user in users))
        self.tokens = dict(zip(users, tokens, strict=True))
        upgraded = ["polling", "websocket"]
        self._devices = [
            *(Device(user, "phone", exact=n % 2 == 0, reports=True) for n, user in enumerate(SENDERS)),
            Device("reader0", "phone", exact=True),
            Device("reader1", "phone", exact=True, transports=upgraded),
            Device("reader2", "phone", exact=False, reports=True, transports=upgraded),
            Device("reader3", "phone", exact=False),
            Device("sender0", "tablet", exact=True, transports=["polling"]),
            Device("sender1", "tablet", exact=False, reports=True),
            Device(STRANGER, "phone", exact=False),
            *(Device(guest, "phone", exact=False) for guest in GUESTS),
        ]
        self._devices[3].transports = upgraded
        # A new device begins at its user's cursors, so all devices connect before the first message.
        first = [await self.connect(device) for device in self._devices]
        links = {link.device.user: link for link in first if link is not None}
        for n in range(PUBLIC + PRIVATE + GROUPS):
            private = n >= PUBLIC
            members = [*rng.sample(SENDERS, rng.randint(2, 4)), *rng.sample(READERS, rng.randint(0, 2))]
            if n < len(SENDERS):  # every sender has a topic
                members = [SENDERS[n], *(user for user in members if user != SENDERS[n])]
            owner, name = links[members[0]], f"{'private' if private else 'public'} {n}"
            if n >= PUBLIC + PRIVATE:
                group = await owner.ask("create_conversation", usernames=members[1:], title=name)
                self._topics[group["room_id"]] = members
                continue
            room: str = (await owner.ask("create", topic_name=name, is_private=private))["room_id"]
            self._topics[room] = members
            if PUBLIC <= n < PUBLIC + OPEN_TO_GUESTS:
                self._open.append(room)
            for user in members[1:]:
                if private:
                    await owner.ask("invite", room_id=room, username=user)
                else:
                    await links[user].ask("subscribe", topic_name=name)
        for link in first:
            assert link is not None
            await link.end(politely=True)
        for device in self._devices[: len(SENDERS)]:
            self._senders.append(Sender(self, device, self._targets(device.user), Random(rng.random())))

    def _targets(self, user: str) -> list[tuple[str, dict[str, str]]]:
        """The rooms to which a user can send: the name in this module, and the room reference."""
        topics = [(room, {"room_id": room}) for room, members in self._topics.items() if user in members]
        direct = [("+".join(pair), {"username": pair[1 - pair.index(user)]}) for pair in DIRECT if user in pair]
        return topics + direct

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
                await self._leave(link, rng.choice(self._open))
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

    def guests_of(self, user: str) -> list[str]:
        """The rooms of a user that have guests."""
        return [room for room in self._open if self._topics[room][0] == user]

    # -- afterwards ----------------------------------------------------------------------------------------------

    async def _read_back(self) -> History:
        """Connect every device once more; then read the log, and replay it from its beginning."""
        direct: dict[str, str] = {}
        owned: dict[str, list[str]] = {}
        for room, members in self._topics.items():
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
        members = {room: frozenset(users) for room, users in self._topics.items()}
        members |= {direct[name]: frozenset(pair) for pair in DIRECT if (name := "+".join(pair)) in direct}
        for user, rooms in owned.items():
            cursors = {room: 0 if room in rooms else heads[room] for room in members if user in members[room]}
            link = await self._catch_up(Device(user, "auditor", exact=True), cursors)
            for room in rooms:
                changes = [
                    Entry(room, reception.seq, None, "", None, reception.kind, reception.about)
                    for reception in link.received
                    if reception.room == room and reception.kind != "message"
                ]
                log += heapq.merge(await _history(link, room, ids), changes, key=lambda entry: entry.seq)
            await link.end(politely=True)
        moves = {(entry.room, entry.about) for entry in log}
        for room in self._open:
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


class Sender:
    """Keeps messages in flight; after a lost connection it repeats those without an acknowledgement."""

    def __init__(
        self, load: Load, device: Device, targets: Sequence[tuple[str, dict[str, str]]], rng: Random
    ) -> None:
        self._load = load
        self._device = device
        self._targets = targets
        self._rng = rng
        self._changed = asyncio.Event()
        self._numbers = itertools.count(1)
        self._last_sent = False
        self._own: dict[str, str] = {}
        """Own messages that can still be changed: message id -> client_id"""
        self._reacted: set[str] = set()
        self._changing = 0
        self.pending: dict[str, dict[str, str]] = {}
        """client_id -> payload of each unacknowledged message, in the order of sending"""
        self._sent_to: dict[str, Node] = {}
        """client_id -> the node that an unacknowledged message was sent to first"""

    @property
    def done(self) -> bool:
        return self._last_sent and not self.pending

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        while not self.done:
            link = await self._load.connect(self._device)
            if link is None:
                continue
            link.lost.add_done_callback(lambda _: self.wake())
            self._changing = 0  # changes in flight have taken effect or not
            try:
                for payload in list(self.pending.values()):
                    await self._emit(link, payload)
                while not link.lost.done() and not self.done:
                    self._changed.clear()
                    while len(self.pending) < IN_FLIGHT and not self._last_sent and not link.lost.done():
                        # When the load ends, each sender sends one last message.
                        self._last_sent = self._load.finishing.is_set()
                        await self._send(link)
                        if pause_s := self._load.pause_s:
                            await asyncio.wait({link.lost}, timeout=self._rng.uniform(0, 2 * pause_s))
                    await self._changed.wait()
            except socketio.exceptions.BadNamespaceError:
                pass  # the library raises this when the connection is lost
            if not link.lost.done() and not self.done:
                await asyncio.wait({link.lost}, timeout=DEADLINE_S)
            await link.end()

    async def _send(self, link: Link) -> None:
        room, ref = self._rng.choice(self._targets)
        client_id = f"{self._device.user}-{next(self._numbers)}"
        payload = {**ref, "content": client_id, "client_id": client_id}
        self._load.sends(Send(self._device.user, room, client_id))
        self.pending[client_id] = payload
        self._sent_to[client_id] = link.node
        await self._emit(link, payload)
        # An impatient client repeats a message in flight. An acknowledged message is never repeated, because that
        # would restore what a crash had undone.
        if self._rng.random() < 0.05:
            await self._emit(link, payload)
        if self._changing < CHANGES_IN_FLIGHT and not self._load.finishing.is_set() and self._rng.random() < 0.6:
            await self._change(link)

    async def _change(self, link: Link) -> None:
        """A change is not repeated after a lost connection: it has taken effect completely, or not at all."""
        rng, user = self._rng, self._device.user
        rooms = self._load.guests_of(user)
        kinds = [kind for kind in CHANGES if rooms or kind != "member"]
        kind = rng.choices(kinds, [CHANGES[kind] for kind in kinds])[0]
        action, value, about = kind, "", ""
        payload: dict[str, Any] = {}
        if kind == "member":
            about, guest = rng.choice(rooms), rng.choice(GUESTS)
            action, logged = rng.choice([("kick", "kicked"), ("invite", "joined"), ("invite", "joined")])
            payload, value = {"room_id": about, "username": guest}, f"{logged}:{guest}"
        elif kind == "reaction":
            action = "react"
            visible = [r.message_id for r in link.received[-50:] if r.message_id is not None and r.content]
            about = rng.choice([*visible, *self._own] or [""])
            if not about or about in self._reacted:
                return
            self._reacted.add(about)
            payload, value = {"message_id": about, "emoji": "👍"}, "👍"
        else:
            if not self._own:
                return
            about = rng.choice(list(self._own)[-20:])
            payload = {"message_id": about}
            if kind == "edit":
                value = payload["content"] = f"{self._own[about]} ~{next(self._numbers)}"
            else:
                del self._own[about]
        self._changing += 1
        change = Change(user, kind, about, value)
        answered = self._load.change(change, payload, link.node, partial(self._change_answered, link))
        await link.sio.emit(action, payload, callback=answered)

    def _change_answered(self, link: Link) -> None:
        if not link.lost.done():
            self._changing -= 1

    async def _emit(self, link: Link, payload: dict[str, str]) -> None:
        await link.sio.emit("message", payload, callback=self._answered(payload["client_id"], link.node))
        self._load.observe("sent", link.node)

    def _answered(self, client_id: str, node: Node) -> Callable[[dict[str, Any]], None]:
        def take(answer: dict[str, Any]) -> None:
            if not answer["ok"] and self._load.is_refused_by_a_stop(answer):
                return  # it is sent again over the next connection
            if not answer["ok"]:
                self._load.fail(f"{client_id} was refused: {answer}")
                return
            data = answer["data"]
            if self.pending.pop(client_id, None) is not None:
                self._own[data["id"]] = client_id
            self.wake()
            ack = Ack(self._device.user, client_id, data["room_id"], data["seq"], data["id"])
            self._load.acknowledged(ack, node, first=self._sent_to.pop(client_id, None) is node)

        return take


def _reception(event: str, payload: dict[str, Any]) -> Reception | None:
    """The entry of an event; None if the event is not in the log."""
    kinds = {"message_edited": "edit", "message_deleted": "delete", "reaction": "reaction"}
    if event == "message":
        reception = Reception(payload["room_id"], payload["seq"], payload["id"])
        return reception._replace(content=payload["content"], reactions=_reactions(payload))
    if event in kinds:
        message = payload["message"]
        reception = Reception(payload["room_id"], payload["seq"], None, kinds[event], message["id"])
        return reception._replace(content=message["content"], reactions=_reactions(message))
    if event == "member" and payload["seq"] is not None:
        about = f"{payload['change']}:{payload['username']}"
        return Reception(payload["room_id"], payload["seq"], None, "member", about)
    return None


def _reactions(message: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((emoji, user) for emoji, users in message["reactions"].items() for user in users)


async def _history(link: Link, room: str, ids: Mapping[str, str]) -> list[Entry]:
    """A room's messages; `ids`: message id -> `client_id` of each acknowledged message."""
    messages: list[Entry] = []
    while True:
        page = await link.ask("history", room_id=room, after=messages[-1].seq if messages else 0, limit=200)
        for m in page["messages"]:
            client_id = m["content"].partition(" ~")[0] or ids.get(m["id"], "?")
            entry = Entry(room, m["seq"], m["id"], m["sender"], client_id, content=m["content"])
            messages.append(entry._replace(reactions=_reactions(m)))
        if not page["has_more"]:
            return messages


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
    **environment: str,
) -> Recorded:
    """Kill under load `kills` times; returns the history. Raises any failure that no kill explains.

    Args:
        folder: for the data directories.
        pause_s: the mean pause of a sender between two messages.
        redis: joins the nodes.
        targets: what every kill ends, at the same moment.
        number: the signal for nodes; those that get SIGTERM must end with status 0.
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
            return await Load(servers, Random(seed), pause_s, redis, number).run([targets] * kills)
        except BaseException as error:
            error.add_note(f"TIDINGS_CRASH_SEED={seed}")
            raise
        finally:
            gc.collect()
