"""The plain WebSocket: requests and answers, events, malformed frames, and closing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.delivery.support import make_topic, plain_reader
from tests.gateways.plain import Plain, entered, plain
from tests.gateways.raw import entered as entered_by_socketio
from tests.support.client import DEADLINE_S, connected, plainly_connected
from tests.support.depth import examples
from tests.support.node import RunningNode, running_node
from tidings.gateways.action_queue import MAX_IN_FLIGHT
from tidings.gateways.websocket import MAX_ID, MAX_NUMBER
from tidings.transport.input_limits import MAX_VALUES
from tidings.transport.websocket_server import MAX_MESSAGE


@pytest.fixture
async def omar(gateway: RunningNode) -> AsyncIterator[Plain]:
    async with entered(gateway.url, await gateway.register("omar")) as client:
        yield client


# -- the same server as over Socket.IO --------------------------------------------------------------------------


async def test_socketio_and_plain_clients_share_a_room_in_one_order(gateway: RunningNode) -> None:
    tokens = {name: await gateway.register(name) for name in ("omar", "diego")}
    async with (
        plainly_connected(gateway.url, tokens["omar"]) as omar,
        connected(gateway.url, tokens["diego"]) as diego,
    ):
        room = await omar.ask("create", topic_name="noticias", is_private=True)
        await omar.ask("invite", topic_name="noticias", username="diego")
        assert (await diego.event("room_added"))["room"]["room_id"] == room["room_id"]
        sent = [
            client.send("message", {"topic_name": "noticias", "content": f"{name} {n}", "client_id": f"{name} {n}"})
            for n in range(50)
            for name, client in (("omar", omar), ("diego", diego))
        ]
        answers = [answer["data"] for answer in await asyncio.gather(*sent)]
        await diego.ask("typing", topic_name="noticias")
        await omar.event("typing")
        for name, client in (("omar", omar), ("diego", diego)):
            await client.until(lambda client=client: len(client.of("message")) == 100)
            assert [m["seq"] for m in client.of("message")] == list(range(2, 102))
            # The event equals the answer, except that only the sender gets the `client_id`.
            events = {m["id"]: m for m in client.of("message")}
            assert events == {m["id"]: m | ({} if m["sender"] == name else {"client_id": None}) for m in answers}
            mine = [m["content"] for m in client.of("message") if m["sender"] == name]
            assert mine == [f"{name} {n}" for n in range(50)]


async def test_requests_are_answered_in_order(omar: Plain) -> None:
    await omar.ask("create", topic_name="noticias")
    for n in range(100):
        await omar.send(id=n, action="message", data={"topic_name": "noticias", "content": str(n)})
        await omar.send(id=f"h{n}", action="history", data={"topic_name": "noticias", "limit": 1})
    for n in range(100):
        assert (await omar.answer())["data"]["content"] == str(n)
        read = await omar.answer()
        assert read["id"] == f"h{n}"
        assert [m["content"] for m in read["data"]["messages"]] == [str(n)], "the read sees the earlier append"


# -- requests ---------------------------------------------------------------------------------------------------

IDS = (7, 0, -1, 1.5, "7", "", "ñ", "🦉" * MAX_ID, MAX_NUMBER, -MAX_NUMBER)


async def test_an_answer_has_the_id_of_its_request_and_an_id_is_optional(omar: Plain) -> None:
    for request_id in IDS:
        await omar.send(id=request_id, action="get_rooms")
        answer = await omar.answer()
        assert (answer["ok"], answer["id"], type(answer["id"])) == (True, request_id, type(request_id))
        await omar.send(id=request_id, action="get_rooms", data={"nonsense": 1})
        answer = await omar.answer()
        assert (answer["ok"], answer["id"]) == (False, request_id)
    for frame in ({}, {"id": None}, {"data": None}, {"data": {}}):
        await omar.send(action="get_rooms", **frame)
        answer = await omar.answer()
        assert set(answer) == {"ok", "data"}, frame


MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "frame"),
    "not JSON": ("hello", "frame"),
    "half an object": ('{"action":"get_rooms"', "frame"),
    "two objects": ('{"action":"get_rooms"}{"action":"get_rooms"}', "frame"),
    "not a number": ('{"action":"get_rooms","data":{"limit":NaN}}', "frame"),
    "deep nesting": ("[" * 100_000, "frame"),
    "deep nesting, closed": ("[" * 100_000 + "]" * 100_000, "frame"),
    "an integer without end": ('{"id":' + "9" * 5000 + ',"action":"get_rooms"}', "frame"),
    "a list": ('["get_rooms",{}]', "frame"),
    "null": ("null", "frame"),
    "a text": ('"get_rooms"', "frame"),
    "a Socket.IO packet": ('42["get_rooms"]', "frame"),
    "binary": (b'{"action":"get_rooms"}', "frame"),
    "binary that is nothing": (b"", "frame"),
    "a misspelt field": ('{"action":"get_rooms","payload":{}}', "frame"),
    "no action": ('{"data":{}}', "action"),
    "an action that is a number": ('{"action":7}', "action"),
    "an action that is null": ('{"action":null}', "action"),
    "data that is a list": ('{"action":"get_rooms","data":[]}', "payload"),
    "data that is a text": ('{"action":"get_rooms","data":"x"}', "payload"),
    "an id that is true": ('{"id":true,"action":"get_rooms"}', "id"),
    "an id that is a list": ('{"id":[1],"action":"get_rooms"}', "id"),
    "an id that is an object": ('{"id":{},"action":"get_rooms"}', "id"),
    "an id that is too long": ('{"id":"' + "x" * (MAX_ID + 1) + '","action":"get_rooms"}', "id"),
    "an id that is half a character": ('{"id":"\\ud800","action":"get_rooms"}', "id"),
    "an id that loses digits": (f'{{"id":{MAX_NUMBER + 1},"action":"get_rooms"}}', "id"),
    "an id beyond all numbers": ('{"id":1e400,"action":"get_rooms"}', "id"),
}


async def test_a_malformed_frame_is_answered_invalid_and_the_connection_stays(omar: Plain) -> None:
    for case, (frame, field) in MALFORMED.items():
        await omar.socket.send(frame)
        answer = await omar.answer()
        assert "id" not in answer, case
        assert answer["error"]["code"] == "invalid", case
        assert field in answer["error"]["details"]["fields"], (case, answer)
        await omar.is_alive()


async def test_a_frame_with_too_many_values_is_refused_in_the_words_of_rest(omar: Plain) -> None:
    for separator, words in ((",", "too many values"), (" ", "not JSON")):
        await omar.socket.send('{"action":"get_rooms","data":{"x":[' + separator.join("1" * MAX_VALUES) + "]}}")
        assert (await omar.answer())["error"]["details"]["fields"] == {"frame": words}
    await omar.is_alive()


async def test_a_malformed_request_is_answered_with_its_id(omar: Plain) -> None:
    for frame in ({"action": 7}, {"action": "get_rooms", "data": []}, {"action": "get_rooms", "more": 1}, {}):
        await omar.send(id=5, **frame)
        answer = await omar.answer()
        assert (answer["id"], answer["error"]["code"]) == (5, "invalid"), frame


async def test_unknown_and_refused_actions_are_answered_with_their_codes(omar: Plain) -> None:
    for name in (
        "nonsense",
        "",
        "connect",
        "ready",
        "closing",
        "login",
        "register",
        "__init__",
        "\ud800",
        "x" * 9999,
    ):
        assert await omar.code(name) == "unknown_action", name
    assert await omar.code("get_rooms", **{"\ud800": 1}) == "invalid"
    assert await omar.code("message", topic_name="x", content="\ud800") == "invalid"
    assert await omar.code("message", topic_name="noticias", content="x" * 20_000) == "too_large"
    assert await omar.code("history", topic_name="nowhere") == "not_found"


def _objects(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.dictionaries(st.sampled_from(["id", "action", "data", "token", "room_id", "x"]) | st.text(), values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | _objects(values),
)
ACTIONS = st.sampled_from(["message", "connect", "typing", "history", "delivered", "read", "authenticate"])
REQUESTS = st.fixed_dictionaries({}, optional={"id": JSON, "action": ACTIONS | JSON, "data": _objects(JSON) | JSON})


def test_every_frame_is_answered_and_the_connection_survives(
    sqlite_url: str, tmp_path: Path, quiet_log: None
) -> None:
    @settings(max_examples=examples(200), deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])) | (REQUESTS | JSON).map(json.dumps))
    def nothing_breaks(frame: str | bytes) -> None:
        async def answered() -> None:
            await omar.socket.send(frame)
            await omar.answer()
            await omar.is_alive()

        runner.run(answered())

    async def begin() -> Plain:
        node = await stack.enter_async_context(running_node(sqlite_url, tmp_path))
        return await stack.enter_async_context(entered(node.url, await node.register("omar")))

    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        omar = runner.run(begin())
        try:
            nothing_breaks()
        finally:
            runner.run(stack.aclose())


async def test_more_requests_than_may_be_in_flight_are_refused_and_answered(omar: Plain) -> None:
    await omar.ask("create", topic_name="noticias")
    number = MAX_IN_FLIGHT + 50
    frame = {"action": "message", "data": {"topic_name": "noticias", "content": "x"}}
    # In one write, so that the server reads them faster than it can commit.
    sending = asyncio.gather(*(omar.socket.send(json.dumps(frame | {"id": n})) for n in range(number)))
    answers = [await omar.answer() for _ in range(number)]
    await sending
    assert [answer["id"] for answer in answers] == list(range(number))
    assert {answer["error"]["code"] for answer in answers if not answer["ok"]} <= {"rate_limited"}
    await omar.is_alive()


# -- closing ----------------------------------------------------------------------------------------------------


async def test_disconnect_is_answered_after_earlier_requests_and_closes_normally(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    async with entered(gateway.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        assert await omar.code("disconnect", now=True) == "invalid"
        await omar.send(id=1, action="message", data={"topic_name": "noticias", "content": "last"})
        await omar.send(id=2, action="disconnect")
        await omar.send(id=3, action="message", data={"topic_name": "noticias", "content": "too late"})
        assert await omar.until_closed() == 1000
        answers = [frame for frame in omar.frames if "event" not in frame][-2:]
        assert [(answer["id"], answer["ok"]) for answer in answers] == [(1, True), (2, True)]
        assert not any(frame.get("event") == "closing" for frame in omar.frames), "the client closes the connection"
    async with entered(gateway.url, token, device="new") as returned:
        page = await returned.ask("history", topic_name="noticias")
        assert [m["content"] for m in page["data"]["messages"]] == ["last"]
        assert len(gateway.node.hub.connections) == 1


async def test_an_oversized_frame_gets_closing_and_closes_only_its_connection(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    async with entered(gateway.url, token) as bystander, plain(gateway.url) as unauthenticated:
        async with entered(gateway.url, token) as omar:
            await omar.socket.send(json.dumps({"action": "x" * MAX_MESSAGE}))
            assert await omar.until_closed() == 1009
            assert omar.frames[-1] == {"event": "closing", "data": {"reason": "protocol_error", "reconnect": False}}
        await unauthenticated.socket.send("x" * (MAX_MESSAGE + 1))
        assert await unauthenticated.until_closed() == 1009
        await bystander.is_alive()


async def test_a_connection_that_is_cut_leaves_no_session(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    async with entered_by_socketio(gateway.url, token) as bystander:
        async with entered(gateway.url, token) as omar:
            omar.socket.transport.abort()
            await asyncio.wait_for(omar.socket.wait_closed(), DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            while gateway.node.websocket.server.sessions:
                await bystander.is_alive()
        assert len(gateway.node.hub.connections) == 1


async def test_a_stopping_server_sends_closing_to_every_connection(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        token = await node.register("omar")
        async with entered(node.url, token) as omar, plain(node.url) as unauthenticated:
            ends = [asyncio.create_task(client.until_closed()) for client in (omar, unauthenticated)]
            await node.stop()
            assert await asyncio.gather(*ends) == [1012, 1012]
            for client in (omar, unauthenticated):
                assert client.frames[-1] == {"event": "closing", "data": {"reason": "shutdown", "reconnect": True}}
        await node.start()
        async with entered(node.url, token) as omar:
            await omar.is_alive()


async def test_pending_requests_are_answered_when_the_server_stops(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        async with entered(node.url, await node.register("omar")) as omar:
            await omar.ask("create", topic_name="noticias")
            for n in range(200):
                await omar.send(id=n, action="message", data={"topic_name": "noticias", "content": str(n)})
            first = await omar.answer()
            stopping = asyncio.create_task(node.stop())
            assert await omar.until_closed() == 1012
            await stopping
            answers = [first, *(frame for frame in omar.frames if "id" in frame)]
            good = [answer["data"]["content"] for answer in answers if answer["ok"] and "content" in answer["data"]]
            assert {answer["error"]["code"] for answer in answers if not answer["ok"]} <= {"unavailable"}
        await node.start()
        async with entered(node.url, await node.login("omar"), device="new") as omar:
            page = await omar.ask("history", topic_name="noticias", limit=200)
            assert [m["content"] for m in page["data"]["messages"]][: len(set(good))] == list(dict.fromkeys(good))


async def test_a_client_that_answers_no_ping_is_closed(quiet_log: None, sqlite_url: str, tmp_path: Path) -> None:
    options = {"websocket": {"ping_interval": 0.1, "ping_timeout": 2}}
    async with running_node(sqlite_url, tmp_path, options=options) as node:
        token = await node.register("omar")
        async with entered(node.url, token) as alive:
            reader, writer = await _silent(node.url, token)
            await asyncio.wait_for(reader.read(), DEADLINE_S)
            assert len(node.node.hub.connections) == 1
            # The library of the other client has answered several PINGs meanwhile.
            await alive.is_alive()
            writer.close()


async def _silent(url: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An authenticated connection that then sends nothing, not even PONG."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /ws?token={token} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await asyncio.wait_for(reader.readuntil(b'"event":"ready"'), DEADLINE_S)
    return reader, writer


async def test_an_unsolicited_pong_moves_no_cursor(quiet_log: None, sqlite_url: str, tmp_path: Path) -> None:
    options = {"websocket": {"ping_interval": 0.2, "ping_timeout": 10}}
    async with running_node(sqlite_url, tmp_path, options=options) as node:
        tokens = [await node.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(node.url, tokens[0], "noticias", tokens[1])
        async with plainly_connected(node.url, tokens[0]) as omar, plain_reader(node.url, tokens[1]) as diego:
            await omar.ask("message", room_id=room_id, content="1")
            while not (frame := await diego.next()).startswith('42["message",'):
                if frame == "2":  # the message precedes the next PING
                    await diego.pong()
            await diego.until_ping()
            await diego.pong(b"12345678")
            await diego.pong(b"")
            assert (await diego.ask("get_rooms"))["ok"]  # the server has read the PONGs
        async with entered(node.url, tokens[1]) as returned:
            assert returned.contents() == ["1"]


# -- paths and origins ------------------------------------------------------------------------------------------


async def test_only_the_documented_path_is_a_websocket(gateway: RunningNode) -> None:
    for path in ("/ws/", "/ws/x", "/wss", "/api/ws"):
        with pytest.raises(InvalidStatus):
            await connect(gateway.url.replace("http", "ws", 1) + path, proxy=None)
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.get("/ws")).status_code == 404


async def test_a_browser_is_accepted_only_from_the_origins_of_the_settings(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    allowed = "https://chat.example"
    async with running_node(sqlite_url, tmp_path, cors_origins=[allowed]) as node:
        token = await node.register("omar")
        for origin in (node.url, allowed):
            async with plain(node.url, headers={"Origin": origin}, token=token) as omar:
                await omar.event("ready")
        for origin in ("https://evil.example", "null", "http://127.0.0.1", f"{allowed}.evil"):
            with pytest.raises(InvalidStatus) as refusal:
                async with plain(node.url, headers={"Origin": origin}, token=token):
                    pass
            assert refusal.value.response.status_code == 403
        assert not [s for s in node.node.websocket.server.sessions if not s.closing]
