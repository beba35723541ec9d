"""The topics protocol: every example and promise of its documents."""

from __future__ import annotations

import json

from tests.delivery.support import make_topic, manual_pong_connection, rest, small_socket
from tests.dialects.topics_client import (
    CREATE,
    DISCONNECT,
    INVITE,
    MESSAGE,
    SUBSCRIBE,
    Talker,
    talking,
)
from tests.support.client import connected
from tests.support.node import RunningNode

# -- the actions of the document --------------------------------------------------------------------------------


async def test_users_can_subscribe_to_public_topics_only(gateway: RunningNode, tokens: dict[str, str]) -> None:
    room_id = await make_topic(gateway.url, tokens["omar"], "public_topic_to_suscribe")
    await make_topic(gateway.url, tokens["omar"], "secretos", is_private=True)
    async with talking(gateway.url, tokens["diego"]) as diego, talking(gateway.url, tokens["satoshi"]) as satoshi:
        assert await diego.say(SUBSCRIBE) == {
            "action": "suscribe",
            "status": "ok",
            "topic_name": "public_topic_to_suscribe",
            "is_private": False,
        }
        await satoshi.ask("subscribe", topic_name="public_topic_to_suscribe")
        assert (await diego.say(SUBSCRIBE))["code"] == "conflict"
        # The refusal does not reveal that a private topic exists.
        hidden = await diego.say('{"action": "suscribe","topic_name": "secretos"}')
        assert hidden == await diego.say('{"action": "suscribe","topic_name": "no such topic"}')
        assert hidden["code"] == "not_found"
    async with rest(gateway.url, tokens["omar"]) as http:
        members = (await http.get("/api/members", params={"room_id": room_id})).json()["members"]
        assert [member["username"] for member in members] == ["diego", "omar", "satoshi"]


async def test_a_member_can_invite_to_a_private_topic(gateway: RunningNode, tokens: dict[str, str]) -> None:
    name = "private_topic_name_to_invite"
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["diego"]) as diego,
        talking(gateway.url, tokens["eder"]) as eder,
    ):
        await omar.ask("create", topic_name=name, is_private=True)
        assert (await diego.say(INVITE))["code"] == "not_found"  # diego is not a member
        assert await omar.say(INVITE) == {"action": "invite", "status": "ok", "topic_name": name, "username": "eder"}
        assert (await omar.say(INVITE))["code"] == "conflict"
        assert await eder.ask("invite", topic_name=name, username="diego")
        assert await omar.code("invite", topic_name=name, username="nobody") == "not_found"
        await omar.ask("message", topic_name=name, content="welcome")
        for member in (omar, eder, diego):
            push = await member.until("welcome")
            assert (push["topic_name"], push["sender"], push["pending"]) == (name, "omar", False)


async def test_users_can_create_public_and_private_topics(gateway: RunningNode, tokens: dict[str, str]) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar, talking(gateway.url, tokens["diego"]) as diego:
        assert await omar.say(CREATE) == {
            "action": "create",
            "status": "ok",
            "topic_name": "create_new_topic",
            "is_private": True,
        }
        assert (await omar.say(CREATE))["code"] == "conflict"
        assert (await omar.ask("create", topic_name="noticias"))["is_private"] is False
        assert (await omar.ask("create", topic_name="deportes", is_private=False))["is_private"] is False
        assert await diego.code("create", topic_name="NOTICIAS") == "conflict"
        assert await diego.code("create", topic_name="omar") == "conflict", "a user has that name"
        await diego.ask("subscribe", topic_name="deportes")
        assert await diego.code("subscribe", topic_name="create_new_topic") == "not_found"


async def test_a_message_is_sent_to_a_topic_or_to_a_user(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["diego"]) as diego,
        talking(gateway.url, tokens["satoshi"]) as satoshi,
    ):
        assert (await satoshi.say(MESSAGE))["code"] == "forbidden", "satoshi is not a member of the public topic"
        assert await diego.code("subscribe", topic_name="noticias") == "conflict"  # later messages are not pending
        sent = await omar.say(MESSAGE)
        assert (sent["action"], sent["status"], sent["topic_name"], sent["seq"]) == ("message", "ok", "noticias", 1)
        for member in (omar, diego):  # the sender, too
            assert await member.until("Content of the message") == {
                "action": "message",
                "topic_name": "noticias",
                "sender": "omar",
                "content": "Content of the message",
                "sent_at": sent["sent_at"],
                "pending": False,
            }
        for content in ("only for you", "and this"):
            assert (await omar.ask("message", topic_name="Satoshi", content=content))["topic_name"] == "satoshi"
            assert (await omar.until(content))["topic_name"] == "satoshi"
            push = await satoshi.until(content)
            assert (push["topic_name"], push["sender"]) == ("omar", "omar")
        # A reply goes to the topic_name of the push.
        await satoshi.ask("message", topic_name=satoshi.pushed[-1]["topic_name"], content="thank you")
        assert (await omar.until("thank you"))["topic_name"] == "satoshi"
        assert (await satoshi.until("thank you"))["topic_name"] == "omar"
        assert await diego.nothing_more() == ["Content of the message"]
        assert await omar.code("message", topic_name="omar", content="to myself") == "invalid"
        assert await omar.code("message", topic_name="nobody", content="hello") == "not_found"


