"""The connections of the clients, with what arrives on them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import socketio

from tests.crash.checker import Connection, Entry, Reception
from tests.crash.victims import DEADLINE_S, Node

if TYPE_CHECKING:
    from tests.crash.load import Load

DELIVERED_EVERY = 25
PUBLISHED = "order.paid"
"""The application's event; its data is its `client_id`."""


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


class Arrival(NamedTuple):
    """A message or an event was received on a live connection."""

    message_id: str
    link: Link
    time: float


def _reception(event: str, payload: dict[str, Any]) -> Reception | None:
    """The entry of an event; None if the event is not in the log."""
    kinds = {"message_edited": "edit", "message_deleted": "delete", "reaction": "reaction"}
    if event == "message":
        reception = Reception(payload["room_id"], payload["seq"], payload["id"])
        return reception._replace(content=payload["content"], reactions=_reactions(payload))
    if event == PUBLISHED:
        return Reception(payload["room_id"], payload["seq"], payload["id"], "event", content=payload["data"])
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


async def history_of(link: Link, room: str, ids: Mapping[str, str]) -> list[Entry]:
    """A room's messages; `ids`: message id -> `client_id` of each acknowledged message."""
    messages: list[Entry] = []
    for m in await _pages(link, "history", "messages", room):
        client_id = m["content"].partition(" ~")[0] or ids.get(m["id"], "?")
        entry = Entry(room, m["seq"], m["id"], m["sender"], client_id, content=m["content"])
        messages.append(entry._replace(reactions=_reactions(m)))
    return messages


async def events_of(link: Link, room: str) -> list[Entry]:
    """A room's application events."""
    return [
        Entry(room, event["seq"], event["id"], event["sender"], event["data"], "event", content=event["data"])
        for event in await _pages(link, "get_events", "events", room)
    ]


async def _pages(link: Link, action: str, field: str, room: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await link.ask(action, room_id=room, after=found[-1]["seq"] if found else 0, limit=200)
        found += page[field]
        if not page["has_more"]:
            return found
