"""Authentication over the plain WebSocket: accepted and refused tokens, and expiry."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.conformance.wire import eventually
from tests.delivery.support import store_held
from tests.gateways.plain import Plain, entered, plain
from tests.gateways.raw import opened
from tests.support.client import plainly_connected
from tests.support.node import RunningNode, running_node, settings_for
from tests.support.timers import Timers
from tidings.gateways.client_session import MAX_EARLY, MAX_EARLY_BYTES
from tidings.transport.socketio_server import CONNECT_TIMEOUT_S


def resigned(token: str, **claims: Any) -> str:
    """A node's own token with other claims."""
    key = settings_for("sqlite://", Path()).secret_key.get_secret_value()
    return jwt.encode(jwt.decode(token, options={"verify_signature": False}) | claims, key, algorithm="HS256")


async def refusal(client: Plain) -> tuple[Mapping[str, Any], int | None]:
    """The error object, which is the last frame, and the close code."""
    code = await client.until_closed()
    assert client.frames, "closed without an error frame"
    assert client.frames[-1]["ok"] is False
    error: Mapping[str, Any] = client.frames[-1]["error"]
    return error, code


# -- by the first frame -----------------------------------------------------------------------------------------


async def test_a_first_frame_with_token_device_and_cursors_is_answered_before_the_replay(
    gateway: RunningNode,
) -> None:
    token = await gateway.register("omar")
    claims = jwt.decode(token, options={"verify_signature": False})
    expires_at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(claims["exp"]))
    async with plainly_connected(gateway.url, token) as sender:
        room_id = (await sender.ask("create", topic_name="noticias"))["room_id"]
        for n in range(1, 4):
            await sender.ask("message", room_id=room_id, content=str(n))
    for named in ({"id": "first"}, {}):
        async with plain(gateway.url) as omar:
            auth = {"token": token, "device": "laptop", "cursors": {room_id: 1}}
            await omar.send(**named, action="authenticate", data=auth)
            ready = await omar.event("ready")
            assert omar.frames[0] == named | {"ok": True, "data": {"token_expires_at": expires_at}}
            assert omar.contents() == ["2", "3"]
            assert (ready["device"], ready["replayed"], ready["token_expires_at"]) == ("laptop", 2, expires_at)


async def test_a_refused_first_frame_gets_the_error_and_is_closed(gateway: RunningNode) -> None:
    good = await gateway.register("omar")
    revoked = await gateway.login("omar")
    async with entered(gateway.url, revoked) as gone:
        await gone.ask("logout")
    wrong: dict[str, tuple[Any, str, int]] = {
        "no data": (None, "unauthenticated", 4401),
        "no token": ({"device": "x"}, "unauthenticated", 4401),
        "a token that is a number": ({"token": 7}, "unauthenticated", 4401),
        "garbage": ({"token": "garbage"}, "unauthenticated", 4401),
        "another user's name": ({"token": resigned(good, sub="diego")}, "unauthenticated", 4401),
        "expired": ({"token": resigned(good, exp=int(time.time()) - 1)}, "token_expired", 4401),
        "withdrawn": ({"token": revoked}, "token_revoked", 4401),
        "a device that is a number": ({"token": good, "device": 7}, "invalid", 1008),
        "cursors that are a list": ({"token": good, "cursors": []}, "invalid", 1008),
        "data that is a list": ([], "invalid", 1008),
    }
    for case, (data, code, closed) in wrong.items():
        async with plain(gateway.url) as client:
            await client.send(id=case, action="authenticate", data=data)
            error, close_code = await refusal(client)
            assert (client.frames[-1]["id"], error["code"], close_code) == (case, code, closed), case
            assert len(client.frames) == 1
    assert not gateway.node.hub.connections


async def test_a_request_before_authentication_is_refused_and_closes_the_connection(gateway: RunningNode) -> None:
    await gateway.register("omar")
    for frame, code, closed in (
        ('{"id":1,"action":"get_rooms"}', "unauthenticated", 4401),
        ('{"id":1,"action":"disconnect"}', "unauthenticated", 4401),
        ('{"id":1,"action":"nonsense"}', "unauthenticated", 4401),
        ("hello", "invalid", 1008),
        (b"\x00", "invalid", 1008),
    ):
        async with plain(gateway.url) as client:
            await client.socket.send(frame)
            error, close_code = await refusal(client)
            assert (error["code"], close_code) == (code, closed), frame


# -- by the address ---------------------------------------------------------------------------------------------


