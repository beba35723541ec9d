"""The messenger: bad input is refused in its envelope, and nothing fails."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dialects.messenger_client import Person, envelope, people
from tests.support.depth import examples
from tests.support.node import PASSWORD, RunningNode

# -- what is wrong ---------------------------------------------------------------------------------------------------


async def test_errors_name_the_fields_of_the_document(gateway: RunningNode) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.talk_to(york)
    for route, fields, names in (
        ("POST /user", {}, ("Username", "Password")),
        ("POST /user", {"Username": 1, "Password": PASSWORD}, ("Username",)),
        ("POST /user/login", {"Username": "brian"}, ("Password",)),
        ("POST /conversation", {}, ("Recipient",)),
        ("POST /conversation", {"Recipient": 1}, ("Recipient",)),
        ("POST /conversation", {"Recipient": "york", "Recipients": ["york"]}, ("Recipient",)),
        ("POST /conversation", {"Recipients": "york"}, ("Recipients",)),
        ("POST /conversation", {"Recipients": []}, ("Recipients",)),
        ("POST /message", {"Message": "x"}, ("ConversationId", "Recipient")),
        ("POST /message", {"ConversationId": 1, "Message": "x"}, ("ConversationId",)),
        ("POST /message", {"ConversationId": conversation}, ("Message",)),
        ("POST /message", {"ConversationId": conversation, "Message": ""}, ("Message",)),
        ("PUT /message", {"Message": "x"}, ("MessageId",)),
        ("PUT /message", {"MessageId": "x", "message_id": "y", "Message": "x"}, ("twice",)),
    ):
        await brian.ask(route, 422, **fields)
        assert all(name in brian.answer.json()["Message"] for name in names), (fields, brian.answer.text)
    await brian.ask("POST /message", 413, ConversationId=conversation, Message="x" * 16_385)
    assert brian.answer.json()["Message"].startswith("Message has")
    await brian.ask("POST /message", 413, ConversationId=conversation, Message="x" * 300_000)
    assert await york.ask(f"GET /message/{conversation}") == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"1", b"\xff", b'{"Username": "\\ud800"}', b"[" * 16_000])
async def test_a_body_that_is_not_a_json_object_is_refused_in_the_envelope(gateway: RunningNode, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {await gateway.register('omar')}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as http:
        for route in ("POST /user", "POST /user/login", "POST /conversation", "POST /message", "PUT /message"):
            method, path = route.split(" ")
            envelope(await http.request(method, path, content=body), 422)


@pytest.mark.parametrize(
    ("route", "status", "allow"),
    [
        ("GET /user", 405, "POST"),
        ("DELETE /user/brian", 405, "GET"),
        ("PUT /user/login", 405, "GET, POST"),
        ("PATCH /conversation", 405, "GET, POST"),
        ("GET /message", 405, "POST, PUT"),
        ("POST /message/abc", 405, "DELETE, GET"),
        ("GET /messageabc", 405, "DELETE"),
        ("GET /websocket", 404, None),
        ("GET /user/", 404, None),
        ("POST /user/a/b", 404, None),
        ("GET /conversation/abc", 404, None),
        ("GET /message/a/b", 404, None),
    ],
)
async def test_an_unknown_endpoint_is_refused_in_the_envelope(
    gateway: RunningNode, route: str, status: int, allow: str | None
) -> None:
    anyone = Person(gateway.url, "anyone")
    await anyone.ask(route, status)
    assert anyone.answer.headers.get("Allow") == allow


_FIELDS = ["Username", "Password", "Recipient", "Recipients", "ConversationId", "Message", "MessageId", "ClientId"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_LIGHT = settings(
    max_examples=examples(60),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


async def test_no_body_causes_a_server_error(gateway: RunningNode) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    known = st.sampled_from([await brian.talk_to(york), "york", "brian", PASSWORD])
    bodies = st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=8), known | _JSON, max_size=5)
    routes = st.sampled_from(
        ["POST /user", "POST /user/login", "POST /conversation", "POST /message", "PUT /message"]
    )
    examples: list[tuple[str, dict[str, Any]]] = []

    @_LIGHT
    @given(routes, bodies)
    def collect(route: str, body: dict[str, Any]) -> None:
        examples.append((route, body))

    collect()
    headers = {"Authorization": f"Bearer {brian.token}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30) as http:
        for route, body in examples:
            method, path = route.split(" ")
            answer = await http.request(method, path, json=body)
            assert answer.status_code < 500, (route, body)
            envelope(answer, answer.status_code)
        for path in ("%00", "%ff", "%F0%9F%98%80", "x" * 300, "%2e%2e", "a%0Ab"):
            for route in ("GET /user/", "DELETE /message", "DELETE /message/", "GET /message/"):
                method, prefix = route.split(" ")
                answer = await http.request(method, prefix + path)
                assert answer.status_code in (404, 405, 422), (route, path, answer.text)
                envelope(answer, answer.status_code)


FRAMES: dict[str, str | bytes] = {
    "nothing": "",
    "not JSON": "{",
    "binary that is no text": b"\xff\xfe",
    "deep nesting": "[" * 100_000,
    "deep objects": '{"a":' * 50_000,
    "a list": "[]",
    "a text": '"Typing"',
    "a number": "9" * 5000,
    "no message": "{}",
    "another message": '{"Message": "Hello"}',
    "an invalid message": '{"Message": {"Typing": 1}}',
    "typing in nothing": '{"User": "brian", "Message": "Typing"}',
    "typing in null": '{"User": "brian", "Message": "Typing", "ConvId": null}',
    "typing in a number": '{"User": "brian", "Message": "Typing", "ConvId": 1}',
    "typing in no conversation": '{"User": "brian", "Message": "Typing", "ConvId": "nosuch"}',
    "typing of nobody": '{"Message": "Typing", "ConvId": "nosuch"}',
    "typing of a number": '{"User": 1, "Message": "Typing", "ConvId": "nosuch"}',
    "typing of half a character": '{"User": "\\ud800", "Message": "Typing", "ConvId": "nosuch"}',
    "typing in half a character": '{"User": "brian", "Message": "Typing", "ConvId": "\\ud800"}',
    "typing in U+0000": '{"User": "brian", "Message": "Typing", "ConvId": "\\u0000"}',
    "half a character twice": '{"\\ud800": 1, "_\\ud800": 2}',
    "a field twice": '{"User": "brian", "user": "brian", "Message": "Typing"}',
    "a message without data": '{"Message": "New Message"}',
    "a message without a text": '{"Message": "New Message", "Data": {"Recipient": "york"}}',
    "a message to nobody": '{"Message": "New Message", "Data": {"Recipient": "nobody", "Message": "x"}}',
    "half a character in a message": '{"Message":"New Message","Data":{"Recipient":"york","Message":"\\ud800"}}',
    "not a number": '{"Message": NaN}',
    "the token again": "eyJhbGciOiJIUzI1NiJ9.e30.x",
}


async def test_a_malformed_frame_is_answered_and_the_connection_stays(gateway: RunningNode) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with brian.listening() as ws, york.listening() as yorks:
        for fault, frame in FRAMES.items():
            await ws.send(frame)
            assert await ws.refusal(), fault
        await ws.say({"User": "brian", "Message": "Typing", "ConvId": conversation})
        assert (await yorks.next())["Message"] == "Typing"


async def test_no_frame_ends_the_connection(gateway: RunningNode) -> None:
    (brian, york) = await people(gateway.url, "brian", "york")
    known = st.sampled_from(["Typing", "New Message", "brian", await brian.talk_to(york)])
    fields = st.dictionaries(st.sampled_from(["User", "Message", "ConvId", "Data", "Recipient"]), known | _JSON)
    frames: list[str] = []

    @_LIGHT
    @given(st.one_of(fields, _JSON))
    def collect(frame: object) -> None:
        frames.append(json.dumps(frame))

    collect()
    async with brian.listening() as ws:
        for frame in frames:
            await ws.send(frame)
        await ws.say({"Message": "New Message", "Data": {"Recipient": "york", "Message": "the last"}})
        while (answer := await ws.next())["Message"] != "New Message" or answer["Data"]["Message"] != "the last":
            assert "fault of the server" not in answer["Message"]
