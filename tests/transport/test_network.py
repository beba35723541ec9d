"""The simulated bad network of the tests behaves as described."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.client import DEADLINE_S
from tests.support.network import BURST_S, PERFECT, Conditions, Ends, Network, network


class World:
    """A recording server, a network in front of it, and a client."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        """The chunks that the server read."""
        self.ended = ""
        """How the stream to the server ended: "FIN" or "RST"."""
        self.network: Network
        self.client: Ends
        self.server: Ends
        self._changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = reader, writer
        try:
            while data := await reader.read(1 << 20):
                self.received.append(data)
                self._changed.set()
            self.ended = "FIN"
        except ConnectionResetError:
            self.ended = "RST"
        self._changed.set()

    async def until(self, number: int) -> None:
        """Wait until the server has received that many bytes, or the end."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(map(len, self.received)) < number and not self.ended:
                self._changed.clear()
                await self._changed.wait()

    async def until_ended(self) -> str:
        await self.until(1 << 30)
        return self.ended

    def send(self, data: bytes) -> None:
        self.client[1].write(data)


@asynccontextmanager
async def world(up: Conditions = PERFECT, down: Conditions = PERFECT, seed: int = 0) -> AsyncIterator[World]:
    made = World()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with network(f"http://127.0.0.1:{port}", up, down, seed=seed) as made.network:
        made.client = await asyncio.open_connection("127.0.0.1", int(made.network.url.rpartition(":")[2]))
        made.send(b"hello")
        await made.until(5)
        try:
            yield made
        finally:
            for _, writer in (made.client, made.server):
                writer.close()
    server.close()


async def test_every_byte_passes_both_ways_in_order_however_the_stream_is_split() -> None:
    uneven = Conditions(jitter=0.002, split=1000, ragged=True, merge=0.001, rate=5e6)
    content = bytes(range(256)) * 1000
    async with world(uneven, uneven, seed=7) as made:
        made.send(content)
        await made.until(5 + len(content))
        assert b"".join(made.received) == b"hello" + content
        made.server[1].write(content)
        made.server[1].write_eof()
        async with asyncio.timeout(DEADLINE_S):
            assert await made.client[0].read(-1) == content
        made.client[1].write_eof()
        assert await made.until_ended() == "FIN"


async def test_bytes_arrive_late_and_no_faster_than_the_rate() -> None:
    loop = asyncio.get_running_loop()
    async with world(Conditions(delay=0.05, rate=100_000)) as made:
        began = loop.time()
        made.send(bytes(40_000))
        await made.until(40_005)
        assert loop.time() - began >= 0.05 + 0.4 - BURST_S - 0.02


async def test_a_split_piece_is_read_in_pieces_and_merged_ones_in_one() -> None:
    async with world(Conditions(split=1)) as made:
        made.send(b"0123456789")
        await made.until(15)
        assert len(made.received) > 5
    async with world(Conditions(merge=0.2)) as made:
        before = len(made.received)
        for _ in range(3):
            made.send(b"0123456789")
            await made.client[1].drain()
            await asyncio.sleep(0)
        await made.until(35)
        assert len(made.received) == before + 1


async def test_frozen_bytes_pass_after_the_thaw() -> None:
    async with world() as made:
        made.network.freeze()
        made.send(b"later")
        made.server[1].write(b"now")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.client[0].read(1), 0.1)
        assert made.received == [b"hello"]
        made.network.thaw()
        await made.until(10)
        assert await asyncio.wait_for(made.client[0].read(3), DEADLINE_S) == b"now"


async def test_a_half_open_link_swallows_bytes_and_the_end_of_the_stream() -> None:
    async with world() as made:
        made.network.swallow("up")
        made.send(b"gone")
        made.client[1].write_eof()
        made.server[1].write(b"heard")
        assert await asyncio.wait_for(made.client[0].read(5), DEADLINE_S) == b"heard"
        assert made.received == [b"hello"]
        assert not made.ended
        assert made.network.cut() == 1
        assert await made.until_ended() == "RST"


@pytest.mark.parametrize("reset", [True, False])
async def test_a_link_is_cut_after_so_many_bytes_by_rst_or_fin(reset: bool) -> None:
    async with world() as made:
        made.network.links[0].cut_after("up", 3, reset=reset)
        made.send(b"0123456789")
        assert await made.until_ended() == ("RST" if reset else "FIN")
        assert b"".join(made.received) in ((b"hello", b"hello012") if reset else (b"hello012",))
        async with asyncio.timeout(DEADLINE_S):
            if reset:
                with pytest.raises(ConnectionResetError):
                    await made.client[0].read(1)
            else:
                assert await made.client[0].read(1) == b""


async def test_a_reset_and_an_end_of_stream_are_passed_on() -> None:
    async with world() as made:
        made.client[1].write_eof()
        assert await made.until_ended() == "FIN"
    async with world() as made:
        made.client[1].transport.abort()
        assert await made.until_ended() in ("FIN", "RST")


async def test_links_are_refused_until_it_heals() -> None:
    async with world() as made:
        port = int(made.network.url.rpartition(":")[2])
        made.network.refuse()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), DEADLINE_S)
        writer.close()
        made.network.heal()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hi")
        await made.until(7)
        assert made.network.opened == 2
        writer.close()
        made.server[1].close()
