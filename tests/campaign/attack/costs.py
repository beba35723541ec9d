"""The cost of one request: processor time, memory, and bytes of the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tests.campaign.support.clients import ENGINE_PATH, Plain, dumps
from tests.campaign.support.lab import Area, Lab, Server, ms, neighbour
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import (
    GONE,
    TEXT,
    Ended,
    Http,
    Refused,
    WebSocket,
    frame,
)

area = Area("costs")
ACTION_S = 0.05
"""Maximum processor time of an action of 16 KB; the promise is 20 ms, the rest allows for a slower machine."""
REQUEST_S = 0.2
"""Maximum processor time of a request of 1 MB, which has to be read and parsed."""
ANSWER_BYTES = 64 * 1024
"""Maximum length of a refusal."""
WAIT_S = 0.25
"""Maximum wait of an honest neighbour, in the server's processor time."""
LONGEST = 16_384


def mentions(random: Any) -> list[tuple[str, str]]:
    """Contents that are slow to search for mentions."""
    half = (" @" + "é" * 33 + ")" * 31) * 248
    return [
        ("@é…", half[:LONGEST]),
        ("@İ…", half.replace("é", "İ")[:LONGEST]),
        ("@・……", ("@・" + "…" * 62) * 256),
        ("@ alone", "@" * LONGEST),
        ("@a.", "@a." * 5461),
        ("@ and marks", ("@a" + "\u0301" * 62) * 256),
        ("@ ﷺ", ("@" + "ﷺ" * 63) * 256),
        ("@ drawn by lot", "".join(random.choice("@@éİß・…)aA\u0301 ") for _ in range(LONGEST))),
    ]


async def _spent(server: Server, work: Callable[[], Awaitable[Any]]) -> float:
    """Processor time of the server for an action, whatever its outcome."""
    await asyncio.sleep(0.05)
    before = server.processor_seconds()
    with suppress(Ended, Refused, TimeoutError, *GONE):
        await work()
    return server.processor_seconds() - before


@area.check("the search for mentions makes no message expensive")
async def mentions_cost(lab: Lab) -> Seen:
    server = await lab.shared()
    room = await server.topic("omar", "noticias")
    client = await server.live("omar")
    message_id = (await client.ask("message", room_id=room, content="x"))["id"]
    costs: dict[str, float] = {}
    for name, content in mentions(lab.random):
        for where, action, fields in (
            ("a topic", "message", {"room_id": room}),
            ("no topic", "message", {"topic_name": "there is none"}),
            ("an edit", "edit", {"message_id": message_id}),
        ):
            payload = {**fields, "content": content}
            # The least of three: other threads of the server work on what came before.
            spent = [await _spent(server, lambda a=action, p=payload: client.call(a, p)) for _ in range(3)]
            costs[f"{name} in {where}"] = min(spent)
    client.abort()
    worst = max(costs, key=costs.__getitem__)
    return Seen(
        3 * len(costs),
        f"≤ {ms(ACTION_S)} each",
        f"{ms(costs[worst])}: {worst}",
        costs[worst] <= ACTION_S,
        dict(costs),
    )


@area.check("a burst of the slowest messages does not delay a neighbour")
async def mentions_burst(lab: Lab) -> Seen:
    server = await lab.shared()
    if not (await server.get("/api/rooms?kind=topic", await server.user("omar"))).json()["rooms"]:
        await server.topic("omar", "noticias")
    attacker = await server.live("omar", source="127.6.6.6")
    async with neighbour(server) as honest:
        await asyncio.sleep(0.2)
        content = mentions(lab.random)[0][1]
        sent = [
            dumps({"id": n, "action": "message", "data": {"topic_name": "noticias", "content": content}})
            for n in range(10)
        ]
        attacker.socket.writer.write(b"".join(frame(TEXT, text.encode()) for text in sent))
        await attacker.call("get_profile", {"username": "omar"}, 100)
    attacker.abort()
    return Seen(10, f"≤ {ms(WAIT_S)}", honest.told(), honest.served(WAIT_S))


def _many_cursors() -> str:
    return dumps({"token": "x", "cursors": {str(n): -1 for n in range(90_000)}})


