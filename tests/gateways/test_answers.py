"""Every action is answered, in the order of requests on each connection, and no connection waits for another."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.raw import Raw, dumps, entered, opened, polling
from tests.support.node import RunningNode, running_node
from tidings.actions.context import Context
from tidings.actions.dispatch import Handler, action
from tidings.contract.actions import NoPayload
from tidings.contract.models import Empty
from tidings.gateways.action_queue import MAX_IN_FLIGHT, MAX_REFUSALS, MAX_WAITING_BYTES


@pytest.fixture
async def omar(gateway: RunningNode) -> AsyncIterator[Raw]:
    async with entered(gateway.url, await gateway.register("omar")) as raw:
        await raw.ask("create", {"topic_name": "noticias"})
        yield raw


def add_action(node: RunningNode, handler: Handler) -> None:
    """Register a further action on a node."""
    node.node.dispatcher.registry.add(handler.__action__)  # type: ignore[attr-defined]


# -- every action is answered -----------------------------------------------------------------------------------


async def test_an_unknown_action_is_answered(omar: Raw) -> None:
    for name in ("nothing", "", "Message", "message ", "__class__", "closing", "ready", "*", "x" * 10_000):
        error = await omar.refusal(name, {"topic_name": "noticias"})
        assert error["code"] == "unknown_action", name
        assert not error["retryable"]
    await omar.is_alive()


async def test_an_unknown_action_suggests_the_closest_name(omar: Raw) -> None:
    closest = {"mesage": "message", "send_message": "message", "Subscribe": "subscribe", "get_room": "get_rooms"}
    for name, meant in closest.items():
        assert f"did you mean `{meant}`?" in (await omar.refusal(name, {}))["message"]
    for name in ("log_in", "nothing", "x" * 10_000):  # `login` is not for live connections
        assert (await omar.refusal(name, {}))["message"] == "no such action"


async def test_actions_of_rest_only_are_unknown_on_a_live_connection(omar: Raw) -> None:
    for name in ("register", "login", "refresh"):
        assert (await omar.refusal(name, {"username": "eve", "password": "correct horse"}))["code"] == (
            "unknown_action"
        )


async def test_an_action_name_that_is_not_a_string_is_answered(omar: Raw) -> None:
    for name in (1, 0, -1.5, None, True, [], {}, ["message"], {"message": 1}):
        assert (await omar.refusal(name, {"topic_name": "noticias"}))["code"] == "unknown_action", name
    await omar.is_alive()


async def test_events_with_socketios_own_names_are_unknown_actions_and_change_nothing(gateway: RunningNode) -> None:
    tokens = {name: await gateway.register(name) for name in ("omar", "diego")}
    async with entered(gateway.url, tokens["omar"]) as omar, entered(gateway.url, tokens["diego"]) as diego:
        await omar.ask("create", {"topic_name": "noticias"})
        await diego.ask("subscribe", {"topic_name": "noticias"})
        for name in ("connect", "disconnect", "connect_error", "disconnecting", "newListener", "removeListener"):
            for args in (
                [],
                [{}],
                [{"token": tokens["diego"]}],
                [{"REMOTE_ADDR": "10.0.0.1", "HTTP_AUTHORIZATION": f"Bearer {tokens['diego']}"}],
            ):
                assert (await omar.refusal(name, *args))["code"] == "unknown_action", (name, args)
            environ, auth = {"REMOTE_ADDR": "10.0.0.1"}, {"token": tokens["diego"]}
            assert (await omar.refusal(name, environ, auth))["code"] == "invalid", name
            await omar.send("42" + dumps([name, environ, auth]))
        # Omar still has his identity and his room.
        sent = await omar.ask("message", {"topic_name": "noticias", "content": "hola"})
        assert sent["data"]["sender"] == "omar"
        assert (await diego.until('42["message",'))[1]["sender"] == "omar"
        members = (await diego.ask("get_members", {"topic_name": "noticias"}))["data"]["members"]
        assert {m["username"]: m["online"] for m in members} == {"omar": True, "diego": True}


async def test_the_name_connect_does_not_open_a_session_that_has_no_connection(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    for name in ("connect", "disconnect"):
        async with opened(gateway.url) as raw:
            await raw.send("42" + dumps([name, {}, {"token": token}]))
            assert await raw.until_closed() == []
    assert not gateway.node.hub.connections


SHAPES: list[tuple[str, Any, str]] = [
    ("create", {}, "topic_name"),
    ("create", {"topic_name": None}, "topic_name"),
    ("create", {"topic_name": 1}, "topic_name"),
    ("create", {"topic_name": ["noticias"]}, "topic_name"),
    ("create", {"topic_name": ""}, "topic_name"),
    ("create", {"topic_name": " \t"}, "topic_name"),
    ("create", {"topic_name": "x" * 65}, "topic_name"),
    ("create", {"topic_name": "a\u202eb"}, "topic_name"),
    ("create", {"topic_name": "a\nb"}, "topic_name"),
    ("create", {"topic_name": "ok", "is_private": "true"}, "is_private"),
    ("create", {"topic_name": "ok", "is_private": 1}, "is_private"),
    ("create", {"topic_name": "ok", "private": True}, "private"),
    ("subscribe", {}, "topic_name"),
    ("suscribe", {"topic_name": {}}, "topic_name"),
    ("unsubscribe", {}, "payload"),
    ("invite", {"topic_name": "noticias"}, "username"),
    ("invite", {"username": "diego"}, "payload"),
    ("invite", {"topic_name": "noticias", "room_id": "x", "username": "diego"}, "payload"),
    ("message", {"topic_name": "noticias"}, "content"),
    ("message", {"topic_name": "noticias", "content": ""}, "content"),
    ("message", {"topic_name": "noticias", "content": None}, "content"),
    ("message", {"topic_name": "noticias", "content": 5}, "content"),
    ("message", {"topic_name": "noticias", "content": ["x"]}, "content"),
    ("message", {"content": "x"}, "payload"),
    ("message", {"topic_name": "noticias", "username": "diego", "content": "x"}, "payload"),
    ("message", {"topic_name": "noticias", "content": "x", "client_id": ""}, "client_id"),
    ("message", {"topic_name": "noticias", "content": "x", "client_id": "x" * 65}, "client_id"),
    ("message", {"topic_name": "noticias", "content": "x", "client_id": 7}, "client_id"),
    ("message", {"topic_name": "noticias", "content": "x", "clientId": "7"}, "clientId"),
    ("message", {"topic_name": "noticias", "content": "x", "reply_to": "nothing"}, "reply_to"),
    ("message", {"username": "omar", "content": "to myself"}, "username"),
    ("history", {"topic_name": "noticias", "limit": 0}, "limit"),
    ("history", {"topic_name": "noticias", "limit": 201}, "limit"),
    ("history", {"topic_name": "noticias", "limit": "5"}, "limit"),
    ("history", {"topic_name": "noticias", "limit": 1.5}, "limit"),
    ("history", {"topic_name": "noticias", "limit": True}, "limit"),
    ("history", {"topic_name": "noticias", "before": -1}, "before"),
    ("history", {"topic_name": "noticias", "after": 2**53}, "after"),
    ("history", {"topic_name": "noticias", "after": 10**30}, "after"),
    ("history", {"topic_name": "noticias", "after": 1, "before": 2}, "payload"),
    ("typing", {"topic_name": "noticias", "typing": "yes"}, "typing"),
    ("delivered", {}, "cursors"),
    ("delivered", {"cursors": [1]}, "cursors"),
    ("delivered", {"cursors": {"room": None}}, "cursors.room"),
    ("delivered", {"cursors": {str(n): 1 for n in range(10_001)}}, "cursors"),
    ("read", {"topic_name": "noticias"}, "seq"),
    ("read", {"topic_name": "noticias", "seq": 99}, "seq"),
    ("get_rooms", {"kind": "cupboard"}, "kind"),
    ("get_rooms", {"limit": 501}, "limit"),
    ("connect_to_room", {}, "topic_name"),
    ("get_members", {"topic_name": "noticias", "after": 1}, "after"),
    ("get_profile", {}, "username"),
    ("authenticate", {}, "token"),
    ("authenticate", {"token": ""}, "token"),
    ("logout", {"everywhere": True}, "everywhere"),
]


async def test_a_wrong_shape_is_invalid_and_names_the_field(omar: Raw) -> None:
    for name, payload, field in SHAPES:
        error = await omar.refusal(name, payload)
        assert error["code"] == "invalid", (name, payload, error)
        fields = error["details"]["fields"]
        assert any(field in named for named in fields), (name, payload, error)
        assert all(isinstance(reason, str) and reason for reason in fields.values()), error
    page = await omar.ask("history", {"topic_name": "noticias"})
    assert page["data"]["messages"] == [], "no refused action took effect"


async def test_a_payload_that_is_not_one_object_is_invalid(omar: Raw) -> None:
    for args in (["x"], [1], [True], [[]], [[{}]], [{}, {}], [None, None], ["a", "b", "c"]):
        error = await omar.refusal("get_rooms", *args)
        assert error["code"] == "invalid", args
        assert "payload" in error["details"]["fields"], args
    for args in ([], [None], [{}]):
        assert (await omar.ask("get_rooms", *args))["ok"], args


async def test_content_over_the_limit_is_too_large_and_the_error_names_the_limit(omar: Raw) -> None:
    error = await omar.refusal("message", {"topic_name": "noticias", "content": "ñ" * 16_385})
    assert (error["code"], error["details"]["limit"]) == ("too_large", 16_384)
    assert (await omar.ask("message", {"topic_name": "noticias", "content": "ñ" * 16_384}))["ok"]


async def test_an_event_without_an_id_takes_effect_and_is_not_answered(omar: Raw) -> None:
    event = dumps(["message", {"topic_name": "noticias", "content": "no id"}])
    await omar.send('42["nothing"]', "42[1]", '42["get_rooms",1]', "42" + event)
    assert (await omar.until('42["message",'))[1]["content"] == "no id"
    await omar.is_alive()
    assert [p for p in omar.packets if isinstance(p, str) and p.startswith("43[")] == []


CALLS: list[str] = []


@action("fail")
async def fail(ctx: Context, req: NoPayload) -> Empty:
    """Fails with an unexpected exception."""
    CALLS.append("fail")
    raise TypeError("the secret is 42")


@action("fail_late")
async def fail_late(ctx: Context, req: NoPayload) -> asyncio.Future[Empty]:
    """Fails after the handler returned its future."""
    CALLS.append("fail_late")
    future: asyncio.Future[Empty] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("the secret is 42"))
    return future


async def test_a_handler_that_fails_is_answered_internal_and_logged_with_the_request_id(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CALLS.clear()
    async with running_node(sqlite_url, tmp_path) as node:
        add_action(node, fail)
        add_action(node, fail_late)
        async with entered(node.url, await node.register("omar")) as raw:
            for name in ("fail", "fail_late"):
                error = await raw.refusal(name, {})
                assert (error["code"], error["retryable"]) == ("internal", False)
                assert set(error["details"]) == {"request_id"}
                (logged,) = [r for r in caplog.records if error["details"]["request_id"] in r.getMessage()]
                assert logged.levelno == logging.ERROR
                assert logged.exc_info is not None
            await raw.is_alive()
            assert not [p for p in raw.packets if "secret" in str(p) or "Traceback" in str(p)]
    assert CALLS == ["fail", "fail_late"], "each handler is called once"


# -- order ------------------------------------------------------------------------------------------------------


async def _flood(raw: Raw, rounds: int) -> list[tuple[int, str]]:
    """Send many actions of all kinds without waiting; returns the id and name of each, in order."""
    room = {"topic_name": "noticias"}
    requests: list[tuple[int, str]] = []
    packets = []
    for number in range(rounds):
        for name, args in (
            ("message", [{**room, "content": str(3 * number)}]),
            ("message", [{**room, "content": str(3 * number + 1), "client_id": f"id {number}"}]),
            ("history", [{**room, "limit": 1}]),
            ("nothing", [{}]),
            ("message", [{**room, "content": str(3 * number + 2)}]),
            ("message", [{**room, "content": ""}]),
            ("get_rooms", [{"member": True}]),
            ("get_rooms", ["not an object"]),
            ("read", [{**room, "seq": 3 * number + 3}]),
            ("typing", [room]),
            ("create", [{"topic_name": f"topic {number}"}]),
            ("message", [{"topic_name": f"topic {number}", "content": "first"}]),
        ):
            requests.append((1000 + len(requests), name))
            packets.append(f"42{requests[-1][0]}{dumps([name, *args])}")
    await raw.send(*packets)
    return requests


def _check_flood(packets: list[Any], requests: list[tuple[int, str]]) -> None:
    answers = [p for p in packets if isinstance(p, str) and p.startswith("431")]
    assert [int(p[2:6]) for p in answers] == [number for number, _ in requests], (
        "answered in the order of the requests"
    )
    appended, sent = 0, 0
    for packet, (_, name) in zip(answers, requests, strict=True):
        (answer,) = json.loads(packet[6:])
        if name == "message" and answer["ok"] and answer["data"]["topic_name"] == "noticias":
            appended += 1
            assert answer["data"]["seq"] == appended, "takes effect in the order of the requests"
            assert answer["data"]["content"] == str(sent)
            sent += 1
        elif name == "history":
            assert [m["seq"] for m in answer["data"]["messages"]] == [appended], "sees the connection's own appends"
        elif name == "get_rooms" and answer["ok"]:
            (room,) = [r for r in answer["data"]["rooms"] if r["topic_name"] == "noticias"]
            assert room["last_seq"] == appended
        elif name in ("read", "typing", "create"):
            assert answer["ok"], answer
        else:
            assert answer["ok"] == (name == "message" and answer.get("data", {}).get("content") == "first"), answer


async def test_the_actions_of_one_connection_take_effect_and_are_answered_in_order(server: RunningNode) -> None:
    async with entered(server.url, await server.register("omar")) as omar:
        await omar.ask("create", {"topic_name": "noticias"})
        requests = await _flood(omar, 20)
        await omar.until(f"43{requests[-1][0]}")
        _check_flood(omar.packets[[p.startswith("431[") for p in map(str, omar.packets)].index(True) + 1 :], requests)
        events = [json.loads(p[2:])[1] for p in omar.packets if str(p).startswith('42["message",')]
        news = [e for e in events if e["topic_name"] == "noticias"]
        assert [e["content"] for e in news] == [str(n) for n in range(60)]
        assert [e["seq"] for e in news] == list(range(1, 61))


async def test_a_polling_post_of_many_packets_loses_none_and_keeps_their_order(gateway: RunningNode) -> None:
    async with polling(gateway.url, await gateway.register("omar")) as session:
        create = f"421{dumps(['create', {'topic_name': 'noticias'}])}"
        sends = [
            f"42{100 + n}{dumps(['message', {'topic_name': 'noticias', 'content': str(n)}])}" for n in range(200)
        ]
        assert (await session.post(create, *sends)).text == "ok"
        answers: list[Any] = []
        while len(answers) < 200:
            packets = await session.poll()
            answers += [
                json.loads(p[5:])[0]["data"]["content"]
                for p in packets
                if p.startswith(("431", "432")) and not p.startswith("431[")
            ]
            if "2" in packets:
                await session.post("3")
        assert answers == [str(n) for n in range(200)]


# -- no connection waits for a slow one -------------------------------------------------------------------------

GATES: dict[int, asyncio.Event] = {}


@action("wait")
async def wait(ctx: Context, req: NoPayload) -> Empty:
    """Returns when the test sets its gate."""
    await GATES[id(ctx.hub)].wait()
    return Empty()


@asynccontextmanager
async def node_with_slow_action(
    url: str, path: Path, **engine: Any
) -> AsyncIterator[tuple[RunningNode, asyncio.Event]]:
    """A node whose action `wait` returns when the event is set."""
    async with running_node(url, path, options={"engine": engine}) as node:
        add_action(node, wait)
        gate = GATES[id(node.node.hub)] = asyncio.Event()
        try:
            yield node, gate
        finally:
            gate.set()
            del GATES[id(node.node.hub)]


async def test_a_slow_action_delays_no_heartbeat_no_event_and_no_other_connection(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with node_with_slow_action(sqlite_url, tmp_path, ping_interval=0.1, ping_timeout=5) as (node, gate):
        token = await node.register("omar")
        async with entered(node.url, token) as slow, entered(node.url, await node.register("diego")) as quick:
            await slow.ask("create", {"topic_name": "noticias"})
            await quick.ask("subscribe", {"topic_name": "noticias"})
            await slow.send('4290["wait"]', '4291["get_rooms"]')
            for _ in range(10):  # each follows the PONG of the previous one
                await asyncio.gather(slow.ping(), quick.ping())
            await quick.ask("message", {"topic_name": "noticias", "content": "meanwhile"})
            assert (await slow.until('42["message",'))[1]["content"] == "meanwhile"
            assert not [p for p in slow.packets if str(p).startswith("439")]
            gate.set()
            assert (await slow.until("4390"))[0]["ok"]
            assert (await slow.until("4391"))[0]["ok"]


async def test_more_actions_in_flight_than_allowed_are_refused_and_answered_in_order(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        node_with_slow_action(sqlite_url, tmp_path) as (node, gate),
        entered(node.url, await node.register("omar")) as raw,
    ):
        total = MAX_IN_FLIGHT + 100
        await raw.send(
            "420" + dumps(["wait"]), *(f'42{n}["get_profile",{{"username":"omar"}}]' for n in range(1, total))
        )
        async with entered(node.url, await node.login("omar")) as other:
            await other.is_alive()
        gate.set()
        answers = []
        while len(answers) < total:
            packet = str(await raw.receive())
            if packet.startswith("43"):
                answers.append(packet)
        assert [int(p[2 : p.index("[")]) for p in answers] == list(range(total))
        refused = [json.loads(p[p.index("[") :])[0]["error"] for p in answers if '"ok":false' in p]
        assert {(e["code"], e["retryable"], e["details"]["retry_after"]) for e in refused} == {
            ("rate_limited", True, 1)
        }
        assert 1 <= len(refused) <= 100
        await raw.is_alive()


async def test_more_bytes_waiting_than_allowed_are_refused_and_the_rest_is_answered(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        node_with_slow_action(sqlite_url, tmp_path) as (node, gate),
        entered(node.url, await node.register("omar")) as raw,
    ):
        big, fitting = "x" * 500_000, MAX_WAITING_BYTES // 500_100
        total = fitting + 4
        await raw.send("420" + dumps(["wait"]))
        for n in range(1, total + 1):
            await raw.send(f"42{n}" + dumps(["get_profile", {"username": big}]))
        await (await raw.socket.ping())  # the server has read everything
        gate.set()
        answers: dict[int, str] = {}
        while len(answers) <= total:
            packet = str(await raw.receive())
            if packet.startswith("43"):
                answer = json.loads(packet[packet.index("[") :])[0]
                answers[int(packet[2 : packet.index("[")])] = "ok" if answer["ok"] else answer["error"]["code"]
        assert [answers[n] for n in range(1, fitting + 1)] == [
            "invalid"
        ] * fitting  # handled, and the name is too long
        assert [answers[n] for n in range(fitting + 1, total + 1)] == ["rate_limited"] * 4
        await raw.is_alive()


async def test_a_client_that_ignores_every_refusal_is_closed(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        node_with_slow_action(sqlite_url, tmp_path) as (node, gate),
        entered(node.url, await node.register("omar")) as raw,
    ):
        await raw.send("420" + dumps(["wait"]))
        await raw.send(*(f'42{n}["nothing"]' for n in range(1, MAX_REFUSALS + 1)))
        assert await raw.until('42["closing"') == ["closing", {"reason": "protocol_error", "reconnect": False}]
        gate.set()
