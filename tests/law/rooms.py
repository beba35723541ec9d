"""Rules that create rooms, and change their members and titles."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.law.model import Link, Refusal, Room
from tests.law.steps import TOPICS, USERS, Reference, Steps, index, references, step, users, which_message
from tests.law.world import Device
from tests.support.client import REGISTRY, Refused
from tests.support.examples import beside_the_room
from tidings.actions.dispatch import Action
from tidings.contract.actions import RoomRef

MODELLED = (
    *("message", "edit", "delete", "react", "history", "typing", "read", "invite", "unsubscribe", "set_title"),
    *("publish", "get_events", "set_posting", "append", "finish", "stop"),
    *("kick", "ban", "unban", "mute", "set_role", "get_bans", "get_members"),
    *("create_invitation_link", "get_invitation_links"),
)
"""Actions on a room or a message with rules of their own: the model predicts their outcome."""
OTHERS = [
    action
    for action in REGISTRY
    if action.live
    and action.name not in MODELLED
    and (issubclass(action.request, RoomRef) or "message_id" in action.request.model_fields)
]
topics = st.sampled_from([*TOPICS, USERS[0]])


class RoomRules(Steps):
    @step(actor_index=index, name=topics, is_private=st.booleans())
    async def create(self, actor_index: int, name: str, is_private: bool) -> None:
        device, topic_name = self.device(actor_index), self.name(name)
        payload = {"topic_name": topic_name, "is_private": is_private}
        done = await self.ask(device, "create", payload, self.model.may_create, topic_name)
        if done is not None:
            room_id = done[1]["room_id"]
            self.model.rooms.append(Room(room_id, "topic", topic_name, is_private, {device.username: "owner"}))

    @step(actor_index=index, name=topics, action=st.sampled_from(["subscribe", "suscribe", "connect_to_room"]))
    async def join(self, actor_index: int, name: str, action: str) -> None:
        device, ref = self.device(actor_index), {"topic_name": self.name(name)}

        def verdict() -> Room:
            try:
                return self.model.may_join(device.username, ref)
            except Refusal as refusal:
                if action != "connect_to_room" or refusal.code != "conflict":
                    raise
                return self.model.require_member(device.username, ref)

        done = await self.ask(device, action, ref, verdict)
        if done is not None:
            room, answer = done
            if device.username not in room.members:
                room.add_member(device.username)
            view = answer
            if action == "connect_to_room":
                online = {each.username for each in self.world.connected}
                assert {name for name in answer["usernames"] if self.shows(name, device)} == {
                    name for name in online & room.members.keys() if self.shows(name, device)
                }
                view = answer["room"]
            assert (view["room_id"], view["members"]) == (room.room_id, len(room.members))

    @step(actor_index=index, ref=references)
    async def unsubscribe(self, actor_index: int, ref: Reference) -> None:
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        done = await self.ask(device, "unsubscribe", payload, self.model.may_leave, device.username, payload)
        if done is not None:
            done[0].remove_member(device.username)

    @step(actor_index=index, ref=references, user=users)
    async def invite(self, actor_index: int, ref: Reference, user: str) -> None:
        device, username = self.device(actor_index), self.name(user)
        payload = self.topic_ref(device, ref)
        invitation = {**payload, "username": username}
        done = await self.ask(device, "invite", invitation, self.model.may_invite, device.username, payload, username)
        if done is not None:
            done[0].add_member(username)

    @step(
        actor_index=index,
        others=st.lists(users, min_size=1, max_size=3),
        title=st.sampled_from([None, "t1"]),
    )
    async def create_conversation(self, actor_index: int, others: list[str], title: str | None) -> None:
        device = self.device(actor_index)
        usernames = [self.name(user) for user in others]
        payload = {"usernames": usernames} | ({} if title is None else {"title": title})
        verdict = self.model.may_open_conversation
        done = await self.ask(device, "create_conversation", payload, verdict, device.username, usernames, title)
        if done is None:
            return
        existing, view = done
        if existing is not None:
            assert view["room_id"] == existing.room_id
            return
        kind = "direct" if len({*usernames, device.username}) == 2 and title is None else "group"
        # Members of a new group joined at the same time: the owner's heir is the oldest user.
        roles = {user: "member" for user in self.model.users if user in {*usernames, device.username}}
        if kind == "group":
            roles[device.username] = "owner"
        self.model.rooms.append(Room(view["room_id"], kind, None, True, roles, title=title))

    @step(actor_index=index, ref=references, at=which_message, action=st.sampled_from(OTHERS))
    async def do_another(self, actor_index: int, ref: Reference, at: int, action: Action) -> None:
        """An action without a rule of its own: it changes the state of clients only by events."""
        device, rest = self.device(actor_index), beside_the_room(action)
        if "message_id" in action.request.model_fields:
            messages = [message for room in self.model.rooms for message in room.log]
            rest["message_id"] = messages[-1 - at % len(messages)].id if messages else "0" * 24
        else:
            rest |= self.ref(device, ref)
        before = self.states()
        try:
            await device.live.ask(action.name, rest)
        except Refused:
            self.unchanged = before

    @step(actor_index=index, ref=references, title=st.sampled_from(["t1", "t2"]))
    async def set_title(self, actor_index: int, ref: Reference, title: str) -> None:
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        titled = {**payload, "title": title}
        done = await self.ask(device, "set_title", titled, self.model.may_set_title, device.username, payload)
        if done is not None:
            done[0].title = title
            assert done[1]["title"] == title

    @step(actor_index=index, ref=references, posting=st.sampled_from(["members", "moderators"]))
    async def set_posting(self, actor_index: int, ref: Reference, posting: str) -> None:
        device = self.device(actor_index)
        payload = self.ref(device, ref)
        changed = {**payload, "posting": posting}
        done = await self.ask(device, "set_posting", changed, self.model.may_set_posting, device.username, payload)
        if done is not None:
            done[0].posting = posting
            assert done[1]["posting"] == posting

    @step(
        actor_index=index,
        ref=references,
        guest=index,
        uses=st.sampled_from([None, 1, 2]),
        then=st.sampled_from(["wait", "use", "use", "use twice", "void", "void"]),
    )
    async def invitation_link(
        self, actor_index: int, ref: Reference, guest: int, uses: int | None, then: str
    ) -> None:
        """`create_invitation_link`, `join_by_link`, `delete_invitation_link`, with a new or an earlier link."""
        device = self.device(actor_index)
        payload, maker = self.ref(device, ref), device.username
        wanted = {**payload, "uses": uses}
        done = await self.ask(device, "create_invitation_link", wanted, self.model.may_create_link, maker, payload)
        if done is not None:
            room = done[0]
            self.model.links.append(Link(done[1]["code"], room, uses, maker, room.past_memberships[maker]))
            await self._check_links(device, room)
        code = self.model.links[-1].code if self.model.links else "none"
        if then == "void":
            await self._delete_link(device if guest % 2 else self.device(guest), code)
        elif then != "wait":
            await self._join_by_link(self.device(guest), code)
            if then == "use twice":
                await self._join_by_link(self.device(guest + 2), code)
        self.unchanged = None

    async def _check_links(self, device: Device, room: Room) -> None:
        listed = (await device.live.ask("get_invitation_links", room_id=room.room_id, limit=500))["links"]
        valid = [link for link in self.model.links if link.room is room and link.valid]
        mine = [link for link in valid if room.members[device.username] != "member" or link.maker == device.username]
        assert {(link["code"], link["username"], link["uses_left"]) for link in listed} == {
            (link.code, link.maker, link.uses) for link in mine
        }

    async def _join_by_link(self, device: Device, code: str) -> None:
        payload: dict[str, Any] = {"code": code}
        done = await self.ask(device, "join_by_link", payload, self.model.may_join_by_link, device.username, code)
        if done is not None:
            link = done[0]
            link.room.add_member(device.username)
            if link.uses is not None:
                link.uses -= 1

    async def _delete_link(self, device: Device, code: str) -> None:
        verdict = self.model.may_delete_link
        done = await self.ask(device, "delete_invitation_link", {"code": code}, verdict, device.username, code)
        if done is not None:
            done[0].uses = 0
