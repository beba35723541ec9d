"""Every action of the core, by any user, in any order, with a check of the law after each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.law.model import Link, Message, Refusal, Room, view_of
from tests.law.state import State, with_history
from tests.law.world import PAGE, Device, World
from tests.support.client import REGISTRY, Refused
from tests.support.examples import beside_the_room
from tidings.actions.dispatch import Action
from tidings.contract.actions import RoomRef

T = TypeVar("T")
USERS, DEVICES, TOPICS = ("Ana", "ben", "CLEO"), ("phone", "laptop"), ("plaza", "patio", "puente")
_example = itertools.count()

index = st.integers(0, 5)
topics = st.sampled_from([*TOPICS, USERS[0]])
users = st.sampled_from([*USERS, "nobody"])
references = st.tuples(st.sampled_from(["mine", "mine", "mine", "topic_name", "username", "room_id"]), index)
client_ids = st.sampled_from([None, "first", "second", "third"])
replies = st.none() | index
which_message = st.integers(0, 9)
"""Counted from the newest."""
CHANGES = ("edit", "edit", "delete", "react", "react")
at_once = ("send", "send", "send", *CHANGES, "read", "join", "leave", "invite", "kick", "promote", "come", "go")
in_a_burst = st.tuples(index, st.sampled_from(at_once), index, st.booleans())
away = (
    "send",
    "send",
    *CHANGES,
    "read",
    "read",
    "join",
    "leave",
    "invite",
    "kick",
    "ban",
    "unban",
    "promote",
    "title",
)
while_away = st.tuples(st.booleans(), index, st.sampled_from(away), index, st.booleans())
likely = st.sampled_from([True, True, False])
"""Whether to choose a step that is probably allowed."""
mentioned = st.sampled_from([*USERS, None])
titles = st.sampled_from([None, "t1"])
emojis = st.sampled_from(["👍", "🎉"])
Changes = list[tuple[int, str, int, str, str, str | None]]


def changes(*kinds: str) -> st.SearchStrategy[Changes]:
    among = st.sampled_from(["mine", "mine", "mine", "ours", "ours", "all"])
    return st.lists(
        st.tuples(index, among, which_message, st.sampled_from(kinds), emojis, mentioned), min_size=1, max_size=4
    )


MODELLED = (
    *("message", "edit", "delete", "react", "history", "typing", "read", "invite", "unsubscribe", "set_title"),
    *("kick", "ban", "unban", "mute", "set_role", "get_bans", "get_members"),
    *("create_invitation_link", "get_invitation_links"),
)
"""Actions on a room or a message with rules below: the model predicts their outcome."""
OTHERS = [
    action
    for action in REGISTRY
    if action.live
    and action.name not in MODELLED
    and (issubclass(action.request, RoomRef) or "message_id" in action.request.model_fields)
]
a_moderation = st.tuples(
    index,
    references,
    users,
    likely,
    st.sampled_from(["kick", "ban", "unban", "mute", "unmute", "set_role", "set_role", "set_role"]),
    st.sampled_from(["owner", "moderator", "moderator", "member"]),
)


class Law(RuleBasedStateMachine):
    """Users with two devices each, any of which may be connected."""

    http: httpx.AsyncClient
    urls: Sequence[str]
    """Of the nodes."""
    patience_s: float
    """How long what one node has answered may be unknown to others."""
    transports: Sequence[Sequence[str]] = (("websocket",),)
    """Those of the devices, in turn."""
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_example)
        self.contents = itertools.count(1)
        self.world = World(self.http, self.urls, self.patience_s, self.transports)
        self.model = self.world.model
        self.unchanged: dict[Device, State] | None = None
        self.everything = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def name(self, name: str) -> str:
        """A name that is unique to this example: examples share a node."""
        return f"{name}{self.number}"

    def ref(self, device: Device, reference: tuple[str, int]) -> dict[str, Any]:
        """A room reference: half of the time to a room of the device's user."""
        kind, number = reference
        known = [room for room in self.model.rooms if kind == "room_id" or device.username in room.members]
        match kind:
            case "topic_name":
                return {kind: self.name([*TOPICS, *USERS][number])}
            case "username":
                return {kind: self.name([*USERS, "nobody"][number % 4])}
            case "mine" if known:
                return {"room_id": known[number % len(known)].room_id}
            case _:
                return {"room_id": known[number].room_id if number < len(known) else "0" * 24}

    def device(self, actor_index: int) -> Device:
        connected = self.world.connected
        return connected[actor_index % len(connected)]

    async def ask(
        self, device: Device, action: str, verdict: Callable[[], T], payload: dict[str, Any]
    ) -> tuple[T, dict[str, Any]] | None:
        """Perform an action, whose refusal must be the model's; returns the model's result and the data, or None."""
        try:
            result, expected = verdict(), None
        except Refusal as refusal:
            result, expected = None, refusal.code
        before = self.states()
        answer, code = {}, None
        try:
            answer = await device.live.ask(action, payload)
        except Refused as refused:
            code = refused.code
        assert code == expected, f"{action} {payload} was answered with {code}, expected {expected}"
        if expected is not None:
            self.unchanged = before
            return None
        return result, answer  # type: ignore[return-value]

    def states(self) -> dict[Device, State]:
        return {device: device.state for device in self.world.connected}

    # -- the law ---------------------------------------------------------------------------------------------------

    @invariant()
    def a_state_is_what_the_server_answers(self) -> None:
        self.run(self.world.check(everything=self.everything, unchanged=self.unchanged))
        self.unchanged, self.everything = None, False

    def teardown(self) -> None:
        try:
            self.run(self.world.check(everything=True))
        finally:
            self.run(self.world.leave())

    @initialize()
    def begin(self) -> None:
        """Create a public and a private topic with members, and connect all devices except one."""

        async def work() -> None:
            await self.world.populate([self.name(user) for user in USERS], DEVICES)
            self.model = self.world.model
            for device in self.world.devices[:-1]:
                await device.connect("anew")
            await self.world.check()
            ana, ben = 0, len(DEVICES)
            await self._create(ana, TOPICS[0], False)
            await self._create(ben, TOPICS[1], True)
            await self._join(ben, TOPICS[0], "subscribe")
            await self._invite(ben, ("topic_name", 1), USERS[0])
            await self._create_conversation(ben, [USERS[0], USERS[2]], None)
            await self._message(self.device(ben), {"topic_name": self.name(TOPICS[0])}, None, None)

        self.run(work())

    # -- connecting ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.connected) < len(self.world.devices))
    @rule(actor_index=index, mode=st.sampled_from(["cursors", "state", "anew", "astray"]))
    def connect(self, actor_index: int, mode: str) -> None:
        away = [device for device in self.world.devices if device.client is None]
        self.run(away[actor_index % len(away)].connect(mode))
        self.everything = True

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index)
    def disconnect(self, actor_index: int) -> None:
        self.run(self.device(actor_index).close())

    @precondition(lambda self: len(self.world.connected) > 1)
    @rule(
        actor_index=index,
        confirmed=st.booleans(),
        steps=st.lists(while_away, min_size=2, max_size=8),
        seen=st.integers(0, 3),
        mode=st.sampled_from(["cursors", "cursors", "state"]),
    )
    def be_away(
        self, actor_index: int, confirmed: bool, steps: list[tuple[bool, int, str, int, bool]], seen: int, mode: str
    ) -> None:
        """A device receives the first `seen` of the steps of other devices, and misses the rest.

        `confirmed`: the server has the device's cursors.
        """

        async def act(same_user: bool, by: int, kind: str, room_index: int, flag: bool) -> None:
            mine = [each for each in self.world.connected if each.username == device.username and each is not device]
            actors = (mine if same_user else self.world.connected) or self.world.connected
            room = self.model.rooms[room_index % len(self.model.rooms)]
            actor = actors[by % len(actors)]
            await self._attempt(actor, kind, room, flag, self.subject(actor.username, kind, room))

        async def work() -> None:
            if confirmed:
                await device.live.ask("delivered", cursors=dict(device.state.cursors))
            for step in steps[:seen]:
                await act(*step)
            await self.world.check()
            await device.close()
            for step in steps[seen:]:
                await act(*step)
            await device.connect(mode)

        device = self.device(actor_index)
        self.run(work())
        self.everything = True

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, token=st.sampled_from(["same", "new", "another's", "none", "log out"]))
    def change_session(self, actor_index: int, token: str) -> None:
        """`authenticate`, `logout`."""

        async def work() -> None:
            device = self.device(actor_index)
            if token == "log out":
                await self._logout(device)
                return
            other = next(each for each in self.world.devices if each.username != device.username)
            new_token = {"same": device.token, "another's": other.token, "none": "nonsense"}.get(token)
            if new_token is None:
                new_token = device.token = await self.world.sign("in", device.username)

            def verdict() -> None:
                if token in ("another's", "none"):
                    raise Refusal("forbidden" if token == "another's" else "unauthenticated")

            before = self.states()
            if await self.ask(device, "authenticate", verdict, {"token": new_token}) is not None:
                device.live.token = new_token
            self.unchanged = before

        self.run(work())

    async def _logout(self, device: Device) -> None:
        """Log out: all connections of the session close, and no other."""
        token = device.live.token
        closing = [each for each in self.world.connected if each.live.token == token]
        await self.ask(device, "logout", lambda: None, {})
        for closed in closing:
            async with asyncio.timeout(30):
                await closed.live.closed.wait()
            assert closed.live.of("closing") == [{"reason": "token_revoked", "reconnect": False}]
            await closed.close()
        for each in self.world.devices:
            if each.token == token:
                each.token = await self.world.sign("in", each.username)

    # -- rooms -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, name=topics, is_private=st.booleans())
    def create(self, actor_index: int, name: str, is_private: bool) -> None:
        self.run(self._create(actor_index, name, is_private))

    async def _create(self, actor_index: int, name: str, is_private: bool) -> None:
        device, topic_name = self.device(actor_index), self.name(name)
        done = await self.ask(
            device,
            "create",
            lambda: self.model.may_create(topic_name),
            {"topic_name": topic_name, "is_private": is_private},
        )
        if done is not None:
            room_id = done[1]["room_id"]
            self.model.rooms.append(Room(room_id, "topic", topic_name, is_private, {device.username: "owner"}))

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, name=topics, action=st.sampled_from(["subscribe", "suscribe", "connect_to_room"]))
    def join(self, actor_index: int, name: str, action: str) -> None:
        self.run(self._join(actor_index, name, action))

    async def _join(self, actor_index: int, name: str, action: str) -> None:
        device, ref = self.device(actor_index), {"topic_name": self.name(name)}

        def verdict() -> Room:
            try:
                return self.model.may_join(device.username, ref)
            except Refusal as refusal:
                if action != "connect_to_room" or refusal.code != "conflict":
                    raise
                return self.model.require_member(device.username, ref)

        done = await self.ask(device, action, verdict, ref)
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

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references)
    def unsubscribe(self, actor_index: int, ref: tuple[str, int]) -> None:
        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_leave(device.username, payload)  # noqa: E731
            if (done := await self.ask(device, "unsubscribe", verdict, payload)) is not None:
                done[0].remove_member(device.username)

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, user=users)
    def invite(self, actor_index: int, ref: tuple[str, int], user: str) -> None:
        self.run(self._invite(actor_index, ref, user))

    async def _invite(self, actor_index: int, ref: tuple[str, int], user: str) -> None:
        device, username = self.device(actor_index), self.name(user)
        payload = self.ref(device, ref)
        if "username" in payload:
            payload = {"topic_name": payload["username"]}
        done = await self.ask(
            device,
            "invite",
            lambda: self.model.may_invite(device.username, payload, username),
            {**payload, "username": username},
        )
        if done is not None:
            done[0].add_member(username)

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, others=st.lists(users, min_size=1, max_size=3), title=titles)
    def create_conversation(self, actor_index: int, others: list[str], title: str | None) -> None:
        self.run(self._create_conversation(actor_index, others, title))

    async def _create_conversation(self, actor_index: int, others: list[str], title: str | None) -> None:
        device = self.device(actor_index)
        usernames = [self.name(user) for user in others]
        payload = {"usernames": usernames} | ({} if title is None else {"title": title})
        verdict = lambda: self.model.may_open_conversation(device.username, usernames, title)  # noqa: E731
        done = await self.ask(device, "create_conversation", verdict, payload)
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

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, at=which_message, action=st.sampled_from(OTHERS))
    def do_another(self, actor_index: int, ref: tuple[str, int], at: int, action: Action) -> None:
        """An action without a rule of its own: it changes the state of clients only by events."""

        async def work() -> None:
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

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, title=st.sampled_from(["t1", "t2"]))
    def set_title(self, actor_index: int, ref: tuple[str, int], title: str) -> None:
        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_set_title(device.username, payload)  # noqa: E731
            done = await self.ask(device, "set_title", verdict, {**payload, "title": title})
            if done is not None:
                done[0].title = title
                assert done[1]["title"] == title

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(
        actor_index=index,
        ref=references,
        guest=index,
        uses=st.sampled_from([None, 1, 2]),
        then=st.sampled_from(["wait", "use", "use", "use twice", "void", "void"]),
    )
    def invitation_link(
        self, actor_index: int, ref: tuple[str, int], guest: int, uses: int | None, then: str
    ) -> None:
        """`create_invitation_link`, `join_by_link`, `delete_invitation_link`, with a new or an earlier link."""

        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_create_link(device.username, payload)  # noqa: E731
            done = await self.ask(device, "create_invitation_link", verdict, {**payload, "uses": uses})
            if done is not None:
                room, maker = done[0], device.username
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

        self.run(work())

    async def _check_links(self, device: Device, room: Room) -> None:
        listed = (await device.live.ask("get_invitation_links", room_id=room.room_id, limit=500))["links"]
        valid = [link for link in self.model.links if link.room is room and link.valid]
        mine = [link for link in valid if room.members[device.username] != "member" or link.maker == device.username]
        assert {(link["code"], link["username"], link["uses_left"]) for link in listed} == {
            (link.code, link.maker, link.uses) for link in mine
        }

    async def _join_by_link(self, device: Device, code: str) -> None:
        done = await self.ask(
            device, "join_by_link", lambda: self.model.may_join_by_link(device.username, code), {"code": code}
        )
        if done is not None:
            link = done[0]
            link.room.add_member(device.username)
            if link.uses is not None:
                link.uses -= 1

    async def _delete_link(self, device: Device, code: str) -> None:
        verdict = lambda: self.model.may_delete_link(device.username, code)  # noqa: E731
        if (done := await self.ask(device, "delete_invitation_link", verdict, {"code": code})) is not None:
            done[0].uses = 0

    # -- moderation -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(steps=st.lists(a_moderation, min_size=1, max_size=3))
    def moderate(self, steps: list[tuple[int, tuple[str, int], str, bool, str, str]]) -> None:
        """`kick`, `ban`, `unban`, `mute`, `set_role`."""

        async def work() -> None:
            for step in steps:
                await self._moderate(*self.moderation(*step))

        self.run(work())
        self.unchanged = self.unchanged if len(steps) == 1 else None

    def moderation(
        self, actor_index: int, ref: tuple[str, int], user: str, likely: bool, kind: str, role: str
    ) -> tuple[Device, dict[str, Any], str, str, str]:
        device, username = self.device(actor_index), self.name(user)
        payload = self.ref(device, ref)
        if "username" in payload:
            payload = {"topic_name": payload["username"]}
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
        me = device.username
        verdict = lambda: self.model.may_moderate(me, payload, username, kind, role)  # noqa: E731
        done = await self.ask(device, action, verdict, {**payload, "username": username, **fields})
        if done is not None:
            room = done[0]
            self.model.apply_moderation(me, room, username, kind, role)
            if room.members[me] != "member":
                bans = (await device.live.ask("get_bans", room_id=room.room_id))["bans"]
                assert {ban["username"] for ban in bans} == room.banned

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, user=users, undo=st.booleans())
    def block(self, actor_index: int, user: str, undo: bool) -> None:
        """`block`, `unblock`."""

        async def work() -> None:
            device, username, before = self.device(actor_index), self.name(user), self.states()
            me = device.username
            verdict = lambda: self.model.may_block(me, username)  # noqa: E731
            done = await self.ask(device, "unblock" if undo else "block", verdict, {"username": username})
            if done is not None:
                pair = {(me, username)}
                self.model.blocks = self.model.blocks - pair if undo else self.model.blocks | pair
                blocks = await device.live.ask("get_blocks")
                assert {(me, blocked) for blocked in blocks["usernames"]} == {
                    pair for pair in self.model.blocks if pair[0] == me
                }
                self.unchanged = before

        self.run(work())

    def shows(self, username: str, device: Device) -> bool:
        """Whether the device's user may see that a user is online."""
        return (username, device.username) not in self.model.blocks

    # -- messages --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, client_id=client_ids, reply=replies, mention=mentioned)
    def message(
        self, actor_index: int, ref: tuple[str, int], client_id: str | None, reply: int | None, mention: str | None
    ) -> None:
        device = self.device(actor_index)
        self.run(self._message(device, self.ref(device, ref), client_id, reply, mention))

    def to_retry(self) -> list[tuple[Device, Room, str]]:
        return [
            (device, room, client_id)
            for device in self.world.connected
            for room in self.model.rooms
            for by, client_id in room.claimed
            if by == device.username
        ]

    @precondition(lambda self: self.to_retry())
    @rule(which=index)
    def send_again(self, which: int) -> None:
        """Retry a message from any device of its sender, like a client that missed the acknowledgement."""
        known = self.to_retry()
        device, room, client_id = known[which % len(known)]
        self.run(self._message(device, {"room_id": room.room_id}, client_id, None))

    def content(self, mention: str | None = None) -> str:
        return f"number {next(self.contents)}" + ("" if mention is None else f" @{self.name(mention)}")

    async def _message(
        self,
        device: Device,
        ref: dict[str, Any],
        client_id: str | None,
        reply: int | None,
        mention: str | None = None,
    ) -> None:
        payload = {**ref, "content": self.content(mention)}
        reply_to = None
        if reply is not None:
            known = [message.id for _, message in self.model.messages]
            reply_to = payload["reply_to"] = known[reply] if reply < len(known) else "0" * 32
        if client_id is not None:
            payload["client_id"] = client_id
        before = self.states()
        done = await self.ask(
            device, "message", lambda: self.model.may_send(device.username, ref, client_id, reply_to), payload
        )
        if done is not None:
            again, message = done
            if again is not None:
                assert message["id"] == again
                self.unchanged = before
            else:
                assert (message["content"], message["reply_to"]) == (payload["content"], reply_to)
            self.model.apply_message(device.username, ref, message)

    @precondition(lambda self: self.world.connected)
    @rule(changes=changes("edit", "edit", "edit", "same"))
    def edit(self, changes: Changes) -> None:
        self._change_all(changes)

    @precondition(lambda self: self.world.connected)
    @rule(changes=changes("react", "react", "take off"))
    def react(self, changes: Changes) -> None:
        self._change_all(changes)

    @precondition(lambda self: self.world.connected)
    @rule(changes=changes("edit", "react", "delete"))
    def delete(self, changes: Changes) -> None:
        self._change_all(changes)

    def _change_all(self, changes: Changes) -> None:
        async def work() -> None:
            for actor_index, *rest in changes:
                await self._change(self.device(actor_index), *rest)

        self.run(work())
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
            message_id, content = message.id, message.content or content if kind == "same" else content
        payload: dict[str, Any] = {"message_id": message_id}
        if kind in ("edit", "same"):
            done = await self.ask(
                device, "edit", lambda: self.model.may_edit(me, message_id), {**payload, "content": content}
            )
        elif kind == "delete":
            done = await self.ask(device, "delete", lambda: self.model.may_delete(me, message_id), payload)
        else:
            payload |= {"emoji": emoji, "remove": kind == "take off"}
            done = await self.ask(device, "react", lambda: self.model.may_react(me, message_id), payload)
        if done is None:
            return
        (room, message), answer = done
        before_change = deepcopy(message.view)
        match kind:
            case "edit" | "same":
                self.model.apply_edit(room, message, content)
            case "delete":
                self.model.apply_delete(message)
            case _:
                self.model.apply_reaction(me, message, emoji, kind == "take off")
        if kind != "delete":
            assert view_of(answer) == message.view
        if before_change == message.view:
            self.unchanged = before

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, back=st.integers(-1, 4))
    def read(self, actor_index: int, ref: tuple[str, int], back: int) -> None:
        async def work() -> None:
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
            done = await self.ask(device, "read", verdict, with_seq)
            if done is not None:
                fresh = {room["room_id"]: room for room in await device.live.rooms()}[done[0].room_id]
                assert done[1]["unread"] == fresh["unread"]
                assert fresh["read_seq"] >= with_seq["seq"]

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, over=st.booleans())
    def delivered(self, actor_index: int, over: bool) -> None:
        async def work() -> None:
            device = self.device(actor_index)
            cursors = {room_id: seq + over for room_id, seq in device.state.cursors.items()}
            cursors["0" * 24] = 7  # an unknown room is ignored

            def verdict() -> None:
                if over and len(cursors) > 1:
                    raise Refusal("invalid")

            before = self.states()
            await self.ask(device, "delivered", verdict, {"cursors": cursors})
            self.unchanged = before

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, typing=st.booleans())
    def typing(self, actor_index: int, ref: tuple[str, int], typing: bool) -> None:
        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)

            before = self.states()
            await self._typing(device, payload, typing)
            self.unchanged = before

        self.run(work())

    # -- reading ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references, older=st.booleans(), limit=st.integers(1, PAGE))
    def history(self, actor_index: int, ref: tuple[str, int], older: bool, limit: int) -> None:
        """Read the newest page, or the one before the known messages."""

        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.require_member(device.username, payload)  # noqa: E731
            before = None
            if older and payload.get("room_id") in device.state.timelines:
                before = device.state.timelines[payload["room_id"]].complete_from
            query = {**payload, "limit": limit} | ({} if before is None else {"before": before})
            state = device.state
            done = await self.ask(device, "history", verdict, query)
            if done is not None:
                room, page = done
                log = [message for message in room.log if before is None or message.seq < before]
                assert [view_of(message) for message in page["messages"]] == [
                    message.view for message in log[-limit:]
                ]
                assert page["has_more"] == (len(log) > limit)
                device.state = with_history(device.state, state, room.room_id, before, page) or device.state

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(actor_index=index, ref=references)
    def get_members(self, actor_index: int, ref: tuple[str, int]) -> None:
        """Open the member list, which the device then keeps."""

        async def work() -> None:
            device = self.device(actor_index)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.require_member(device.username, payload)  # noqa: E731
            done = await self.ask(device, "get_members", verdict, payload)
            if done is not None:
                assert {member["username"] for member in done[1]["members"]} == done[0].members.keys()
                await device.open(done[0].room_id)

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(
        actor_index=index,
        ref=references,
        user=users,
        kind=st.sampled_from([None, "topic", "direct", "group"]),
        flag=st.none() | st.booleans(),
    )
    def look_around(
        self, actor_index: int, ref: tuple[str, int], user: str, kind: str | None, flag: bool | None
    ) -> None:
        """`typing`, `get_profile`, `get_rooms`: they change no state."""

        async def work() -> None:
            device, before = self.device(actor_index), self.states()
            await self._typing(device, self.ref(device, ref), bool(flag))
            await self._get_profile(device, self.name(user))
            await self._get_rooms(device, kind, flag)
            self.unchanged = before

        self.run(work())

    async def _typing(self, device: Device, ref: dict[str, Any], typing: bool) -> None:
        """Send `typing`, except where the outcome depends on whether the connection was typing before."""
        try:
            room = self.model.require_member(device.username, ref)
        except Refusal:
            pass
        else:
            if self.model.may_not_write(device.username, room):
                return
        await self.ask(
            device, "typing", lambda: self.model.require_member(device.username, ref), {**ref, "typing": typing}
        )

    async def _get_profile(self, device: Device, username: str) -> None:
        def verdict() -> None:
            if username not in self.model.users:
                raise Refusal("not_found")

        done = await self.ask(device, "get_profile", verdict, {"username": username})
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

    # -- concurrent steps ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(steps=st.lists(in_a_burst, min_size=2, max_size=8))
    def at_once(self, steps: list[tuple[int, str, int, bool]]) -> None:
        """All devices agree on one order of concurrent steps."""
        self.run(self._at_once(steps))
        self.everything = True

    async def _at_once(self, steps: list[tuple[int, str, int, bool]]) -> None:
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
            subject = self.subject(device.username, kind, room)
            if subject is not None:
                # The order of two changes of one membership would be unknown.
                if (subject, room) in membership:
                    continue
                membership.add((subject, room))
                room.unordered = True
            room.unsure = True
            works.append(self._attempt(device, kind, room, flag, subject))
        await asyncio.gather(*works)

    def subject(self, me: str, kind: str, room: Room) -> str | None:
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
