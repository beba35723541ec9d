"""SIGTERM in every state: the server ends within its bound, with status 0."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from tests.campaign.attack.crowds import KINDS, half_body, half_frame, half_poll
from tests.campaign.support.clients import Engine, Plain
from tests.campaign.support.lab import Area, Lab, Server, pace
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, WebSocket, frame

area = Area("stops")
BOUND_S = 20.0
"""10 s for connections to end, 5 s for close frames, the rest for a busy machine."""
State = Callable[[Lab, Server], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def idle(lab: Lab, server: Server) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def just_started(lab: Lab, server: Server) -> AsyncIterator[None]:
    await server.terminate()
    await server.start()
    yield


@asynccontextmanager
async def crowd(lab: Lab, server: Server) -> AsyncIterator[None]:
    """One connection of each kind that never completes a request."""
    opened = [await opener(server, f"127.1.1.{n + 1}") for n, opener in enumerate(KINDS.values())]
    yield
    for connection in opened:
        connection.abort()


@asynccontextmanager
async def bodies(lab: Lab, server: Server) -> AsyncIterator[None]:
    opened = [
        await opener(server, f"127.1.1.{n + 1}") for n in range(20) for opener in (half_body, half_poll, half_frame)
    ]
    yield
    for connection in opened:
        connection.abort()


@asynccontextmanager
async def deaf(lab: Lab, server: Server) -> AsyncIterator[None]:
    """Clients that never read, not even the close frame."""
    room = await server.topic("omar", "deaf")
    sockets = []
    for n in range(20):
        socket = await WebSocket.connect(server.url, f"/ws?token={await server.user('omar')}&device=d{n}")
        socket.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sockets.append(socket)
    omar = await server.live("omar")
    for _ in range(10):
        await omar.ask("message", room_id=room, content="x" * 16_000)
    yield
    for connection in (omar, *sockets):
        connection.abort()


@asynccontextmanager
async def replaying(lab: Lab, server: Server) -> AsyncIterator[None]:
    room = await server.topic("omar", "replaying", "diego")
    omar = await server.live("omar")
    for _ in range(10):
        fields = {"room_id": room, "content": "x" * 5_000}
        await asyncio.gather(*(omar.send("message", fields) for _ in range(50)))
    readers = [
        asyncio.create_task(kind.open(server.url, server.tokens["diego"], device=f"d{n}", cursors={}))
        for n in range(10)
        for kind in (Plain, Engine)
    ]
    await pace(0.05)
    yield
    for reader in readers:
        reader.cancel()
    omar.abort()


@asynccontextmanager
async def pipelining(lab: Lab, server: Server) -> AsyncIterator[None]:
    room = await server.topic("omar", "pipelining")
    omar = await server.live("omar")
    for _ in range(800):
        omar.send("message", {"room_id": room, "content": "x" * 100})
    yield
    omar.abort()


@asynccontextmanager
async def signing_in(lab: Lab, server: Server) -> AsyncIterator[None]:
    fields = {"username": "nobody", "password": "wrong password"}
    tasks = [asyncio.create_task(server.post("/api/login", fields, source=f"127.1.2.{n + 1}")) for n in range(40)]
    await pace(0.1)
    yield
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def endless_frames(lab: Lab, server: Server) -> AsyncIterator[None]:
    """A client that continues to send while the server closes."""
    omar = await server.live("omar")

    async def flood() -> None:
        with suppress(*GONE):
            while True:
                await omar.socket.write(frame(9, b"x" * 100) * 100)
                await asyncio.sleep(0)

    flooding = asyncio.create_task(flood())
    yield
    flooding.cancel()
    omar.abort()


STATES: dict[str, State] = {
    "idle": idle,
    "just started": just_started,
    "connections without a complete request": crowd,
    "60 pending bodies and frames": bodies,
    "20 clients that never read": deaf,
    "20 pending replays": replaying,
    "800 messages in flight": pipelining,
    "40 pending logins": signing_in,
    "a client that continues to send": endless_frames,
}


async def _stopped(server: Server, within: float) -> tuple[int | None, float]:
    process, began = server._process, time.monotonic()
    assert process is not None
    process.send_signal(signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await process.wait()
    return process.returncode, time.monotonic() - began


@area.check("SIGTERM ends the server in every state, with status 0")
async def every_state(lab: Lab) -> Seen:
    wrong, slowest = [], 0.0
    for name, state in STATES.items():
        async with lab.server(TIDINGS_RATE_LIMITS="off") as server, AsyncExitStack() as stack:
            await stack.enter_async_context(state(lab, server))
            status, took = await _stopped(server, 40)
            slowest = max(slowest, took)
            if status != 0 or took > BOUND_S:
                wrong.append(f"{name}: status {status} after {took:.1f} s")
            if found := server.complaints():
                wrong.append(f"{name}: logged {found[0].get('event')!r:.60}")
    return Seen(
        len(STATES),
        f"status 0 within {BOUND_S:.0f} s",
        "; ".join(wrong) or f"all, {slowest:.1f} s at most",
        not wrong,
    )


@area.check("SIGTERM during the start ends the server, with status 0")
async def during_start(lab: Lab) -> Seen:
    wrong, tries = [], lab.size(8, 40)
    async with lab.server() as server:
        await server.terminate()
        for n in range(tries):
            starting = asyncio.create_task(server.start())
            while server._process is None:  # noqa: ASYNC110  # it is a matter of some turns of the loop
                await asyncio.sleep(0)
            await pace(2.5 * n / tries)
            process = server._process
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGTERM)
            with suppress(RuntimeError, TimeoutError):
                await starting
            process = server._process
            status: int | None = None
            if process is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(30):
                        status = await process.wait()
            # -15: the signal arrived before Python had started the program.
            if status not in (0, -signal.SIGTERM):
                wrong.append(f"after {2.5 * n / tries:.1f} s: status {status}")
                await server.kill()
            server._process = None
        await server.start()
        alive = (await server.get("/health/ready")).status == 200
    return Seen(tries, "status 0, and it starts again", "; ".join(wrong) or "all", not wrong and alive)


@area.check("a second SIGINT ends the server without waiting")
async def second_interrupt(lab: Lab) -> Seen:
    async with lab.server() as server, AsyncExitStack() as stack:
        await stack.enter_async_context(deaf(lab, server))
        process = server._process
        assert process is not None
        os.kill(process.pid, signal.SIGINT)
        await pace(0.3)
        began = time.monotonic()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await process.wait()
        took = time.monotonic() - began
        seen = f"status {process.returncode} after {took:.1f} s"
        return Seen(1, "within 3 s", seen, process.returncode is not None and took < 3)
