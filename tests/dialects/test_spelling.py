"""In every dialect a username is shown as registered, and found in any case."""

from __future__ import annotations

from pathlib import Path

import httpx
import jwt

from tests.dialects.channels_client import entered
from tests.dialects.messenger_client import Person
from tests.support.client import connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node


async def test_the_messenger_shows_the_registered_spelling(gateway: RunningNode) -> None:
    brian = await Person(gateway.url, "BrianYork").create()
    user2 = await Person(gateway.url, "user2").create()
    conversation = await user2.talk_to("brianyork")
    (listed,) = await brian.ask("GET /conversation")
    assert listed["Members"] == ["BrianYork", "user2"]
    assert (await user2.ask("GET /user/BRIANYORK"))["Username"] == "BrianYork"
    assert (await user2.ask("GET /user/brianyork"))["LoggedOn"] is True
    async with brian.listening() as brians, user2.listening() as user2s:
        await brians.say({"User": "brianYORK", "Message": "Typing", "ConvId": conversation})
        assert await user2s.next() == {"User": "BrianYork", "Message": "Typing", "ConvId": conversation}
        await brian.say(conversation, "Hello")
        assert (await user2s.event("New Message"))["Sender"] == "BrianYork"


async def test_the_channels_show_the_registered_spelling(gateway: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, verify=NO_TLS, timeout=30) as http:
        credentials = {"login": "BrianYork", "password": PASSWORD}
        assert (await http.post("/register", json=credentials)).json()["username"] == "BrianYork"
        assert (await http.post("/login", json=credentials | {"login": "brianyork"})).is_success
    async with entered(gateway, "OtherUser", "pub_ws") as channel:
        await channel.say("hello")
        assert await channel.message() == ("OtherUser", "hello")


async def test_the_token_route_uses_the_registered_spelling(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, dev_tokens=True) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http,
    ):
        for typed in ("EderLopez", "ederlopez"):
            token = (await http.get("/token", params={"username": typed})).json()["token"]
            assert jwt.decode(token, options={"verify_signature": False})["sub"] == "EderLopez"
            async with connected(node.url, token) as eder:
                assert eder.of("ready")[0]["username"] == "EderLopez"
