"""The namespace `/` of `app.sio`: its rooms are topics and conversations, its handlers the contract's actions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from sqlalchemy.engine import Connection as Transaction

from tests.extending.conftest import Serving, on_tidings
from tests.support.client import Client, PlainClient

DEADLINE_S = 20.0


class _AcceptsAnyEvent:
    """A client that also accepts events outside the contract."""

    async def _event(self, event: str, *args: Any) -> None:
        self.events.append((event, *args))  # type: ignore[attr-defined]
        self._changed.set()  # type: ignore[attr-defined]


class LiveClient(_AcceptsAnyEvent, Client): ...


class LivePlainClient(_AcceptsAnyEvent, PlainClient): ...


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    async with on_tidings(lambda sio: None, tmp_path) as serving:
        yield serving


async def members(serving: Serving) -> tuple[str, Client, Client, PlainClient]:
    """A topic of omar, with omar and diego over Socket.IO, and diego once more over `/ws`."""
    omar = await LiveClient(serving.url, serving.tokens["omar"]).connect()
    diego = await LiveClient(serving.url, serving.tokens["diego"]).connect()
    plain = await LivePlainClient(serving.url, serving.tokens["diego"], device="plain").connect()
    room_id: str = (await omar.ask("create", topic_name="ajedrez"))["room_id"]
    await diego.ask("subscribe", topic_name="ajedrez")
    await plain.event("room_added")
    return room_id, omar, diego, plain


async def test_an_emit_reaches_the_live_members_on_every_gateway_and_is_not_stored(
    serving: Serving,
) -> None:
    sio: socketio.AsyncServer = serving.sio
    room_id, omar, diego, plain = await members(serving)
    outsider = await LiveClient(serving.url, serving.tokens["memoor"]).connect()
    before = await entries(serving)
    await sio.emit("scored", {"goals": 1}, room=room_id)
    for client in (omar, diego, plain):
        assert await client.event("scored") == {"goals": 1}
    omar_sid = omar.sio.get_sid("/")
    await sio.emit("scored", {"goals": 2}, room=room_id, skip_sid=omar_sid)
    await sio.emit("only you", {"just": "you"}, to=omar_sid)
    assert await diego.event("scored", lambda data: data["goals"] == 2)
    assert await omar.event("only you") == {"just": "you"}
    await sio.emit("everybody", {"hola": True})
    for client in (omar, diego, plain, outsider):
        assert await client.event("everybody") == {"hola": True}
    assert [data["goals"] for data in omar.of("scored")] == [1]
    assert outsider.of("scored") == []
    assert await entries(serving) == before
    await diego.ask("unsubscribe", topic_name="ajedrez")
    await sio.emit("scored", {"goals": 3}, room=room_id)
    await omar.event("scored", lambda data: data["goals"] == 3)
    await sio.emit("the end", None)
    await diego.event("the end")
    assert [data["goals"] for data in diego.of("scored")] == [1, 2]
    for client in (omar, diego, plain, outsider):
        await client.close()


async def test_an_emit_to_several_rooms_reaches_each_member_once(serving: Serving) -> None:
    sio: socketio.AsyncServer = serving.sio
    room_id, omar, diego, plain = await members(serving)
    other_id: str = (await omar.ask("create", topic_name="damas"))["room_id"]
    memoor = await LiveClient(serving.url, serving.tokens["memoor"]).connect()
    await memoor.ask("subscribe", topic_name="damas")
    sid = omar.sio.get_sid("/")
    for number, rooms in enumerate(([room_id, other_id], (other_id, room_id, sid), [sid, room_id, other_id])):
        await sio.emit("scored", number, room=rooms)
    await sio.emit("the end", None)
    for client in (omar, diego, plain, memoor):
        await client.event("the end")
        assert client.of("scored") == [0, 1, 2]
        await client.close()


async def test_the_handlers_of_the_core_are_what_can_be_called(serving: Serving) -> None:
    client = await Client(serving.url, serving.tokens["omar"]).connect()
    handlers = serving.sio.handlers["/"]
    assert "message" in handlers
    for name in handlers.keys() - {"logout"}:
        answer = await client.sio.call(name, {"no such field": 1}, timeout=DEADLINE_S)
        assert answer["ok"] or answer["error"]["code"] != "unknown_action", name
    assert not {"register", "login", "me"} & handlers.keys()
    await client.close()


async def test_an_application_can_ask_who_is_a_member(serving: Serving) -> None:
    app = serving.node.app
    omar = await Client(serving.url, serving.tokens["omar"]).connect()
    room_id: str = (await omar.ask("create", topic_name="secreto", is_private=True))["room_id"]
    for room in (room_id, "secreto", " Secreto"):
        assert await app.tidings.is_member(room, "OMAR")
        assert not await app.tidings.is_member(room, "diego")
        assert not await app.tidings.is_member(room, "nobody")
    await omar.ask("invite", room_id=room_id, username="diego")
    assert await app.tidings.is_member(room_id, "diego")
    await omar.ask("kick", room_id=room_id, username="diego")
    garbage: Any = {"room": 1}
    for room in (room_id, "", "no room", "\ud800", "\x00", garbage):
        assert not await app.tidings.is_member(room, "diego"), room
    # A topic cannot stand in for the room whose id is its name.
    await (diego := await Client(serving.url, serving.tokens["diego"]).connect()).ask("create", topic_name=room_id)
    assert not await app.tidings.is_member(room_id, "diego")
    for client in (omar, diego):
        await client.close()


async def entries(serving: Serving) -> int:
    def count(conn: Transaction) -> int:
        number: Any = conn.exec_driver_sql("SELECT count(*) FROM entry").scalar()
        return int(number)

    return await serving.node.node.database.read(count)


async def test_rooms_and_participants_follow_memberships(serving: Serving) -> None:
    sio: socketio.AsyncServer = serving.sio
    room_id, omar, diego, plain = await members(serving)
    omar_sid, diego_sid = omar.sio.get_sid("/"), diego.sio.get_sid("/")
    assert sio.rooms(omar_sid) == [omar_sid, room_id]
    assert {sid for sid, _ in sio.manager.get_participants("/", room_id)} == {omar_sid, diego_sid}
    await diego.ask("unsubscribe", topic_name="ajedrez")
    await diego.event("room_removed")
    assert sio.rooms(diego_sid) == [diego_sid]
    assert [sid for sid, _ in sio.manager.get_participants("/", room_id)] == [omar_sid]
    assert sio.transport(omar_sid) == "websocket"
    await sio.disconnect(diego_sid)
    await diego.until(lambda: not diego.sio.connected)
    assert sio.rooms(diego_sid) == []
    assert {sid for sid, _ in sio.manager.get_participants("/", None)} == {omar_sid}
    assert sio.rooms("nobody") == []
    for client in (omar, diego, plain):
        await client.close()


async def test_reserved_events_and_operations_are_refused_with_a_reason(serving: Serving) -> None:
    sio: socketio.AsyncServer = serving.sio
    for event in ("message", "room_added", "closing", "disconnect"):
        with pytest.raises(ValueError, match=f"`{event}` is an event of Tidings"):
            await sio.emit(event, {}, room="any")
    for argument, reason in ((b"bytes", "must be JSON"), (("two", "arguments"), "one argument")):
        with pytest.raises(ValueError, match=reason):
            await sio.emit("scored", argument)
    with pytest.raises(ValueError, match="acknowledge no events"):
        await sio.emit("scored", {}, to="sid", callback=print)
    with pytest.raises(ValueError, match="`message` is an action of Tidings"):
        sio.on("message", print)
    with pytest.raises(ValueError, match="use a namespace of your own"):
        sio.event(test_rooms_and_participants_follow_memberships)
    with pytest.raises(ValueError, match="use a namespace of your own"):
        sio.register_namespace(socketio.AsyncNamespace("/"))
    for change in (sio.enter_room("sid", "room"), sio.leave_room("sid", "room"), sio.close_room("room")):
        with pytest.raises(ValueError, match="topics and conversations"):
            await change
    with pytest.raises(ValueError, match="no sessions in `/`"):
        await sio.get_session("sid")
    async with asyncio.timeout(DEADLINE_S):
        client = await Client(serving.url, serving.tokens["omar"]).connect()
        await client.close()
