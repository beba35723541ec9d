"""Several nodes on one PostgreSQL, joined by Redis: what is committed reaches the others soon, whatever Redis does.

Redis is a real server, which the tests kill, suspend, empty and cut off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.delivery.support import make_topic, seqs, stored
from tests.delivery.test_broker import MESSAGE
from tests.support.client import DEADLINE_S, Client, connected
from tests.support.commits import commits
from tests.support.network import Conditions, Network, network
from tests.support.node import RunningNode, running_node
from tests.support.redis import RedisServer, redis_server
from tests.support.yardstick import slowdown
from tidings.cluster.node_messages import CONTROL, NOTICE, SHARDS, Sealer, control_item, encode_parts, shard_of
from tidings.cluster.redis_broker import RedisBroker
from tidings.cluster.redis_link import Lost, RedisLink
from tidings.log.notices import Appended, Transient, encode
from tidings.log.views import RoomName

pytestmark = pytest.mark.long  # several nodes on PostgreSQL

QUIET = {"head_check_s": 3600.0, "session_check_s": 3600.0}
LATE_S = 1.5
"""A message that takes longer was not brought by the feed, which is read every 0.2 s. The machine may be busy."""


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    async with redis_server() as server:
        yield server


def broker_of(node: RunningNode) -> RedisBroker:
    broker = node.node.cluster.broker
    assert isinstance(broker, RedisBroker)
    return broker


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that this event loop changes."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.to_thread(str)


async def joined(*nodes: RunningNode) -> None:
    """Wait until messages of each node reach all others."""
    await until(lambda: all(len(broker_of(node)._received) == len(nodes) - 1 for node in nodes))
    await until(lambda: all(node.node.cluster.registry.others and not broker_of(node).trouble for node in nodes))


@asynccontextmanager
async def two_nodes(
    database_url: str, data_dir: Path, first_url: str, second_url: str, **options: Any
) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes that have heard of each other, each with its way to Redis."""
    options = QUIET | {"lease_s": 2.0} | options
    async with (
        running_node(database_url, data_dir, options=dict(options), redis_url=first_url) as first,
        running_node(database_url, data_dir, options=dict(options), redis_url=second_url) as second,
    ):
        await joined(first, second)
        yield first, second


def redis_through(proxy: Network) -> str:
    return proxy.url.replace("http://", "redis://")


# -- delivery --------------------------------------------------------------------------------------------------------


async def test_entries_reach_a_node_that_cannot_read_its_database(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with (
        commits(postgresql_url) as (link, cut_off_url),
        running_node(postgresql_url, tmp_path, options=QUIET, redis_url=redis.url) as first,
        running_node(cut_off_url, tmp_path, options=QUIET, redis_url=redis.url) as second,
    ):
        await joined(first, second)
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(second.url, tokens[0], device="elsewhere") as elsewhere,
        ):
            link.freeze()
            sent = await omar.ask("message", room_id=room_id, content="olá 👋", client_id="c1")
            await omar.ask("edit", message_id=sent["id"], content="olá!")
            await omar.ask("react", message_id=sent["id"], emoji="👍")
            names = ("message", "message_edited", "reaction")
            for client in (omar, diego, elsewhere):
                await client.until(lambda client=client: seqs(client, room_id) == [1, 2, 3])
            events = [
                [(name, payload) for name, payload in client.events if name in names]
                for client in (omar, diego, elsewhere)
            ]
            link.thaw()
        assert events[2] == events[0], "its sender gets client_id on every node"
        assert [payload.get("message", payload)["client_id"] for _, payload in events[1]] == [None] * 3
        assert _without_client_ids(events[1]) == _without_client_ids(events[0])


def _without_client_ids(events: list[tuple[str, Any]]) -> list[Any]:
    return [
        {**payload, "client_id": None}
        if name == "message"
        else {**payload, "message": {**payload["message"], "client_id": None}}
        for name, payload in events
    ]


