"""Messages are sent in order and take effect once, even if answers are lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tidings.contract.errors import Error, ErrorCode
from tidings_chat.errors import NotConnected, Offline, Refused
from tidings_chat.outbox import Outbox
from tidings_chat.store import Store, Unsent

ROOM = {"topic_name": "noticias"}


class Log:
    """A fake server: appends once per `client_id`. `faults` holds the error of each request, None for success."""

    def __init__(self, *faults: Exception | None, lose_answers: bool = False) -> None:
        self.faults = list(faults)
        self.lose_answers = lose_answers
        self.requests = 0
        self.contents: dict[str, str] = {}
        self.reached = asyncio.Event()
        self.until = 0

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        assert action == "message"
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is None or self.lose_answers:
            self.contents.setdefault(payload["client_id"], payload["content"])
        if fault is not None:
            raise fault
        if len(self.contents) >= self.until:
            self.reached.set()
        return {}


def refused(code: ErrorCode, **details: Any) -> Refused:
    return Refused(Error(code=code, message="no", retryable=code.retryable, details=details))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(tmp_path / "omar.sqlite3", "laptop") as store:
        yield store


@pytest.fixture
async def running() -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def send_three(store: Store, log: Log, running: list[asyncio.Task[None]]) -> list[tuple[Unsent, Error]]:
    failed: list[tuple[Unsent, Error]] = []
    outbox = Outbox(store, log.ask, lambda unsent, error: failed.append((unsent, error)))
    running.append(asyncio.create_task(outbox.run()))
    for content in ("one", "two", "three"):
        await outbox.send(ROOM, content)
    async with asyncio.timeout(30):
        await log.reached.wait()
    return failed


async def outbox_is_empty(store: Store) -> None:
    """Wait until every message is acknowledged."""
    async with asyncio.timeout(30):
        while await store.last_unsent(ROOM) is not None:
            pass
    assert store.unsent == 0


async def test_a_message_is_on_disk_before_it_is_sent(store: Store, tmp_path: Path) -> None:
    stored: list[tuple[str]] = []

    async def ask(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        with contextlib.closing(sqlite3.connect(tmp_path / "omar.sqlite3")) as db:
            stored.extend(db.execute("SELECT content FROM outbox"))
        raise asyncio.CancelledError

    outbox = Outbox(store, ask, lambda *_: None)
    await outbox.send(ROOM, "hola")
    with pytest.raises(asyncio.CancelledError):
        await outbox.run()
    assert stored == [("hola",)]
    assert store.unsent == 1


@pytest.mark.parametrize(
    "fault",
    [
        Offline("lost"),
        refused(ErrorCode.UNAVAILABLE),
        refused(ErrorCode.RATE_LIMITED, retry_after=0),
        refused(ErrorCode.TOKEN_EXPIRED),
    ],
    ids=["lost", "unavailable", "rate_limited", "token_expired"],
)
async def test_later_messages_do_not_overtake_one_that_must_wait(
    store: Store, running: list[asyncio.Task[None]], fault: Exception
) -> None:
    log = Log(fault)
    log.until = 3
    assert await send_three(store, log, running) == []
    assert list(log.contents.values()) == ["one", "two", "three"]


async def test_a_lost_answer_does_not_make_two_messages(store: Store, running: list[asyncio.Task[None]]) -> None:
    log = Log(None, Offline("lost"), lose_answers=True)
    log.until = 3
    await send_three(store, log, running)
    assert list(log.contents.values()) == ["one", "two", "three"]
    assert log.requests == 4


async def test_a_refused_message_is_reported_and_does_not_block_later_ones(
    store: Store, running: list[asyncio.Task[None]]
) -> None:
    log = Log(refused(ErrorCode.FORBIDDEN))
    log.until = 2
    failed = await send_three(store, log, running)
    assert [(unsent.content, error.code) for unsent, error in failed] == [("one", ErrorCode.FORBIDDEN)]
    assert list(log.contents.values()) == ["two", "three"]


async def test_a_new_connection_wakes_the_outbox(store: Store, running: list[asyncio.Task[None]]) -> None:
    log = Log(*[Offline("not connected")] * 8)  # the backoff alone would take minutes
    log.until = 3
    outbox = Outbox(store, log.ask, lambda *_: None)
    running.append(asyncio.create_task(outbox.run()))
    for content in ("one", "two", "three"):
        await outbox.send(ROOM, content)
    async with asyncio.timeout(30):
        while not log.reached.is_set():
            outbox.wake()
            await asyncio.sleep(0)
    assert list(log.contents.values()) == ["one", "two", "three"]


async def test_a_message_edited_while_its_answer_is_lost_is_edited_on_the_server(
    store: Store, running: list[asyncio.Task[None]]
) -> None:
    """The retry with its `client_id` is answered with the old content, so an edit follows."""
    messages: dict[str, str] = {}
    edited = asyncio.Event()

    async def ask(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        if action == "edit":
            messages[payload["message_id"]] = payload["content"]
            edited.set()
        elif payload["client_id"] not in messages:
            messages[payload["client_id"]] = payload["content"]
            unsent = await store.last_unsent(ROOM)
            assert unsent is not None
            assert not await store.withdraw(unsent)  # the server may have it
            assert await store.change(unsent, "hello")
            raise Offline("the answer is lost")
        return {
            "id": payload.get("client_id"),
            "content": messages[payload.get("client_id") or payload["message_id"]],
        }

    outbox = Outbox(store, ask, lambda *_: None)
    await outbox.send(ROOM, "helo")
    running.append(asyncio.create_task(outbox.run()))
    async with asyncio.timeout(30):
        while not edited.is_set():
            outbox.wake()
            await asyncio.sleep(0)
    await outbox_is_empty(store)
    assert list(messages.values()) == ["hello"]


async def test_a_message_whose_edit_could_not_be_sent_cannot_be_withdrawn(
    store: Store, running: list[asyncio.Task[None]]
) -> None:
    """The server has the message; only its edit did not leave."""
    edited = asyncio.Event()

    async def ask(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        if action == "message":
            unsent = await store.last_unsent(ROOM)
            assert unsent is not None
            await store.change(unsent, "hello")
            return {"id": "m1", "content": payload["content"]}
        edited.set()
        raise NotConnected("not connected")

    outbox = Outbox(store, ask, lambda *_: None)
    await outbox.send(ROOM, "helo")
    unsent = await store.last_unsent(ROOM)
    assert unsent is not None
    running.append(asyncio.create_task(outbox.run()))
    async with asyncio.timeout(30):
        await edited.wait()
    await asyncio.sleep(0.1)
    assert not await store.withdraw(unsent)


async def test_a_message_waiting_for_a_connection_can_be_withdrawn(
    store: Store, running: list[asyncio.Task[None]]
) -> None:
    log = Log()
    log.until = 1
    online = False
    outbox = Outbox(store, log.ask, lambda *_: None, lambda: online)
    running.append(asyncio.create_task(outbox.run()))
    await outbox.send(ROOM, "zero")
    unsent = await store.last_unsent(ROOM)
    assert unsent is not None
    assert await store.withdraw(unsent)
    await outbox.send(ROOM, "one")
    online = True
    outbox.wake()
    await outbox_is_empty(store)
    assert list(log.contents.values()) == ["one"]


async def test_an_unsent_reply_keeps_its_reference(store: Store) -> None:
    await store.enqueue(ROOM, "yes", reply_to="m1")
    attempt = await store.try_next()
    assert attempt is not None
    unsent, _ = attempt
    assert unsent.payload["reply_to"] == "m1"