async def _answered(socket: WebSocket, within: float = 20.0) -> int:
    """Bytes received until the first packet other than a PING or the handshake, or until the end."""
    size = 0
    async with asyncio.timeout(within):
        while True:
            packet = await socket.receive()
            size += len(packet)
            if isinstance(packet, str) and not packet.startswith(("0{", "2")):
                return size


@area.check("a refused CONNECT is a short answer at a small cost, without an account")
async def refused_connect(lab: Lab) -> Seen:
    server = await lab.shared()
    text = _many_cursors()
    found: dict[str, tuple[float, int]] = {}
    for name, path, packet in (
        ("Socket.IO", ENGINE_PATH, "40" + text),
        ("/ws", "/ws", dumps({"id": 1, "action": "authenticate", "data": json.loads(text)})),
    ):
        socket = await WebSocket.connect(server.url, path)
        size = 0

        async def work(socket: WebSocket = socket, packet: str = packet) -> None:
            nonlocal size
            await socket.send(packet)
            size = await _answered(socket)

        cost = await _spent(server, work)
        found[name] = cost, size
        socket.abort()
    kept = all(cost <= REQUEST_S and size <= ANSWER_BYTES for cost, size in found.values())
    seen = ", ".join(f"{name}: {ms(cost)}, {size:,} bytes" for name, (cost, size) in found.items())
    return Seen(2, f"≤ {ms(REQUEST_S)}, ≤ {ANSWER_BYTES:,} bytes", seen, kept)


@area.check("refused CONNECTs cannot be repeated on a connection for long")
async def repeated_connects(lab: Lab) -> Seen:
    server = await lab.shared()
    text = "40" + _many_cursors()
    socket = await WebSocket.connect(server.url, ENGINE_PATH, source="127.6.6.6")
    out = sent = 0
    async with neighbour(server) as honest:
        try:
            async with asyncio.timeout(15):
                while sent < 10:
                    await socket.send(text)
                    sent += 1
                    out += await _answered(socket)
        except (Ended, TimeoutError, *GONE):
            pass
    socket.abort()
    kept = out <= 4 * ANSWER_BYTES and honest.served(WAIT_S + REQUEST_S)
    expected = f"≤ {4 * ANSWER_BYTES:,} bytes out; neighbour ≤ {ms(WAIT_S + REQUEST_S)}"
    return Seen(sent, expected, f"{sent} sent, {out:,} bytes out; {honest.told()}", kept)


@area.check("repeated CONNECTs to a connected namespace cost little")
async def connects_again(lab: Lab) -> Seen:
    server = await lab.shared()
    token = await server.user("omar")
    socket = await WebSocket.connect(server.url, ENGINE_PATH, source="127.6.6.6")
    await socket.send("40" + dumps({"token": token}))
    await _answered(socket)
    count = lab.size(2_000, 20_000)
    async with neighbour(server) as honest:
        try:
            for at in range(0, count, 100):
                packets = [frame(TEXT, f"40{dumps({'token': token})}".encode()) for _ in range(100)]
                async with asyncio.timeout(20):
                    await socket.write(b"".join(packets))
                if at % 1000 == 0:
                    await asyncio.sleep(0)
        except (*GONE, TimeoutError):
            pass
    socket.abort()
    return Seen(count, f"neighbour ≤ {ms(WAIT_S)}", honest.told(), honest.served(WAIT_S))


class _Alone(Plain):
    """A client with one request at a time: an answer without an id is the answer to that request.

    The server refuses a frame with too many values unread, so it does not know the id.
    """

    def _frame(self, number: int, action: str, data: Any) -> str:
        return json.dumps({"id": number, "action": action, "data": data}, ensure_ascii=False)

    def _receive(self, message: str | bytes) -> None:
        parsed = json.loads(message)
        if "ok" in parsed and "id" not in parsed:
            self._answered(next(iter(self._answers), 0), parsed)
        else:
            super()._receive(message)


