"""The messenger's WebSocket, alone and beside Socket.IO clients."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.dialects.messenger_client import Person, opened, people
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode
from tests.support.timers import Timers
from tidings.fanout.catchup import CatchUp
from tidings.fanout.typing import REPEAT_S

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
