"""A commit whose answer is lost, on one of two nodes: the message reaches the clients of the other one, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.delivery.support import make_topic, seqs, stored
from tests.support.client import connected
from tests.support.commits import commits
from tests.support.depth import examples
from tests.support.node import running_node

pytestmark = pytest.mark.long  # several nodes on PostgreSQL

MESSAGES = examples(80)


async def test_a_message_whose_commit_was_not_answered_reaches_the_clients_of_another_node_once(
    postgresql_url: str, tmp_path: Path
) -> None:
    options = {"head_check_s": 3600.0}
    async with (
        commits(postgresql_url) as (proxy, url),
        running_node(url, tmp_path / "first", options=dict(options)) as first,
        running_node(postgresql_url, tmp_path / "second", options=dict(options)) as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "noticias", diego)
        async with connected(first.url, omar) as writer, connected(second.url, diego) as reader:
            for n in range(MESSAGES):
                proxy.lost.clear()
                proxy.lose_answer(b"content %d." % n)
                while True:
                    payload = {"room_id": room_id, "content": f"content {n}.", "client_id": str(n)}
                    answer = await writer.call("message", payload)
                    if answer["ok"]:
                        break
                    assert answer["error"]["code"] == "unavailable", answer
                await reader.until(lambda n=n: len(seqs(reader, room_id)) > n)
                assert answer["data"]["seq"] == n + 1
                assert proxy.lost.is_set()
            assert seqs(reader, room_id) == list(range(1, MESSAGES + 1))
            await writer.until(lambda: len(seqs(writer, room_id)) >= MESSAGES)
            assert seqs(writer, room_id) == seqs(reader, room_id)
        assert await stored(postgresql_url, room_id) == [f"content {n}." for n in range(MESSAGES)]