async def _refusals(lab: Lab, tries: Sequence[tuple[str, dict[str, Any]]]) -> Seen:
    """The highest cost and the longest refusal of some requests. Each is answered, or ends its connection."""
    server = await lab.shared()
    token = await server.user("omar")
    client = await _Alone.open(server.url, token)
    found: list[tuple[float, int, str]] = []
    unanswered: list[str] = []
    answers: list[dict[str, Any]] = []

    async def work(client: Plain, action: str, payload: dict[str, Any]) -> None:
        answers.append(await client.call(action, payload))

    for action, payload in tries:
        answers.clear()
        cost = await _spent(server, partial(work, client, action, payload))
        # A page of results may be long.
        found.append((cost, sum(len(dumps(answer)) for answer in answers if not answer["ok"]), action))
        if client.ended.done():
            client = await _Alone.open(server.url, token)
        elif not answers:
            unanswered.append(action)
    client.abort()
    cost, _, slowest = max(found)
    size = max(size for _, size, _ in found)
    kept = not unanswered and cost <= REQUEST_S and size <= ANSWER_BYTES
    seen = f"{ms(cost)} ({slowest}), {size:,} bytes" + "".join(f"; {action}: no answer" for action in unanswered)
    return Seen(len(tries), f"≤ {ms(REQUEST_S)}, ≤ {ANSWER_BYTES:,} bytes", seen, kept)


@area.check("the refusal of an action with many unknown fields is short and cheap")
async def unknown_fields(lab: Lab) -> Seen:
    actions = ("message", "get_rooms", "delivered", "search", "create_conversation", "echo")
    # With more than 32,768 values a frame is refused unread.
    counts = (30_000, 75_000)
    return await _refusals(
        lab, [(action, {f"f{n:05}": 1 for n in range(count)}) for count in counts for action in actions]
    )


@area.check("the refusal of a long list with wrong elements is short and cheap")
async def wrong_elements(lab: Lab) -> Seen:
    return await _refusals(
        lab,
        [
            ("create_conversation", {"usernames": [1] * 30_000}),
            ("create_conversation", {"usernames": [1] * 200_000}),
            ("create_conversation", {"usernames": ["é" * 40] * 10_000}),
            ("delivered", {"cursors": {f"{n}": "x" for n in range(9_999)}}),
            ("delivered", {"cursors": {f"{n}": "x" for n in range(70_000)}}),
            ("message", {"room_id": "x" * 900_000, "content": "x"}),
            ("message", {"topic_name": "\u0301" * 300_000, "content": "x"}),
            ("get_profile", {"username": "İ" * 300_000}),
            ("search", {"query": "*" * 200_000}),
            ("search", {"query": '"a ' * 85}),
            ("react", {"message_id": "x", "emoji": "👍" * 200_000}),
        ],
    )


