"""Rules whose steps may each be refused: steps at the same time, and steps that an absent device misses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from tests.law.model import Message, Refusal, Room
from tests.law.steps import index, step
from tests.law.streams import StreamRules
from tests.law.world import Device
from tests.support.client import Refused

CHANGES = ("edit", "edit", "delete", "react", "react")
AT_ONCE = ("send", "send", "send", *CHANGES, "read", "join", "leave", "invite", "kick", "promote", "come", "go")
in_a_burst = st.tuples(index, st.sampled_from(AT_ONCE), index, st.booleans())
AWAY = (
    *("send", "send", *CHANGES, "read", "read", "join", "leave", "invite"),
    *("kick", "ban", "unban", "promote", "title", "open", "append", "append", "finish"),
)
while_away = st.tuples(st.booleans(), index, st.sampled_from(AWAY), index, st.booleans())


class AttemptRules(StreamRules):
    @step(
        devices=2,
        actor_index=index,
        confirmed=st.booleans(),
        steps=st.lists(while_away, min_size=2, max_size=8),
        seen=st.integers(0, 3),
        mode=st.sampled_from(["cursors", "cursors", "state"]),
    )
    async def be_away(
        self, actor_index: int, confirmed: bool, steps: list[tuple[bool, int, str, int, bool]], seen: int, mode: str
    ) -> None:
        """A device receives the first `seen` of the steps of other devices, and misses the rest.

        `confirmed`: the server has the device's cursors.
        """
        device = self.device(actor_index)
        if confirmed:
            await device.live.ask("delivered", cursors=dict(device.state.cursors))
        for each in steps[:seen]:
            await self._act_beside(device, *each)
        await self.world.check()
        await device.close()
        for each in steps[seen:]:
            await self._act_beside(device, *each)
        await device.connect(mode)
        self.everything = True

    async def _act_beside(
        self, device: Device, same_user: bool, by: int, kind: str, room_index: int, flag: bool
    ) -> None:
        """Perform a step on another connected device, of the same user or of any."""
        mine = [each for each in self.world.connected if each.username == device.username and each is not device]
        actors = (mine if same_user else self.world.connected) or self.world.connected
        room = self.model.rooms[room_index % len(self.model.rooms)]
        actor = actors[by % len(actors)]
        await self._attempt(actor, kind, room, flag, self._subject(actor.username, kind, room))

    @step(steps=st.lists(in_a_burst, min_size=2, max_size=8))
    async def at_once(self, steps: list[tuple[int, str, int, bool]]) -> None:
        """All devices agree on one order of concurrent steps."""
        self.everything = True
        connected, known = self.world.connected, list(self.model.rooms)
        away = [device for device in self.world.devices if device.client is None]
        moving: set[Device] = set()
        membership: set[tuple[str, Room]] = set()
        works: list[Awaitable[None]] = []
        acting: list[tuple[Device, str, Room, bool]] = []
        for actor_index, kind, room_index, flag in steps:
            if kind == "come" and away:
                device = away.pop(actor_index % len(away))
                works.append(device.connect("cursors" if flag else "state"))
            elif kind == "go":
                moving.add(connected[actor_index % len(connected)])
            elif kind not in ("come", "go"):
                acting.append((connected[actor_index % len(connected)], kind, known[room_index % len(known)], flag))
        works += [device.close() for device in moving]
        for device, kind, room, flag in acting:
            if device in moving:
                continue
            subject = self._subject(device.username, kind, room)
            if subject is not None:
                # The order of two changes of one membership would be unknown.
                if (subject, room) in membership:
                    continue
                membership.add((subject, room))
                room.unordered = True
            room.unsure = True
            works.append(self._attempt(device, kind, room, flag, subject))
        await asyncio.gather(*works)

    def _subject(self, me: str, kind: str, room: Room) -> str | None:
        """The user whose membership the step changes."""
        others = [user for user in self.model.users if user != me]
        match kind:
            case "join" | "leave":
                return me
            case "invite":
                return next((user for user in others if user not in room.members), others[0])
            case "kick" | "ban":
                return next((user for user in others if room.members.get(user, "owner") != "owner"), others[0])
            case _:
                return None

    async def _attempt(self, device: Device, kind: str, room: Room, flag: bool, subject: str | None) -> None:
        """Perform a step, which may be refused."""
        with suppress(Refusal):
            try:
                await self._perform(device, kind, room, flag, subject)
            except Refused as refused:
                if refused.code not in ("not_found", "forbidden", "conflict", "invalid"):
                    raise

    async def _perform(self, device: Device, kind: str, room: Room, flag: bool, subject: str | None) -> None:
        ref: dict[str, Any] = {"room_id": room.room_id}
        me, ask = device.username, device.live.ask
        match kind:
            case "send":
                if flag:
                    ref = {"username": next(user for user in self.model.users if user != me)}
                message = await ask("message", {**ref, "content": self.content()})
                self.model.apply_message(me, ref, message)
            case "edit" | "delete" | "react":
                mine = [message for message in room.log if kind == "react" or message.sender == me]
                if mine:
                    await self._perform_change(device, kind, room, mine[-1 - (flag and len(mine) > 1)], flag)
            case "read":
                known = device.state.rooms.get(room.room_id)
                await ask("read", {**ref, "seq": 0 if known is None else known.last_seq - flag})
            case "join" if room.topic_name is not None:
                await ask("subscribe", topic_name=room.topic_name)
                room.add_member(me)
            case "leave":
                await ask("unsubscribe", ref)
                room.remove_member(me)
            case "invite" if subject is not None:
                await ask("invite", {**ref, "username": subject})
                room.add_member(subject)
            case "kick" | "ban" | "unban" if subject is not None:
                await ask(kind, {**ref, "username": subject})
                self.model.apply_moderation(me, room, subject, kind, None)
            case "unban" if room.banned:
                banned = min(room.banned)
                await ask("unban", {**ref, "username": banned})
                room.banned.discard(banned)
            case "promote":
                other = next((user for user in room.members if user != me), me)
                role = "moderator" if flag else "owner"
                await ask("set_role", {**ref, "username": other, "role": role})
                self.model.apply_moderation(me, room, other, "set_role", role)
            case "open":
                await self.open(device, ref, begins=flag)
            case "append" | "finish" if mine := [known for known in room.streams if known.sender == me]:
                await (
                    self.add(device, mine[-1], "next") if kind == "append" else self.end(device, mine[-1], "plain")
                )
            case "title":
                title = self.content()
                await ask("set_title", {**ref, "title": title})
                room.title = title

    async def _perform_change(self, device: Device, kind: str, room: Room, message: Message, flag: bool) -> None:
        me, target = device.username, {"message_id": message.id}
        if kind == "edit":
            content = self.content()
            message.possible_contents.add(content)
            await device.live.ask("edit", **target, content=content)
            self.model.apply_edit(room, message, content)
        elif kind == "delete":
            await device.live.ask("delete", **target)
            self.model.apply_delete(message)
        else:
            await device.live.ask("react", **target, emoji="👍", remove=flag)
            self.model.apply_reaction(me, message, "👍", flag)
