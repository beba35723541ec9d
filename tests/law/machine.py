"""Every action of the core, by anybody, in any order; after each of them, the law."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from copy import deepcopy
from typing import Any, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.contract.actions import RoomRef
from server.dispatch import Action
from tests.law.model import Link, Message, Refusal, Room, said
from tests.law.state import State, with_history
from tests.law.world import PAGE, Device, World
from tests.support.client import REGISTRY, Refused
from tests.support.examples import beside_the_room

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
"""Whether it is something that may be done."""
mentioned = st.sampled_from([*USERS, None])
titles = st.sampled_from([None, "t1"])
emojis = st.sampled_from(["👍", "🎉"])
Changes = list[tuple[int, str, int, str, str, str | None]]


def changes(*what: str) -> st.SearchStrategy[Changes]:
    among = st.sampled_from(["mine", "mine", "mine", "ours", "ours", "all"])
    return st.lists(
        st.tuples(index, among, which_message, st.sampled_from(what), emojis, mentioned), min_size=1, max_size=4
    )


JUDGED = (
    *("message", "edit", "delete", "react", "history", "typing", "read", "invite", "unsubscribe", "set_title"),
    *("kick", "ban", "unban", "mute", "set_role", "get_bans", "get_members"),
    *("create_invitation_link", "get_invitation_links"),
)
"""Actions on a room or a message that have rules of their own, by which the model knows what comes of them."""
OTHERS = [
    action
    for action in REGISTRY
    if action.live
    and action.name not in JUDGED
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
    """Some users with two devices each, of which all, some or none are connected."""

    http: httpx.AsyncClient
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_example)
        self.contents = itertools.count(1)
        self.world = World(self.http)
        self.model = self.world.model
        self.unchanged: dict[Device, State] | None = None
        self.everything = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def name(self, name: str) -> str:
        """Examples share a node: each has names of its own."""
        return f"{name}{self.number}"

    def ref(self, device: Device, reference: tuple[str, int]) -> dict[str, Any]:
        """A room reference: half of the time of a room that the device's user is in."""
        kind, which = reference
        known = [room for room in self.model.rooms if kind == "room_id" or device.username in room.members]
        match kind:
            case "topic_name":
                return {kind: self.name([*TOPICS, *USERS][which])}
            case "username":
                return {kind: self.name([*USERS, "nobody"][which % 4])}
            case "mine" if known:
                return {"room_id": known[which % len(known)].room_id}
            case _:
                return {"room_id": known[which].room_id if which < len(known) else "0" * 24}

    def device(self, who: int) -> Device:
        connected = self.world.connected
        return connected[who % len(connected)]

    async def ask(
        self, device: Device, action: str, verdict: Callable[[], T], payload: dict[str, Any]
    ) -> tuple[T, dict[str, Any]] | None:
        """Perform an action; refused just as the model says, or answered: what the model found, and the data."""
        try:
            found, due = verdict(), None
        except Refusal as refusal:
            found, due = None, refusal.code
        before = self.states()
        answer, code = {}, None
        try:
            answer = await device.live.ask(action, payload)
        except Refused as refused:
            code = refused.code
        assert code == due, f"{action} {payload} was answered with {code}, {due} is due"
        if due is not None:
            self.unchanged = before
            return None
        return found, answer  # type: ignore[return-value]

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
        """A public and a private topic with some members, and all devices but one connected."""

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

    # -- coming and going ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.connected) < len(self.world.devices))
    @rule(who=index, how=st.sampled_from(["cursors", "state", "anew", "astray"]))
    def connect(self, who: int, how: str) -> None:
        away = [device for device in self.world.devices if device.client is None]
        self.run(away[who % len(away)].connect(how))
        self.everything = True

    @precondition(lambda self: self.world.connected)
    @rule(who=index)
    def disconnect(self, who: int) -> None:
        self.run(self.device(who).close())

    @precondition(lambda self: len(self.world.connected) > 1)
    @rule(
        who=index,
        confirmed=st.booleans(),
        steps=st.lists(while_away, min_size=2, max_size=8),
        seen=st.integers(0, 3),
        how=st.sampled_from(["cursors", "cursors", "state"]),
    )
    def be_away(
        self, who: int, confirmed: bool, steps: list[tuple[bool, int, str, int, bool]], seen: int, how: str
    ) -> None:
        """A device sees some of what its user's others, and other users, do, and misses the rest.

        `confirmed`: the server has its cursors.
        """

        async def act(by_itself: bool, by: int, what: str, where: int, flag: bool) -> None:
            mine = [one for one in self.world.connected if one.username == device.username and one is not device]
            actors = (mine if by_itself else self.world.connected) or self.world.connected
            room = self.model.rooms[where % len(self.model.rooms)]
            actor = actors[by % len(actors)]
            await self._one(actor, what, room, flag, self.subject(actor.username, what, room))

        async def work() -> None:
            if confirmed:
                await device.live.ask("delivered", cursors=dict(device.state.cursors))
            for step in steps[:seen]:
                await act(*step)
            await self.world.check()
            await device.close()
            for step in steps[seen:]:
                await act(*step)
            await device.connect(how)

        device = self.device(who)
        self.run(work())
        self.everything = True

    @precondition(lambda self: self.world.connected)
    @rule(who=index, token=st.sampled_from(["same", "new", "another's", "none", "log out"]))
    def change_session(self, who: int, token: str) -> None:
        """`authenticate`, `logout`."""

        async def work() -> None:
            device = self.device(who)
            if token == "log out":
                await self._logout(device)
                return
            other = next(one for one in self.world.devices if one.username != device.username)
            given = {"same": device.token, "another's": other.token, "none": "nonsense"}.get(token)
            if given is None:
                given = device.token = await self.world.sign("in", device.username)

            def verdict() -> None:
                if token in ("another's", "none"):
                    raise Refusal("forbidden" if token == "another's" else "unauthenticated")

            before = self.states()
            if await self.ask(device, "authenticate", verdict, {"token": given}) is not None:
                device.live.token = given
            self.unchanged = before

        self.run(work())

    async def _logout(self, device: Device) -> None:
        """All connections of the session close, and no other."""
        token = device.live.token
        closing = [one for one in self.world.connected if one.live.token == token]
        await self.ask(device, "logout", lambda: None, {})
        for one in closing:
            async with asyncio.timeout(30):
                await one.live.closed.wait()
            assert one.live.of("closing") == [{"reason": "token_revoked", "reconnect": False}]
            await one.close()
        for one in self.world.devices:
            if one.token == token:
                one.token = await self.world.sign("in", one.username)

    # -- rooms -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(who=index, name=topics, is_private=st.booleans())
    def create(self, who: int, name: str, is_private: bool) -> None:
        self.run(self._create(who, name, is_private))

    async def _create(self, who: int, name: str, is_private: bool) -> None:
        device, topic_name = self.device(who), self.name(name)
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
    @rule(who=index, name=topics, action=st.sampled_from(["subscribe", "suscribe", "connect_to_room"]))
    def join(self, who: int, name: str, action: str) -> None:
        self.run(self._join(who, name, action))

    async def _join(self, who: int, name: str, action: str) -> None:
        device, ref = self.device(who), {"topic_name": self.name(name)}

        def verdict() -> Room:
            try:
                return self.model.may_join(device.username, ref)
            except Refusal as refusal:
                if action != "connect_to_room" or refusal.code != "conflict":
                    raise
                return self.model.entered(device.username, ref)

        done = await self.ask(device, action, verdict, ref)
        if done is not None:
            room, answer = done
            if device.username not in room.members:
                room.came(device.username)
            view = answer
            if action == "connect_to_room":
                online = {one.username for one in self.world.connected}
                assert {name for name in answer["usernames"] if self.shows(name, device)} == {
                    name for name in online & room.members.keys() if self.shows(name, device)
                }
                view = answer["room"]
            assert (view["room_id"], view["members"]) == (room.room_id, len(room.members))

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references)
    def unsubscribe(self, who: int, ref: tuple[str, int]) -> None:
        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_leave(device.username, payload)  # noqa: E731
            if (done := await self.ask(device, "unsubscribe", verdict, payload)) is not None:
                done[0].gone(device.username)

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, user=users)
    def invite(self, who: int, ref: tuple[str, int], user: str) -> None:
        self.run(self._invite(who, ref, user))

    async def _invite(self, who: int, ref: tuple[str, int], user: str) -> None:
        device, username = self.device(who), self.name(user)
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
            done[0].came(username)

    @precondition(lambda self: self.world.connected)
    @rule(who=index, others=st.lists(users, min_size=1, max_size=3), title=titles)
    def create_conversation(self, who: int, others: list[str], title: str | None) -> None:
        self.run(self._create_conversation(who, others, title))

    async def _create_conversation(self, who: int, others: list[str], title: str | None) -> None:
        device = self.device(who)
        usernames = [self.name(user) for user in others]
        payload = {"usernames": usernames} | ({} if title is None else {"title": title})
        verdict = lambda: self.model.may_open(device.username, usernames, title)  # noqa: E731
        done = await self.ask(device, "create_conversation", verdict, payload)
        if done is None:
            return
        found, view = done
        if found is not None:
            assert view["room_id"] == found.room_id
            return
        kind = "direct" if len({*usernames, device.username}) == 2 and title is None else "group"
        # All came at once: then it goes by age.
        roles = {user: "member" for user in self.model.users if user in {*usernames, device.username}}
        if kind == "group":
            roles[device.username] = "owner"
        self.model.rooms.append(Room(view["room_id"], kind, None, True, roles, title=title))

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, at=which_message, action=st.sampled_from(OTHERS))
    def do_another(self, who: int, ref: tuple[str, int], at: int, action: Action) -> None:
        """An action that the model does not judge: what it changes in a client's state, it changes by events."""

        async def work() -> None:
            device, rest = self.device(who), beside_the_room(action)
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
    @rule(who=index, ref=references, title=st.sampled_from(["t1", "t2"]))
    def set_title(self, who: int, ref: tuple[str, int], title: str) -> None:
        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_name(device.username, payload)  # noqa: E731
            done = await self.ask(device, "set_title", verdict, {**payload, "title": title})
            if done is not None:
                done[0].title = title
                assert done[1]["title"] == title

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(
        who=index,
        ref=references,
        guest=index,
        uses=st.sampled_from([None, 1, 2]),
        then=st.sampled_from(["wait", "use", "use", "use twice", "void", "void"]),
    )
    def invitation_link(self, who: int, ref: tuple[str, int], guest: int, uses: int | None, then: str) -> None:
        """`create_invitation_link`, `join_by_link`, `delete_invitation_link`: of a new link, or an earlier one."""

        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.may_link(device.username, payload)  # noqa: E731
            done = await self.ask(device, "create_invitation_link", verdict, {**payload, "uses": uses})
            if done is not None:
                room, maker = done[0], device.username
                self.model.links.append(Link(done[1]["code"], room, uses, maker, room.stays[maker]))
                await self._list(device, room)
            code = self.model.links[-1].code if self.model.links else "none"
            if then == "void":
                await self._void(device if guest % 2 else self.device(guest), code)
            elif then != "wait":
                await self._use(self.device(guest), code)
                if then == "use twice":
                    await self._use(self.device(guest + 2), code)
            self.unchanged = None

        self.run(work())

    async def _list(self, device: Device, room: Room) -> None:
        found = (await device.live.ask("get_invitation_links", room_id=room.room_id, limit=500))["links"]
        good = [link for link in self.model.links if link.room is room and link.good]
        mine = [link for link in good if room.members[device.username] != "member" or link.maker == device.username]
        assert {(link["code"], link["username"], link["uses_left"]) for link in found} == {
            (link.code, link.maker, link.uses) for link in mine
        }

    async def _use(self, device: Device, code: str) -> None:
        done = await self.ask(
            device, "join_by_link", lambda: self.model.may_use(device.username, code), {"code": code}
        )
        if done is not None:
            link = done[0]
            link.room.came(device.username)
            if link.uses is not None:
                link.uses -= 1

    async def _void(self, device: Device, code: str) -> None:
        verdict = lambda: self.model.may_void(device.username, code)  # noqa: E731
        if (done := await self.ask(device, "delete_invitation_link", verdict, {"code": code})) is not None:
            done[0].uses = 0

    # -- who may do what to whom -----------------------------------------------------------------------------------

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
        self, who: int, ref: tuple[str, int], user: str, likely: bool, what: str, role: str
    ) -> tuple[Device, dict[str, Any], str, str, str]:
        device, username = self.device(who), self.name(user)
        payload = self.ref(device, ref)
        if "username" in payload:
            payload = {"topic_name": payload["username"]}
        known = [
            (one, room, subject)
            for room in self.model.rooms
            for one in self.world.connected
            for subject in (sorted(room.banned) if what == "unban" else room.members)
            if room.members.get(one.username, "member") != "member" and subject != one.username
        ]
        if likely and known:
            device, room, username = known[-1 - (who * 6 + ref[1]) % len(known)]
            payload = {"room_id": room.room_id}
        return device, payload, username, what, role

    async def _moderate(
        self, device: Device, payload: dict[str, Any], username: str, what: str, role: str | None
    ) -> None:
        role = role if what == "set_role" else None
        action, fields = {
            "set_role": ("set_role", {"role": role}),
            "mute": ("mute", {"duration": 3600}),
            "unmute": ("mute", {"duration": 0}),
        }.get(what, (what, {}))
        me = device.username
        verdict = lambda: self.model.may_moderate(me, payload, username, what, role)  # noqa: E731
        done = await self.ask(device, action, verdict, {**payload, "username": username, **fields})
        if done is not None:
            room = done[0]
            self.model.moderated(me, room, username, what, role)
            if room.members[me] != "member":
                bans = (await device.live.ask("get_bans", room_id=room.room_id))["bans"]
                assert {one["username"] for one in bans} == room.banned

    @precondition(lambda self: self.world.connected)
    @rule(who=index, user=users, undo=st.booleans())
    def block(self, who: int, user: str, undo: bool) -> None:
        """`block`, `unblock`."""

        async def work() -> None:
            device, username, before = self.device(who), self.name(user), self.states()
            me = device.username
            verdict = lambda: self.model.may_block(me, username)  # noqa: E731
            done = await self.ask(device, "unblock" if undo else "block", verdict, {"username": username})
            if done is not None:
                pair = {(me, username)}
                self.model.blocks = self.model.blocks - pair if undo else self.model.blocks | pair
                asked = await device.live.ask("get_blocks")
                assert {(me, one) for one in asked["usernames"]} == {one for one in self.model.blocks if one[0] == me}
                self.unchanged = before

        self.run(work())

    def shows(self, username: str, device: Device) -> bool:
        """Whether a user shows the device's user that they are online."""
        return (username, device.username) not in self.model.blocks

    # -- messages --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, client_id=client_ids, reply=replies, mention=mentioned)
    def message(
        self, who: int, ref: tuple[str, int], client_id: str | None, reply: int | None, mention: str | None
    ) -> None:
        device = self.device(who)
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
        """As a client does that has not seen the acknowledgement, from whichever device."""
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
            self.model.sent(device.username, ref, message)

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
            for who, *rest in changes:
                await self._change(self.device(who), *rest)

        self.run(work())
        self.unchanged = self.unchanged if len(changes) == 1 else None

    async def _change(
        self, device: Device, among: str, which: int, what: str, emoji: str, mention: str | None
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
            message_id, content = message.id, message.content or content if what == "same" else content
        asked: dict[str, Any] = {"message_id": message_id}
        if what in ("edit", "same"):
            done = await self.ask(
                device, "edit", lambda: self.model.may_edit(me, message_id), {**asked, "content": content}
            )
        elif what == "delete":
            done = await self.ask(device, "delete", lambda: self.model.may_delete(me, message_id), asked)
        else:
            asked |= {"emoji": emoji, "remove": what == "take off"}
            done = await self.ask(device, "react", lambda: self.model.may_react(me, message_id), asked)
        if done is None:
            return
        (room, message), answer = done
        was = deepcopy(message.said)
        match what:
            case "edit" | "same":
                self.model.edited(room, message, content)
            case "delete":
                self.model.deleted(message)
            case _:
                self.model.reacted(me, message, emoji, what == "take off")
        if what != "delete":
            assert said(answer) == message.said
        if was == message.said:
            self.unchanged = before

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, back=st.integers(-1, 4))
    def read(self, who: int, ref: tuple[str, int], back: int) -> None:
        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            last_seq = 0

            def verdict() -> Room:
                nonlocal last_seq
                room = self.model.entered(device.username, payload)
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
    @rule(who=index, over=st.booleans())
    def delivered(self, who: int, over: bool) -> None:
        async def work() -> None:
            device = self.device(who)
            cursors = {room_id: seq + over for room_id, seq in device.state.cursors.items()}
            cursors["0" * 24] = 7  # of no room: passed over

            def verdict() -> None:
                if over and len(cursors) > 1:
                    raise Refusal("invalid")

            before = self.states()
            await self.ask(device, "delivered", verdict, {"cursors": cursors})
            self.unchanged = before

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, typing=st.booleans())
    def typing(self, who: int, ref: tuple[str, int], typing: bool) -> None:
        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)

            before = self.states()
            await self._typing(device, payload, typing)
            self.unchanged = before

        self.run(work())

    # -- reading ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, older=st.booleans(), limit=st.integers(1, PAGE))
    def history(self, who: int, ref: tuple[str, int], older: bool, limit: int) -> None:
        """The newest page, or the one before what is known."""

        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.entered(device.username, payload)  # noqa: E731
            before = None
            if older and payload.get("room_id") in device.state.timelines:
                before = device.state.timelines[payload["room_id"]].complete_from
            asked = {**payload, "limit": limit} | ({} if before is None else {"before": before})
            state = device.state
            done = await self.ask(device, "history", verdict, asked)
            if done is not None:
                room, page = done
                log = [one for one in room.log if before is None or one.seq < before]
                assert [said(message) for message in page["messages"]] == [one.said for one in log[-limit:]]
                assert page["has_more"] == (len(log) > limit)
                device.state = with_history(device.state, state, room.room_id, before, page) or device.state

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references)
    def get_members(self, who: int, ref: tuple[str, int]) -> None:
        """From here on the device keeps the list."""

        async def work() -> None:
            device = self.device(who)
            payload = self.ref(device, ref)
            verdict = lambda: self.model.entered(device.username, payload)  # noqa: E731
            done = await self.ask(device, "get_members", verdict, payload)
            if done is not None:
                assert {one["username"] for one in done[1]["members"]} == done[0].members.keys()
                await device.open(done[0].room_id)

        self.run(work())

    @precondition(lambda self: self.world.connected)
    @rule(
        who=index,
        ref=references,
        user=users,
        kind=st.sampled_from([None, "topic", "direct", "group"]),
        flag=st.none() | st.booleans(),
    )
    def look_around(self, who: int, ref: tuple[str, int], user: str, kind: str | None, flag: bool | None) -> None:
        """`typing`, `get_profile`, `get_rooms`: nobody's state knows of them."""

        async def work() -> None:
            device, before = self.device(who), self.states()
            await self._typing(device, self.ref(device, ref), bool(flag))
            await self._get_profile(device, self.name(user))
            await self._get_rooms(device, kind, flag)
            self.unchanged = before

        self.run(work())

    async def _typing(self, device: Device, ref: dict[str, Any], typing: bool) -> None:
        """But not where it depends on whether the connection was typing already."""
        try:
            room = self.model.entered(device.username, ref)
        except Refusal:
            pass
        else:
            if self.model.silenced(device.username, room):
                return
        await self.ask(device, "typing", lambda: self.model.entered(device.username, ref), {**ref, "typing": typing})

    async def _get_profile(self, device: Device, username: str) -> None:
        def verdict() -> None:
            if username not in self.model.users:
                raise Refusal("not_found")

        done = await self.ask(device, "get_profile", verdict, {"username": username})
        if done is not None:
            assert done[1]["username"] == username
            if self.shows(username, device):
                assert done[1]["online"] or all(one.username != username for one in self.world.connected)

    async def _get_rooms(self, device: Device, kind: str | None, member: bool | None) -> None:
        """A caller sees their own rooms, and public topics."""
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

    # -- all at once -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(steps=st.lists(in_a_burst, min_size=2, max_size=8))
    def at_once(self, steps: list[tuple[int, str, int, bool]]) -> None:
        """In whatever order these take effect, everybody agrees on it."""
        self.run(self._at_once(steps))
        self.everything = True

    async def _at_once(self, steps: list[tuple[int, str, int, bool]]) -> None:
        connected, known = self.world.connected, list(self.model.rooms)
        away = [device for device in self.world.devices if device.client is None]
        moving: set[Device] = set()
        membership: set[tuple[str, Room]] = set()
        works: list[Awaitable[None]] = []
        acting: list[tuple[Device, str, Room, bool]] = []
        for who, what, where, flag in steps:
            if what == "come" and away:
                device = away.pop(who % len(away))
                works.append(device.connect("cursors" if flag else "state"))
            elif what == "go":
                moving.add(connected[who % len(connected)])
            elif what not in ("come", "go"):
                acting.append((connected[who % len(connected)], what, known[where % len(known)], flag))
        works += [device.close() for device in moving]
        for device, what, room, flag in acting:
            if device in moving:
                continue
            subject = self.subject(device.username, what, room)
            if subject is not None:
                # Which of two came first could not be told.
                if (subject, room) in membership:
                    continue
                membership.add((subject, room))
                room.unordered = True
            room.unsure = True
            works.append(self._one(device, what, room, flag, subject))
        await asyncio.gather(*works)

    def subject(self, me: str, what: str, room: Room) -> str | None:
        """Who comes or goes by it."""
        others = [user for user in self.model.users if user != me]
        match what:
            case "join" | "leave":
                return me
            case "invite":
                return next((user for user in others if user not in room.members), others[0])
            case "kick" | "ban":
                return next((user for user in others if room.members.get(user, "owner") != "owner"), others[0])
            case _:
                return None

    async def _one(self, device: Device, what: str, room: Room, flag: bool, subject: str | None) -> None:
        """Do something, if it may be done."""
        with suppress(Refusal):
            try:
                await self._do(device, what, room, flag, subject)
            except Refused as refused:
                if refused.code not in ("not_found", "forbidden", "conflict", "invalid"):
                    raise

    async def _do(self, device: Device, what: str, room: Room, flag: bool, subject: str | None) -> None:
        ref: dict[str, Any] = {"room_id": room.room_id}
        me, ask = device.username, device.live.ask
        match what:
            case "send":
                if flag:
                    ref = {"username": next(user for user in self.model.users if user != me)}
                message = await ask("message", {**ref, "content": self.content()})
                self.model.sent(me, ref, message)
            case "edit" | "delete" | "react":
                mine = [one for one in room.log if what == "react" or one.sender == me]
                if mine:
                    await self._do_change(device, what, room, mine[-1 - (flag and len(mine) > 1)], flag)
            case "read":
                known = device.state.rooms.get(room.room_id)
                await ask("read", {**ref, "seq": 0 if known is None else known.last_seq - flag})
            case "join" if room.topic_name is not None:
                await ask("subscribe", topic_name=room.topic_name)
                room.came(me)
            case "leave":
                await ask("unsubscribe", ref)
                room.gone(me)
            case "invite" if subject is not None:
                await ask("invite", {**ref, "username": subject})
                room.came(subject)
            case "kick" | "ban" | "unban" if subject is not None:
                await ask(what, {**ref, "username": subject})
                self.model.moderated(me, room, subject, what, None)
            case "unban" if room.banned:
                banned = min(room.banned)
                await ask("unban", {**ref, "username": banned})
                room.banned.discard(banned)
            case "promote":
                other = next((user for user in room.members if user != me), me)
                role = "moderator" if flag else "owner"
                await ask("set_role", {**ref, "username": other, "role": role})
                self.model.moderated(me, room, other, "set_role", role)
            case "title":
                title = self.content()
                await ask("set_title", {**ref, "title": title})
                room.title = title

    async def _do_change(self, device: Device, what: str, room: Room, message: Message, flag: bool) -> None:
        me, asked = device.username, {"message_id": message.id}
        if what == "edit":
            content = self.content()
            message.tried.add(content)
            await device.live.ask("edit", **asked, content=content)
            self.model.edited(room, message, content)
        elif what == "delete":
            await device.live.ask("delete", **asked)
            self.model.deleted(message)
        else:
            await device.live.ask("react", **asked, emoji="👍", remove=flag)
            self.model.reacted(me, message, "👍", flag)
