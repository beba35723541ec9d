"""Two nodes on one database: no code assumes a single node."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.wire import eventually
from tests.delivery.brokers import LinkedBroker, SilentBroker, Wire
from tests.delivery.support import make_topic, principal, rest, seqs, stored
from tests.support.client import DEADLINE_S, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.cluster import notify
from tidings.cluster.node_messages import BODY, CONTROL, Sealer
from tidings.cluster.notify import NotifyBroker
from tidings.log.notices import Personal, Transient, encode
from tidings_db.queries import users

pytestmark = pytest.mark.long  # several nodes on PostgreSQL


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes whose brokers are linked. SQLite is for one node."""
    wire = Wire()
    async with (
        running_node(postgresql_url, tmp_path, options={"broker": LinkedBroker(wire)}) as first,
        running_node(postgresql_url, tmp_path, options={"broker": LinkedBroker(wire)}) as second,
    ):
        yield first, second


async def test_a_device_that_moves_to_the_other_node_misses_nothing(nodes: tuple[RunningNode, RunningNode]) -> None:
    first = nodes[0]
    tokens = [await first.register(name) for name in ("omar", "diego")]
    room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
    received: list[int] = []
    async with connected(first.url, tokens[0]) as omar:
        for visit in range(6):
            node = nodes[visit % 2]
            sent = [omar.send("message", {"room_id": room_id, "content": "x"}) for _ in range(20)]
            cursor = received[-1] if received else 0
            async with connected(node.url, tokens[1], cursors={room_id: cursor}) as diego:
                await asyncio.gather(*sent)
                await diego.until(lambda d=diego, v=visit: 20 * (v + 1) in seqs(d, room_id))
            received += seqs(diego, room_id)
    assert received == list(range(1, 121))


WITHDRAWALS = {
    "logout": ("omar", "/api/logout", {}),
    "revoke": ("other session", "/api/sessions/{sid}", {}),
    "change_password": ("other session", "/api/me/password", {"password": PASSWORD, "new_password": "n" + PASSWORD}),
    "deactivate": ("other session", "/api/me/deactivate", {"password": PASSWORD}),
    "disable": ("admin", "/api/admin/users/omar/disable", {}),
}
"""Whose token withdraws omar's session, the path, and the payload."""


@pytest.mark.parametrize(
    ("withdrawal", "action"), [*((withdrawal, "message") for withdrawal in WITHDRAWALS), ("logout", "create")]
)
async def test_a_session_withdrawn_on_one_node_changes_nothing_more_on_another(
    postgresql_url: str, tmp_path: Path, withdrawal: str, action: str
) -> None:
    deaf = {"poll_s": 3600.0, "session_check_s": 3600.0, "broker": SilentBroker()}  # not woken either
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path, options=deaf) as second,
    ):
        tokens = {name: await first.register(name) for name in ("omar", "admin")}
        await first.node.database.write(lambda conn: users.set_admin(conn, 2, True))
        tokens["other session"] = await first.login("omar")
        room_id = await make_topic(first.url, tokens["omar"], "noticias")
        async with connected(second.url, tokens["omar"]) as omar, connected(second.url, tokens["admin"]) as other:
            await omar.ask("message", room_id=room_id, content="before")
            actor, path, payload = WITHDRAWALS[withdrawal]
            async with rest(first.url, tokens[actor]) as http:
                sid = principal(second, "omar").sid
                method = "DELETE" if "{" in path else "POST"
                answer = await http.request(method, path.format(sid=sid), json=payload)
                assert answer.is_success, answer.text
            with pytest.raises(Refused) as refused:
                await omar.ask(
                    action,
                    {"room_id": room_id, "content": "after"} if action == "message" else {"topic_name": "new"},
                )
            assert refused.value.code == "token_revoked"
            assert (await omar.event("closing"))["reason"] == "token_revoked"
            await other.ask("get_rooms")
        assert await stored(postgresql_url, room_id) == ["before"]
        assert not await first.node.parts.directory.has("new")


