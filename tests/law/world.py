"""Devices whose state is made of events alone, held against fresh answers of the server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx

from server.contract.events import EVENTS
from tests.law import state as states
from tests.law.model import Model, said
from tests.law.state import Room, State
from tests.support.client import Client
from tests.support.node import PASSWORD

PAGE = 3
"""So small that listings have several pages."""


LOGGED = {name for name, model in EVENTS.items() if {"room_id", "seq"} <= model.model_fields.keys()}
"""Events of entries, if they have a `seq`."""


class LawClient(Client):
    """A connection that feeds a device's state."""

    def __init__(self, device: Device, token: str, **auth: Any) -> None:
        super().__init__(device.url, token, device=device.name, **auth)
        self.device = device
        self.token = token
        """Of the session that the connection belongs to."""
        self.broken: BaseException | None = None
        self.given_up = False
        self.heard: dict[str, int] = dict(auth.get("cursors", {}))

    async def _event(self, event: str, *args: Any) -> None:
        if self.given_up:
            return
        try:
            await super()._event(event, *args)
            self._once(event, args[0])
            self.device.state = states.apply(self.device.state, event, args[0])
        except BaseException as problem:
            self.broken = self.broken or problem

    def _once(self, event: str, payload: dict[str, Any]) -> None:
        """On one connection each entry comes once, and after the one before it."""
        if event in ("room_added", "room_removed"):
            self.heard.pop(payload.get("room_id") or payload["room"]["room_id"], None)
        elif event in LOGGED and payload["seq"] is not None:
            before = self.heard.get(payload["room_id"])
            assert before is None or payload["seq"] == before + 1, f"{before} is followed by {payload}"
            self.heard[payload["room_id"]] = payload["seq"]

    async def rooms(self) -> list[dict[str, Any]]:
        return await self._all("get_rooms", "rooms", member=True)

    async def members(self, room_id: str) -> list[dict[str, Any]]:
        return await self._all("get_members", "members", room_id=room_id)

    async def _all(self, action: str, key: str, **fields: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = await self.ask(action, limit=PAGE, **fields, **after)
            found += page[key]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    async def log(self, room_id: str) -> dict[int, dict[str, Any]]:
        """All messages of a room."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            page = await self.ask("history", room_id=room_id, after=found[-1]["seq"] if found else 0, limit=200)
            found += page["messages"]
            more = page["has_more"]
        return {message["seq"]: message for message in found}

    async def heard_until_now(self) -> None:
        """Whatever was written to this connection so far has been applied: an answer comes after it."""
        await self.ask("delivered", cursors={})
        self.sound()

    def sound(self) -> None:
        if self.broken is not None:
            raise self.broken


class Device:
    """One installation of a client. It keeps its state while it is away."""

    def __init__(self, url: str, username: str, name: str, token: str) -> None:
        self.url = url
        self.username = username
        self.name = name
        self.token = token
        """With which it connects."""
        self.state = State(username)
        self.client: LawClient | None = None
        self.is_new = True
        self.came: str | None = None
        """How it has connected, until it has asked for what is not replayed."""

    @property
    def live(self) -> LawClient:
        assert self.client is not None
        return self.client

    async def connect(self, how: str) -> None:
        """`cursors`: it brings them; `state`: it does not, but has its state; `anew`: it has nothing; `astray`: its
        cursors are of another log."""
        how = "anew" if self.is_new else how
        self.is_new = False
        self.state = State(self.username) if how == "anew" else states.reconnecting(self.state)
        cursors = dict(self.state.cursors)
        if how == "astray":
            cursors = {room_id: seq + 1000 for room_id, seq in cursors.items()}
        auth = {"cursors": cursors} if how in ("cursors", "astray") else {}
        self.came = how
        self.client = LawClient(self, self.token, **auth)
        if how == "astray":
            self.client.heard = {}
        await self.client.connect()

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            client.sound()
            client.given_up = True
            await client.close()

    async def refresh(self) -> None:
        """Ask for what is not replayed: who is in public topics."""
        settled = None
        while settled is None:
            asked = self.state
            answer = await self.live.rooms()
            settled = states.with_rooms(self.state, asked, answer)
        self.state = settled
        for room_id in list(self.state.members):
            if not self.state.rooms[room_id].is_private:
                await self.open(room_id)
        self.came = None

    async def open(self, room_id: str) -> None:
        settled = None
        while settled is None:
            asked = self.state
            answer = await self.live.members(room_id)
            settled = states.with_members(self.state, asked, room_id, answer)
        self.state = settled

    async def complete(self) -> None:
        """Ask for what the state wants to know."""
        while wanted := states.wanted(self.state):
            for room_id, before in wanted.items():
                asked = self.state
                page = await self.live.ask("history", room_id=room_id, before=before, limit=PAGE)
                self.state = states.with_history(self.state, asked, room_id, before, page) or self.state


class World:
    """Some users with some devices each, on a node that others may use too."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.devices: list[Device] = []
        self.model = Model([])

    async def populate(self, users: list[str], devices: tuple[str, ...]) -> None:
        self.model = Model(users)
        for username in users:
            token = await self.sign("up", username)
            for name in devices:
                self.devices.append(Device(str(self.http.base_url), username, name, token))
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
        """The law, for every connected device; `everything`: of every room also its messages and members."""
        by_user: dict[str, list[Device]] = {}
        for device in self.connected:
            by_user.setdefault(device.username, []).append(device)
        for username, devices in by_user.items():
            lead = devices[0].live
            fresh = {snapshot["room_id"]: Room.of(snapshot) for snapshot in await lead.rooms()}
            assert fresh.keys() == self.model.of(username)
            for device in devices:
                await self._arrived(device, fresh)
                if unchanged is not None and device in unchanged:
                    assert device.state == unchanged[device], "what was refused or only asked has changed a state"
                await self._check_rooms(device, fresh)
            opened = {room_id for device in devices for room_id in device.state.members}
            unsure = {room.room_id for room in self.model.rooms if room.unsure} & fresh.keys()
            for room_id in fresh if everything else opened | unsure:
                await self._check_members(fresh[room_id], devices)
            for room_id in fresh if everything else unsure:
                await self._check_messages(room_id, devices)
            for room in self.model.rooms:
                room.unsure = room.unsure and room.room_id not in fresh

    async def _arrived(self, device: Device, fresh: dict[str, Room]) -> None:
        client = device.live
        await client.heard_until_now()

        def reached() -> bool:
            state = device.state
            behind = any(
                min(state.rooms[key].last_seq, state.cursors[key]) < room.last_seq
                for key, room in fresh.items()
                if key in state.rooms
            )
            return client.broken is not None or not behind

        await client.until(reached, deadline=5)
        client.sound()

    async def _check_rooms(self, device: Device, fresh: dict[str, Room]) -> None:
        if device.came is not None:
            await device.complete()
            if device.came in ("cursors", "state"):
                self._check_return(device, fresh)
            if device.came == "cursors":
                for room_id in device.state.members:
                    if fresh[room_id].is_private:
                        await self._check_members(fresh[room_id], [device])
            await device.refresh()
        await device.complete()
        assert dict(device.state.rooms) == fresh

    def _check_return(self, device: Device, fresh: dict[str, Room]) -> None:
        """What a device that comes back knows before it asks: all but who is in public topics, and, if it does not
        bring its cursors, which rooms it has lost."""
        mine = dict(device.state.rooms)
        if device.came == "state":
            mine = {room_id: room for room_id, room in mine.items() if room_id in fresh}
        assert mine.keys() == fresh.keys()
        for room_id, room in mine.items():
            theirs = fresh[room_id]
            known = room if room.is_private else replace(room, role=theirs.role, members=theirs.members)
            assert known == theirs

    async def _check_members(self, room: Room, devices: list[Device]) -> None:
        fresh = {one["username"]: one["role"] for one in await devices[0].live.members(room.room_id)}
        model = next(one for one in self.model.rooms if one.room_id == room.room_id)
        assert fresh.keys() == model.members.keys()
        if model.unsure:
            model.members = {username: fresh[username] for username in model.members}
        assert fresh == model.members
        assert room.members == len(fresh)
        assert list(fresh.values()).count("owner") == (room.kind != "direct")
        if room.kind == "group":
            assert room.title == model.title
        for device in devices:
            if (listed := device.state.members.get(room.room_id)) is not None:
                assert dict(listed) == fresh

    async def _check_messages(self, room_id: str, devices: list[Device]) -> None:
        fresh = await devices[0].live.log(room_id)
        model = next(one for one in self.model.rooms if one.room_id == room_id)
        if model.unsure:
            for known in model.log:
                known.adopt(fresh[known.seq])
        assert [known.said for known in model.log] == [said(message) for message in fresh.values()]
        for device in devices:
            timeline = device.state.timelines[room_id]
            for seq, message in fresh.items():
                if seq >= timeline.complete_from or seq in timeline.messages:
                    own = message if message["sender"] == device.username else message | {"client_id": None}
                    assert timeline.messages.get(seq) == own
            assert timeline.messages.keys() <= fresh.keys()
