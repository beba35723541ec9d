"""The messenger protocol: the examples and promises of its document, and the guarantees of Tidings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conformance.wire import eventually
from tests.support.client import DEADLINE_S, connected
from tests.support.depth import examples
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tests.support.timers import Timers
from tidings.auth.tokens import UNTIL_LOGOUT
from tidings.fanout.catchup import CatchUp
from tidings.fanout.typing import REPEAT_S
from tidings.gateways.dialects import messenger_rest
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S


class Person:
    """A client as the document describes it."""

    def __init__(self, url: str, username: str, token: str = "") -> None:
        self.url = url
        self.username = username
        self.token = token
        self.answer: httpx.Response

    async def ask(self, route: str, status: int = 200, /, **fields: Any) -> Any:
        """Request an endpoint; returns its `Data`."""
        method, path = route.split(" ", 1)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_S, verify=NO_TLS) as http:
            self.answer = await http.request(method, path, json=fields or None, headers=headers)
        return envelope(self.answer, status)["Data"]

    async def create(self) -> Person:
        self.token = await self.ask("POST /user", 201, Username=self.username, Password=PASSWORD)
        return self

    async def talk_to(self, other: Person | str) -> str:
        name = other if isinstance(other, str) else other.username
        conversation: str = await self.ask("POST /conversation", 201, Recipient=name)
        return conversation

    async def say(self, conversation: str, text: str) -> str:
        message: str = await self.ask("POST /message", 201, ConversationId=conversation, Message=text)
        return message

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Socket]:
        """A WebSocket that has authenticated."""
        async with opened(self.url) as ws:
            await ws.send(self.token)
            assert await ws.next() == {"Message": "Websocket Authenticated"}
            yield ws


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, frame: str | bytes) -> None:
        await self.connection.send(frame)

    async def say(self, frame: object) -> None:
        await self.send(json.dumps(frame))

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return json.loads(await self.connection.recv())

    async def event(self, name: str) -> dict[str, Any]:
        """The `Data` of the next frame, an event of that name."""
        frame = await self.next()
        assert frame.keys() == {"Message", "Data"}
        assert frame["Message"] == name, frame
        data: dict[str, Any] = frame["Data"]
        return data

    async def refusal(self) -> str:
        """The message of the next frame, an error."""
        frame = await self.next()
        assert frame.keys() == {"Message", "Data"}
        assert frame["Data"] is None
        message: str = frame["Message"]
        assert message
        assert "fault of the server" not in message
        return message

    async def closed(self) -> int | None:
        """Wait for the close, without a frame before it; returns its code."""
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ConnectionClosed):
                raise AssertionError(await self.connection.recv())
        return self.connection.close_code


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Socket]:
    address = url.replace("http", "ws", 1) + "/websocket"
    async with connect(address, compression=None, ping_interval=None, proxy=None, **options) as connection:
        ws = Socket(connection)
        assert await ws.next() == {"Message": "Websocket Open"}
        yield ws


def envelope(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"Message", "Data"}
    assert isinstance(body["Message"], str)
    assert body["Message"]
    if status >= 400:
        assert body["Data"] is None
    return body


async def people(url: str, *usernames: str) -> list[Person]:
    return [await Person(url, username).create() for username in usernames]


# -- the document ----------------------------------------------------------------------------------------------------


async def test_every_endpoint_as_it_is_documented(server: RunningNode) -> None:
    brian = Person(server.url, "brian")
    token = brian.token = await brian.ask("POST /user", 201, Username="brian", Password=PASSWORD)
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == "brian"
    york = Person(server.url, "york")
    york.token = await york.ask("POST /user", 201, Username="york", Password=PASSWORD)

    profile = await brian.ask("GET /user/york")
    assert profile.keys() == {"Username", "LoggedOn", "LastOnline", "Created"}
    assert (profile["Username"], profile["LoggedOn"]) == ("york", True)
    assert profile["LastOnline"] == profile["Created"]

    conversation = await brian.ask("POST /conversation", 201, Recipient="york")
    (listed,) = await york.ask("GET /conversation")
    assert listed["ConversationId"] == conversation
    assert listed["Members"] == ["brian", "york"]

    message = await brian.ask("POST /message", 201, ConversationId=conversation, Message="Hello")
    assert isinstance(message, str)
    await brian.ask("PUT /message", MessageId=message, Message="Hello, York")
    (stored,) = await york.ask(f"GET /message/{conversation}")
    assert (stored["MessageId"], stored["Sender"], stored["Message"]) == (message, "brian", "Hello, York")
    assert await brian.ask(f"DELETE /message{message}") is None
    (stored,) = await york.ask(f"GET /message/{conversation}")
    assert (stored["Message"], stored["Deleted"]) == ("", True)

    assert await brian.ask("POST /user/logout") is None
    assert (await york.ask("GET /user/brian"))["LoggedOn"] is False
    await brian.ask("GET /conversation", 401)
    brian.token = ""
    brian.token = await brian.ask("POST /user/login", Username="brian", Password=PASSWORD)
    assert (await york.ask("GET /user/brian"))["LoggedOn"] is True
    await brian.ask("GET /conversation")


async def test_the_websocket_as_it_is_documented(server: RunningNode) -> None:
    user1, user2 = await people(server.url, "user1", "user2")
    conversation = await user1.talk_to(user2)
    async with opened(server.url) as first, opened(server.url) as second:
        await first.send(user1.token)
        assert await first.next() == {"Message": "Websocket Authenticated"}
        await second.say(user2.token)  # as a JSON string
        assert await second.next() == {"Message": "Websocket Authenticated"}
        typing = {"User": "user2", "Message": "Typing", "ConvId": conversation}
        await second.say(typing)
        assert await first.next() == typing
        await first.say(typing | {"User": "user1"})
        assert await second.next() == typing | {"User": "user1"}  # not its own typing


@pytest.mark.parametrize(
    "token", ["", "no token", '"', '"no token"', "{}", "[1]", "null", b"\xff", "x" * 5000, "a.b.c", '{"User": "x"}']
)
async def test_a_websocket_with_an_invalid_token_is_closed_immediately(
    gateway: RunningNode, token: str | bytes
) -> None:
    async with opened(gateway.url) as ws:
        await ws.send(token)
        assert await ws.closed() == 4401


async def test_a_websocket_without_a_token_is_closed_after_the_timeout(sqlite_url: str, tmp_path: Path) -> None:
    timers = Timers()
    async with running_node(sqlite_url, tmp_path, options={"timers": timers}) as node, opened(node.url) as ws:
        await eventually(lambda: any(gateway.server.sessions for gateway in node.node.dialects.gateways))
        timers.advance(CONNECT_TIMEOUT_S)
        assert await ws.closed() == 4401


@pytest.mark.parametrize(
    "route",
    [
        "GET /user/brian",
        "POST /user/logout",
        "POST /conversation",
        "GET /conversation",
        "POST /message",
        "PUT /message",
        "DELETE /messageabc",
        "DELETE /message/abc",
        "GET /message/abc",
    ],
)
async def test_every_other_endpoint_requires_a_token_in_the_header(gateway: RunningNode, route: str) -> None:
    nobody = Person(gateway.url, "nobody")
    for token in ("", "not a token"):
        nobody.token = token
        await nobody.ask(route, 401, Username="x")
        assert nobody.answer.headers["WWW-Authenticate"] == "Bearer"


# -- users -----------------------------------------------------------------------------------------------------------


async def test_a_token_is_valid_until_the_user_logs_out(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    phone = Person(server.url, "brian")
    phone.token = await phone.ask("POST /user/login", Username="brian", Password=PASSWORD)
    assert brian.token != phone.token
    for token in (brian.token, phone.token):
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["exp"] == UNTIL_LOGOUT // 1000
    # A session of another kind of client is not affected.
    elsewhere = await server.login("brian")
    async with brian.listening() as ws, connected(server.url, elsewhere) as client:
        await phone.ask("POST /user/logout")
        assert await ws.closed() == 4401
        for person in (brian, phone):
            await person.ask("GET /conversation", 401)
        assert (await york.ask("GET /user/brian"))["LoggedOn"] is True
        async with httpx.AsyncClient(
            base_url=server.url, headers={"Authorization": f"Bearer {elsewhere}"}, timeout=30
        ) as http:
            assert (await http.post("/api/logout")).status_code == 204
        await client.closed.wait()
    async with asyncio.timeout(DEADLINE_S):
        while (profile := await york.ask("GET /user/brian"))["LastOnline"] == profile["Created"]:
            pass  # each query is a round trip; `last_seen` is written after the connection has closed
    assert profile["LoggedOn"] is False
    assert profile["LastOnline"] > profile["Created"]


async def test_a_user_who_blocked_the_caller_appears_logged_out(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    async with connected(server.url, york.token) as client:
        await client.ask("block", username="brian")
    profile = await brian.ask("GET /user/york")
    assert (profile["LoggedOn"], profile["LastOnline"]) == (False, profile["Created"])
    assert (await york.ask("GET /user/york"))["LoggedOn"] is True


async def test_last_online_is_now_while_a_websocket_is_open(gateway: RunningNode) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    async with york.listening():
        profile = await brian.ask("GET /user/york")
        assert profile["LastOnline"] > profile["Created"]


async def test_the_messenger_has_the_same_accounts_as_other_protocols(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    omar = Person(gateway.url, "omar")
    await omar.ask("POST /user", 409, Username="OMAR", Password=PASSWORD)
    await omar.ask("POST /user/login", 401, Username="omar", Password="another one")
    await omar.ask("POST /user/login", 401, Username="nobody", Password=PASSWORD)
    await omar.ask("POST /user/login", Username="omar", Password=PASSWORD)
    omar.token = token
    await omar.ask("GET /conversation")
    brian = await Person(gateway.url, "brian").create()
    await gateway.login("brian")
    async with connected(gateway.url, brian.token) as client:
        assert (await client.ask("get_profile", username="brian"))["online"]


async def test_passwords_and_login_attempts_have_the_usual_limits(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, rate_limits="on", rates="logins=2/minute") as node:
        brian = Person(node.url, "brian")
        await brian.ask("POST /user", 422, Username="brian", Password="short")
        await brian.ask("POST /user", 422, Username="brian", Password="x" * 73)
        await brian.create()
        brian.token = ""
        for status in (401, 401, 429):
            await brian.ask("POST /user/login", status, Username="brian", Password="a wrong one")
        assert int(brian.answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("write", [str.lower, str.upper, lambda name: name[0].lower() + name[1:]])
async def test_fields_may_be_written_in_another_case(gateway: RunningNode, write: Any) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.ask("POST /conversation", 201, **{write("Recipient"): "york"})
    fields = {write("ConversationId"): conversation, write("Message"): "Hello"}
    message = await brian.ask("POST /message", 201, **fields)
    await brian.ask("PUT /message", **{write("MessageId"): message, write("Message"): "Hi"})
    york.token = await york.ask("POST /user/login", **{write("Username"): "york", write("Password"): PASSWORD})


async def test_fields_may_be_written_in_snake_case(gateway: RunningNode) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    await york.ask("POST /user/login", username="york", password=PASSWORD)
    conversation = await brian.ask("POST /conversation", 201, recipient="york")
    message = await brian.ask("POST /message", 201, conversation_id=conversation, message="Hello")
    await brian.ask("PUT /message", message_id=message, message="Hi")


# -- conversations and messages --------------------------------------------------------------------------------------


async def test_two_users_have_one_conversation(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    assert await brian.talk_to(york) == await york.talk_to(brian) == conversation
    assert len(await york.ask("GET /conversation")) == 1


async def test_the_first_message_creates_the_conversation(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    message = await brian.ask("POST /message", 201, Recipient="york", Message="Hello")
    (conversation,) = await york.ask("GET /conversation")
    assert conversation["LastMessage"]["MessageId"] == message
    assert conversation["Unread"] == 1
    assert await brian.talk_to(york) == conversation["ConversationId"]


async def test_a_conversation_can_have_more_than_two_members(server: RunningNode) -> None:
    brian, york, omar = await people(server.url, "brian", "york", "omar")
    conversation = await brian.ask("POST /conversation", 201, Recipients=["york", "omar"])
    assert await brian.ask("POST /conversation", 201, Recipients=["york"]) == await york.talk_to(brian)
    async with york.listening() as yorks, omar.listening() as omars:
        message = await brian.say(conversation, "Hello, both")
        for ws in (yorks, omars):
            assert (await ws.event("New Message"))["MessageId"] == message
        await yorks.say({"User": "york", "Message": "Typing", "ConvId": conversation})
        assert (await omars.next())["User"] == "york"
    conversations = {c["ConversationId"]: c for c in await omar.ask("GET /conversation")}
    assert conversations[conversation]["Members"] == ["brian", "omar", "york"]


async def test_a_topic_of_the_user_is_a_conversation_with_a_name(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    async with connected(server.url, york.token) as client, brian.listening() as ws:
        room_id = (await client.ask("create", topic_name="noticias"))["room_id"]
        await brian.ask("POST /message", 403, ConversationId=room_id, Message="not a member yet")
        async with connected(server.url, brian.token) as member:
            await member.ask("subscribe", topic_name="noticias")
        (topic,) = await brian.ask("GET /conversation")
        assert (topic["ConversationId"], topic["Name"], topic["Members"]) == (room_id, "noticias", ["brian", "york"])
        message = await brian.say(room_id, "Hello")
        assert (await client.event("message"))["id"] == message
        assert (await ws.event("New Message"))["MessageId"] == message


async def test_conversations_are_listed_completely_and_in_pages(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (brian, *others) = await people(gateway.url, "brian", "a", "b", "c", "d", "e")
    conversations = [await brian.talk_to(other) for other in others]
    assert [c["ConversationId"] for c in await brian.ask("GET /conversation")] == conversations
    assert "Link" not in brian.answer.headers
    paged, link = [], "/conversation?limit=2"
    while link:
        paged += await brian.ask(f"GET {link}")
        link = brian.answer.links.get("next", {}).get("url", "")
    assert [c["ConversationId"] for c in paged] == conversations
    monkeypatch.setattr(messenger_rest, "_ROOMS_PER_PAGE", 2)
    monkeypatch.setattr(messenger_rest, "MAX_CONVERSATIONS", 3)
    assert [c["ConversationId"] for c in await brian.ask("GET /conversation")] == conversations[:4]
    rest = await brian.ask(f"GET {brian.answer.links['next']['url']}")
    assert [c["ConversationId"] for c in rest] == conversations[4:]


async def test_a_user_in_many_rooms_can_list_all_of_them(sqlite_url: str, tmp_path: Path) -> None:
    """For the rate limit, the members of ten rooms count as one read."""
    limited = {"rate_limits": "on", "rates": "reads=6/hour"}
    async with running_node(sqlite_url, tmp_path, **limited) as node:
        brian, *_ = await people(node.url, "brian", "york")
        async with connected(node.url, brian.token) as client:
            for number in range(25):
                await client.ask("create_conversation", usernames=["york"], title=f"{number}")
        conversations = await brian.ask("GET /conversation")
        assert [c["Members"] for c in conversations] == [["brian", "york"]] * 25
        await brian.ask("GET /conversation", 429)


async def test_messages_are_listed_completely_and_in_pages(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.talk_to(york)
    texts = [f"{n}" for n in range(410)]
    async with connected(gateway.url, brian.token) as client:
        sent = [client.send("message", {"room_id": conversation, "content": text}) for text in texts]
        await asyncio.gather(*sent)
    assert [m["Message"] for m in await york.ask(f"GET /message/{conversation}")] == texts
    assert "Link" not in york.answer.headers
    paged: list[str] = []
    link = f"/message/{conversation}?limit=150"
    while link:
        paged = [m["Message"] for m in await york.ask(f"GET {link}")] + paged
        link = york.answer.links.get("next", {}).get("url", "")
    assert paged == texts
    assert [m["Message"] for m in await york.ask(f"GET /message/{conversation}?before=3")] == texts[:2]
    monkeypatch.setattr(messenger_rest, "MAX_MESSAGES", 201)
    assert [m["Message"] for m in await york.ask(f"GET /message/{conversation}")] == texts[10:]
    older = await york.ask(f"GET {york.answer.links['next']['url']}")
    assert [m["Message"] for m in older] == texts[:10]
    for query in ("limit=0", "limit=x", "before=-1", "limit=201", "before="):
        await york.ask(f"GET /message/{conversation}?{query}", 422)


async def test_a_message_repeated_with_its_key_is_sent_once(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    once = {"ConversationId": conversation, "Message": "Hello", "ClientId": "1"}
    assert len({await brian.ask("POST /message", 201, **once) for _ in range(3)}) == 1
    headers = {"Authorization": f"Bearer {brian.token}", "Idempotency-Key": "2"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http:
        body = {"ConversationId": conversation, "Message": "Hello"}
        answers = [envelope(await http.post("/message", json=body), 201)["Data"] for _ in range(3)]
        assert len(set(answers)) == 1
    assert len(await york.ask(f"GET /message/{conversation}")) == 2


async def test_strangers_see_nothing_and_members_change_only_their_own_messages(server: RunningNode) -> None:
    brian, york, eve = await people(server.url, "brian", "york", "eve")
    conversation = await brian.talk_to(york)
    message = await brian.say(conversation, "Hello")
    for known, unknown in (
        ((f"GET /message/{conversation}", {}), ("GET /message/nosuch", {})),
        (
            ("POST /message", {"ConversationId": conversation, "Message": "x"}),
            ("POST /message", {"ConversationId": "nosuch", "Message": "x"}),
        ),
        (
            ("PUT /message", {"MessageId": message, "Message": "x"}),
            ("PUT /message", {"MessageId": "nosuch", "Message": "x"}),
        ),
        ((f"DELETE /message{message}", {}), ("DELETE /messagenosuch", {})),
        ((f"DELETE /message/{message}", {}), ("DELETE /message/nosuch", {})),
    ):
        answers = []
        for route, fields in (known, unknown):
            await eve.ask(route, 404, **fields)
            answers.append(eve.answer.json())
        assert answers[0] == answers[1]  # they do not reveal that it exists
    assert await eve.ask("GET /conversation") == []
    await york.ask("PUT /message", 403, MessageId=message, Message="Mine")
    await york.ask(f"DELETE /message{message}", 403)
    assert [m["Message"] for m in await york.ask(f"GET /message/{conversation}")] == ["Hello"]
    await brian.ask("POST /conversation", 422, Recipient="brian")
    await brian.ask("POST /conversation", 404, Recipient="nobody")
    await brian.ask("POST /message", 404, Recipient="nobody", Message="x")
    await brian.ask("GET /user/nobody", 404)


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


# -- the WebSocket ---------------------------------------------------------------------------------------------------


async def test_typing_is_sent_only_to_the_other_members(server: RunningNode) -> None:
    brian, york, eve = await people(server.url, "brian", "york", "eve")
    conversation = await brian.talk_to(york)
    async with AsyncExitStack() as stack:
        laptop, phone, yorks, eves = [
            await stack.enter_async_context(person.listening()) for person in (brian, brian, york, eve)
        ]
        typing = {"User": "eve", "Message": "Typing", "ConvId": conversation}
        await eves.say(typing)
        assert await eves.refusal() == "no such room"
        await eves.say(typing | {"User": "brian"})
        assert await eves.refusal() == "User is not the authenticated user"
        await laptop.say(typing | {"User": "BRIAN"})
        assert await yorks.next() == typing | {"User": "brian"}
        message = await york.say(conversation, "What is it?")
        for ws in (laptop, phone, yorks):
            assert (await ws.event("New Message"))["MessageId"] == message
        message = await brian.ask("POST /message", 201, Recipient="eve", Message="Hello")
        assert (await eves.event("New Message"))["MessageId"] == message  # the first event that she gets


async def test_continued_typing_is_sent_every_second(server: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers()
    monkeypatch.setattr(server.node.hub.typists, "_timers", timers)
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with brian.listening() as brians, york.listening() as yorks:
        typing = {"User": "brian", "Message": "Typing", "ConvId": conversation}
        for _ in range(3):
            await brians.say(typing)
            assert await yorks.next() == typing
            timers.advance(REPEAT_S * 0.875)
            await brians.say(typing)
            await brians.say(typing | {"User": "york"})
            assert await brians.refusal() == "User is not the authenticated user"  # the frame before it was read
            timers.advance(REPEAT_S * 0.125)
        message = await brian.say(conversation, "Hello")
        assert (await yorks.event("New Message"))["MessageId"] == message


async def test_messages_edits_and_deletions_are_sent_over_the_websocket(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with brian.listening() as brians, york.listening() as yorks:
        message = await brian.say(conversation, "Hello")
        for ws in (brians, yorks):
            new = await ws.event("New Message")
            assert new == {
                "MessageId": message,
                "ConversationId": conversation,
                "Sender": "brian",
                "Message": "Hello",
                "Created": new["Created"],
                "Edited": None,
                "Deleted": False,
                "Seq": new["Seq"],
            }
        assert await brian.ask("PUT /message", MessageId=message, Message="Hi") == await yorks.event("Message Edited")
        await brian.ask(f"DELETE /message{message}")
        deleted = await yorks.event("Message Deleted")
        assert (deleted["MessageId"], deleted["Message"], deleted["Deleted"]) == (message, "", True)
        (stored,) = await york.ask(f"GET /message/{conversation}")
        assert stored == deleted


async def test_messages_can_be_sent_over_the_websocket(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with brian.listening() as brians, york.listening() as yorks:
        for ref in ({"ConversationId": conversation}, {"Recipient": "york"}):
            await brians.say({"Message": "New Message", "Data": ref | {"Message": "Hello", "ClientId": str(ref)}})
            assert (await brians.event("New Message"))["ClientId"] == str(ref)
            assert (await yorks.event("New Message"))["ConversationId"] == conversation


async def test_missed_messages_follow_the_authentication_in_order(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with york.listening():
        pass  # the server now has a cursor of this device
    texts = [f"{n}" for n in range(30)]
    for text in texts:
        await brian.say(conversation, text)
    async with york.listening() as ws:
        assert [(await ws.event("New Message"))["Message"] for _ in texts] == texts


async def test_frames_after_the_token_wait_for_the_authentication(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    typing = {"User": "brian", "Message": "Typing", "ConvId": conversation}
    async with york.listening() as yorks, opened(server.url) as brians:
        await brians.send(brian.token)
        await brians.say(typing)
        await brians.say({"Message": "New Message", "Data": {"ConversationId": conversation, "Message": "Hello"}})
        assert await brians.next() == {"Message": "Websocket Authenticated"}
        assert (await brians.event("New Message"))["Message"] == "Hello"
        assert await yorks.next() == typing
        assert (await yorks.event("New Message"))["Message"] == "Hello"


def gated(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """New connections enter no room until the event is set."""
    gate, arrive = asyncio.Event(), CatchUp._arrive

    async def gated_arrival(catch_up: CatchUp, *arriving: Any) -> None:
        await gate.wait()
        await arrive(catch_up, *arriving)

    monkeypatch.setattr(CatchUp, "_arrive", gated_arrival)
    return gate


async def signed_in(person: Person) -> None:
    """Wait until the server has verified the token of the person's connection."""
    async with asyncio.timeout(DEADLINE_S):
        while (profile := await person.ask(f"GET /user/{person.username}"))["LastOnline"] == profile["Created"]:
            pass  # each query is a round trip


