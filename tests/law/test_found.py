"""Bugs that the test of the law has found, each with a test of its own."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.client import Refused, connected
from tests.support.node import RunningNode
from tests.support.streams import texts
from tidings.transport.listening import listen


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_device_gets_room_added_for_a_room_rejoined_while_it_was_offline(
    server: RunningNode, is_private: bool
) -> None:
    ana, ben = await server.register("ana"), await server.register("ben")
    async with connected(server.url, ana) as host, connected(server.url, ben, device="laptop") as laptop:
        room = await host.ask("create", topic_name="plaza", is_private=is_private)

        async def enter() -> None:
            if is_private:
                await host.ask("invite", topic_name="plaza", username="ben")
            else:
                await laptop.ask("subscribe", topic_name="plaza")

        async with connected(server.url, ben, device="phone") as phone:
            await enter()
            await host.ask("message", topic_name="plaza", content="hola")
            received = await phone.event("message")
            await phone.ask("delivered", cursors={room["room_id"]: received["seq"]})
            await laptop.ask("unsubscribe", topic_name="plaza")
            await phone.event("room_removed")
        await enter()
        async with connected(server.url, ben, device="phone", cursors={}) as phone:
            (added,) = phone.of("room_added")
            assert added["room"]["room_id"] == room["room_id"]
            assert phone.of("message") == []


async def test_a_refused_first_message_creates_no_conversation(server: RunningNode) -> None:
    ana = await server.register("ana")
    await server.register("ben")
    async with connected(server.url, ana) as client:
        with pytest.raises(Refused, match="invalid"):
            await client.ask("message", username="ben", content="hola", reply_to="0" * 32)
        assert (await client.ask("get_rooms"))["rooms"] == []
        assert client.of("room_added") == []


async def test_a_link_to_a_group_without_members_is_not_found(server: RunningNode) -> None:
    """The link ended with the membership of its maker; nobody could grant access to the log again."""
    ana, ben = await server.register("ana"), await server.register("ben")
    async with connected(server.url, ana) as host, connected(server.url, ben) as guest:
        room = await host.ask("create_conversation", usernames=["ben"], title="viaje")
        link = await host.ask("create_invitation_link", room_id=room["room_id"])
        await host.ask("unsubscribe", room_id=room["room_id"])
        await guest.ask("unsubscribe", room_id=room["room_id"])
        with pytest.raises(Refused, match="not_found"):
            await guest.ask("join_by_link", code=link["code"])


async def test_inviting_a_user_who_has_blocked_the_caller_reveals_no_private_topic(server: RunningNode) -> None:
    ana, ben = await server.register("ana"), await server.register("ben")
    await server.register("cleo")
    async with connected(server.url, ana) as host, connected(server.url, ben) as stranger:
        await host.ask("create", topic_name="secret", is_private=True)
        await host.ask("block", username="ben")
        for topic_name in ("secret", "none"):
            for username in ("ana", "cleo"):
                with pytest.raises(Refused) as refused:
                    await stranger.ask("invite", topic_name=topic_name, username=username)
                assert refused.value.code == "not_found"


async def test_text_that_meets_the_end_of_its_message_is_not_shown_after_it(server: RunningNode) -> None:
    """A first append and `finish` at the same time: the stream was opened after its end had been sent."""
    ana = await server.register("ana")
    async with connected(server.url, ana) as author, connected(server.url, ana, device="tablet") as tablet:
        await author.ask("create", topic_name="plaza")
        for n in range(1, 21):
            message_id = (await author.ask("message", topic_name="plaza", content="", stream=True))["id"]
            await asyncio.gather(
                author.call("append", {"message_id": message_id, "offset": 0, "text": "hola"}),
                tablet.call("finish", {"message_id": message_id}),
            )
            await tablet.until(lambda n=n: len(tablet.of("message_finished")) == n)
        last = (await author.ask("message", topic_name="plaza", content="", stream=True))["id"]
        await author.ask("append", message_id=last, offset=0, text="adiós")  # its piece follows those of the others
        await tablet.event("message_append", lambda piece: piece["message_id"] == last)
        log = (await author.ask("history", topic_name="plaza"))["messages"]
        assert texts(tablet) == {message["id"]: message["content"] for message in log}


async def test_an_author_who_edits_the_message_is_told_how_much_of_the_new_text_is_stored(
    server: RunningNode,
) -> None:
    """It was how much of the old text had been: an author that forgets what is stored forgot text that was not."""
    async with connected(server.url, await server.register("ana")) as author:
        await author.ask("create", topic_name="plaza")
        message_id = (await author.ask("message", topic_name="plaza", content="", stream=True))["id"]
        stored = 0
        async with asyncio.timeout(30):
            while stored < 20:
                answer = await author.ask("append", message_id=message_id, offset=0, text="x" * 20)
                stored = answer["stored"]
        await author.ask("edit", message_id=message_id, content="hola")
        answer = await author.ask("append", message_id=message_id, offset=4, text=" a todos")
        assert answer["stored"] == 4


def test_an_event_after_an_answer_does_not_wait_for_the_delayed_ack_of_the_client() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
