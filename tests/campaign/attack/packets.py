"""Broken Engine.IO and Socket.IO packets, on WebSocket and polling, and broken JSON on `/ws`."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from tests.campaign.support.clients import ENGINE_PATH, dumps
from tests.campaign.support.lab import Area, Lab, Server
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, Answer, Ended, Http, WebSocket

area = Area("packets")
DEEP = 100_000
ASK = "4299" + dumps(["get_profile", {"username": "omar"}])


def packets() -> dict[str, list[str | bytes]]:
    """Broken packets for a Socket.IO connection, by name."""
    names = ["connect", "disconnect", "connect_error", "newListener", "*", "__proto__", "constructor", "ready"]
    names += ["closing", "", " ", "\0", "\ud800", "message\n", "é" * 1000, "x" * 100_000]
    found: dict[str, list[str | bytes]] = {
        "nothing": [""],
        "an unknown type": ["9"],
        "an Engine.IO handshake": ['0{"sid":"x"}'],
        "a PING of a client": ["2"],
        "a probe after the upgrade": ["2probe"],
        "an upgrade after the upgrade": ["5"],
        "a NOOP": ["6"],
        "an unknown Socket.IO type": ["49"],
        "no Socket.IO type": ["4"],
        "no data": ["42"],
        "an empty array": ["42[]"],
        "null": ["42null"],
        "an object": ["42{}"],
        "text": ['42"message"'],
        "a number": ["421234567890"],
        "cut JSON": ['42["message",{'],
        "JSON and more": ['42["get_rooms",{}]]'],
        "a name that is a number": ["42[1,{}]"],
        "a name that is an object": ["42[{},{}]"],
        "a name that is null": ["42[null]"],
        "an id of 200 digits": ["42" + "9" * 200 + '["get_rooms",{}]'],
        "a negative id": ['42-1["get_rooms",{}]'],
        "NaN": ['421["read",{"room_id":"x","seq":NaN}]'],
        "Infinity": ['421["read",{"room_id":"x","seq":1e400}]'],
        "5,000 digits": ['421["read",{"room_id":"x","seq":' + "9" * 5000 + "}]"],
        "deep arrays": ["421" + "[" * DEEP + "]" * DEEP],
        "deep objects": ['421["message",' + '{"a":' * DEEP + "1" + "}" * DEEP + "]"],
        "a lone surrogate": ['421["message",{"topic_name":"x","content":"\\ud800"}]'],
        "a NUL": ['421["message",{"topic_name":"x","content":"\\u0000"}]'],
        "__proto__": ['421["message",{"__proto__":{"x":1},"content":"x"}]'],
        "the same member twice": ['421["message",{"content":"a","content":"b"}]'],
        "many arguments": ["421" + dumps(["get_rooms", *[{} for _ in range(1000)]])],
        "an answer to nothing": ["43999[1]"],
        "an answer without a number": ["43[]"],
        "an answer that is none": ["430{}"],
        "another namespace": ["40/exotic,"],
        "a namespace without a comma": ["40/exotic"],
        "an event in another namespace": ['42/exotic,["x"]'],
        "a very long namespace": ["40/" + "x" * 100_000 + ","],
        "a disconnect of another namespace": ["41/exotic,"],
        "a CONNECT again": ["40" + dumps({"token": "x"})],
        "a CONNECT error": ['44{"message":"x"}'],
        "an attachment that was not announced": [b"\x04abc"],
        "announced attachments that do not come": ['451-["message",{"_placeholder":true,"num":0}]', "42[]"],
        "too many attachments": ['45999999-["message",{"_placeholder":true,"num":0}]'],
        "a placeholder out of range": ['451-["message",{"_placeholder":true,"num":5}]', b"x"],
        "a placeholder that is text": ['451-["message",{"_placeholder":true,"num":"0"}]', b"x"],
        "a placeholder below zero": ['451-["message",{"_placeholder":true,"num":-1}]', b"x"],
        "attachments of 0": ['450-["message",{}]'],
        "no number of attachments": ['45-["message",{}]'],
        "binary as content": ['451-["message",{"topic_name":"x","content":{"_placeholder":true,"num":0}}]', b"x"],
        "large attachments": ['458-["x",{"_placeholder":true,"num":0}]', *[b"x" * 120_000 for _ in range(8)]],
        "a binary answer": ["461-0[]", b"x"],
    }
    for name in names:
        found[f"an event named {name[:12]!r}"] = ["421" + json.dumps([name, {"sid": "x"}, {"token": "x"}])]
    return found


async def _connected(server: Server) -> WebSocket:
    socket = await WebSocket.connect(server.url, ENGINE_PATH)
    await socket.send("40" + dumps({"token": await server.user("omar")}))
    while not str(await socket.receive()).startswith('42["ready"'):
        pass
    return socket


@area.check("a broken packet is answered, or ends its connection with `protocol_error`")
async def broken_packets(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong, closed = [], 0
    for name, sent in packets().items():
        socket = await _connected(server)
        told = ""
        try:
            async with asyncio.timeout(20):
                for packet in [*sent, ASK]:
                    await socket.send(packet)
                while True:
                    packet = str(await socket.receive())
                    if packet.startswith('42["closing"'):
                        told = packet
                    if packet.startswith("4399["):
                        break
                    if "internal" in packet:
                        wrong.append(f"{name}: {packet[:100]}")
        except Ended:
            closed += 1
            if "protocol_error" not in told:
                wrong.append(f"{name}: closed, told {told or 'nothing'}")
        except TimeoutError:
            wrong.append(f"{name}: neither answered nor closed")
        socket.abort()
        if (await server.get("/health/live")).status != 200:
            wrong.append(f"{name}: the server is gone")
    seen = "; ".join(wrong) or f"all; {closed} closed"
    return Seen(len(packets()), "answered, or closed as told", seen, not wrong, {"wrong": wrong})


@area.check("a broken frame of `/ws` is answered, and the connection stays")
async def broken_frames(lab: Lab) -> Seen:
    server = await lab.shared()
    forms: list[str | bytes] = [
        *("", " ", "x", "null", "1", '"message"', "[]", "[{}]", "{", "{}", '{"id":1}', '{"action":1}'),
        *('{"action":null}', '{"id":{},"action":"get_rooms"}', '{"id":1e400,"action":"get_rooms"}'),
        *('{"id":' + "9" * 400 + ',"action":"get_rooms"}', '{"id":"' + "x" * 129 + '","action":"get_rooms"}'),
        *('{"id":1,"action":"get_rooms","data":[]}', '{"id":1,"action":"get_rooms","data":null}'),
        *('{"id":1,"action":"get_rooms","data":{},"more":1}', '{"action":"__init__"}', '{"action":"\\ud800"}'),
        *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, '{"action":"' + "x" * 500_000 + '"}'),
        *('{"id":1,"action":"message","data":{"topic_name":"\\ud800","content":"x"}}', b"{}", b"\xff"),
        *('{"id":1,"action":"message","data":{"topic_name":"x","content":"\\u0000"}}', "\ufeff{}"),
    ]
    wrong = []
    for form in forms:
        socket = await WebSocket.connect(server.url, f"/ws?token={await server.user('omar')}")
        try:
            async with asyncio.timeout(20):
                while '"ready"' not in str(await socket.receive()):
                    pass
                await socket.send(form)
                first = json.loads(await socket.receive())
                taken = first.get("ok") is True and '"get_rooms"' not in str(form)
                if taken or first.get("error", {}).get("code") == "internal":
                    wrong.append(f"{str(form)[:30]}: {str(first)[:80]}")
                await socket.send(dumps({"id": 99, "action": "get_profile", "data": {"username": "omar"}}))
                while json.loads(await socket.receive()).get("id") != 99:
                    pass
        except Exception as error:
            wrong.append(f"{str(form)[:30]}: {error!r}"[:120])
        socket.abort()
    return Seen(len(forms), "`invalid` or `unknown_action`; stays", "; ".join(wrong) or "all", not wrong)


@area.check("broken polling requests are refused, and only their own session suffers")
async def polling(lab: Lab) -> Seen:
    server = await lab.shared()
    token = await server.user("omar")
    base = "/socket.io/?EIO=4&transport=polling"
    wrong: list[str] = []
    tries = 0

    async def opened(http: Http) -> str:
        sid: str = json.loads((await http.ask("GET", base)).body[1:])["sid"]
        await http.ask("POST", f"{base}&sid={sid}", body=("40" + dumps({"token": token})).encode())
        return f"{base}&sid={sid}"

    bodies: dict[str, bytes] = {
        "empty": b"",
        "not UTF-8": b"4\xff\xfe",
        "a separator alone": b"\x1e",
        "many separators": b"\x1e" * 1000,
        "an unknown type": b"9",
        "bad base64": b"b!!!!",
        "a number of packets too many": b"\x1e".join([b"2"] * 250_000),
        "half JSON": b'42["mess',
        "5 MB": b"4" + b"x" * 5_000_000,
        "deep": b"42" + b"[" * DEEP,
        "an old payload format": b'6:42["x"]',
    }
    async with Http(server.url) as http, Http(server.url) as other:
        bystander = await opened(other)
        for name, body in bodies.items():
            tries += 1
            path = await opened(http)
            answer: Answer | None = None
            with suppress(TimeoutError, *GONE):
                answer = await http.ask("POST", path, body=body)
            if answer is not None and answer.status not in (200, 400, 413):
                wrong.append(f"{name}: {answer.status}")
            if answer is not None and "script" in answer.headers.get("content-type", ""):
                wrong.append(f"{name}: {answer.headers['content-type']}")
        queries = (
            "EIO=3&transport=polling",
            "EIO=4&transport=exotic",
            "EIO=4",
            "transport=polling",
            "EIO=4&transport=polling&sid=x",
        )
        queries += (
            "EIO=4&transport=polling&j=1",
            "EIO=4&transport=websocket",
            "EIO=x&transport=polling",
            "EIO=4&transport=polling&sid=" + "x" * 5000,
        )
        for query in queries:
            for method in ("GET", "POST", "PUT", "DELETE"):
                tries += 1
                answer = await http.ask(method, f"/socket.io/?{query}", body=b"")
                good = answer.status == 400 or (method == "GET" and "j=1" in query and answer.status == 200)
                if not good or "script" in answer.headers.get("content-type", ""):
                    wrong.append(f"{method} {query[:40]}: {answer.status}")
        heard = await other.ask("GET", bystander)
        if heard.status != 200 or b"ready" not in heard.body + (await other.ask("GET", bystander)).body:
            wrong.append(f"the bystander: {heard.status}")
    return Seen(tries, "400 or 413; no script", "; ".join(wrong[:8]) or "all", not wrong)


@area.check("none of this makes an error line in the log")
async def quiet_log(lab: Lab) -> Seen:
    server = await lab.shared()
    found = server.complaints()
    kinds = sorted({str(line.get("event"))[:80] for line in found})
    return Seen(1, "no error, no traceback", f"{len(found)} lines: {kinds[:5]}" if found else "none", not found)
