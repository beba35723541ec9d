"""Events that are not in the log, of several nodes: one may overtake another, or never come because its node died."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.delivery.brokers import ChoosyPublisher, LinkedBroker, Wire
from tests.delivery.support import make_topic
from tests.support.client import Client, connected
from tests.support.node import running_node
from tests.support.timers import Timers
from tidings.fanout.receipt_order import MAX_MEMBERS, ReceiptOrder
from tidings.fanout.typing import REPEAT_S, TYPING_S
from tidings.log.notices import Notice, Transient

ONLY_SOCKETIO = True  # the gateway makes no difference


async def test_a_late_receipt_never_shows_an_older_position(database_url: str, tmp_path: Path) -> None:
    def is_receipt(notice: Notice) -> bool:
        return isinstance(notice, Transient) and notice.event == "receipt"

    publisher = ChoosyPublisher()
    async with running_node(database_url, tmp_path, options={"publisher": publisher}) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        room_id = await make_topic(node.url, omar, "noticias", diego)
        async with connected(node.url, omar) as writer, connected(node.url, diego) as reader:
            for n in range(3):
                await writer.ask("message", room_id=room_id, content=f"{n}")
            publisher.holds = is_receipt
            await reader.ask("read", room_id=room_id, seq=1)
            publisher.holds = lambda _: False
            await reader.ask("read", room_id=room_id, seq=3)
            await writer.event("receipt", lambda receipt: receipt["read_seq"] == 3)
            publisher.go_on()
            await writer.ask("get_rooms")
            assert [receipt["read_seq"] for receipt in writer.of("receipt")] == [3, 3]


def test_the_latest_receipts_of_a_bounded_number_of_members_are_remembered() -> None:
    order = ReceiptOrder()

    def newest(username: str, delivered: int, read: int) -> tuple[int, int]:
        receipt = {"room_id": "r", "username": username, "delivered_seq": delivered, "read_seq": read}
        shown = order.newest(receipt)
        assert (shown["room_id"], shown["username"]) == ("r", username)
        return shown["delivered_seq"], shown["read_seq"]

    assert newest("omar", 5, 2) == (5, 2)
    assert newest("omar", 4, 3) == (5, 3)
    assert newest("diego", 1, 1) == (1, 1)
    assert newest("omar", 1, 1) == (5, 3)
    for n in range(MAX_MEMBERS):
        newest(f"{n}", 1, 1)
    assert newest("omar", 1, 1) == (1, 1)
    order.clear()
    assert newest(f"{MAX_MEMBERS - 1}", 0, 0) == (0, 0)


async def typing(client: Client) -> list[bool]:
    await client.ask("get_rooms")
    return [event["typing"] for event in client.of("typing")]


@pytest.mark.long
async def test_typing_ends_although_the_node_of_the_typist_has_died(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, timers = Wire(), Timers()
    brokers = LinkedBroker(wire), LinkedBroker(wire)
    async with (
        running_node(postgresql_url, tmp_path / "1", options={"broker": brokers[0], "typing_s": 3600.0}) as first,
        running_node(postgresql_url, tmp_path / "2", options={"broker": brokers[1], "timers": timers}) as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "noticias", diego)
        async with connected(first.url, omar) as typist, connected(second.url, diego) as reader:
            await typist.ask("typing", room_id=room_id)
            await reader.event("typing")
            await typist.ask("typing", room_id=room_id, typing=False)
            await reader.event("typing")
            timers.advance(TYPING_S + REPEAT_S)
            assert await typing(reader) == [True, False], "its end is sent once"
            await typist.ask("typing", room_id=room_id)
            await reader.event("typing")
            with monkeypatch.context() as dead:
                dead.setattr(brokers[0], "share", lambda notices: None)
                timers.advance(TYPING_S)
                assert await typing(reader) == [True, False, True], "it may have been extended"
                timers.advance(REPEAT_S)
                assert await reader.event("typing") == {"room_id": room_id, "username": "omar", "typing": False}
