"""The Python client library beside the devices: whatever happens, its timelines become the logs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

import tidings_client
from tests.law.machine import Law, LawOfStreams
from tests.law.steps import USERS
from tests.law.world import Device
from tidings.contract.models import Message
from tidings_client import Client, Timeline

DEADLINE_S = 10.0


class LawOfLibraries(Law):
    """One client of the library for each user, connected all the time but for what `cut` does."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[str, Client] = {}
        self.timelines: dict[tuple[str, str], Timeline] = {}

    async def _connect(self) -> None:
        await super()._connect()
        for username in map(self.name, USERS):
            token = await self.world.sign("in", username)
            client = await tidings_client.connect(self.urls[0], token, device="library")
            self.clients[username] = client
            client.on("room_removed", lambda event, me=username: self._leave(me, event["room_id"]))

    def _leave(self, username: str, room_id: str) -> None:
        timeline = self.timelines.pop((username, room_id), None)
        if timeline is not None:
            timeline.close()

    @rule(user=st.sampled_from(USERS))
    def cut(self, user: str) -> None:
        self.clients[self.name(user)]._connection.drop(tidings_client.Offline("cut by the test"))

    @invariant()
    def a_state_is_what_the_server_answers(self) -> None:
        super().a_state_is_what_the_server_answers()
        self.run(self._check_libraries())

    async def _check_libraries(self) -> None:
        devices = {device.username: device for device in self.world.connected}
        for username, device in devices.items():
            for snapshot in await device.live.rooms():
                await self._check_room(self.clients[username], device, snapshot)

    async def _check_room(self, client: Client, device: Device, snapshot: dict[str, Any]) -> None:
        room_id = snapshot["room_id"]
        expected = {seq: Message.model_validate(message) for seq, message in (await device.live.log(room_id)).items()}
        async with asyncio.timeout(DEADLINE_S):
            while True:
                key = device.username, room_id
                if key not in self.timelines:
                    self.timelines[key] = await client.room(room_id=room_id).timeline()
                changed = asyncio.Event()
                wake = partial(_wake, changed)
                ends = [self.timelines[key].subscribe(changed.set), client.on("*", wake)]
                try:
                    shown = {item.message.seq: item.message for item in self.timelines[key].items if item.message}
                    cursor = (await client.store.cursors()).get(room_id)
                    # Not every entry changes what is shown.
                    if shown == expected and cursor in (None, snapshot["last_seq"]):
                        break
                    await changed.wait()
                finally:
                    for end in ends:
                        end()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.run(self._close())

    async def _close(self) -> None:
        for client in self.clients.values():
            await client.close()


def _wake(changed: asyncio.Event, *_event: Any) -> None:
    changed.set()


class LawOfStreamsInLibraries(LawOfLibraries, LawOfStreams):
    """The same for messages that stream."""
