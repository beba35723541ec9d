"""Durable before acknowledged; one order; a bad append fails alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from tests.delivery.support import break_store, make_topic, principal, reader, rest, store_held, stored
from tests.support.client import Client, Refused, connected
from tests.support.node import RunningNode
from tidings.contract.errors import ActionError
from tidings.log.journal import BURST, BURST_ITERATIONS
from tidings.log.messages import AppendMessage
from tidings.log.transaction import Operation, Work

EVERY_WAY_MATTERS = True


async def test_nothing_is_acknowledged_or_published_before_it_is_committed(
    server: RunningNode, database_url: str
) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(server.url, tokens[0], "noticias", tokens[1])
    async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
        async with store_held(database_url):
            answer = omar.send("message", {"room_id": room_id, "content": "hola"})
            for _ in range(5):  # round trips of another connection: the server had time to answer
                await diego.ask("get_profile", username="omar")
            assert not answer.done()
            assert diego.of("message") == omar.of("message") == []
        assert (await answer)["ok"]
        assert await stored(database_url, room_id) == ["hola"]


async def test_an_acknowledged_message_is_immediately_visible_to_another_process(
    server: RunningNode, database_url: str
) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with connected(server.url, token) as omar:
        for n in range(10):
            await omar.ask("message", room_id=room_id, content=str(n))
            assert await stored(database_url, room_id) == [str(k) for k in range(n + 1)]


async def test_a_commit_that_fails_is_answered_unavailable_and_reaches_nobody(
    server: RunningNode, database_url: str
) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(server.url, tokens[0], "noticias", tokens[1])
    async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
        mend = await break_store(server.node.database)
        with pytest.raises(Refused) as refused:
            await omar.ask("message", room_id=room_id, content="x" * 16_384, client_id="1")
        assert refused.value.code == "unavailable"
        assert refused.value.error["retryable"] is True
        await mend()
        assert await stored(database_url, room_id) == []
        again = await omar.ask("message", room_id=room_id, content="x" * 16_384, client_id="1")
        assert again["seq"] == 1
        await diego.event("message")
        assert [m["seq"] for m in diego.of("message")] == [1]


async def test_many_messages_in_flight_share_a_commit(server: RunningNode) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego", "satoshi", "memoor")]
    room_id = await make_topic(server.url, tokens[0], "noticias", *tokens[1:])
    clients = [await Client(server.url, token).connect() for token in tokens]
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    event.listen(Engine, "commit", count)
    try:
        sent = [
            client.send("message", {"room_id": room_id, "content": str(n)}) for n in range(100) for client in clients
        ]
        answers = await asyncio.gather(*sent)
    finally:
        event.remove(Engine, "commit", count)
    assert sorted(answer["data"]["seq"] for answer in answers) == list(range(1, 401))
    assert 1 <= commits <= 100
    for client in clients:
        await client.close()


async def test_all_readers_get_all_senders_messages_in_one_order(server: RunningNode) -> None:
    senders = 6
    tokens = [await server.register(f"user{n}") for n in range(senders)]
    room_id = await make_topic(server.url, tokens[0], "noticias", *tokens[1:])
    clients = [await Client(server.url, token, device=f"d{n}").connect() for n, token in enumerate(tokens)]
    for n in range(40):
        for client in clients:
            client.send("message", {"room_id": room_id, "content": f"{client.auth['device']} {n}"})
    for client in clients:
        await client.until(lambda client=client: len(client.of("message")) == 40 * senders)
    log = [(m["seq"], m["id"], m["content"]) for m in clients[0].of("message")]
    assert [seq for seq, _, _ in log] == list(range(1, 40 * senders + 1))
    for client in clients:
        assert [(m["seq"], m["id"], m["content"]) for m in client.of("message")] == log
        mine = [content for _, _, content in log if content.startswith(client.auth["device"])]
        assert mine == [f"{client.auth['device']} {n}" for n in range(40)]
        await client.close()


async def test_the_sender_gets_the_answer_before_the_event(server: RunningNode) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with reader(server.url, token) as omar:
        for n in range(1, 6):
            answer = await omar.ask("message", room_id=room_id, content=str(n))
            assert answer["data"]["seq"] == n
            assert not [m for name, m in omar.events if name == "message" and m["seq"] == n]
            assert (await omar.until_event("message"))["seq"] == n


async def test_a_bad_append_fails_alone_in_its_batch(server: RunningNode, database_url: str) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego", "stranger")]
    room_id = await make_topic(server.url, tokens[0], "noticias", tokens[1])
    other_room = await make_topic(server.url, tokens[0], "otras", tokens[1])
    private = await make_topic(server.url, tokens[0], "secreta", is_private=True)
    async with (
        connected(server.url, tokens[0]) as omar,
        connected(server.url, tokens[1]) as diego,
        connected(server.url, tokens[2]) as stranger,
    ):
        message_of_other_room = (await omar.ask("message", room_id=other_room, content="otra"))["id"]
        async with store_held(database_url):
            first = omar.send("message", {"room_id": room_id, "content": "first"})
            good = [diego.send("message", {"room_id": room_id, "content": f"good {n}"}) for n in range(3)]
            bad = {
                "forbidden": stranger.send("message", {"room_id": room_id, "content": "no"}),
                "not_found": stranger.send("message", {"room_id": private, "content": "no"}),
                "invalid": diego.send(
                    "message", {"room_id": room_id, "content": "no", "reply_to": message_of_other_room}
                ),
            }
            last = diego.send("message", {"room_id": room_id, "content": "last"})
            async with rest(server.url, tokens[0]) as http:
                for _ in range(5):  # round trips, while the batch fills
                    assert (await http.get("/api/me")).status_code == 200
        answers = await asyncio.gather(first, *good, last)
        refusals = {code: (await answer)["error"]["code"] for code, answer in bad.items()}
        assert sorted(answer["data"]["seq"] for answer in answers) == [1, 2, 3, 4, 5]
        assert [answer["data"]["content"] for answer in answers[1:]] == ["good 0", "good 1", "good 2", "last"]
        assert refusals == {code: code for code in bad}
        await diego.until(lambda: len(diego.of("message")) == 6)
        assert [content for content in diego.contents(room_id) if content != "first"] == [
            "good 0",
            "good 1",
            "good 2",
            "last",
        ]
        assert stranger.of("message") == []


@dataclass(frozen=True, slots=True)
class Poisoned(Operation[None]):
    """Changes the room, then fails with an unexpected exception."""

    statement: str | None

    def apply(self, work: Work) -> None:
        assert self.room_key is not None
        work.room(self.room_key).append("message", self.actor, work.now, content="poison", message_id="poison")
        if self.statement is not None:
            work.conn.execute(text(self.statement))
        raise ZeroDivisionError


@pytest.mark.parametrize("statement", [None, "SELECT no_such_column"], ids=["in Python", "in the database"])
async def test_an_append_that_fails_unexpectedly_fails_alone_in_its_batch(
    server: RunningNode, database_url: str, statement: str | None
) -> None:
    tokens = [await server.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(server.url, tokens[0], "noticias", tokens[1])
    async with connected(server.url, tokens[0]), connected(server.url, tokens[1]) as diego:
        journal, me = server.node.journal, principal(server, "omar")
        key = server.node.hub.key(room_id)
        # Handed over in one step of the event loop, so they are in one batch.
        futures = [
            journal.hand_over(AppendMessage(me, key, "before", "1")),
            journal.hand_over(AppendMessage(me, key, "again", "1")),
            journal.hand_over(Poisoned(me, key, statement)),
            journal.hand_over(AppendMessage(me, key, "no reply", None, "nothing")),
            journal.hand_over(AppendMessage(me, key, "after")),
        ]
        before, again, poisoned, unknown, after = await asyncio.gather(*futures, return_exceptions=True)
        assert [message["seq"] for message in (before, again, after)] == [1, 1, 2]  # type: ignore[index]
        assert not isinstance(poisoned, ActionError)
        assert isinstance(poisoned, Exception)
        assert isinstance(unknown, ActionError)
        await diego.until(lambda: len(diego.of("message")) == 2)
        assert diego.contents() == ["before", "after"]
        assert await stored(database_url, room_id) == ["before", "after"]
        assert journal.loop.deaths == 0


async def test_every_action_is_answered(server: RunningNode) -> None:
    token = await server.register("omar")
    async with reader(server.url, token) as omar:
        for action, code in [
            ("no_such_action", "unknown_action"),
            ("message", "invalid"),
            ("connect", "unknown_action"),
            ("register", "unknown_action"),
        ]:
            answer = await omar.ask(action)
            assert answer["error"]["code"] == code


async def test_the_parts_of_a_burst_are_written_in_one_transaction(server: RunningNode) -> None:
    token = await server.register("omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with connected(server.url, token):
        me, key, journal = principal(server, "omar"), server.node.hub.key(room_id), server.node.journal
        assert key is not None
        await asyncio.gather(*(journal.hand_over(AppendMessage(me, key, str(part))) for part in range(BURST)))
        before = journal.transactions
        parts = []
        for part in range(BURST_ITERATIONS):  # a burst that is read, dispatched and queued over several iterations
            parts.append(journal.hand_over(AppendMessage(me, key, str(part))))
            await asyncio.sleep(0)
        await asyncio.gather(*parts)
        assert journal.transactions == before + 1
