"""Redis is not trusted: nothing that others write into it is delivered, and it costs a node little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.wire import eventually
from tests.delivery.entries import MESSAGE
from tests.delivery.redis_nodes import QUIET, Load, broker_of, two_nodes
from tests.delivery.support import make_topic, stored
from tests.support.client import DEADLINE_S, connected
from tests.support.network import network
from tests.support.node import running_node
from tests.support.redis import RedisServer
from tests.support.yardstick import slowdown
from tidings.cluster.node_messages import CONTROL, NOTICE, Sealer, control_item, encode_parts, shard_of
from tidings.cluster.redis_link import Lost, RedisLink
from tidings.log.notices import Appended, Transient, encode
from tidings.log.views import RoomName

pytestmark = pytest.mark.long  # several nodes on PostgreSQL


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
                await eventually(lambda reason=reason, before=before: broker.ignored[reason] == before + 1)
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
            await eventually(lambda: broker.ignored["mac"] == 1000 * len(broker._channels_out))
            assert diego.contents() == omar.contents() == [f"{n}" for n in range(load.sent)]


async def test_garbage_is_discarded_at_a_small_cost(postgresql_url: str, tmp_path: Path, redis: RedisServer) -> None:
    """A node only computes the seal of each message that somebody writes into Redis."""
    count, best = 2_000, float("inf")
    async with running_node(postgresql_url, tmp_path, options=QUIET, redis_url=redis.url) as node:
        broker = broker_of(node)
        await eventually(lambda: not broker.trouble)
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
