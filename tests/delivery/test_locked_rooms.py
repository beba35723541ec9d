"""A room that another program has locked in PostgreSQL delays its own changes only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.delivery.support import make_topic, seqs
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.locks import locked
from tests.support.node import running_node
from tidings.log import journal

ONLY_SOCKETIO = True


async def test_a_locked_room_holds_up_its_own_messages_only(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        held, free = [await make_topic(server.url, omar, name, diego) for name in ("held", "free")]
        async with connected(server.url, omar) as writer, connected(server.url, diego) as reader:
            async with locked(postgresql_url, held):
                waiting = [
                    asyncio.ensure_future(writer.ask("message", room_id=held, content=str(n))) for n in range(3)
                ]
                for n in range(20):
                    await reader.ask("message", room_id=free, content=str(n))
                    if n == 10:  # queued behind those that wait already
                        waiting.append(asyncio.ensure_future(writer.ask("message", room_id=held, content="3")))
                assert not any(request.done() for request in waiting)
                async with httpx.AsyncClient() as http:
                    assert (await http.get(f"{server.url}/health/ready")).status_code == 200
            async with asyncio.timeout(DEADLINE_S):
                acknowledged = [await request for request in waiting]
            assert [message["seq"] for message in acknowledged] == [1, 2, 3, 4]
            await reader.until(lambda: len(reader.of("message")) == 24)
            assert reader.contents(held) == ["0", "1", "2", "3"]
            assert seqs(reader, free) == list(range(1, 21))


async def test_a_cursor_of_a_locked_room_holds_up_no_message(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        held, free = [await make_topic(server.url, omar, name, diego) for name in ("held", "free")]
        async with connected(server.url, omar) as writer, connected(server.url, diego, device="new") as reader:
            await writer.ask("message", room_id=held, content="0")
            await reader.event("message")
            async with locked(postgresql_url, held):
                await reader.ask(
                    "delivered", cursors={held: 1}
                )  # its first cursor of the room, which reads the room's row
                for n in range(20):
                    await reader.ask("message", room_id=free, content=str(n))
            await writer.event("receipt", lambda r: (r["room_id"], r["delivered_seq"]) == (held, 1))


async def test_a_message_whose_room_stays_locked_is_refused_and_not_written(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "HELD_S", 0.3)
    async with running_node(postgresql_url, tmp_path) as server:
        omar = await server.register("omar")
        held = await make_topic(server.url, omar, "held")
        async with connected(server.url, omar) as writer:
            async with locked(postgresql_url, held):
                with pytest.raises(Refused) as refused:
                    await writer.ask("message", room_id=held, content="0")
                assert (refused.value.code, refused.value.error["retryable"]) == ("unavailable", True)
            assert (await writer.ask("message", room_id=held, content="1"))["seq"] == 1


async def test_no_message_overtakes_one_whose_room_was_locked(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later message is sent after the lock is released, but before the earlier one is retried."""
    monkeypatch.setattr(journal, "RETRY_HELD_S", 1.0)
    async with running_node(postgresql_url, tmp_path) as server:
        omar, diego = await server.register("omar"), await server.register("diego")
        held, free = [await make_topic(server.url, omar, name, diego) for name in ("held", "free")]
        async with connected(server.url, omar) as first, connected(server.url, diego) as second:
            async with locked(postgresql_url, held):
                earlier = asyncio.ensure_future(first.ask("message", room_id=held, content="earlier"))
                await second.ask("message", room_id=free, content="in one batch with it, or after it")
                while not server.node.journal.held:
                    await second.ask("message", room_id=free, content="once more")
            later = asyncio.ensure_future(second.ask("message", room_id=held, content="later"))
            assert [(await request)["seq"] for request in (earlier, later)] == [1, 2]