async def test_messages_of_two_nodes_over_slow_links_reach_all_clients_in_one_order(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    jitter = Conditions(jitter=0.2)
    async with (
        network(redis.path, jitter, jitter, seed=1) as slow,
        network(redis.path, jitter, jitter, seed=2) as slower,
        two_nodes(postgresql_url, tmp_path, redis_through(slow), redis_through(slower)) as (first, second),
    ):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(first.url, tokens[1], device="b") as listener,
        ):
            for round_ in range(20):  # so that the commits of the nodes alternate
                sent = [
                    client.send("message", {"room_id": room_id, "content": f"{client is omar} {round_} {n}"})
                    for n in range(5)
                    for client in (omar, diego)
                ]
                assert all(answer["ok"] for answer in await asyncio.gather(*sent))
            for client in (omar, diego, listener):
                await client.until(lambda client=client: len(client.of("message")) == 200)
                assert seqs(client, room_id) == list(range(1, 201))
                assert client.contents() == omar.contents()


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_a_removed_member_gets_no_later_entry_over_redis(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, *, is_private: bool
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego", "eva")]
        room_id = await make_topic(first.url, tokens[0], "noticias", is_private=is_private)
        async with (
            connected(first.url, tokens[0]) as omar,
            connected(second.url, tokens[1]) as diego,
            connected(second.url, tokens[2]) as eva,
        ):
            join = partial(omar.ask, "invite", room_id=room_id) if is_private else None
            for client, name in ((diego, "diego"), (eva, "eva")):
                await (join(username=name) if join else client.ask("subscribe", topic_name="noticias"))
            await eva.event("room_added")
            for n in range(10):
                await omar.ask("message", room_id=room_id, content=f"in {n}")
                await diego.until(lambda n=n: diego.contents()[-1:] == [f"in {n}"])
                both = [
                    omar.send("kick", {"room_id": room_id, "username": "diego"}),
                    omar.send("message", {"room_id": room_id, "content": f"out {n}"}),
                ]
                assert all(answer["ok"] for answer in await asyncio.gather(*both))
                await diego.event("room_removed")
                await eva.until(lambda n=n: eva.contents()[-1:] == [f"out {n}"])
                await (join(username="diego") if join else diego.ask("subscribe", topic_name="noticias"))
            assert [content for content in diego.contents() if content.startswith("out")] == []


async def test_typing_and_receipts_reach_the_other_node_over_redis(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            sent = await omar.ask("message", username="diego", content="x")
            room_id = sent["room_id"]
            await diego.event("message")
            await omar.ask("typing", room_id=room_id)
            assert (await diego.event("typing"))["username"] == "omar"
            await diego.ask("read", room_id=room_id, seq=1)
            assert (await omar.event("receipt", lambda receipt: receipt["read_seq"] == 1))["username"] == "diego"


@pytest.mark.parametrize("by", ["the next message", "a heartbeat"])
async def test_a_message_that_redis_loses_is_missed_and_its_entries_are_read(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, by: str
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        second.node.cluster.feed._poll_s = 3600.0  # it is read only when something wakes it
        tokens = [await first.register(name) for name in ("omar", "diego")]
        topics = [await make_topic(first.url, tokens[0], f"topic {n}", tokens[1]) for n in range(SHARDS + 1)]
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            by_shard: dict[int, list[str]] = {}
            for room_id in topics:
                key = second.node.hub.key(room_id)
                assert key is not None
                by_shard.setdefault(shard_of(key), []).append(room_id)
            room_id, neighbour = next(rooms for rooms in by_shard.values() if len(rooms) > 1)[:2]
            broker = broker_of(first)
            await omar.ask("message", room_id=room_id, content="first")
            await diego.until(lambda: diego.contents() == ["first"])
            with lost_message(broker):
                await omar.ask("message", room_id=room_id, content="lost")
            if by == "the next message":
                broker._beat = lambda: None  # type: ignore[method-assign]
                await omar.ask("message", room_id=neighbour, content="next")
            await diego.until(lambda: "lost" in diego.contents())
            assert broker_of(second).gaps == 1


@contextmanager
def lost_message(broker: RedisBroker) -> Iterator[None]:
    """Messages with entries do not reach Redis; heartbeats do."""
    link = broker._link
    assert link is not None
    publish, lost = link.publish, []

    def losing(messages: Iterable[tuple[bytes, bytes]]) -> int:
        messages = list(messages)
        of_entries = [message for message in messages if message[0] != broker._channels_out[CONTROL]]
        lost.extend(of_entries)
        return publish([message for message in messages if message not in of_entries])

    link.publish = losing  # type: ignore[method-assign]
    try:
        yield
    finally:
        link.publish = publish  # type: ignore[method-assign]
    assert len(lost) == 1


# -- Redis fails -----------------------------------------------------------------------------------------------------

Fault = Callable[[RedisServer, Network], Awaitable[Callable[[], Awaitable[None]]]]
"""Begins a fault, and returns what ends it."""


async def killed(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    await redis.kill()
    return redis.start


async def suspended(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    redis.suspend()

    async def resume() -> None:
        redis.resume()

    return resume


def commanded(*commands: tuple[str, ...]) -> Fault:
    """Redis is given commands; there is nothing to end."""

    async def begin(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
        for command in commands:
            await redis.ask(*command)

        async def nothing() -> None: ...

        return nothing

    return begin


async def flooded(redis: RedisServer, _: Network) -> Callable[[], Awaitable[None]]:
    """Redis may keep little for a subscriber, and others publish much: it drops the subscribers."""
    await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32kb 32kb 1")
    for channel in await redis.channels():
        await redis.ask("PUBLISH", channel, b"x" * 33_000_000)

    async def allow() -> None:
        await redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")

    return allow


def half_open(*directions: str) -> Fault:
    """The bytes of one node's connections vanish."""

    async def begin(_: RedisServer, proxy: Network) -> Callable[[], Awaitable[None]]:
        proxy.swallow(*directions)

        async def heal() -> None:
            proxy.heal()

        return heal

    return begin


async def refused(_: RedisServer, proxy: Network) -> Callable[[], Awaitable[None]]:
    proxy.refuse()
    proxy.cut()

    async def heal() -> None:
        proxy.heal()

    return heal


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "suspended": suspended,
    "emptied": commanded(("FLUSHALL",), ("SCRIPT", "FLUSH")),
    "clients killed": commanded(("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal")),
    "flooded": flooded,
    "half-open": half_open(),
    "half-open up": half_open("up"),
    "half-open down": half_open("down"),
    "refused": refused,
}
QUICK = {"killed", "half-open down"}
"""Those of `make test`."""
HARMLESS = {"emptied"}
"""Redis holds nothing, so it does not matter."""


@pytest.mark.parametrize(
    "fault", [fault if fault in QUICK else pytest.param(fault, marks=pytest.mark.long) for fault in FAULTS]
)
async def test_nothing_is_lost_repeated_or_late_while_redis_fails_and_it_heals(
    postgresql_url: str, tmp_path: Path, redis: RedisServer, fault: str
) -> None:
    async with (
        network(redis.path) as proxy,
        two_nodes(postgresql_url, tmp_path, redis.url, redis_through(proxy)) as (first, second),
        httpx.AsyncClient() as http,
    ):
        nodes = first, second
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            load = Load(room_id, omar, diego)
            await load.run(until=lambda: load.sent >= 20)
            connects = [broker_of(node).connects for node in nodes]
            end = await FAULTS[fault](redis, proxy)
            if fault in HARMLESS:
                await load.run(until=lambda: load.sent >= 60)
            else:
                is_noticed = lambda: broker_of(second).trouble or broker_of(second).connects > connects[1]  # noqa: E731
                await load.run(until=is_noticed)
                if fault not in ("clients killed", "flooded"):
                    ready = await http.get(f"{second.url}/health/ready")
                    assert ready.status_code == 200
                    assert ready.json()["degraded"] == "Redis is away", "the log has its address, and why"
                    assert await metric(http, second, "tidings_redis_up") == 0
                await load.run(until=lambda: load.sent >= 60)
            await end()
            await load.run(until=lambda: not any(broker_of(node).trouble for node in nodes))
            await load.run(until=lambda count=load.sent: load.sent >= count + 20)
            assert seqs(diego, room_id) == seqs(omar, room_id) == list(range(1, load.sent + 1))
            assert diego.contents() == omar.contents()
        assert load.latest < LATE_S
        assert (await http.get(f"{second.url}/health/ready")).json() == {"status": "ok"}
        assert await metric(http, second, "tidings_redis_up") == 1
        assert (broker_of(second).connects == connects[1]) is (fault in HARMLESS)


async def metric(http: httpx.AsyncClient, node: RunningNode, name: str) -> float:
    lines = (await http.get(f"{node.url}/metrics")).text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


class Load:
    """Both clients send into a room, one message after the other, and measure when the other one gets it."""

    def __init__(self, room_id: str, *clients: Client) -> None:
        self.room_id = room_id
        self.clients = clients
        self.sent = 0
        self.latest = 0.0
        """The longest time from an acknowledgement to the arrival at the other client, in seconds."""

    async def run(self, until: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not until():
                sender, receiver = self.clients[:: -1 if self.sent % 2 else 1]
                await sender.ask("message", room_id=self.room_id, content=f"{self.sent}")
                acknowledged, self.sent = time.monotonic(), self.sent + 1
                await receiver.until(lambda receiver=receiver: len(receiver.of("message")) == self.sent)
                self.latest = max(self.latest, time.monotonic() - acknowledged)
                await sender.until(lambda sender=sender: len(sender.of("message")) == self.sent)


async def test_a_redis_that_hangs_delays_nobody_who_signs_in_or_asks(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, _):
        token = await first.register("omar")
        room_id = await make_topic(first.url, token, "noticias")
        async with connected(first.url, token) as omar:

            async def ask(n: int) -> float:
                began = time.monotonic()
                await first.register(f"diego{n}")
                await first.login("omar")
                await omar.ask("get_profile", username="omar")
                await omar.ask("get_members", room_id=room_id)
                return time.monotonic() - began

            usual = max([await ask(n) for n in range(5)])
            redis.suspend()
            longest = max([await ask(n) for n in range(5, 10)])
            redis.resume()
        assert longest < usual + 0.5, "a wait for Redis takes seconds"


async def test_a_node_starts_while_redis_is_away_and_finds_it_later(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    await redis.kill()
    async with running_node(postgresql_url, tmp_path, redis_url=redis.url) as node:
        assert broker_of(node).trouble
        await redis.start()
        await until(lambda: not broker_of(node).trouble)


async def test_messages_that_redis_does_not_take_are_dropped_beyond_a_bound(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            redis.suspend()
            broker = broker_of(first)
            link = broker._link
            assert link is not None
            large = Transient(1, "typing", {"typing": "x" * 200_000})
            for _ in range(100):  # 20 MB
                broker.share([large])
            assert broker.dropped > 0
            assert link._publisher.waiting <= 8 * 1024 * 1024 + 300_000
            await omar.ask("message", room_id=room_id, content="by the feed")
            await diego.until(lambda: diego.contents() == ["by the feed"])
            redis.resume()


# -- Redis is not trusted --------------------------------------------------------------------------------------------


async def test_forged_changed_and_repeated_messages_deliver_nothing(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            (live_room,) = second.node.hub.live_rooms.values()
            name = live_room.name
            shard, broker = shard_of(name.key), broker_of(second)
            channel = broker._channels_out[shard]
            async with recorded(redis, channel) as messages:
                await omar.ask("message", room_id=room_id, content="true 1")
                await diego.event("message")
                genuine = await asyncio.wait_for(messages.get(), DEADLINE_S)

            identity = broker._identity()
            forged = b"".join(encode_parts(_part(name, seq=2), name)[0])
            typing = Transient(name.key, "typing", {"room_id": room_id, "username": "eva", "typing": True})
            notice = control_item(NOTICE, encode(typing))

            def sealed(part: bytes = forged, channel: int = shard, epoch: int = 0, **changes: Any) -> bytes:
                values: dict[str, Any] = {"instance": identity.instance, "node": first.node.id, "keys": identity.keys}
                sealer = Sealer(**values | changes)
                sealer._numbers = [10**6] * len(sealer._numbers)
                return sealer.seal(channel, epoch, part)

            attacks: list[tuple[str, int, bytes]] = [
                ("version", shard, b""),
                ("version", shard, b"\x02" + genuine[1:]),
                ("version", CONTROL, b"garbage"),
                ("mac", shard, b"\x01"),
                ("mac", shard, genuine[:-1]),
                ("mac", shard, genuine[:-1] + bytes([genuine[-1] ^ 1])),
                *(("mac", shard, _flipped(genuine, at)) for at in range(1, 62)),
                ("mac", shard, sealed(keys=[b"another key"])),
                ("mac", CONTROL, sealed(notice, CONTROL, keys=[b"another key"])),
                ("replay", shard, genuine),
                ("instance", shard, sealed(instance="of another database")),
                ("instance", (shard + 1) % 8, genuine),
                ("instance", CONTROL, sealed()),
                ("epoch", shard, sealed(epoch=1)),
                ("node", shard, sealed(node="not-live")),
                ("node", CONTROL, sealed(notice, CONTROL, node="not-live")),
            ]
            for reason, index, message in attacks:
                before = broker.ignored[reason]
                await redis.ask("PUBLISH", broker._channels_out[index], message)
                await until(lambda reason=reason, before=before: broker.ignored[reason] == before + 1)
            await omar.ask("message", room_id=room_id, content="true 2")
            await diego.until(lambda: diego.contents() == ["true 1", "true 2"])
            assert diego.of("typing") == []
            assert await stored(postgresql_url, room_id) == ["true 1", "true 2"]


@pytest.mark.parametrize(
    "pieces", [[b"*2000000000\r\n"], [b"+OK\r\n*20000", b"00000\r\n"], [b"*1\r\n~500000000\r\n"]]
)
async def test_an_array_without_end_ends_the_connection(pieces: list[bytes]) -> None:
    """hiredis would allocate gigabytes for it."""
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, OSError):
            await reader.readuntil(b"channel\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            await reader.readexactly(10**6)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Lost, match="a reply has too many elements"):
            await RedisLink.open(url, [b"channel"] * 3, DEADLINE_S)
        await asyncio.wait(list(filter(None, serving)), timeout=DEADLINE_S)


GARBAGE = b"\x01" + b"x" * 200


async def test_messages_arrive_during_a_flood_of_garbage(
    postgresql_url: str, tmp_path: Path, redis: RedisServer
) -> None:
    async with two_nodes(postgresql_url, tmp_path, redis.url, redis.url) as (first, second):
        tokens = [await first.register(name) for name in ("omar", "diego")]
        room_id = await make_topic(first.url, tokens[0], "noticias", tokens[1])
        async with connected(first.url, tokens[0]) as omar, connected(second.url, tokens[1]) as diego:
            load, broker = Load(room_id, omar, diego), broker_of(second)
            for node in (first, second):  # on a busy machine it would miss heartbeats, and connect anew
                broker_of(node)._heartbeat_s = 3600.0
            script = "for n = 1, 1000 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"
            for channel in broker._channels_out:
                await redis.ask("EVAL", script, 1, channel, GARBAGE)
                await load.run(until=lambda count=load.sent: load.sent >= count + 10)
            await until(lambda: broker.ignored["mac"] == 1000 * len(broker._channels_out))
            assert diego.contents() == omar.contents() == [f"{n}" for n in range(load.sent)]


async def test_garbage_is_discarded_at_a_small_cost(postgresql_url: str, tmp_path: Path, redis: RedisServer) -> None:
    """A node only computes the seal of each message that somebody writes into Redis."""
    count, best = 2_000, float("inf")
    async with running_node(postgresql_url, tmp_path, options=QUIET, redis_url=redis.url) as node:
        broker = broker_of(node)
        await until(lambda: not broker.trouble)
        for _ in range(5):
            waiting, begun = len(asyncio.all_tasks()), time.thread_time()
            for channel in broker._channels_out:
                for _ in range(count):
                    broker._arrived(channel, GARBAGE)
            best = min(best, (time.thread_time() - begun) / slowdown() / count / len(broker._channels_out))
            assert len(asyncio.all_tasks()) == waiting
        assert broker.ignored["mac"] == 5 * count * len(broker._channels_out)
    assert best < 10e-6, "seconds of processor time for each"


@asynccontextmanager
async def recorded(redis: RedisServer, channel: bytes) -> AsyncIterator[asyncio.Queue[bytes]]:
    """The messages of a channel."""
    messages: asyncio.Queue[bytes] = asyncio.Queue()
    subscriptions = await redis.channels()
    async with network(redis.path) as proxy:
        host, _, port = proxy.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"SUBSCRIBE " + channel + b"\r\n")

        async def read() -> None:
            import hiredis

            parser = hiredis.Reader()
            while data := await reader.read(65_536):
                parser.feed(data)
                while (reply := parser.gets()) is not False:
                    if reply[0] == b"message":
                        messages.put_nowait(reply[2])

        reading = asyncio.create_task(read())
        try:
            async with asyncio.timeout(DEADLINE_S):
                while (await redis.channels())[channel] == subscriptions[channel]:
                    pass
            yield messages
        finally:
            reading.cancel()
            writer.close()


def _flipped(message: bytes, at: int) -> bytes:
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


def _part(name: RoomName, seq: int) -> Appended:
    """An entry that is not in the database."""
    return Appended(name.key, [MESSAGE._replace(room_key=name.key, seq=seq, content="forged")], 2, 0)
