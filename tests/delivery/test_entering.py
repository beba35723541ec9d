"""A connection enters its rooms in steps: what happens between two of them is neither lost nor doubled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.delivery.support import RecordingLink, make_topic, rest
from tests.support.client import DEADLINE_S, connected
from tests.support.node import RunningNode
from tidings.fanout import catchup
from tidings.fanout.connection import Connection

ONLY_SOCKETIO = True
ROOMS = 5


class ReadingLink(RecordingLink):
    async def drain(self) -> None: ...

    async def settle(self) -> None: ...


class Steps:
    """Holds an arriving connection after its third room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.released = asyncio.Event(), asyncio.Event()
        self._left = 3
        sleep = asyncio.sleep

        async def step(delay: float, result: Any = None) -> Any:
            task = asyncio.current_task()
            if delay == 0 and task is not None and task.get_name() == "replay":
                self._left -= 1
                if self._left == 0:
                    self.held.set()
                    await self.released.wait()
            return await sleep(delay, result)

        monkeypatch.setattr(asyncio, "sleep", step)


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_what_happens_while_a_connection_enters_its_rooms_is_delivered_once(
    server: RunningNode, monkeypatch: pytest.MonkeyPatch, *, is_private: bool
) -> None:
    node = server.node
    monkeypatch.setattr(catchup, "ROOMS_PER_STEP", 1)
    token, other = await server.register("omar"), await server.register("diego")
    names = {
        await make_topic(server.url, other, name, is_private=is_private): name
        for name in [*(f"noticias {n}" for n in range(ROOMS)), "new"]
    }
    *room_ids, new = names
    async with connected(server.url, other) as diego, rest(server.url, token) as http:

        async def join(room_id: str) -> None:
            if is_private:
                await diego.ask("invite", room_id=room_id, username="omar")
            else:
                response = await http.post("/api/subscriptions", json={"topic_name": names[room_id]})
                assert response.status_code == 201, response.text

        for room_id in room_ids:
            await join(room_id)
        async with connected(server.url, token, device="phone"):
            pass
        principal, device = await node.auth.arrive(token, "phone")
        assert device is not None
        link = ReadingLink()
        connection = Connection(link, principal, "phone")
        connection.device_key, connection.seen_at, connection.epoch = device
        node.hub.add(connection)
        heads = {room_id: node.hub.head(node.hub.key(room_id) or 0) for room_id in room_ids}
        entered: list[int] = []
        steps = Steps(monkeypatch)
        node.catch_up.start(connection, heads, lambda: entered.append(len(link.written)))
        await asyncio.wait_for(steps.held.wait(), DEADLINE_S)
        assert len(connection.rooms) == 3

        # One room that the connection is in and one that it is not: removed, and both removed and back.
        gone, back = {room_ids[0], room_ids[3]}, {room_ids[1], room_ids[4]}
        for room_id in [*room_ids, new]:
            await diego.ask("message", room_id=room_id, content="before")
        for room_id in [*gone, *back]:
            await diego.ask("kick", room_id=room_id, username="omar")
        for room_id in [*room_ids, new]:
            await diego.ask("message", room_id=room_id, content="absent")
        for room_id in [*back, new]:
            await join(room_id)
        steps.released.set()
        await asyncio.wait_for(asyncio.wait([connection.replay] if connection.replay else []), DEADLINE_S)
        for room_id in [*room_ids, new]:
            await diego.ask("message", room_id=room_id, content="after")
        await diego.ask("get_rooms")

        contents: dict[str, list[str]] = {room_id: [] for room_id in [*room_ids, new]}
        for name, payload in link.written:
            if name == "message":
                contents[payload["room_id"]].append(payload["content"])
        added = [payload["room"]["room_id"] for name, payload in link.written if name == "room_added"]
        removed = [payload["room_id"] for name, payload in link.written if name == "room_removed"]
        assert contents[room_ids[2]] == ["before", "absent", "after"]
        assert [contents[room_id] for room_id in gone] == [[], []]
        assert contents[new] == ["after"]
        # A room whose membership was read before the removal is added anew; in the other, the client's cursor counts.
        assert new in added
        for room_id in back:
            assert contents[room_id] == (["after"] if room_id in added else ["before", "absent", "after"])
        assert sorted(added) == sorted(set(added))
        assert set(added) <= {*back, new}
        assert sorted(removed) == sorted(set(removed))
        assert gone <= set(removed)
        assert len(entered) == 1
        assert not any(name == "message" for name, _ in link.written[: entered[0]])
        assert link.closed is None
        node.hub.remove(connection)
