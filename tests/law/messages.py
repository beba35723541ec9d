"""Rules of messages: they are sent, changed and read."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.law.model import Refusal, Room
from tests.law.steps import USERS, Reference, Steps, index, references, step, which_message
from tests.law.world import Device

mentioned = st.sampled_from([*USERS, None])
emojis = st.sampled_from(["👍", "🎉"])
Changes = list[tuple[int, str, int, str, str, str | None]]


def changes(*kinds: str) -> st.SearchStrategy[Changes]:
    among = st.sampled_from(["mine", "mine", "mine", "ours", "ours", "all"])
    return st.lists(
        st.tuples(index, among, which_message, st.sampled_from(kinds), emojis, mentioned), min_size=1, max_size=4
    )


class MessageRules(Steps):
    @step(
        actor_index=index,
        ref=references,
        client_id=st.sampled_from([None, "first", "second", "third"]),
        reply=st.none() | index,
        thread=st.none() | index,
        mention=mentioned,
    )
    async def message(
        self,
        actor_index: int,
        ref: Reference,
        client_id: str | None,
        reply: int | None,
        thread: int | None,
        mention: str | None,
    ) -> None:
        device = self.device(actor_index)
        await self._message(device, self.ref(device, ref), client_id, reply, thread, mention)

    @step(
        actor_index=index,
        ref=references,
        client_id=st.sampled_from([None, "first", "fourth"]),
        event=st.sampled_from(["tick", "order.paid"]),
        data=st.sampled_from([None, {"id": 17}, "é", [1, [2]]]),
    )
    async def publish(self, actor_index: int, ref: Reference, client_id: str | None, event: str, data: Any) -> None:
        device = self.device(actor_index)
        me, target = device.username, self.ref(device, ref)
        payload = {**target, "event": event, "data": data, **({"client_id": client_id} if client_id else {})}
        before = self.states()
        done = await self.ask(device, "publish", payload, self.model.may_publish, me, target, client_id)
        if done is None:
            return
        again, published = done
        if again is not None:
            assert published["id"] == again
            self.unchanged = before
            return
        room = self.model.written_to(me, target, published)
        room.events.append({**published, "topic_name": room.topic_name, "sender": me, "data": data})
        room.events.sort(key=lambda known: known["seq"])
        if client_id is not None:
            room.claimed[me, client_id] = published["id"]

    def to_retry(self) -> list[tuple[Device, Room, str]]:
        return [
            (device, room, client_id)
            for device in self.world.connected
            for room in self.model.rooms
            for (by, client_id), entry_id in room.claimed.items()
            if by == device.username and entry_id not in [event["id"] for event in room.events]
        ]

    @precondition(lambda self: self.to_retry())
    @rule(which=index)
    def send_again(self, which: int) -> None:
        """Retry a message from any device of its sender, like a client that missed the acknowledgement."""
        known = self.to_retry()
        device, room, client_id = known[which % len(known)]
        self.run(self._message(device, {"room_id": room.room_id}, client_id))

    async def _message(
        self,
        device: Device,
        ref: dict[str, Any],
        client_id: str | None = None,
        reply: int | None = None,
        thread: int | None = None,
        mention: str | None = None,
    ) -> None:
        payload = {**ref, "content": self.content(mention)}
        known = [message.id for _, message in self.model.messages]
        for field, which in (("reply_to", reply), ("thread", thread)):
            if which is not None:
                payload[field] = known[which] if which < len(known) else "0" * 32
        about = payload.get("reply_to"), payload.get("thread")
        if client_id is not None:
            payload["client_id"] = client_id
        before, verdict = self.states(), self.model.may_send
        done = await self.ask(device, "message", payload, verdict, device.username, ref, client_id, *about)
        if done is not None:
            again, message = done
            if again is not None:
                assert message["id"] == again
                self.unchanged = before
            else:
                assert (message["content"], message["reply_to"]) == (payload["content"], about[0])
            self.model.apply_message(device.username, ref, message)

    @step(changes=changes("edit", "edit", "edit", "same"))
    async def edit(self, changes: Changes) -> None:
        await self._change_all(changes)

    @step(changes=changes("react", "react", "take off"))
    async def react(self, changes: Changes) -> None:
        await self._change_all(changes)

    @step(changes=changes("edit", "react", "delete"))
    async def delete(self, changes: Changes) -> None:
        await self._change_all(changes)

    async def _change_all(self, changes: Changes) -> None:
        for actor_index, *rest in changes:
            await self._change(self.device(actor_index), *rest)
        self.unchanged = self.unchanged if len(changes) == 1 else None

    async def _change(
        self, device: Device, among: str, which: int, kind: str, emoji: str, mention: str | None
    ) -> None:
        me, before = device.username, self.states()
        known = [
            message
            for room, message in self.model.messages[::-1]
            if among == "all" or (me in room.members and (among == "ours" or message.sender == me))
        ]
        message_id, content = "0" * 32, self.content(mention)
        if known and (among != "all" or which < len(known)):
            message = known[which % len(known)]
            message_id = message.id
            if kind == "same" and message.content and message.state != "streaming":  # of that, less may be stored
                content = message.content
        removes = kind == "take off"
        action, verdict, fields = {
            "edit": ("edit", self.model.may_edit, {"content": content}),
            "same": ("edit", self.model.may_edit, {"content": content}),
            "delete": ("delete", self.model.may_delete, {}),
        }.get(kind, ("react", self.model.may_react, {"emoji": emoji, "remove": removes}))
        done = await self.ask(device, action, {"message_id": message_id, **fields}, verdict, me, message_id)
        if done is None:
            return
        (room, message), answer = done
        before_change = deepcopy(message.view)
        match action:
            case "edit":
                self.model.apply_edit(room, message, content)
            case "delete":
                self.model.apply_delete(message)
            case _:
                self.model.apply_reaction(me, message, emoji, removes)
        if action != "delete":
            assert message.agrees(answer)
        if before_change == message.view:
            self.unchanged = before

    @step(actor_index=index, ref=references, back=st.integers(-1, 4))
    async def read(self, actor_index: int, ref: Reference, back: int) -> None:
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        last_seq = 0

        def verdict() -> Room:
            nonlocal last_seq
            room = self.model.require_member(device.username, payload)
            last_seq = device.state.rooms[room.room_id].last_seq
            if back < 0:
                raise Refusal("invalid")
            return room

        with suppress(Refusal):
            verdict()
        with_seq = {**payload, "seq": max(0, last_seq - back)}
        done = await self.ask(device, "read", with_seq, verdict)
        if done is not None:
            fresh = {room["room_id"]: room for room in await device.live.rooms()}[done[0].room_id]
            assert done[1]["unread"] == fresh["unread"]
            assert fresh["read_seq"] >= with_seq["seq"]

    @step(actor_index=index, over=st.booleans())
    async def delivered(self, actor_index: int, over: bool) -> None:
        device = self.device(actor_index)
        cursors = {room_id: seq + over for room_id, seq in device.state.cursors.items()}
        cursors["0" * 24] = 7  # an unknown room is ignored

        def verdict() -> None:
            if over and len(cursors) > 1:
                raise Refusal("invalid")

        before = self.states()
        await self.ask(device, "delivered", {"cursors": cursors}, verdict)
        self.unchanged = before
