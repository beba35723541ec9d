"""The messenger protocol: the examples and promises of its document, and the guarantees of Tidings."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.dialects.messenger_client import Person, envelope, opened, people
from tests.support.client import DEADLINE_S, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.auth.tokens import UNTIL_LOGOUT
from tidings.gateways.dialects import messenger_rest

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


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("write", [str.lower, str.upper, lambda name: name[0].lower() + name[1:], snake_case])
async def test_fields_may_be_written_in_another_case(gateway: RunningNode, write: Any) -> None:
    brian, york = await people(gateway.url, "brian", "york")
    conversation = await brian.ask("POST /conversation", 201, **{write("Recipient"): "york"})
    fields = {write("ConversationId"): conversation, write("Message"): "Hello"}
    message = await brian.ask("POST /message", 201, **fields)
    await brian.ask("PUT /message", **{write("MessageId"): message, write("Message"): "Hi"})
    york.token = await york.ask("POST /user/login", **{write("Username"): "york", write("Password"): PASSWORD})


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
