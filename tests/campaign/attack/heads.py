"""Requests with long or endless heads, and bytes that arrive before they can be handled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.campaign.support.lab import Area, Lab, ms
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, TEXT, Connection, Refused, WebSocket, frame, handshake, head

area = Area("heads")


@area.check("headers that never end are cut off")
async def endless_headers(lab: Lab) -> Seen:
    async with lab.server() as server:
        before, lines, sent = server.memory(), b"".join(b"a%d: b\r\n" % n for n in range(10_000)), 0
        limit = lab.size(20, 40) << 20
        async with await Connection.open(server.url) as connection:
            try:
                await connection.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
                async with asyncio.timeout(60):
                    while sent < limit:
                        await connection.write(lines)
                        sent += len(lines)
                        if connection.reader.at_eof():
                            break
            except (*GONE, TimeoutError):
                pass
            grown = server.memory() - before
        kept = sent < limit and grown <= 16
        return Seen(1, "cut off early, ≤ 16 MiB more memory", f"{sent:,} bytes taken, {grown:+.0f} MiB", kept)


@area.check("one header of many megabytes is cut off")
async def endless_header(lab: Lab) -> Seen:
    async with lab.server() as server:
        limit = lab.size(24, 100) << 20
        sent, chunk = 0, b"a" * (1 << 20)
        before, memory = server.processor_seconds(), server.memory()
        async with await Connection.open(server.url, "127.6.6.6") as connection:
            try:
                await connection.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
                async with asyncio.timeout(120):
                    while sent < limit and not connection.reader.at_eof():
                        await connection.write(chunk)
                        sent += len(chunk)
            except (*GONE, TimeoutError):
                pass
            spent, grown = server.processor_seconds() - before, server.memory() - memory
        kept = sent < limit and spent <= 1.0 and grown <= 16
        seen = f"{sent:,} bytes taken, {ms(spent)}, {grown:+.0f} MiB"
        return Seen(1, "cut off early, ≤ 1000 ms, ≤ 16 MiB", seen, kept)


@area.check("a long address is answered or cut off")
async def long_address(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    sizes = (8_000, 65_000, 70_000, 1_000_000)
    for size in sizes:
        async with await Connection.open(server.url) as connection:
            try:
                await connection.write(head("GET", "/api/search?query=" + "x" * size, {"Connection": "close"}))
            except GONE:
                continue
            if await connection.until_closed(20) is None:
                wrong.append(f"{size:,} characters: neither answered nor closed in 20 s")
    return Seen(len(sizes), "an answer, or the end", "; ".join(wrong) or "all", not wrong)


@area.check("bytes that arrive before the token is checked are bounded")
async def early_bytes(lab: Lab) -> Seen:
    """Frames right after the handshake, while the token of the address is checked."""
    async with lab.server() as server:
        token = await server.user("omar")
        before = server.memory()
        limit, junk = lab.size(16, 64) << 20, frame(TEXT, b'{"id":1,"action":"get_rooms"}') * 20_000
        taken, tries = 0, lab.size(4, 8)
        for path in ("/ws", f"/ws?token={token}", f"/{token}", f"/pub_ws?token={token}")[:tries]:
            with suppress(Refused, *GONE, TimeoutError):
                socket = await WebSocket.open(server.url, "127.6.6.6")
                sent = 0
                try:
                    async with asyncio.timeout(15):
                        await socket.write(handshake(path))
                        while sent < limit:
                            await socket.write(junk)
                            sent += len(junk)
                finally:
                    taken += sent
                    socket.abort()
        grown = server.memory() - before
        return Seen(tries, "≤ 24 MiB more memory", f"{grown:+.0f} MiB, {taken:,} bytes taken", grown <= 24)
