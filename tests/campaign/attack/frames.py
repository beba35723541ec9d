"""Broken WebSocket frames, handshakes and HTTP requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tests.campaign.support.clients import ENGINE_PATH, dumps
from tests.campaign.support.lab import Area, Lab, Server, ms
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import (
    BINARY,
    CLOSE,
    GONE,
    PING,
    TEXT,
    Connection,
    Refused,
    WebSocket,
    frame,
    handshake,
    head,
)

area = Area("frames")
BAD = {1002}
TOO_BIG = {1009, 1008}
NOT_TEXT = {1007}
MOST = 1_000_000


def faults() -> dict[str, tuple[bytes, set[int]]]:
    """Broken bytes, with the codes with which the server may close."""
    found: dict[str, tuple[bytes, set[int]]] = {
        "no mask": (frame(TEXT, b"{}", masked=False), BAD),
        "a PING without mask": (frame(PING, b"", masked=False), BAD),
        "a PING of 126 bytes": (frame(PING, b"x" * 126), BAD),
        "a close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), BAD),
        "a PING in parts": (frame(PING, b"x", fin=False), BAD),
        "a close in parts": (frame(CLOSE, b"\x03\xe8", fin=False), BAD),
        "a length with the high bit": (b"\x81\xff" + b"\xff" * 8 + b"abcd", BAD | TOO_BIG),
        "a length of 2^63 - 1": (b"\x81\xff\x7f" + b"\xff" * 7 + b"abcd", BAD | TOO_BIG),
        "a continuation of nothing": (frame(0, b"x"), BAD),
        "a last continuation of nothing": (frame(0, b"x", fin=True), BAD),
        "a new message within a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), BAD),
        "binary within a text": (frame(TEXT, b"{", fin=False) + frame(BINARY, b"}"), BAD),
        "a close of one byte": (frame(CLOSE, b"\x03"), BAD),
        "a close whose reason is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xfe"), BAD | NOT_TEXT),
        "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), NOT_TEXT),
        "text with a surrogate": (frame(TEXT, b"\xed\xa0\x80"), NOT_TEXT),
        "text with an overlong NUL": (frame(TEXT, b"\xc0\x80"), NOT_TEXT),
        "text beyond U+10FFFF": (frame(TEXT, b"\xf4\x90\x80\x80"), NOT_TEXT),
        "text cut within a character": (frame(TEXT, "é".encode()[:1]), NOT_TEXT),
        "not UTF-8 across parts": (frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), NOT_TEXT),
        "one byte too many": (frame(TEXT, b" " * (MOST + 1)), TOO_BIG),
        "a length of 100 MB": (b"\x81\xff" + (100 << 20).to_bytes(8, "big") + b"abcd", TOO_BIG),
        "parts of too many bytes": (
            frame(TEXT, b" " * 400_000, fin=False) + frame(0, b" " * 400_000, fin=False) + frame(0, b" " * 300_000),
            TOO_BIG,
        ),
        "a length in eight bytes that needs none": (frame(TEXT, b"{}", width=8), BAD),
        "a length in two bytes that needs none": (frame(TEXT, b"{}", width=2), BAD),
        "a compressed bomb": (frame(TEXT, b"\xec\xc1\x01\x01\x00" * 2_000, rsv=4), BAD),
    }
    for bit in (1, 2, 4):
        found[f"reserved bit {bit}"] = frame(TEXT, b"{}", rsv=bit), BAD
    for opcode in (3, 4, 7, 11, 12, 15):
        found[f"opcode {opcode}"] = frame(opcode, b""), BAD
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535):
        found[f"a close with {code}"] = frame(CLOSE, code.to_bytes(2, "big")), BAD
    return found


async def _open(server: Server, engine: bool) -> WebSocket:
    socket = await WebSocket.connect(server.url, ENGINE_PATH if engine else f"/ws?token={await server.user('omar')}")
    if engine:
        await socket.send("40" + dumps({"token": await server.user("omar")}))
    while b"ready" not in (await socket.receive_frame())[1]:
        pass
    return socket


async def _close_code(socket: WebSocket, within: float = 15.0) -> int | str:
    ended, _ = await socket.until_end(within)
    return "stays open" if not ended else "cut off" if socket.close_code is None else socket.close_code


@area.check("a broken frame ends the connection with the code of RFC 6455")
async def broken_frames(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong, tries = [], 0
    for engine in (False, True):
        for name, (data, codes) in faults().items():
            tries += 1
            socket = await _open(server, engine)
            with suppress(*GONE):
                await socket.write(data)
            code = await _close_code(socket)
            socket.abort()
            if code not in codes:
                where = "Socket.IO" if engine else "/ws"
                wrong.append(f"{name} at {where}: {code}, not {'/'.join(map(str, sorted(codes)))}")
    alive = (await server.get("/health/live")).status == 200
    return Seen(tries, "1002, 1007 or 1009", "; ".join(wrong) or "all", not wrong and alive, {"wrong": wrong})


def strange() -> dict[str, Callable[[bytes], list[bytes]]]:
    """Unusual but valid ways to write a message, which must be answered."""

    def parts(text: bytes, size: int) -> list[bytes]:
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        return [frame(TEXT if n == 0 else 0, piece, fin=n == len(pieces) - 1) for n, piece in enumerate(pieces)]

    def between(text: bytes) -> list[bytes]:
        made = parts(text, 7)
        return [made[0], *(data for one in made[1:] for data in (frame(PING, b"?"), one))]

    return {
        "byte by byte": lambda text: [bytes((byte,)) for byte in frame(TEXT, text)],
        "a frame for each byte": lambda text: parts(text, 1),
        "PINGs between the parts": between,
        "empty parts": lambda text: [
            frame(TEXT, b"", fin=False),
            *(frame(0, b"", fin=False) for _ in range(100)),
            frame(0, text),
        ],
        "999 empty parts": lambda text: [
            frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 998 + frame(0, text)
        ],
        "with 100 PINGs": lambda text: [frame(PING, b"x") * 100 + frame(TEXT, text)],
    }


@area.check("a valid message is answered, however it is split into frames")
async def strange_frames(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    for engine in (False, True):
        for name, cut in strange().items():
            socket = await _open(server, engine)
            action = ["get_profile", {"username": "omar"}]
            asked = f"427{dumps(action)}" if engine else dumps({"id": 7, "action": action[0], "data": action[1]})
            try:
                async with asyncio.timeout(20):
                    for data in cut(asked.encode()):
                        await socket.write(data)
                    while True:
                        answer = str(await socket.receive())
                        if answer.startswith("437[") or '"id":7' in answer:
                            break
                if '"ok":true' not in answer:
                    wrong.append(f"{name}: {answer[:80]}")
            except Exception as error:
                wrong.append(f"{name} ({'Socket.IO' if engine else '/ws'}): {error!r}"[:100])
            socket.abort()
    return Seen(2 * len(strange()), "answered", "; ".join(wrong) or "all", not wrong)


@area.check("compression is not negotiated")
async def compression(lab: Lab) -> Seen:
    server = await lab.shared()
    socket = await WebSocket.open(server.url)
    await socket.write(handshake("/ws", {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}))
    answer = await socket.answer()
    socket.abort()
    found = answer.headers.get("sec-websocket-extensions", "")
    return Seen(1, "no extension", found or "none", answer.status == 101 and not found)


@area.check("frames in the same write as the handshake are read in order")
async def early_frames(lab: Lab) -> Seen:
    server = await lab.shared()
    token = await server.user("omar")
    wrong = []
    texts = [dumps({"id": n, "action": "get_profile", "data": {"username": "omar"}}) for n in range(1, 6)]
    first = dumps({"id": 0, "action": "authenticate", "data": {"token": token}})
    for before in (b"", head("GET", "/health/live", {})):
        socket = await WebSocket.open(server.url)
        await socket.write(before + handshake("/ws") + b"".join(frame(TEXT, t.encode()) for t in [first, *texts]))
        try:
            async with asyncio.timeout(20):
                if before:
                    await socket.answer()
                assert (await socket.answer()).status == 101
                ids = []
                while len(ids) < 6:
                    text = str(await socket.receive())
                    if '"id":' in text[:8]:
                        ids.append(int(text[6 : text.index(",")]))
            if ids != list(range(6)):
                wrong.append(f"answers {ids}")
        except Exception as error:
            wrong.append(repr(error))
        socket.abort()
    return Seen(2, "answered in order", "; ".join(wrong) or "all", not wrong)


@area.check("a handshake that violates RFC 6455 is refused")
async def openings(lab: Lab) -> Seen:
    server = await lab.shared()
    good = handshake("/ws")
    forms = {
        "HTTP/1.0": good.replace(b"HTTP/1.1", b"HTTP/1.0"),
        "no Host": handshake("/ws", host=None),
        "two Hosts": good.replace(b"Host: 127.0.0.1\r\n", b"Host: a\r\nHost: b\r\n"),
        "POST": good.replace(b"GET ", b"POST "),
        "no key": good.replace(b"Sec-WebSocket-Key", b"X-Key"),
        "a short key": handshake("/ws", {"Sec-WebSocket-Key": "YWJj"}),
        "a long key": handshake("/ws", {"Sec-WebSocket-Key": "YWJj" * 20}),
        "a key that is no base64": handshake("/ws", {"Sec-WebSocket-Key": "!" * 24}),
        "two keys": good.replace(b"Sec-WebSocket-Version", b"Sec-WebSocket-Key: YWJj\r\nSec-WebSocket-Version"),
        "no version": good.replace(b"Sec-WebSocket-Version: 13\r\n", b""),
        "version 8": good.replace(b"Version: 13", b"Version: 8"),
        "version 99": good.replace(b"Version: 13", b"Version: 99"),
        "version text": good.replace(b"Version: 13", b"Version: latest"),
        "no Connection": good.replace(b"Connection: Upgrade\r\n", b""),
        "Connection: close": good.replace(b"Connection: Upgrade", b"Connection: close"),
        "no Upgrade": good.replace(b"Upgrade: websocket\r\n", b""),
    }
    wrong = []
    for path in ("/ws", ENGINE_PATH):
        for name, data in forms.items():
            async with await Connection.open(server.url) as connection:
                await connection.write(data.replace(b" /ws ", f" {path} ".encode()))
                try:
                    async with asyncio.timeout(15):
                        status = (await connection.answer()).status
                except TimeoutError:
                    wrong.append(f"{name} at {path[:10]}: no answer")
                    continue
                except GONE:
                    continue
                if not 400 <= status < 500:
                    wrong.append(f"{name} at {path[:10]}: {status}")
    return Seen(2 * len(forms), "4xx, or the end", "; ".join(wrong) or "all", not wrong)


@area.check("ambiguous requests cannot smuggle another")
async def smuggling(lab: Lab) -> Seen:
    server = await lab.shared()
    inner = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
    chunk = b"0\r\n\r\n" + inner
    body = b"POST /api/login HTTP/1.1\r\nHost: x\r\n"
    forms = {
        "CL and TE": body + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(chunk) + chunk,
        "two CL": body + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "TE spaced": body + b"Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n" % len(chunk) + chunk,
        "TE xchunked": body + b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n" % len(chunk) + chunk,
        "TE twice": body + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
        "TE tab": body + b"Transfer-Encoding:\tchunked\r\nContent-Length: %d\r\n\r\n" % len(chunk) + chunk,
        "CL +": body + b"Content-Length: +%d\r\n\r\n" % len(inner) + inner,
        "CL spaced": body + b"Content-Length: %d 0\r\n\r\n" % len(inner) + inner,
        "folded header": body + b"X: a\r\n Content-Length: %d\r\n\r\n" % len(inner) + inner,
        "bare LF": (body + b"Content-Length: %d\r\n\r\n" % len(inner)).replace(b"\r\n", b"\n") + inner,
        "bare CR": body + b"X: a\rContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "NUL in a header": body + b"X: a\0b\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "chunk size with a sign": body + b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + inner,
        "chunk of 2^64": body + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + inner,
    }
    allowed = {"folded header", "TE twice"}  # read alike by every server: one body, then one more request
    wrong = []
    for name, data in forms.items():
        async with await Connection.open(server.url) as connection:
            with suppress(*GONE):
                await connection.write(data)
            came = await connection.until_closed(8) or b""
        answers = came.count(b"HTTP/1.1 ")
        # A body that is read as one: a single answer. Two good ones mean that the inner request was taken for one.
        if (
            b"x-request-id: smuggled" in came.lower()
            and name not in allowed
            and answers > 1
            and b" 400 " not in came[:20]
        ):
            wrong.append(f"{name}: {answers} answers")
    return Seen(len(forms), "refused, or one request", "; ".join(wrong) or "all", not wrong)


@area.check("no path leads to a file of the server")
async def traversal(lab: Lab) -> Seen:
    server = await lab.shared()
    names = ("secret_key", ".env", "tidings.db", "etc/passwd", "pyproject.toml", "__init__.py")
    prefixes = (
        "/",
        "/../",
        "/assets/../",
        "/assets/../../",
        "/%2e%2e/",
        "/assets/%2e%2e/%2e%2e/",
        "/..%2f",
        "/assets/..%5c",
    )
    prefixes += ("//", "/assets//", "/assets/%00/../", "/static/../", "/docs/../", "/....//")
    wrong = []
    for prefix in prefixes:
        for name in names:
            with suppress(*GONE):
                answer = await server.get(prefix + name)
                page = answer.headers.get("content-type", "").startswith("text/html")
                if answer.status not in (400, 401, 403, 404, 405, 307) and not (answer.status == 200 and page):
                    wrong.append(f"{prefix}{name}: {answer.status}")
    return Seen(len(prefixes) * len(names), "404", "; ".join(wrong) or "all", not wrong)


@area.check("random bytes at any stage do no harm")
async def garbage(lab: Lab) -> Seen:
    server = await lab.shared()
    tries, before, descriptors = lab.size(300, 5_000), server.memory(), server.descriptors()
    spent = server.processor_seconds()
    token = await server.user("omar")

    async def one() -> None:
        random = lab.random
        data = random.randbytes(random.randrange(1, 4_000))
        stage = random.randrange(5)
        with suppress(Refused, TimeoutError, *GONE):
            if stage == 0:
                async with await Connection.open(server.url) as connection:
                    await connection.write(data)
                    await connection.until_closed(0.2)
            elif stage == 1:
                start = head("GET", "/api/me", {"Authorization": f"Bearer {token}"})
                at = random.randrange(len(start))
                async with await Connection.open(server.url) as connection:
                    await connection.write(start[:at] + data[:50] + start[at:])
                    await connection.until_closed(0.2)
            else:
                socket = await WebSocket.connect(server.url, random.choice((ENGINE_PATH, f"/ws?token={token}")))
                if stage == 2:
                    await socket.write(data)
                elif stage == 3:
                    await socket.send(data)
                else:
                    good = bytearray(frame(TEXT, b'42["message",{"content":"x"}]'))
                    good[random.randrange(len(good))] = random.randrange(256)
                    await socket.write(bytes(good))
                await socket.until_end(0.2)
                socket.abort()

    for at in range(0, tries, 20):
        await asyncio.gather(*(one() for _ in range(min(20, tries - at))))
    for _ in range(60):
        if server.descriptors() <= descriptors + 3:
            break
        await asyncio.sleep(0.5)
    spent = (server.processor_seconds() - spent) / tries
    grown, left = server.memory() - before, server.descriptors() - descriptors
    alive = (await server.get("/health/ready")).status == 200
    kept = alive and left <= 3 and grown <= 16 + tries * 0.002
    return Seen(tries, "alive, descriptors back", f"{left:+} descriptors, {grown:+.0f} MiB, {ms(spent)} each", kept)


@area.check("none of this makes an error line in the log")
async def quiet_log(lab: Lab) -> Seen:
    server = await lab.shared()
    found = server.complaints()
    kinds = sorted({str(line.get("event"))[:80] for line in found})
    return Seen(1, "no error, no traceback", f"{len(found)} lines: {kinds[:5]}" if found else "none", not found)