async def test_disconnect_is_answered_after_earlier_actions_and_ends_the_connection(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    async with talking(gateway.url, tokens["omar"]) as omar:
        for frame in ('{"action": "create", "topic_name": "noticias"}', MESSAGE, MESSAGE, DISCONNECT, MESSAGE):
            await omar.socket.send(frame)
        answers = [await omar.answer() for _ in range(4)]
        assert [answer["action"] for answer in answers] == ["create", "message", "message", "disconnect"]
        assert answers[-1] == {"action": "disconnect", "status": "ok"}
        assert await omar.until_closed() == 1000
    async with rest(gateway.url, tokens["omar"]) as http:  # later frames are ignored
        page = (await http.get("/api/messages", params={"topic_name": "noticias"})).json()
        assert len(page["messages"]) == 2


async def test_a_user_gets_the_pending_messages_at_the_next_connect(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.nothing_more()
        for n in range(300):
            await omar.ask("message", topic_name="noticias", content=f"{n}")
        await omar.ask("message", topic_name="diego", content="direct")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("299")
            await diego.until("direct")
            assert [push["content"] for push in diego.pushed if push["topic_name"] == "noticias"] == [
                f"{n}" for n in range(300)
            ]
            assert [push["topic_name"] for push in diego.pushed if push["content"] == "direct"] == ["omar"]
            assert all(push["pending"] for push in diego.pushed)
            await omar.ask("message", topic_name="noticias", content="live")
            assert (await diego.until("live"))["pending"] is False
            await diego.ask("disconnect")
        # Messages delivered before the disconnect are not pending again.
        await omar.ask("message", topic_name="noticias", content="new")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("new")
            assert await diego.nothing_more() == ["new"]
            assert diego.pushed[0]["pending"]


async def test_the_queue_of_pending_messages_is_managed_over_rest(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    room_id = await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.ask("disconnect")
    queue = {"params": {"device": "topics"}}
    async with talking(gateway.url, tokens["omar"]) as omar, rest(gateway.url, tokens["diego"]) as http:
        for content in ("one", "two"):
            await omar.ask("message", topic_name="noticias", content=content)
        (pending,) = (await http.get("/api/pending", **queue)).json()["rooms"]
        assert (pending["room_id"], pending["pending"]) == (room_id, 2)
        assert (await http.delete("/api/pending", **queue)).is_success
        assert (await http.get("/api/pending", **queue)).json()["rooms"] == []
        await omar.ask("message", topic_name="noticias", content="three")
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.until("three")
        assert await diego.nothing_more() == ["three"]


# -- side by side with the others -------------------------------------------------------------------------------


async def test_a_group_is_named_by_its_id(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with connected(gateway.url, tokens["omar"]) as omar:
        group = {"usernames": ["diego", "satoshi"], "title": "noticias"}  # the name of a topic
        old = (await omar.ask("create_conversation", group))["room_id"]
        await omar.ask("message", room_id=old, content="before")
        async with talking(gateway.url, tokens["diego"]) as diego:
            new = (await omar.ask("create_conversation", group))["room_id"]
            await omar.ask("message", room_id=new, content="now")
            for room_id, content in ((old, "before"), (new, "now")):
                assert (await diego.until(content))["topic_name"] == room_id
                answer = await diego.ask("message", topic_name=room_id, content=f"after {content}")
                assert answer["topic_name"] == room_id
                event = await omar.event("message", lambda m, content=content: m["content"] == f"after {content}")
                assert event["room_id"] == room_id
            await diego.ask("invite", topic_name=old, username="memoor")
            async with talking(gateway.url, tokens["eder"]) as eder:
                assert await eder.code("message", topic_name=old, content="I know the id") == "not_found"
            await omar.ask("kick", room_id=old, username="diego")
            assert await diego.code("message", topic_name=old, content="still here?") == "not_found"


async def test_edits_and_deletions_are_not_sent_and_deleted_messages_are_not_pending(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.nothing_more()
    async with connected(gateway.url, tokens["omar"]) as omar:
        ids = [(await omar.ask("message", topic_name="noticias", content=f"{n}"))["id"] for n in range(4)]
        await omar.ask("edit", message_id=ids[1], content="one")
        await omar.ask("delete", message_id=ids[2])
        await omar.ask("react", message_id=ids[3], emoji="👍")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("3")
            await omar.ask("edit", message_id=ids[0], content="zero")
            await omar.ask("delete", message_id=ids[0])
            await omar.ask("typing", topic_name="noticias")
            assert await diego.nothing_more() == ["0", "one", "3"]


# -- permissions ------------------------------------------------------------------------------------------------


# -- order, once, and the bound ---------------------------------------------------------------------------------


async def test_messages_shown_before_a_disconnect_are_not_repeated(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with small_socket(
            gateway.url, f"/{tokens['diego']}", create_connection=manual_pong_connection
        ) as socket:
            diego = Talker(socket)
            await omar.ask("message", topic_name="noticias", content="one")
            await diego.until("one")
            await diego.until_ping()
            await omar.ask("message", topic_name="noticias", content="after the PING")
            await diego.until("after the PING")
            await socket.send(DISCONNECT)
            await diego.pong()
            await diego.until_ping()
            await diego.pong()
            assert await diego.until_closed() == 1000
            assert diego.last == {"action": "disconnect", "status": "ok"}
        async with talking(gateway.url, tokens["diego"]) as diego:
            assert await diego.nothing_more() == []


async def test_a_lost_connection_loses_no_message(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"])
    async with talking(gateway.url, tokens["omar"]) as omar:
        async with small_socket(
            gateway.url, f"/{tokens['diego']}", create_connection=manual_pong_connection
        ) as socket:
            diego = Talker(socket)
            await omar.ask("message", topic_name="noticias", content="confirmed")
            await diego.until("confirmed")
            await diego.until_ping()
            await omar.ask("message", topic_name="noticias", content="confirmed by the next PING")
            await diego.until("confirmed by the next PING")
            await diego.pong()
            await diego.until_ping()
            await diego.pong()
            await diego.code("message", topic_name="nowhere", content="the PONG was read before this")
            await omar.ask("message", topic_name="noticias", content="unconfirmed")
            await diego.until("unconfirmed")
            socket.transport.abort()
        await omar.ask("message", topic_name="noticias", content="missed")
        async with talking(gateway.url, tokens["diego"]) as diego:
            await diego.until("missed")
            assert await diego.nothing_more() == ["unconfirmed", "missed"]


async def test_a_slow_consumer_is_closed_and_loses_nothing(gateway: RunningNode, tokens: dict[str, str]) -> None:
    await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"], tokens["satoshi"])
    async with (
        talking(gateway.url, tokens["omar"]) as omar,
        talking(gateway.url, tokens["satoshi"]) as reader,
        small_socket(gateway.url, f"/{tokens['diego']}") as socket,
    ):
        slow, total = Talker(socket), 0
        await slow.nothing_more()
        while "diego" in {connection.principal.username for connection in gateway.node.hub.connections}:
            for n in range(total, total + 50):
                content = f"{n} ".ljust(16_000, "x")
                await omar.socket.send(
                    json.dumps({"action": "message", "topic_name": "noticias", "content": content})
                )
            total += 50
            while len(reader.pushed) < total:
                await reader.receive()
            while len(omar.pushed) < total:
                await omar.receive()
            assert max(connection.link.buffered for connection in gateway.node.hub.connections) < 8 * 2**20
            assert total < 4000
        await slow.until_closed()
        received = [int(push["content"].split()[0]) for push in slow.pushed[1:]]
        assert received == list(range(len(received)))
        assert len(received) < total
    async with talking(gateway.url, tokens["diego"]) as diego:
        await diego.until(reader.pushed[-1]["content"])
        replayed = [int(push["content"].split()[0]) for push in diego.pushed]
        assert replayed == list(range(replayed[0], total))
        assert replayed[0] <= len(received)


async def test_a_message_that_streams_is_pushed_once_when_it_is_finished(
    gateway: RunningNode, tokens: dict[str, str]
) -> None:
    """To who was connected meanwhile, to who was when it was opened, and to who gets all of it in a replay."""
    room_id = await make_topic(gateway.url, tokens["omar"], "noticias", tokens["diego"], tokens["satoshi"])
    async with connected(gateway.url, tokens["omar"]) as omar, talking(gateway.url, tokens["diego"]) as diego:
        sent = await omar.ask("message", room_id=room_id, content="", stream=True)
        await omar.ask("append", message_id=sent["id"], offset=0, text="whole")
        async with talking(gateway.url, tokens["satoshi"]) as satoshi:
            assert await satoshi.nothing_more() == []
            await satoshi.ask("disconnect")
        assert await diego.nothing_more() == []
        await omar.ask("finish", message_id=sent["id"])
        await diego.until("whole")
        assert await diego.nothing_more() == ["whole"]
        second = await omar.ask("message", room_id=room_id, content="two", stream=True)
        await omar.ask("finish", message_id=second["id"])
        async with talking(gateway.url, tokens["satoshi"]) as satoshi:
            await satoshi.until("two")
            assert await satoshi.nothing_more() == ["whole", "two"]
