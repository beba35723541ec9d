"""Clients that send messages and events, and change messages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import socketio

from tests.crash.checker import Ack, Change, Send
from tests.crash.links import PUBLISHED, Device, Link
from tests.crash.rooms import GUESTS
from tests.crash.victims import DEADLINE_S, Node

if TYPE_CHECKING:
    from tests.crash.load import Load

IN_FLIGHT = 8
"""Unacknowledged messages and events of one sender."""
EVENTS = 0.3
"""The share of an application's events."""
CHANGES_IN_FLIGHT = 6
"""Unanswered edits, deletions, reactions and membership changes of one sender."""
CHANGES = {"edit": 4, "delete": 1, "reaction": 4, "member": 12}
"""The weight of each kind; `member` is only for senders with guests."""


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
        """client_id -> payload of each unacknowledged message or event, in the order of sending"""
        self._sent_to: dict[str, Node] = {}
        """client_id -> the node that it was sent to first, while it is unacknowledged"""

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
        payload = {**ref, "client_id": client_id}
        payload |= {"event": PUBLISHED, "data": client_id} if self._rng.random() < EVENTS else {"content": client_id}
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
        rooms = self._load.rooms.with_guests(user)
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
            visible = [r.message_id for r in link.received[-50:] if r.kind == "message" and r.content]
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
        action = "publish" if "event" in payload else "message"
        await link.sio.emit(action, payload, callback=self._answered(payload["client_id"], link.node))
        self._load.observe("sent", link.node)

    def _answered(self, client_id: str, node: Node) -> Callable[[dict[str, Any]], None]:
        def take(answer: dict[str, Any]) -> None:
            if not answer["ok"] and self._load.is_refused_by_a_stop(answer):
                return  # it is sent again over the next connection
            if not answer["ok"]:
                self._load.fail(f"{client_id} was refused: {answer}")
                return
            data = answer["data"]
            if (payload := self.pending.pop(client_id, None)) is not None:
                if "event" in payload:
                    self._load.observe("published", node)
                else:
                    self._own[data["id"]] = client_id
            self.wake()
            ack = Ack(self._device.user, client_id, data["room_id"], data["seq"], data["id"])
            self._load.acknowledged(ack, node, first=self._sent_to.pop(client_id, None) is node)

        return take
