"""Every action of the core, by anybody, in any order; after each of them, the law."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.law.model import Refusal, Room
from tests.law.state import State, with_history
from tests.law.world import PAGE, Device, World
from tests.support.client import Refused

T = TypeVar("T")
USERS, DEVICES, TOPICS = ("ana", "ben", "cleo"), ("phone", "laptop"), ("plaza", "patio", "puente")
_example = itertools.count()

index = st.integers(0, 5)
topics = st.sampled_from([*TOPICS, USERS[0]])
users = st.sampled_from([*USERS, "nobody"])
references = st.tuples(st.sampled_from(["mine", "mine", "mine", "topic_name", "username", "room_id"]), index)
client_ids = st.sampled_from([None, "first", "second", "third"])
replies = st.none() | index
in_a_burst = st.tuples(
    index, st.sampled_from(["send", "send", "send", "read", "join", "leave", "come", "go"]), index, st.booleans()
)
while_away = st.tuples(
    st.booleans(),
    index,
    st.sampled_from(["send", "send", "read", "read", "join", "leave", "invite"]),
    index,
    st.booleans(),
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
            await self._one(actors[by % len(actors)], what, room, flag)

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
            async with asyncio.timeout(10):
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
            self.model.rooms.append(Room(room_id, "topic", topic_name, is_private, {device.username}))

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
            room.members.add(device.username)
            view = answer
            if action == "connect_to_room":
                online = {one.username for one in self.world.connected}
                assert answer["usernames"] == sorted(online & room.members)
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
                done[0].members.discard(device.username)

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
            done[0].members.add(username)

    # -- messages --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.connected)
    @rule(who=index, ref=references, client_id=client_ids, reply=replies)
    def message(self, who: int, ref: tuple[str, int], client_id: str | None, reply: int | None) -> None:
        device = self.device(who)
        self.run(self._message(device, self.ref(device, ref), client_id, reply))

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

    async def _message(self, device: Device, ref: dict[str, Any], client_id: str | None, reply: int | None) -> None:
        payload = {**ref, "content": f"number {next(self.contents)}"}
        reply_to = None
        if reply is not None:
            known = [message_id for room in self.model.rooms for _, message_id, _ in room.log]
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

            verdict = lambda: self.model.entered(device.username, payload)  # noqa: E731
            before = self.states()
            await self.ask(device, "typing", verdict, {**payload, "typing": typing})
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
            done = await self.ask(device, "history", verdict, asked)
            if done is not None:
                room, page = done
                log = [one for one in room.log if before is None or one[0] < before]
                assert [message["id"] for message in page["messages"]] == [one for _, one, _ in log[-limit:]]
                assert page["has_more"] == (len(log) > limit)
                device.state = with_history(device.state, room.room_id, before, page)

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
                assert {one["username"] for one in done[1]["members"]} == done[0].members
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
        await self.ask(device, "typing", lambda: self.model.entered(device.username, ref), {**ref, "typing": typing})

    async def _get_profile(self, device: Device, username: str) -> None:
        def verdict() -> None:
            if username not in self.model.users:
                raise Refusal("not_found")

        done = await self.ask(device, "get_profile", verdict, {"username": username})
        if done is not None:
            assert done[1]["username"] == username
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
            if what in ("join", "leave"):
                if (device.username, room) in membership:
                    continue
                membership.add((device.username, room))
            works.append(self._one(device, what, room, flag))
        await asyncio.gather(*works)

    async def _one(self, device: Device, what: str, room: Room, flag: bool) -> None:
        ref: dict[str, Any] = {"room_id": room.room_id}
        me = device.username
        try:
            if what == "send":
                if flag:
                    ref = {"username": next(user for user in self.model.users if user != me)}
                message = await device.live.ask("message", {**ref, "content": f"number {next(self.contents)}"})
                self.model.sent(me, ref, message)
            elif what == "read":
                mine = device.state.rooms.get(room.room_id)
                await device.live.ask("read", {**ref, "seq": 0 if mine is None else mine.last_seq - flag})
            elif what == "join" and room.topic_name is not None:
                await device.live.ask("subscribe", topic_name=room.topic_name)
                room.members.add(me)
            elif what == "invite":
                others = [user for user in self.model.users if user != me]
                guest = next((user for user in others if user not in room.members), others[0])
                await device.live.ask("invite", {**ref, "username": guest})
                room.members.add(guest)
            elif what == "leave":
                await device.live.ask("unsubscribe", ref)
                room.members.discard(me)
        except Refused as refused:
            if refused.code not in ("not_found", "forbidden", "conflict", "invalid"):
                raise
