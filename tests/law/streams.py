"""Rules of messages that stream: their authors append, go back, and end them or fall silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.law.model import Message, Refusal, Room, view_of
from tests.law.state import State
from tests.law.steps import Reference, Steps, index, references, step
from tests.law.world import Device

probably = st.sampled_from([True, True, True, True, False])
"""Whether to choose a step that is probably allowed."""
ways = st.sampled_from(["next", "next", "next", "again", "overlap", "beyond", "other"])
ends = st.sampled_from(["plain", "offset", "offset", "content", "wrong", "with an append"])


class StreamRules(Steps):
    @step(
        actor_index=index, ref=references, client_id=st.sampled_from([None, "first", "fifth"]), begins=st.booleans()
    )
    async def open_stream(self, actor_index: int, ref: Reference, client_id: str | None, begins: bool) -> None:
        device = self.device(actor_index)
        await self.open(device, self.ref(device, ref), client_id, begins=begins)

    @step(actor_index=index, which=index, likely=probably, ways=st.lists(ways, min_size=1, max_size=4))
    async def append(self, actor_index: int, which: int, likely: bool, ways: list[str]) -> None:
        for n, way in enumerate(ways):
            device, message = await self._chosen(actor_index + n, which, likely)
            await self.add(device, message, way)
        self.unchanged = self.unchanged if len(ways) == 1 else None

    @step(actor_index=index, which=index, likely=probably, how=ends)
    async def finish(self, actor_index: int, which: int, likely: bool, how: str) -> None:
        await self.end(*await self._chosen(actor_index, which, likely), how)

    @step(
        actor_index=index,
        which=index,
        ways=st.lists(ways, min_size=1, max_size=3),
        change=st.sampled_from(["edit", "delete", "react", "mute", "come back", None]),
        how=ends,
    )
    async def write(self, actor_index: int, which: int, ways: list[str], change: str | None, how: str) -> None:
        """A whole message: opened, appended to, perhaps changed meanwhile, appended to again and finished."""
        device = self.device(actor_index)
        message = await self._open_somewhere(device, which)
        if message is None:
            return
        for way in ways:
            await self.add(device, message, way)
        match change:
            case "edit":
                content = self.content()
                await device.live.ask("edit", message_id=message.id, content=content)
                self.model.apply_edit(self._room(message), message, content)
            case "delete":
                await device.live.ask("delete", message_id=message.id)
                self.model.apply_delete(message)
            case "react":
                await device.live.ask("react", message_id=message.id, emoji="👍")
                self.model.apply_reaction(device.username, message, "👍", False)
            case "mute":
                await self._mute_for_an_append(device, message)
            case "come back":
                await device.close()
                await device.connect("cursors")
        await self.world.check()
        await self.add(device, message, "next")
        await self.world.check()
        for _ in range(2):
            await self.end(device, message, how)
        self.unchanged, self.everything = None, True

    @step(actor_index=index, which=index, likely=probably)
    async def stop(self, actor_index: int, which: int, likely: bool) -> None:
        """Any member asks an author to stop."""
        device = self.device(actor_index)
        _, message = await self._chosen(actor_index, which, likely)
        before = self.states()
        payload = {"message_id": message.id}
        done = await self.ask(device, "stop", payload, self.model.may_react, device.username, message.id)
        if done is not None:
            message.stop |= message.state == "streaming"
        self.unchanged = before

    @precondition(lambda self: any(room.streams for room in self.model.rooms))
    @rule()
    def fall_silent(self) -> None:
        """All authors have been silent for a minute: the server ends their messages."""
        self.run(self._fall_silent())
        for room in self.model.rooms:
            for message in room.streams:
                self.model.apply_end(room, message, message.content, "interrupted")
                message.loose |= bool(self.patience_s)
        self.everything = True

    async def _fall_silent(self) -> None:
        for node in self.nodes:
            await node.authors.stop()
        interruptions = self.nodes[0].interruptions
        silence_s, interruptions._silence_s = interruptions._silence_s, 0
        await interruptions._round()
        interruptions._silence_s = silence_s

    @precondition(lambda self: any(message.streamed for _, message in self.model.messages))
    @step(actor_index=index)
    async def search(self, actor_index: int) -> None:
        """Each word of a message that has ended is found."""
        device, before = self.device(actor_index), self.states()
        await self.nodes[0].indexer.caught_up()
        for room in self.model.rooms:
            for message in room.log:
                text = message.content.split()
                if device.username in room.members and message.state != "streaming" and message.streamed and text:
                    words = {"room_id": room.room_id, "query": " ".join(text[-3:])}
                    found = (await device.live.ask("search", words))["messages"]
                    assert message.id in [each["id"] for each in found], (words, message)
        self.unchanged = before

    # -- parts ---------------------------------------------------------------------------------------------------

    def _room(self, message: Message) -> Room:
        return next(room for room, known in self.model.messages if known is message)

    async def _chosen(self, actor_index: int, which: int, likely: bool) -> tuple[Device, Message]:
        """A device of its author and a message that streams, the newest ones first; if not `likely`, any."""
        device = self.device(actor_index)
        if likely:
            mine = self._authored()
            if not mine and (opened := await self._open_somewhere(device, which)) is not None:
                await self.world.check()
                return device, opened
            if mine:
                return mine[which % len(mine)]
        known = [message for _, message in self.model.messages][::-1]
        return device, known[which % len(known)]

    def _authored(self) -> list[tuple[Device, Message]]:
        """Messages that stream, the newest first, with the devices of their authors."""
        known = [message for room in self.model.rooms for message in room.streams][::-1]
        return [
            (each, message) for message in known for each in self.world.connected if each.username == message.sender
        ]

    async def _open_somewhere(self, device: Device, which: int) -> Message | None:
        """Open a message in a room to which the user may write."""
        me = device.username
        known = [room for room in self.model.rooms if me in room.members and not self.model.may_not_write(me, room)]
        return await self.open(device, {"room_id": known[which % len(known)].room_id}) if known else None

    async def _mute_for_an_append(self, device: Device, message: Message) -> None:
        room, me = self._room(message), device.username
        for each in self.world.connected:
            try:
                self.model.may_moderate(each.username, {"room_id": room.room_id}, me, "mute", None)
            except Refusal:
                continue
            for kind, duration in (("mute", 3600), ("unmute", 0)):
                payload = {"room_id": room.room_id, "username": me, "duration": duration}
                await each.live.ask("mute", payload)
                self.model.apply_moderation(each.username, room, me, kind, None)
                await self.add(device, message, "next")
            return

    async def open(
        self, device: Device, ref: dict[str, Any], client_id: str | None = None, *, begins: bool = False
    ) -> Message | None:
        """Open a message; None if it was refused, or was there already."""
        me, before = device.username, self.states()
        payload = {**ref, "stream": True, "content": self.content() if begins else ""}
        payload |= {"client_id": client_id} if client_id else {}
        done = await self.ask(device, "message", payload, self.model.may_send, me, ref, client_id, None)
        if done is None:
            return None
        again, wire = done
        self.model.apply_message(me, ref, wire)
        if again is not None:
            assert wire["id"] == again
            self.unchanged = before
            return None
        assert (wire["content"], wire["state"]) == (payload["content"], "streaming")
        return next(message for _, message in self.model.messages if message.id == wire["id"])

    async def add(self, device: Device, message: Message, way: str) -> None:
        """Append, and go on from where the server says if it may have less than the model."""
        me, before, content = device.username, self.states(), message.content
        word, end, start = f" {self.content()} ñ🎉", len(content), max(0, len(content) - 12)
        behind = message.loose or bool(self.patience_s)
        if behind and way in ("beyond", "other"):
            way = "next"
        offset, text = {
            "again": (start, content[start:] or word),
            "overlap": (start, content[start:] + word),
            "beyond": (end + 1, word),
            "other": (start, "☃"),
        }.get(way, (end, word))
        fits = offset <= end and text.startswith(content[offset : offset + len(text)])
        grown, expected = max(content, content[:offset] + text, key=len), None if fits else "conflict"
        try:
            self.model.may_append(me, message.id)
        except Refusal as refusal:
            expected = refusal.code
        if expected is not None and self.patience_s:
            return  # another node may accept it for a second
        for _ in range(20):
            payload = {"message_id": message.id, "offset": offset, "text": text}
            answer = await device.live.call("append", payload)
            code, details = (None, {}) if answer["ok"] else (answer["error"]["code"], answer["error"]["details"])
            if not (behind and fits and code == "conflict" and expected is None):
                break
            offset = details["offset"]
            assert message.stored <= offset <= len(grown), f"stored text was lost: {message}, {offset}"
            text = grown[offset:]
            if not text:
                return
        assert code == expected, f"{way} {message} was answered with {answer}, expected {expected}"
        if code is not None:
            assert message.state != "streaming" or details.get("offset", end) == end
            self.unchanged = before
            return
        data = answer["data"]
        assert data["stored"] <= data["offset"] == len(grown), (data, message)
        assert data["stop"] == message.stop or self.patience_s, (data, message)
        self.unchanged = before if (grown, behind) == (content, False) else None
        message.content, message.loose = grown, False
        message.stored = max(message.stored, data["stored"])

    async def end(self, device: Device, message: Message, how: str) -> None:
        """Finish, perhaps again."""
        me = device.username
        if message.state == "streaming" and (message.loose or self.patience_s):
            how = "offset"
            await self.add(device, message, "again")
        if how == "with an append" and message.state == "streaming":
            await self._finish_while_appending(message)
            return
        content = self.content() if how == "content" else None
        before: dict[Device, State] | None = self.states()
        offset = {"offset": len(message.content), "wrong": len(message.content) + 1}.get(how)
        fields = {"offset": offset, "content": content}
        payload = {"message_id": message.id} | {name: value for name, value in fields.items() if value is not None}
        done = await self.ask(device, "finish", payload, self.model.may_finish, me, message.id, offset)
        if done is None:
            return
        if message.state == "streaming":
            self.model.apply_end(self._room(message), message, message.content if content is None else content)
            before = None
        self.unchanged = before
        assert view_of(done[1]) == message.view

    async def _finish_while_appending(self, message: Message) -> None:
        """Two devices of an author, or one: the text of the append is in the message, or it is not."""
        mine = [device for device in self.world.connected if device.username == message.sender]
        room, word = self._room(message), f" {self.content()}"
        if not mine:
            return
        with suppress(Refusal):
            self.model.may_append(message.sender, message.id)
            at = len(message.content)
            appended, finished = await asyncio.gather(
                mine[0].live.call("append", {"message_id": message.id, "offset": at, "text": word}),
                mine[-1].live.call("finish", {"message_id": message.id}),
            )
            assert finished["ok"], finished
            assert appended["ok"] or appended["error"]["code"] == "conflict"
            assert finished["data"]["content"] in (message.content, message.content + word)
            self.model.apply_end(room, message, finished["data"]["content"])