async def test_a_token_in_the_address_authenticates_and_early_requests_are_answered(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    async with plain(gateway.url, token=token, device="tablet") as omar:
        # Sent before the token has been checked; answered in order afterwards.
        for n in range(50):
            await omar.send(id=n, action="create", data={"topic_name": f"topic {n}"})
        for n in range(50):
            answer = await omar.answer()
            assert (answer["id"], answer["data"]["topic_name"]) == (n, f"topic {n}")
        if not any(frame.get("event") == "ready" for frame in omar.frames):
            await omar.event("ready")
        (ready,) = (frame["data"] for frame in omar.frames if frame.get("event") == "ready")
        assert (ready["username"], ready["device"]) == ("omar", "tablet")
    async with plain(gateway.url, token=token) as omar:
        assert (await omar.event("ready"))["device"] == "default"


async def test_a_wrong_token_in_the_address_is_refused_after_the_handshake(gateway: RunningNode) -> None:
    """A browser hides from a page why an opening handshake failed."""
    good = await gateway.register("omar")
    for token, code in (
        ("garbage", "unauthenticated"),
        ("", "unauthenticated"),
        (resigned(good, exp=int(time.time()) - 1), "token_expired"),
    ):
        async with plain(gateway.url, token=token) as client:
            error, close_code = await refusal(client)
            assert (error["code"], close_code, "id" in client.frames[-1]) == (code, 4401, False)
    async with plain(gateway.url, token=good, device="x" * 65) as client:
        error, close_code = await refusal(client)
        assert (error["code"], close_code) == ("invalid", 1008)


# -- time and number --------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_authenticate_in_time_is_refused_and_closed(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    timers = Timers()
    async with (
        running_node(sqlite_url, tmp_path, options={"timers": timers}) as node,
        entered(node.url, await node.register("omar")) as in_time,
        plain(node.url) as silent,
    ):
        await eventually(lambda: len(node.node.websocket.server.sessions) == 2)
        timers.advance(CONNECT_TIMEOUT_S - 1)
        assert len(node.node.websocket.server.sessions) == 2
        timers.advance(1)
        error, close_code = await refusal(silent)
        assert (error["code"], close_code) == ("unauthenticated", 4401)
        await in_time.is_alive()


async def test_a_good_token_gets_unavailable_while_the_store_hangs(
    gateway: RunningNode, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gateway.register("omar")
    timers, doors = Timers(), gateway.node.websocket.server
    with monkeypatch.context() as patch:
        patch.setattr(doors, "timers", timers)
        # A new device has to be stored before the connection is ready.
        async with store_held(sqlite_url), plain(gateway.url, token=token, device="new") as omar:
            await eventually(lambda: bool(doors.sessions))
            timers.advance(CONNECT_TIMEOUT_S)
            error, close_code = await refusal(omar)
            assert (error["code"], error["retryable"], close_code) == ("unavailable", True, 1008)
    async with entered(gateway.url, token, device="new") as omar:
        await omar.is_alive()
        assert len(gateway.node.hub.connections) == 1


async def test_requests_that_wait_for_authentication_are_bounded(gateway: RunningNode, sqlite_url: str) -> None:
    token = await gateway.register("omar")
    flood = (
        [json.dumps({"action": "get_rooms"})] * (MAX_EARLY + 1),
        [json.dumps({"action": "x" * (MAX_EARLY_BYTES // 2)})] * 3,
    )
    for n, frames in enumerate(flood):
        async with store_held(sqlite_url), plain(gateway.url, token=token, device=f"new {n}") as omar:
            for frame in frames:
                await omar.socket.send(frame)
            error, close_code = await refusal(omar)
            assert (error["code"], close_code) == ("rate_limited", 1008)
            assert len(omar.frames) == 1
    async with entered(gateway.url, token) as omar:
        await omar.is_alive()


async def test_both_gateways_share_the_cap_of_connections_without_authentication(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(sqlite_url, tmp_path, options={"engine": {"max_half_open": 2}}) as node,
        AsyncExitStack() as stack,
    ):
        token = await node.register("omar")
        first = await stack.enter_async_context(plain(node.url))
        second = await stack.enter_async_context(opened(node.url))
        third = await stack.enter_async_context(plain(node.url))
        assert await first.until_closed() == 1013
        await stack.enter_async_context(opened(node.url))
        await second.until_closed()
        assert (await third.ask("authenticate", token=token))["ok"]  # no longer counts
        for _ in range(3):
            await stack.enter_async_context(entered(node.url, token))
        await third.is_alive()


async def test_a_good_token_in_the_address_does_not_count_towards_the_cap(
    quiet_log: None, sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, options={"engine": {"max_half_open": 1}}) as node:
        token = await node.register("omar")
        async with plain(node.url) as silent:
            for _ in range(3):
                async with plain(node.url, token=token) as omar:
                    await omar.is_alive()
            assert node.node.socketio.eio.half_open.dropped == 0
            async with plain(node.url, token=token[:-2]) as refused:
                assert await refused.until_closed() == 4401
            assert await silent.until_closed() == 1013


async def test_the_oldest_of_too_many_connections_of_a_device_is_closed_as_replaced(
    gateway: RunningNode,
) -> None:
    token = await gateway.register("omar")
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(entered(gateway.url, token)) for _ in range(17)]
        assert await crowd[0].until_closed() == 1008
        assert crowd[0].frames[-1] == {"event": "closing", "data": {"reason": "replaced", "reconnect": False}}
        await crowd[1].is_alive()


# -- expiry and withdrawal --------------------------------------------------------------------------------------


async def test_a_connection_ends_with_its_token_unless_it_got_a_fresh_one(gateway: RunningNode) -> None:
    token = await gateway.register("omar")
    soon = int(time.time()) + 6
    short = resigned(token, exp=soon)
    async with entered(gateway.url, short) as ends, entered(gateway.url, short, device="other") as stays:
        answer = await stays.ask("authenticate", token=token)
        assert answer["ok"]
        assert await stays.code("authenticate", token="garbage") == "unauthenticated"
        assert await stays.code("authenticate", token=token, device="third") == "invalid"
        assert await stays.code("authenticate", token=await gateway.register("diego")) == "forbidden"
        assert await ends.until_closed() == 4401
        assert ends.frames[-1] == {"event": "closing", "data": {"reason": "token_expired", "reconnect": False}}
        assert time.time() >= soon
        await stays.is_alive()
