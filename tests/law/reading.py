"""Rules of actions that read, and of `typing`: they change no state by themselves."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.law.model import Refusal
from tests.law.state import with_history
from tests.law.steps import Reference, Steps, index, references, step, users
from tests.law.world import PAGE, Device


class ReadingRules(Steps):
    @step(actor_index=index, ref=references, older=st.booleans(), limit=st.integers(1, PAGE))
    async def history(self, actor_index: int, ref: Reference, older: bool, limit: int) -> None:
        """Read the newest page, or the one before the known messages."""
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        before = None
        if older and payload.get("room_id") in device.state.timelines:
            before = device.state.timelines[payload["room_id"]].complete_from
        query = {**payload, "limit": limit} | ({} if before is None else {"before": before})
        state = device.state
        done = await self.ask(device, "history", query, self.model.require_member, device.username, payload)
        if done is not None:
            room, page = done
            log = [message for message in room.log if before is None or message.seq < before]
            assert all(known.agrees(wire) for known, wire in zip(log[-limit:], page["messages"], strict=True))
            assert page["has_more"] == (len(log) > limit)
            device.state = with_history(device.state, state, room.room_id, before, page) or device.state

    @step(
        actor_index=index,
        ref=references,
        name=st.sampled_from([None, "tick"]),
        bound=st.sampled_from(["before", "after", None]),
        at=st.integers(0, 8),
        limit=st.integers(1, PAGE),
    )
    async def get_events(
        self, actor_index: int, ref: Reference, name: str | None, bound: str | None, at: int, limit: int
    ) -> None:
        device, before = self.device(actor_index), self.states()
        me, payload = device.username, self.ref(device, ref)
        query = {**payload, "limit": limit} | ({"event": name} if name else {}) | ({bound: at} if bound else {})
        done = await self.ask(device, "get_events", query, self.model.require_member, me, payload)
        if done is not None:
            room, page = done
            known = [event for event in room.events if name in (None, event["event"])]
            if bound == "after":
                known = [event for event in known if event["seq"] > at]
                shown = known[:limit]
            else:
                known = [event for event in known if bound is None or event["seq"] < at]
                shown = known[-limit:]
            received = [
                {key: value for key, value in event.items() if key != "client_id"} for event in page["events"]
            ]
            assert (received, page["has_more"]) == (shown, len(known) > limit)
        self.unchanged = before

    @step(actor_index=index, ref=references)
    async def get_members(self, actor_index: int, ref: Reference) -> None:
        """Open the member list, which the device then keeps."""
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        done = await self.ask(device, "get_members", payload, self.model.require_member, device.username, payload)
        if done is not None:
            assert {member["username"] for member in done[1]["members"]} == done[0].members.keys()
            await device.open(done[0].room_id)

    @step(actor_index=index, ref=references, typing=st.booleans())
    async def typing(self, actor_index: int, ref: Reference, typing: bool) -> None:
        """Send `typing`, except where the outcome depends on whether the connection was typing before."""
        device, before = self.device(actor_index), self.states()
        payload, me = self.ref(device, ref), device.username
        try:
            muted = self.model.may_not_write(me, self.model.require_member(me, payload))
        except Refusal:
            muted = None
        if not muted:
            await self.ask(device, "typing", {**payload, "typing": typing}, self.model.require_member, me, payload)
        self.unchanged = before

    @step(
        actor_index=index,
        user=users,
        kind=st.sampled_from([None, "topic", "direct", "group"]),
        member=st.none() | st.booleans(),
    )
    async def look_around(self, actor_index: int, user: str, kind: str | None, member: bool | None) -> None:
        """`get_profile`, `get_rooms`."""
        device, before = self.device(actor_index), self.states()
        await self._get_profile(device, self.name(user))
        await self._get_rooms(device, kind, member)
        self.unchanged = before

    async def _get_profile(self, device: Device, username: str) -> None:
        def verdict() -> None:
            if username not in self.model.users:
                raise Refusal("not_found")

        done = await self.ask(device, "get_profile", {"username": username}, verdict)
        if done is not None:
            assert done[1]["username"] == username
            if self.shows(username, device) and not self.patience_s:  # other nodes learn of it a little later
                assert done[1]["online"] or all(each.username != username for each in self.world.connected)

    async def _get_rooms(self, device: Device, kind: str | None, member: bool | None) -> None:
        """Check that a caller sees their own rooms and public topics."""
        fields = {key: value for key, value in (("kind", kind), ("member", member)) if value is not None}
        answer = await device.live.ask("get_rooms", limit=500, **fields)
        assert answer["next"] is None
        expected = [
            room.room_id
            for room in self.model.rooms
            if (device.username in room.members or not room.is_private)
            and kind in (None, room.kind)
            and member in (None, device.username in room.members)
        ]
        ours = {room.room_id for room in self.model.rooms}
        assert [room["room_id"] for room in answer["rooms"] if room["room_id"] in ours] == expected
        for room in answer["rooms"]:
            if room["role"] is None:
                assert (room["is_private"], room["unread"], room["last_message"]) == (False, 0, None)