async def test_an_authenticated_client_sends_and_receives_immediately(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with york.listening() as yorks, opened(gateway.url) as brians:
        gate = gated(monkeypatch)
        await brians.send(brian.token)
        typing = {"User": "brian", "Message": "Typing", "ConvId": conversation}
        await brians.say(typing)
        await signed_in(brian)
        await york.ask("GET /conversation")  # a round trip after the frames
        gate.set()
        assert await brians.next() == {"Message": "Websocket Authenticated"}
        assert await yorks.next() == typing
        await yorks.say(typing | {"User": "york"})
        assert await brians.next() == typing | {"User": "york"}


@pytest.mark.parametrize("frame", ["x" * 900_000, "x"])
async def test_frames_waiting_for_the_authentication_are_bounded(
    gateway: RunningNode, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    (brian,) = await people(gateway.url, "brian")
    gated(monkeypatch)
    async with opened(gateway.url) as ws:
        await ws.send(brian.token)
        await signed_in(brian)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(300):
                await ws.send(frame)
        assert await ws.closed() == 1008


@pytest.mark.long
async def test_a_slow_consumer_of_the_messenger_is_closed_and_loses_nothing(sqlite_url: str, tmp_path: Path) -> None:
    options = {"websocket": {"max_buffered": 200_000, "linger": 0.2}}
    async with running_node(sqlite_url, tmp_path, options=options) as node:
        brian, york = await people(node.url, "brian", "york")
        conversation = await brian.talk_to(york)
        dialect = node.node.dialects.find("/websocket")
        assert dialect is not None
        texts: list[str] = []
        narrow = socket.create_connection(("127.0.0.1", int(node.url.rpartition(":")[2])))
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        narrow.setblocking(False)
        async with opened(node.url, max_queue=1, sock=narrow) as slow:
            await slow.send(york.token)
            assert await slow.next() == {"Message": "Websocket Authenticated"}
            (session,) = dialect.server.sessions
            async with connected(node.url, brian.token) as client:
                async with asyncio.timeout(60):
                    while not session.closing:
                        texts += [f"{len(texts) + n} " + "x" * 16_000 for n in range(10)]
                        sent = [
                            client.send("message", {"room_id": conversation, "content": text}) for text in texts[-10:]
                        ]
                        assert all(answer["ok"] for answer in await asyncio.gather(*sent))
                        assert session.buffered < 400_000  # the limit, and one batch
            assert session.end_reason == "slow_consumer"
        received: dict[str, None] = {}
        async with york.listening() as ws:
            while texts[-1] not in received:
                received[(await ws.event("New Message"))["Message"]] = None
        stored = [m["Message"] for m in await york.ask(f"GET /message/{conversation}")]
        assert stored == texts
        assert list(received) == texts[-len(received) :]


# -- with the others -------------------------------------------------------------------------------------------------


async def test_socketio_and_messenger_clients_exchange_messages_and_typing(server: RunningNode) -> None:
    brian, york = await people(server.url, "brian", "york")
    conversation = await brian.talk_to(york)
    async with connected(server.url, brian.token) as client, york.listening() as ws:
        message = await york.say(conversation, "From the messenger")
        assert (await client.event("message"))["id"] == message
        assert (await ws.event("New Message"))["MessageId"] == message
        sent = await client.ask("message", room_id=conversation, content="From Socket.IO")
        assert (await ws.event("New Message"))["MessageId"] == sent["id"]

        await client.ask("typing", room_id=conversation)
        assert await ws.next() == {"User": "brian", "Message": "Typing", "ConvId": conversation}
        await client.ask("typing", room_id=conversation, typing=False)  # the document has no such event
        await ws.say({"User": "york", "Message": "Typing", "ConvId": conversation})
        assert await client.event("typing") == {"room_id": conversation, "username": "york", "typing": True}

        await client.ask("edit", message_id=sent["id"], content="Edited")
        assert (await ws.event("Message Edited"))["Message"] == "Edited"
        await client.ask("react", message_id=sent["id"], emoji="+1")
        await client.ask("delete", message_id=sent["id"])
        assert (await ws.event("Message Deleted"))["MessageId"] == sent["id"]
        await york.ask("PUT /message", MessageId=message, Message="Edited, too")
        changed = await client.event("message_edited", lambda e: e["message"]["id"] == message)
        assert changed["message"]["content"] == "Edited, too"
