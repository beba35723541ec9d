"""Devices whose state is built from events only, compared with fresh answers of the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from tests.law import state as states
from tests.law.model import Message, Model
from tests.law.state import Room, State
from tests.support.client import Client
from tests.support.node import PASSWORD
from tidings.contract.events import EVENTS

PAGE = 3
"""Small, so that listings have several pages."""


LOGGED = {name for name, model in EVENTS.items() if {"room_id", "seq"} <= model.model_fields.keys()}
"""Events of entries (if their `seq` is not None)."""


class LawClient(Client):
    """A connection that feeds a device's state."""

    def __init__(self, device: Device, token: str, **auth: Any) -> None:
        super().__init__(device.url, token, device=device.name, **auth)
        self.device = device
        self.token = token
        """The token of the connection's session."""
        self.broken: BaseException | None = None
        self.abandoned = False
        self.last_seqs: dict[str, int] = dict(auth.get("cursors", {}))

    async def _event(self, event: str, *args: Any) -> None:
        if self.abandoned:
            return
        try:
            await super()._event(event, *args)
            self._check_order(event, args[0])
            self.device.state = states.apply(self.device.state, event, args[0])
        except BaseException as problem:
            self.broken = self.broken or problem

    def _check_order(self, event: str, payload: dict[str, Any]) -> None:
        """Assert that each entry arrives once, after its predecessor."""
        if event in ("room_added", "room_removed"):
            self.last_seqs.pop(payload.get("room_id") or payload["room"]["room_id"], None)
        elif (event in LOGGED or event not in EVENTS) and payload.get("seq") is not None:
            before = self.last_seqs.get(payload["room_id"])
            assert before is None or payload["seq"] == before + 1, f"{before} is followed by {payload}"
            self.last_seqs[payload["room_id"]] = payload["seq"]

    async def rooms(self) -> list[dict[str, Any]]:
        return await self._all("get_rooms", "rooms", member=True)

    async def members(self, room_id: str) -> list[dict[str, Any]]:
        return await self._all("get_members", "members", room_id=room_id)

    async def _all(self, action: str, key: str, **fields: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = await self.ask(action, limit=PAGE, **fields, **after)
            items += page[key]
            if page["next"] is None:
                return items
            after = {"after": page["next"]}

    async def log(self, room_id: str) -> dict[int, dict[str, Any]]:
        """All messages of a room."""
        messages: list[dict[str, Any]] = []
        more = True
        while more:
            page = await self.ask("history", room_id=room_id, after=messages[-1]["seq"] if messages else 0, limit=200)
            messages += page["messages"]
            more = page["has_more"]
        return {message["seq"]: message for message in messages}

    async def apply_pending_events(self) -> None:
        """Apply everything that was written to this connection so far: an answer arrives after it."""
        await self.ask("delivered", cursors={})
        self.raise_if_broken()

    def raise_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken


class Device:
    """One installation of a client. It keeps its state while it is disconnected."""

    def __init__(
        self, url: str, username: str, name: str, token: str, transports: Sequence[str] = ("websocket",)
    ) -> None:
        self.url = url
        self.transports = list(transports)
        self.username = username
        self.name = name
        self.token = token
        """The token for the next connect."""
        self.state = State(username)
        self.client: LawClient | None = None
        self.is_new = True
        self.connected_by: str | None = None
        """The mode of the last connect, until `refresh`."""

    @property
    def live(self) -> LawClient:
        assert self.client is not None
        return self.client

    async def connect(self, mode: str) -> None:
        """Connect by a mode.

        `cursors`: sends its cursors; `state`: has its state, but sends no cursors; `anew`: has no state; `astray`:
        sends cursors beyond the logs.
        """
        mode = "anew" if self.is_new else mode
        self.is_new = False
        self.state = State(self.username) if mode == "anew" else states.reconnecting(self.state)
        cursors = dict(self.state.cursors)
        if mode == "astray":
            cursors = {room_id: seq + 1000 for room_id, seq in cursors.items()}
        auth = {"cursors": cursors} if mode in ("cursors", "astray") else {}
        self.connected_by = mode
        self.client = LawClient(self, self.token, **auth)
        if mode == "astray":
            self.client.last_seqs = {}
        await self.client.connect(self.transports)

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.raise_if_broken()
            client.abandoned = True
            await client.close()

    async def refresh(self) -> None:
        """Read what is not replayed: the rooms, and the members of public topics."""
        settled = None
        while settled is None:
            asked = self.state
            answer = await self.live.rooms()
            settled = states.with_rooms(self.state, asked, answer)
        self.state = settled
        for room_id in list(self.state.members):
            if not self.state.rooms[room_id].is_private:
                await self.open(room_id)
        self.connected_by = None

    async def open(self, room_id: str) -> None:
        settled = None
        while settled is None:
            asked = self.state
            answer = await self.live.members(room_id)
            settled = states.with_members(self.state, asked, room_id, answer)
        self.state = settled

    async def complete(self) -> None:
        """Read the pages of history that the state needs."""
        while wanted := states.wanted(self.state):
            for room_id, before in wanted.items():
                asked = self.state
                page = await self.live.ask("history", room_id=room_id, before=before, limit=PAGE)
                self.state = states.with_history(self.state, asked, room_id, before, page) or self.state


class World:
    """Users with devices, on nodes that other examples share. The devices are distributed over the nodes."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        urls: Sequence[str],
        patience_s: float,
        transports: Sequence[Sequence[str]] = (("websocket",),),
    ) -> None:
        """`http`: to one of the nodes. `patience_s`: how long what one node has answered may be unknown to others.

        `transports`: those of the devices, in turn.
        """
        self.http = http
        self._urls = itertools.cycle(urls)
        self._transports = itertools.cycle(transports)
        self._patience_s = patience_s
        self.devices: list[Device] = []
        self.model = Model([])

    async def populate(self, users: list[str], devices: tuple[str, ...]) -> None:
        self.model = Model(users)
        for username in users:
            token = await self.sign("up", username)
            for name in devices:
                url, transports = next(self._urls), next(self._transports)
                self.devices.append(Device(url, username, name, token, transports))
                token = await self.sign("in", username)

    async def sign(self, way: str, username: str) -> str:
        """`up` or `in`; returns the token of a new session."""
        path = {"up": "/api/register", "in": "/api/login"}[way]
        answer = await self.http.post(path, json={"username": username, "password": PASSWORD})
        token: str = answer.raise_for_status().json()["token"]
        return token

    @property
    def connected(self) -> list[Device]:
        return [device for device in self.devices if device.client is not None]

    async def leave(self) -> None:
        for device in self.connected:
            await device.close()

    async def check(self, *, everything: bool = False, unchanged: dict[Device, State] | None = None) -> None:
        """Check the law for every connected device; `everything`: also the messages and members of every room."""
        self.model.loosen()
        by_user: dict[str, list[Device]] = {}
        for device in self.connected:
            by_user.setdefault(device.username, []).append(device)
        for username, devices in by_user.items():
            lead = devices[0].live
            fresh = {snapshot["room_id"]: Room.of(snapshot) for snapshot in await lead.rooms()}
            assert fresh.keys() == self.model.of(username)
            for device in devices:
                await self._await_events(device, fresh)
                await self._await_texts(device)
                if unchanged is not None and device in unchanged and not self._is_streaming_elsewhere():
                    assert device.state == unchanged[device], "a refused or reading action changed a state"
                await self._check_rooms(device, fresh)
            opened = {room_id for device in devices for room_id in device.state.members}
            unsure = {room.room_id for room in self.model.rooms if room.unsure} & fresh.keys()
            for room_id in fresh if everything else opened | unsure:
                await self._check_members(fresh[room_id], devices)
            for room_id in fresh if everything else unsure:
                await self._check_messages(room_id, devices)
            for room in self.model.rooms:
                room.unsure = room.unsure and room.room_id not in fresh

    async def _await_events(self, device: Device, fresh: dict[str, Room]) -> None:
        client = device.live
        await client.apply_pending_events()

        def reached() -> bool:
            state = device.state
            behind = any(
                min(state.rooms[key].last_seq, state.cursors[key]) < room.last_seq
                for key, room in fresh.items()
                if key in state.rooms
            )
            return client.broken is not None or not behind

        await client.until(reached, deadline=5)
        client.raise_if_broken()

    async def _await_texts(self, device: Device) -> None:
        """Wait until a device shows what was appended: it arrives a little after the answer."""
        streams = [(room.room_id, message) for room in self.model.rooms for message in room.streams]

        def shown() -> bool:
            return device.live.broken is not None or all(self._shows(device, *stream) for stream in streams)

        await device.live.until(shown, deadline=5)
        device.live.raise_if_broken()

    def _shows(self, device: Device, room_id: str, message: Message) -> bool:
        timeline = device.state.timelines.get(room_id)
        known = None if timeline is None else timeline.messages.get(message.seq)
        if known is None:
            return True
        shown: str = known["content"]
        is_behind = (message.loose or self._patience_s) and message.content.startswith(shown)
        return shown == message.content or bool(is_behind)

    def _is_streaming_elsewhere(self) -> bool:
        """Whether text may arrive at any time, from another node."""
        return bool(self._patience_s) and any(room.streams for room in self.model.rooms)

    async def _check_rooms(self, device: Device, fresh: dict[str, Room]) -> None:
        if device.connected_by is not None:
            await device.complete()
            if device.connected_by in ("cursors", "state"):
                self._check_return(device, fresh)
            if device.connected_by == "cursors":
                for room_id in device.state.members:
                    if fresh[room_id].is_private:
                        await self._check_members(fresh[room_id], [device])
            await device.refresh()
        await self._await(device, lambda: dict(device.state.rooms) == fresh)
        await device.complete()
        assert dict(device.state.rooms) == fresh

    async def _await(self, device: Device, holds: Callable[[], bool]) -> None:
        """Wait for events of other nodes until the condition holds, but no longer than they may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                while self._patience_s:
                    await device.complete()
                    device.live.raise_if_broken()
                    if holds():
                        break
                    await device.live.until(partial(_has_more, device.live, len(device.live.events)))

    def _check_return(self, device: Device, fresh: dict[str, Room]) -> None:
        """Check the state of a returning device before `refresh`.

        It lacks only the members of public topics and, if it sent no cursors, the rooms that it lost.
        """
        mine = dict(device.state.rooms)
        if device.connected_by == "state":
            mine = {room_id: room for room_id, room in mine.items() if room_id in fresh}
        assert mine.keys() == fresh.keys()
        for room_id, room in mine.items():
            theirs = fresh[room_id]
            assert _as_of_entries(room, theirs) == theirs

    async def _check_members(self, room: Room, devices: list[Device]) -> None:
        fresh = {member["username"]: member["role"] for member in await devices[0].live.members(room.room_id)}
        model = next(known for known in self.model.rooms if known.room_id == room.room_id)
        assert fresh.keys() == model.members.keys()
        if model.unsure:
            model.members = {username: fresh[username] for username in model.members}
        assert fresh == model.members
        assert room.members == len(fresh)
        assert list(fresh.values()).count("owner") == (room.kind != "direct")
        if room.kind == "group":
            assert room.title == model.title
        assert room.posting == model.posting
        for device in devices:
            if room.room_id in device.state.members:
                await self._await(device, lambda d=device: dict(d.state.members[room.room_id]) == fresh)
                assert dict(device.state.members[room.room_id]) == fresh

    async def _check_messages(self, room_id: str, devices: list[Device]) -> None:
        fresh = await devices[0].live.log(room_id)
        model = next(known for known in self.model.rooms if known.room_id == room_id)
        if model.unsure:
            for known in model.log:
                known.adopt(fresh[known.seq])
        for known in model.log:
            known.adopt_text(fresh[known.seq]["content"])
            assert known.agrees(fresh[known.seq]), (known, fresh[known.seq])
            if not self._patience_s:
                assert known.content == fresh[known.seq]["content"]
        assert [known.seq for known in model.log] == [*fresh]
        for device in devices:
            await self._await_texts(device)
            timeline = device.state.timelines[room_id]
            for seq, message in fresh.items():
                if seq >= timeline.complete_from or seq in timeline.messages:
                    own = message if message["sender"] == device.username else message | {"client_id": None}
                    shown = timeline.messages.get(seq)
                    if shown is not None and message["state"] == "streaming":  # `_await_texts` has compared it
                        own = own | {"content": shown["content"]}
                    assert shown == own
            assert timeline.messages.keys() <= fresh.keys()


def _has_more(client: LawClient, known: int) -> bool:
    return client.broken is not None or len(client.events) > known


def _as_of_entries(room: Room, theirs: Room) -> Room:
    """A room with what no entry tells as in the answer: the role and the members of a public topic."""
    return room if room.is_private else replace(room, role=theirs.role, members=theirs.members)
