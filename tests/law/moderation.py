"""Rules of moderation and blocks."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.law.steps import Reference, Steps, index, references, step, users
from tests.law.world import Device

a_moderation = st.tuples(
    index,
    references,
    users,
    st.sampled_from([True, True, False]),
    st.sampled_from(["kick", "ban", "unban", "mute", "unmute", "set_role", "set_role", "set_role"]),
    st.sampled_from(["owner", "moderator", "moderator", "member"]),
)
"""The fourth: whether to choose a step that is probably allowed."""


class ModerationRules(Steps):
    @step(steps=st.lists(a_moderation, min_size=1, max_size=3))
    async def moderate(self, steps: list[tuple[int, Reference, str, bool, str, str]]) -> None:
        """`kick`, `ban`, `unban`, `mute`, `set_role`."""
        for each in steps:
            await self._moderate(*self._moderation(*each))
        self.unchanged = self.unchanged if len(steps) == 1 else None

    def _moderation(
        self, actor_index: int, ref: Reference, user: str, likely: bool, kind: str, role: str
    ) -> tuple[Device, dict[str, Any], str, str, str]:
        device, username = self.device(actor_index), self.name(user)
        payload = self.topic_ref(device, ref)
        known = [
            (each, room, subject)
            for room in self.model.rooms
            for each in self.world.connected
            for subject in (sorted(room.banned) if kind == "unban" else room.members)
            if room.members.get(each.username, "member") != "member" and subject != each.username
        ]
        if likely and known:
            device, room, username = known[-1 - (actor_index * 6 + ref[1]) % len(known)]
            payload = {"room_id": room.room_id}
        return device, payload, username, kind, role

    async def _moderate(
        self, device: Device, payload: dict[str, Any], username: str, kind: str, role: str | None
    ) -> None:
        role = role if kind == "set_role" else None
        action, fields = {
            "set_role": ("set_role", {"role": role}),
            "mute": ("mute", {"duration": 3600}),
            "unmute": ("mute", {"duration": 0}),
        }.get(kind, (kind, {}))
        me, wanted = device.username, {**payload, "username": username, **fields}
        done = await self.ask(device, action, wanted, self.model.may_moderate, me, payload, username, kind, role)
        if done is not None:
            room = done[0]
            self.model.apply_moderation(me, room, username, kind, role)
            if room.members[me] != "member":
                bans = (await device.live.ask("get_bans", room_id=room.room_id))["bans"]
                assert {ban["username"] for ban in bans} == room.banned

    @step(actor_index=index, user=users, undo=st.booleans())
    async def block(self, actor_index: int, user: str, undo: bool) -> None:
        """`block`, `unblock`."""
        device, username, before = self.device(actor_index), self.name(user), self.states()
        me, action = device.username, "unblock" if undo else "block"
        done = await self.ask(device, action, {"username": username}, self.model.may_block, me, username)
        if done is not None:
            pair = {(me, username)}
            self.model.blocks = self.model.blocks - pair if undo else self.model.blocks | pair
            blocks = await device.live.ask("get_blocks")
            assert {(me, blocked) for blocked in blocks["usernames"]} == {
                pair for pair in self.model.blocks if pair[0] == me
            }
            self.unchanged = before
