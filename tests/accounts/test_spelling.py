"""A username is shown as registered, and listed in any case."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from typing import Any

import httpx
import jwt
import pytest

from tests.support.client import Client, connected
from tests.support.node import PASSWORD, SECRET_KEY, RunningNode
from tidings.auth.tokens import Tokens

BRIAN, EDER = "BrianYork", "EderLópez"


def _spelled_otherwise(text: str) -> list[str]:
    """Usernames in another spelling than the registered one; contents of messages are ignored."""
    text = re.sub(r'"(content|text)": "[^"]*"', "", text)
    return [name for name in re.findall("brianyork|ederlópez", text, re.IGNORECASE) if name not in (BRIAN, EDER)]


async def test_every_answer_and_event_uses_the_registered_spelling(server: RunningNode) -> None:
    tokens = {name: await server.register(name) for name in (BRIAN, EDER)}
    answers: list[object] = []

    async def ask(client: Client, action: str, **fields: object) -> dict[str, Any]:
        answer = await client.ask(action, **fields)
        answers.append((action, answer))
        return answer

    async with connected(server.url, tokens[BRIAN]) as brian, AsyncExitStack() as stack:
        await ask(brian, "create", topic_name="cave", is_private=True)
        await ask(brian, "invite", topic_name="cave", username="EDERLÓPEZ")
        eder = await stack.enter_async_context(connected(server.url, tokens[EDER]))
        await brian.event("presence", lambda presence: presence["online"])
        sent = await ask(brian, "message", topic_name="cave", content="hello @ederlópez and @EDERLÓPEZ, @BRIANYORK's")
        assert sent["mentions"] == [EDER, BRIAN]
        await eder.event("message", lambda message: message["id"] == sent["id"])
        await ask(eder, "react", message_id=sent["id"], emoji="👍")
        await ask(eder, "react", message_id=sent["id"], emoji="👍", remove=True)
        reacted = await ask(eder, "react", message_id=sent["id"], emoji="👍")
        assert reacted["reactions"] == {"👍": [EDER]}
        edited = await ask(brian, "edit", message_id=sent["id"], content="hello @EDERlópez")
        assert edited["mentions"] == [EDER]
        await ask(eder, "typing", topic_name="cave")
        await ask(eder, "read", topic_name="cave", seq=sent["seq"])
        await ask(brian, "set_role", topic_name="cave", username="ederLÓPEZ", role="moderator")
        await ask(brian, "mute", topic_name="cave", username="ederLÓPEZ", duration=60)
        for action in ("get_members", "get_receipts", "history", "get_bans"):
            await ask(brian, action, topic_name="cave")
        assert [m["username"] for m in (await brian.ask("get_members", topic_name="cave"))["members"]] == [
            BRIAN,
            EDER,
        ]
        await ask(brian, "search", query="hello")
        direct = await ask(eder, "message", topic_name="BRIANYORK", content="to you alone")
        assert (await eder.ask("history", username="brianyork"))["messages"][0]["id"] == direct["id"]
        assert (await eder.ask("create_conversation", usernames=["bRIANyORK"]))["title"] == BRIAN
        await ask(eder, "get_rooms")
        await ask(eder, "get_profile", username="brianyork")
        await ask(brian, "create", topic_name="square")
        assert (await ask(eder, "connect_to_room", topic_name="square"))["usernames"] == [BRIAN, EDER]
        await ask(brian, "kick", topic_name="cave", username="ederlópez")
        await brian.event("member", lambda change: change["change"] == "kicked")
        events = [*brian.events, *eder.events]
        assert {"ready", "message", "reaction", "member", "typing", "receipt", "presence"} <= {
            name for name, _ in events
        }
    for sent_to_client in [*answers, *events]:
        assert not _spelled_otherwise(json.dumps(sent_to_client, ensure_ascii=False)), sent_to_client


async def test_rest_and_tokens_use_the_registered_spelling(server: RunningNode, http: httpx.AsyncClient) -> None:
    await server.register(EDER)
    registered = await http.post("/api/register", json={"username": BRIAN, "password": PASSWORD})
    login = await http.post("/api/login", json={"username": "brianYORK", "password": PASSWORD})
    for answer in (registered, login):
        assert answer.json()["user"]["username"] == BRIAN
        token = answer.json()["token"]
        assert jwt.decode(token, options={"verify_signature": False})["sub"] == BRIAN
    headers = {"Authorization": f"Bearer {token}"}
    assert (await http.get("/api/me", headers=headers)).json()["username"] == BRIAN
    assert (await http.get("/api/users/EDERLÓPEZ", headers=headers)).json()["username"] == EDER
    assert (await http.post("/api/blocks", json={"username": "EDERLÓPEZ"}, headers=headers)).is_success
    assert (await http.get("/api/blocks", headers=headers)).json() == {"usernames": [EDER]}
    export = (await http.get("/api/me/export", headers=headers)).text
    assert BRIAN in export
    assert EDER in export
    assert not _spelled_otherwise(export)


@pytest.mark.parametrize("subject", ["brianyork", "BRIANYORK", "BrianYork"])
async def test_a_token_is_valid_whatever_the_case_of_its_subject(server: RunningNode, subject: str) -> None:
    """Earlier versions issued tokens whose subject is in lower case."""
    claims = jwt.decode(await server.register(BRIAN), options={"verify_signature": False})
    signer = Tokens([SECRET_KEY.encode()])
    token = signer.make(subject, claims["sid"], claims["iat"] * 1000, claims["exp"] * 1000)
    async with connected(server.url, token) as brian:
        assert brian.of("ready")[0]["username"] == BRIAN


async def test_members_are_listed_by_name_regardless_of_case(server: RunningNode) -> None:
    spelled = ["adam", "Berta", "cleo", "DORA", "emil"]
    tokens = {name: await server.register(name) for name in reversed(spelled)}
    async with connected(server.url, tokens["cleo"]) as cleo:
        await cleo.ask("create", topic_name="square")
        for name in spelled:
            if name != "cleo":
                async with connected(server.url, tokens[name]) as member:
                    await member.ask("subscribe", topic_name="square")
        listed: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = await cleo.ask("get_members", topic_name="square", limit=2, **after)
            listed += [member["username"] for member in page["members"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert listed == spelled