async def test_nothing_that_another_role_of_postgresql_notifies_is_delivered(
    postgresql_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Any role that may connect to the database can notify, and hears what the nodes do."""
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path) as second,
    ):
        broker = second.node.cluster.broker
        assert isinstance(broker, NotifyBroker)
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            stranger = await first.node.database.dedicated()
            heard: asyncio.Queue[str] = asyncio.Queue()
            await stranger.listen(notify.CHANNEL, heard.put_nowait)
            await eventually(lambda: first.node.cluster.registry.others and second.node.cluster.registry.others)
            await omar.ask("typing", room_id=room_id, typing=True)
            await diego.event("typing")
            genuine = await asyncio.wait_for(heard.get(), DEADLINE_S)
            while len(genuine) <= notify.HEAD:
                genuine = await asyncio.wait_for(heard.get(), DEADLINE_S)

            user_key = principal(second, "diego").user_key
            forged = encode(Personal(user_key, "closing", {"reason": "revoked"})).decode()
            identity = broker._identity()
            foreign = Sealer(identity.instance, first.node.id, [b"another key"]).seal(CONTROL, 0, forged.encode())
            payloads = [
                "",
                "é\x7f{}",
                first.node.id + forged,
                genuine[: notify.HEAD] + forged,
                base64.b64encode(foreign[:BODY]).decode() + forged,
                genuine,
            ]
            before = broker.ignored
            await stranger.fetch(notify.NOTIFY, notify.CHANNEL, payloads)
            await eventually(lambda: broker.ignored == before + len(payloads))
            longest = {"room_id": room_id, "username": "omar", "typing": False}
            size = len(encode(Transient(1, "typing", longest)))
            room_key = first.node.hub.key(room_id)
            assert room_key == 1
            lengths = [notify.LONGEST, notify.LONGEST_BODY + 1, notify.LONGEST_BODY, notify.LONGEST + 1, 1000]
            payloads = [longest | {"username": "x" * (length - size + len("omar"))} for length in lengths]
            sender = first.node.cluster.broker
            assert isinstance(sender, NotifyBroker)
            for payload in payloads:
                first.node.cluster.share([Transient(room_key, "typing", payload)])
            assert sender.dropped == 1
            for payload in (*payloads[:3], payloads[4]):
                assert await diego.event("typing") == payload
            assert len(diego.of("typing")) == 5
            assert diego.of("closing") == []
            await stranger.close()
        assert len([record for record in caplog.records if record.name == "tidings.notify"]) == 2, "one of each node"


async def test_a_long_transient_event_reaches_a_member_on_another_node_without_redis_unless_a_part_is_lost(
    postgresql_url: str, tmp_path: Path
) -> None:
    async with (
        running_node(postgresql_url, tmp_path) as first,
        running_node(postgresql_url, tmp_path) as second,
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        await eventually(lambda: first.node.cluster.registry.others and second.node.cluster.registry.others)
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            for data in ("x" * 60_000, "ñ" * 30_000, "😀" * 15_000, "short"):
                await omar.ask("publish", room_id=room_id, event="screen", data=data, transient=True)
                assert (await diego.event("screen"))["data"] == data
            sender, receiver = first.node.cluster.broker, second.node.cluster.broker
            assert isinstance(sender, NotifyBroker)
            assert isinstance(receiver, NotifyBroker)
            room_key = first.node.hub.key(room_id)
            assert room_key is not None
            short = diego.of("screen")[-1]
            notices = [Transient(room_key, "screen", short | {"data": letter * 20_000}) for letter in "abcde"]
            a, b, c, d, e = (list(sender._payloads(encode(notice))) for notice in notices)
            assert len(a) == 3
            for payload in (a[0], a[2], *b[:2], *c, *d[1:], *e):
                receiver._notified(payload)
            for letter in "ce":
                assert (await diego.event("screen"))["data"] == letter * 20_000
            assert len(diego.of("screen")) == 6
