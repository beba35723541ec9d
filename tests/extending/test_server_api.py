"""`app.tidings`: every method, from code in the process of the server; its errors are the contract's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.client import connected
from tests.support.node import RunningNode, running_node
from tidings.contract.errors import ActionError
from tidings.contract.models import Posting
from tidings_db.failures import StoreUnavailable


@pytest.fixture
async def node(sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, rate_limits="on") as running:
        yield running


async def test_an_application_manages_users_rooms_and_members_and_writes_to_them(node: RunningNode) -> None:
    api = node.app.tidings
    profile = await api.user("eva", create=True, display_name="Eva María")
    assert (profile.username, profile.display_name) == ("eva", "Eva María")
    room = await api.create_room("orders", is_private=True, usernames=["eva"], posting=Posting.MODERATORS)
    token = await api.token("eva", minutes=5)
    async with connected(node.url, token.token) as eva:
        published = [await api.publish("orders", "order.paid", {"id": n}, client_id="once") for n in (1, 2)]
        assert published[0] == published[1]
        event = await eva.event("order.paid")
        assert (event["seq"], event["sender"], event["data"]) == (published[0].seq, "server", {"id": 1})
        sent = await api.send(room.room_id, "hola", data={"x": 1})
        assert (await eva.event("message"))["id"] == sent.id
        await api.publish(room.room_id, "cursor", 1, transient=True)
        assert (await eva.event("cursor"))["data"] == 1
        with pytest.raises(ActionError) as refused:
            await api.send("orders", "as a mere member", sender="eva")
        assert refused.value.code == "forbidden"
        direct = await api.send("eva", "to you")
        assert (await eva.event("message", lambda m: m["room_id"] == direct.room_id))["content"] == "to you"
        assert await api.is_member("orders", "eva")
        assert set(await api.rooms_of("eva")) == {room.room_id, direct.room_id}
        assert [member.username for member in await api.members("orders")] == ["eva", "server"]
        await api.remove_member("orders", "eva")
        await eva.event("room_removed")
        await api.add_member("orders", "eva")
        await api.add_member("orders", "eva")
        await api.delete_room("orders")
        await eva.until(lambda: len(eva.of("room_removed")) == 2)
        await api.disconnect("eva")
        assert (await eva.event("closing"))["reason"] == "token_revoked"


async def test_the_errors_of_the_api_are_those_of_the_contract(node: RunningNode) -> None:
    api = node.app.tidings
    await api.create_room("orders")
    for attempt, code in (
        (api.publish("nowhere", "x", 1), "not_found"),
        (api.publish("orders", "message", 1), "invalid"),
        (api.publish("orders", "x", {1, 2}), "invalid"),
        (api.publish("orders", "x", "x" * 70_000), "too_large"),
        (api.send("orders", ""), "invalid"),
        (api.create_room("orders"), "conflict"),
        (api.delete_room("nowhere"), "not_found"),
        (api.add_member("orders", "nobody"), "not_found"),
        (api.members("nowhere"), "not_found"),
        (api.rooms_of("nobody"), "not_found"),
        (api.user("nobody"), "not_found"),
        (api.user("a b", create=True), "invalid"),
        (api.token("nobody"), "not_found"),
        (api.disconnect("nobody"), "not_found"),
        (api.publish("orders", "x", 1, sender="nobody"), "not_found"),
    ):
        with pytest.raises(ActionError) as refused:
            await attempt
        assert refused.value.code == code, attempt


async def test_a_store_that_is_away_is_an_error_of_the_contract(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = node.app.tidings

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    for kind in ("write", "read"):  # the first call of all writes: it creates the server's account
        monkeypatch.setattr(node.node.database, kind, away)
        with pytest.raises(ActionError) as refused:
            await api.create_room("orders")
        assert refused.value.code == "unavailable"
    for attempt in (
        api.publish("orders", "x", 1),
        api.add_member("orders", "omar"),
        api.is_member("orders", "omar"),
        api.rooms_of("omar"),
        api.members("orders"),
        api.user("omar"),
    ):
        with pytest.raises(ActionError) as refused:
            await attempt
        assert refused.value.code == "unavailable"


async def test_a_user_of_the_application_cannot_be_the_account_of_the_server(node: RunningNode) -> None:
    api = node.app.tidings
    await api.create_room("orders", is_private=True)
    for attempt, code in ((api.user("Server", create=True), "conflict"), (api.token("server"), "forbidden")):
        with pytest.raises(ActionError) as refused:
            await attempt
        assert refused.value.code == code
    assert await api.is_member("orders", "server")


async def test_the_account_of_the_server_is_not_that_of_a_user_with_its_name(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        await node.node.auth.find_or_create("server")  # as an identity provider or an administrator makes one
        await node.app.tidings.create_room("orders", is_private=True)
        assert not await node.app.tidings.is_member("orders", "server")


async def test_an_application_is_not_held_up_by_the_rates_of_users(node: RunningNode) -> None:
    api = node.app.tidings
    await api.create_room("ticks")
    await asyncio.gather(*(api.publish("ticks", "tick", n) for n in range(7_000)))
    assert (await api.publish("ticks", "tick", "last")).seq == 7_001