@area.check("a password of any size costs one hash at most")
async def passwords(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    forms = ["x" * 73, "x" * 200_000, "é" * 40, "\0" * 10, "\ud800" * 8, "x" * 8, ""]
    costs = []
    for password in forms:
        before = server.processor_seconds()
        body = json.dumps({"username": "omar", "password": password}).encode()
        answer = await server.post("/api/login", None, body=body, headers={"Content-Type": "application/json"})
        costs.append(server.processor_seconds() - before)
        if answer.status not in (401, 413, 422):
            wrong.append(f"{len(password)} characters: {answer.status}")
    kept = not wrong and max(costs) <= 2.0
    seen = f"{max(costs):.2f} s at most" + "".join(f"; {text}" for text in wrong)
    return Seen(len(forms), "401, 413 or 422; ≤ 2 s", seen, kept)


@area.check("a search costs little, whatever its words")
async def searches(lab: Lab) -> Seen:
    server = await lab.shared()
    client = await server.live("omar")
    room = (await client.ask("create", topic_name="search"))["room_id"]
    words = ["".join(lab.random.choice("abcdefgh") for _ in range(6)) for _ in range(3_000)]
    for at in range(0, len(words), 50):
        await client.ask("message", room_id=room, content=" ".join(words[at : at + 50]))
    queries = [
        " ".join(f"{a}*" for a in "abcdefgh"),
        " ".join(f"{w[0]}*" for w in words[:120])[:256],
        '"' + " ".join(words[:30])[:250] + '"',
        "a* " * 85,
        "NEAR AND OR NOT ( ) ^ : " * 10,
        "é" * 256,
    ]
    costs = {}
    for query in queries:
        costs[query[:20]] = await _spent(server, lambda q=query: client.call("search", {"query": q}))
    client.abort()
    worst = max(costs, key=costs.__getitem__)
    return Seen(len(queries), f"≤ {ms(REQUEST_S)}", f"{ms(costs[worst])}: {worst!r}", costs[worst] <= REQUEST_S)


@area.check("reactions to one long message bring its readers a bounded load")
async def reactions(lab: Lab) -> Seen:
    server = await lab.shared()
    room = await server.topic("omar", "reactions", "diego")
    came = 0

    def count(name: str, payload: dict[str, Any]) -> None:
        nonlocal came
        came += len(json.dumps(payload, ensure_ascii=False).encode())  # as the server sends it

    omar = await server.live("omar", source="127.6.6.6")
    message_id = (await omar.ask("message", room_id=room, content="é" * LONGEST))["id"]
    diego = await server.live("diego", on_event=count)
    came, tries, sent, limit = 0, 300, 0, 5_000_000
    answers = []
    for first in range(0, tries, 10):  # few at a time: a reader that does not keep up would be closed
        payloads = [
            {"message_id": message_id, "emoji": "👍", "remove": bool(n % 2)} for n in range(first, first + 10)
        ]
        sent += sum(len(dumps(payload)) for payload in payloads)
        answers += await asyncio.gather(*(omar.send("react", payload) for payload in payloads))
    await diego.ask("history", room_id=room, limit=1)
    await asyncio.sleep(0.5)
    done = sum(answer["ok"] for answer in answers)
    omar.abort()
    diego.abort()
    seen = f"{came:,} bytes to one member for {sent:,} sent; {done} of {tries} accepted"
    return Seen(tries, f"≤ {limit:,} bytes to a member", seen, came <= limit)


@area.check("frequent readiness checks do not delay a neighbour")
async def readiness(lab: Lab) -> Seen:
    server = await lab.shared()
    count = lab.size(400, 4_000)
    commits = "tidings_journal_commit_seconds_count"
    before = (await server.metrics()).get(commits, 0.0)

    async def ask_on(source: str) -> None:
        async with Http(server.url, source=source) as http:
            for _ in range(count // 4):
                await http.ask("GET", "/health/ready")

    spent = server.processor_seconds()
    async with neighbour(server) as honest:
        await asyncio.gather(*(ask_on(f"127.6.6.{n}") for n in range(1, 5)))
    spent = (server.processor_seconds() - spent) / count
    commits_made = (await server.metrics()).get(commits, 0.0) - before
    kept = honest.served(WAIT_S) and spent <= 0.004
    seen = f"{spent * 1000:.1f} ms each, {commits_made:.0f} commits; {honest.told()}"
    return Seen(count, f"≤ 4 ms each; neighbour ≤ {ms(WAIT_S)}", seen, kept)


@area.check("the answer to a small request is bounded, however large the topic")
async def large_topics(lab: Lab) -> Seen:
    server = await lab.shared(TIDINGS_DEV_TOKENS="true", TIDINGS_RATE_LIMITS="off")
    members = lab.size(300, 2_000)
    tokens = []
    for n in range(members):
        answer = await server.get(f"/token?username=member{n:04}", headers={"Host": "127.0.0.1"})
        tokens.append(answer.json()["token"])
    owner: Plain = await Plain.open(server.url, tokens[0])
    await owner.ask("create", topic_name="large")
    clients = []
    for token in tokens[1:]:
        answer = await server.post("/api/subscriptions", {"topic_name": "large"}, token)
        assert answer.status in (200, 201), answer
    for token in tokens[1 : lab.size(250, 1_200)]:
        clients.append(await Plain.open(server.url, token))
    size = 0

    async def work() -> None:
        nonlocal size
        size = len(dumps(await owner.call("connect_to_room", {"topic_name": "large"})))

    cost = await _spent(server, work)
    for client in [owner, *clients]:
        client.abort()
    kept = cost <= ACTION_S and size <= 2 * ANSWER_BYTES
    return Seen(
        1, f"≤ {ms(ACTION_S)}, ≤ {2 * ANSWER_BYTES:,} bytes", f"{members} members: {ms(cost)}, {size:,} bytes", kept
    )
