"""No sticky sessions: a load balancer may send each request of a session to another node."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import socketio

from tests.delivery.support import make_topic, rest, seqs
from tests.e2e.javascript import run
from tests.support.balancer import Balancer, balanced
from tests.support.client import DEADLINE_S, Client, unread_answers
from tests.support.network import Conditions, network
from tests.support.node import NO_TLS, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings.cluster.relay import Relay
from tidings.cluster.relay_stream import SocketDirectory

CONNECTS = 50
JS_CONNECTS = 15
TOGETHER = 5

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reserves the ports that nodes publish")


@pytest.fixture(params=["one machine", "two machines"])
async def nodes(
    request: pytest.FixtureRequest, postgresql_url: str, tmp_path: Path
) -> AsyncIterator[list[RunningNode]]:
    """Two nodes. They share a data directory, or know each other's URL."""
    apart = request.param == "two machines"
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=apart) as first,
        running_node(postgresql_url, tmp_path / ("b" if apart else "a"), publish_url=apart) as second,
    ):
        yield [first, second]


@pytest.fixture
async def balancer(nodes: list[RunningNode]) -> AsyncIterator[Balancer]:
    async with balanced([node.url for node in nodes]) as balancer:
        yield balancer


@pytest.fixture(autouse=True)
def _unread_answers() -> Iterator[None]:
    with unread_answers():
        yield


def relay_of(node: RunningNode) -> Relay:
    assert isinstance(node.node.cluster.elsewhere, Relay)
    return node.node.cluster.elsewhere


def relayed(nodes: list[RunningNode], transport: str) -> int:
    return sum(relay_of(node).relayed[transport] for node in nodes)


@pytest.mark.parametrize("transports", [["polling", "websocket"], ["polling"]], ids=["default", "polling"])
async def test_stock_clients_connect_and_upgrade_whichever_node_gets_a_request(
    nodes: list[RunningNode], balancer: Balancer, transports: list[str]
) -> None:
    token = await nodes[0].register("omar")
    room_id = await make_topic(nodes[0].url, token, "noticias")

    async def visit(number: int) -> Client:
        client = await Client(balancer.url, token, device=f"d{number % TOGETHER}").connect(transports)
        assert client.sio.transport() == transports[-1]
        sent = await client.ask("message", room_id=room_id, content=str(number))
        await client.event("message", lambda message: message["seq"] == sent["seq"])
        return client

    clients = []
    for begin in range(0, CONNECTS, TOGETHER):
        clients += await asyncio.gather(*(visit(begin + k) for k in range(TOGETHER)))
    assert balancer.refused == []
    for client in clients:
        await client.close()
    if transports == ["polling"]:
        assert relayed(nodes, "polling") >= CONNECTS
    else:
        assert relayed(nodes, "websocket") == CONNECTS


async def test_the_synchronous_stock_client_connects(nodes: list[RunningNode], balancer: Balancer) -> None:
    """It upgrades only with a further package."""
    token = await nodes[0].register("omar")

    def visit() -> None:
        with socketio.SimpleClient() as client:
            client.connect(balancer.url, auth={"token": token})
            for n in range(10):
                assert client.call("get_rooms", {}, timeout=DEADLINE_S)["ok"], n

    for _ in range(4):
        await asyncio.to_thread(visit)
    assert balancer.refused == []
    assert relayed(nodes, "polling") > 10


@pytest.mark.long
async def test_the_javascript_client_loses_and_repeats_nothing_on_any_transport(
    nodes: list[RunningNode], balancer: Balancer
) -> None:
    """One of its upgrades is in the middle of a replay. The way to it takes time."""
    tokens = {name: await nodes[0].register(name) for name in ("omar", "diego")}
    slow = Conditions(delay=0.01)
    async with network(balancer.url, up=slow, down=slow) as distant:
        await run("transports.mjs", {"url": distant.url, "tokens": tokens}, {})
    assert balancer.refused == []
    assert relayed(nodes, "polling") > 0
    assert relayed(nodes, "websocket") > 0


@pytest.mark.parametrize("transports", [["polling", "websocket"], ["polling"], ["websocket"]], ids="-".join)
async def test_the_javascript_client_connects_whichever_node_gets_a_request(
    nodes: list[RunningNode], balancer: Balancer, transports: list[str]
) -> None:
    token = await nodes[0].register("omar")
    room_id = await make_topic(nodes[0].url, token, "noticias")
    given = {"url": balancer.url, "token": token, "room_id": room_id, "together": TOGETHER, "count": JS_CONNECTS}
    refused: list[list[str]] = []

    async def note() -> None:
        refused.append(list(balancer.refused))

    await run("connects.mjs", {**given, "transports": transports}, {"connected": note})
    assert refused == [[]]
    assert relayed(nodes, "websocket") == (JS_CONNECTS if len(transports) > 1 else 0)
    assert (relayed(nodes, "polling") > 0) == (transports[0] == "polling")


async def test_packets_of_clients_that_poll_over_few_shared_connections_are_neither_lost_nor_crossed(
    nodes: list[RunningNode], balancer: Balancer
) -> None:
    """Each client is alone in a room; what another one gets there has been crossed."""
    names, topics = [f"user{n}" for n in range(8)], [f"topic{n}" for n in range(8)]
    tokens = [await nodes[0].register(name) for name in names]
    rooms = [await make_topic(nodes[0].url, token, name) for name, token in zip(topics, tokens, strict=True)]
    clients = [await Client(balancer.url, token).connect(["polling"]) for token in tokens]
    sent = [
        client.send("message", {"room_id": room_id, "content": f"{name} {n}"})
        for n in range(50)
        for name, room_id, client in zip(names, rooms, clients, strict=True)
    ]
    assert all(answer["ok"] for answer in await asyncio.gather(*sent))
    for name, room_id, client in zip(names, rooms, clients, strict=True):
        await client.until(lambda client=client: len(client.of("message")) == 50)  # type: ignore[misc]
        assert client.contents() == [f"{name} {n}" for n in range(50)]
        assert seqs(client, room_id) == list(range(1, 51))
    assert balancer.refused == []
    for client in clients:
        await client.close()
    assert balancer.opened < len(balancer.served) / 4, "the balancer shares its connections"


async def test_rest_reaches_the_same_data_on_every_node(nodes: list[RunningNode], balancer: Balancer) -> None:
    token = await nodes[0].register("omar")
    room_id = await make_topic(balancer.url, token, "noticias")
    async with rest(balancer.url, token) as http:
        for n in range(1, 7):
            sent = await http.post("/api/messages", json={"room_id": room_id, "content": str(n)})
            assert sent.json()["seq"] == n
    assert {port for line, port in balancer.served if line.startswith("POST /api/messages")} == {
        int(node.url.rpartition(":")[2]) for node in nodes
    }


async def _opened(http: httpx.AsyncClient) -> str:
    """The id of a new session."""
    answer = await http.get("/socket.io/", params={"EIO": "4", "transport": "polling"})
    sid: str = json.loads(answer.text[1:])["sid"]
    return sid


async def _post(http: httpx.AsyncClient, sid: str) -> int:
    """The status of a POST that begins to sign in."""
    packet = await http.post("/socket.io/", params={"EIO": "4", "transport": "polling", "sid": sid}, content="40")
    return packet.status_code


async def _poll(http: httpx.AsyncClient, sid: str) -> httpx.Response:
    return await http.get("/socket.io/", params={"EIO": "4", "transport": "polling", "sid": sid})


async def test_a_session_id_names_its_node_and_has_96_random_bits(nodes: list[RunningNode]) -> None:
    for node in nodes:
        async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http:
            sids = [await _opened(http) for _ in range(8)]
        assert {len(sid) for sid in sids} == {20}
        assert {sid[:4] for sid in sids} == {node.node.id[:4]}
        assert len({sid[4:] for sid in sids}) == 8


async def test_a_forged_session_id_is_refused_promptly(nodes: list[RunningNode]) -> None:
    first, second = nodes
    unknown = [
        second.node.id[:4] + "A" * 16,
        first.node.id[:4] + "A" * 16,
        "AAAA" + "A" * 16,
        second.node.id[:4],
        second.node.id[:4] + "A" * 4000,
        "é" * 20,
        "../../../../x",
    ]
    async with httpx.AsyncClient(base_url=first.url, verify=NO_TLS) as http:
        for sid in unknown:
            await _poll(http, sid)  # opens the connections
            begin = time.monotonic()
            answers = [await _poll(http, sid) for _ in range(10)]
            seconds = (time.monotonic() - begin) / 10
            assert {answer.status_code for answer in answers} == {400}, sid
            assert all(answer.json() == {"code": 1, "message": "Session ID unknown"} for answer in answers)
            assert seconds < 0.1, sid
        posted = await http.post(
            "/socket.io/", params={"EIO": "4", "transport": "polling", "sid": unknown[0]}, content="2" * 500_000
        )
        assert posted.status_code == 400
    assert relay_of(first).streams == 0
    assert relay_of(first).relayed["websocket"] == 0


async def test_only_the_methods_of_engine_io_are_relayed(nodes: list[RunningNode]) -> None:
    first, second = nodes
    async with httpx.AsyncClient(base_url=second.url, verify=NO_TLS) as http:
        sid = await _opened(http)

    async def body() -> AsyncIterator[bytes]:
        yield b"2"

    async with httpx.AsyncClient(base_url=first.url, verify=NO_TLS) as http:
        for method in ("PUT", "DELETE", "PATCH"):
            params = {"EIO": "4", "transport": "polling", "sid": sid}
            answer = await http.request(method, "/socket.io/", params=params, content=body())
            assert answer.status_code == 400
            assert answer.json() == {"message": "bad handshake method"}
    assert relayed(nodes, "polling") == 0


async def test_sessions_of_a_node_that_has_died_are_unknown_immediately(postgresql_url: str, tmp_path: Path) -> None:
    """Its lease still holds: nobody has noticed."""
    async with running_node(postgresql_url, tmp_path) as living, running_node(postgresql_url, tmp_path) as dying:
        async with httpx.AsyncClient(base_url=dying.url, verify=NO_TLS) as http:
            sid = await _opened(http)
        async with httpx.AsyncClient(base_url=living.url, verify=NO_TLS) as http:
            assert await _post(http, sid) == 200
            assert dying._server.door is not None
            for door in (*dying._server.servers, dying._server.door):
                door.close()
            begin = time.monotonic()
            answer = await _poll(http, sid)
            assert time.monotonic() - begin < 0.1
            assert answer.status_code == 400


async def test_a_node_that_has_just_started_is_found(
    nodes: list[RunningNode], postgresql_url: str, tmp_path: Path
) -> None:
    """The others have not renewed their leases since."""
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True) as newest,
        httpx.AsyncClient(base_url=newest.url, verify=NO_TLS) as http,
        httpx.AsyncClient(base_url=nodes[0].url, verify=NO_TLS) as elsewhere,
    ):
        assert await _post(elsewhere, await _opened(http)) == 200


async def test_a_stream_to_the_wrong_one_of_the_nodes_on_a_port_reaches_the_right_one(
    postgresql_url: str, tmp_path: Path
) -> None:
    """Workers of one machine have one URL."""
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True) as first,
        running_node(postgresql_url, tmp_path / "a", node_url=first.url) as second,
        running_node(postgresql_url, tmp_path / "b") as distant,
        balanced([second.url, distant.url]) as balancer,
    ):
        token = await second.register("omar")
        client = await Client(balancer.url, token).connect(["polling", "websocket"])
        assert client.sio.transport() == "websocket"
        assert (await client.ask("get_rooms"))["rooms"] is not None
        await client.close()
        assert balancer.refused == []
        assert relay_of(distant).relayed["websocket"] == 1


@pytest.mark.long
async def test_clients_of_workers_that_share_a_port_connect_and_upgrade(postgresql_url: str, tmp_path: Path) -> None:
    """The kernel gives each TCP connection to any of them."""
    server = ServerProcess(tmp_path, arguments=("--workers", "3"), TIDINGS_DATABASE_URL=postgresql_url)
    await server.start()
    try:
        tokens = {name: await server.register(name) for name in ("omar", "diego")}
        async with balanced([server.url]) as balancer:
            for transports in (["polling", "websocket"], ["polling"]):
                clients = []
                for n in range(CONNECTS):
                    client = Client(balancer.url, tokens["omar"], device=f"d{n % TOGETHER}")
                    clients.append(await client.connect(transports))
                    assert clients[-1].sio.transport() == transports[-1]
                assert balancer.refused == []
                for client in clients:
                    await client.close()
        await run("transports.mjs", {"url": server.url, "tokens": tokens}, {})
        async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as http:
            counted = re.findall(
                r"^tidings_relayed_websocket_requests_total.* ([\d.]+)$", (await http.get("/metrics")).text, re.M
            )
        assert sum(map(float, counted)) > CONNECTS / 4
    finally:
        await server.terminate()


def _door_request(relay_pass: bytes) -> bytes:
    return (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tidings-relay\r\n"
        b"Tidings-Relay: %b\r\n\r\n" % relay_pass
    )


async def _knock(url: str, relay_pass: bytes) -> int:
    """The status that a pass is answered with."""
    host, _, port = url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(_door_request(relay_pass))
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.close()


async def test_a_forged_or_replayed_pass_of_the_relay_is_refused(nodes: list[RunningNode]) -> None:
    first, second = nodes
    passes = relay_of(first).passes
    good = passes.issue(second.node.id, "203.0.113.9")
    assert await _knock(second.url, good) == 101
    assert await _knock(second.url, good) == 403, "a pass is for one stream"
    assert await _knock(second.url, passes.issue("another-node", "")) == 403, "a pass is for one node"
    for forged in (b"", b"x", b"\xff" * 50, good[:-1] + b"0", good.replace(b"203.0.113.9", b"203.0.113.8")):
        assert await _knock(second.url, forged) == 403
    clock = passes._clock_ms
    for off in (-6000, 6000):
        passes._clock_ms = lambda off=off: clock() + off  # type: ignore[misc]
        assert await _knock(second.url, passes.issue(second.node.id, "")) == 403, "a pass is for a few seconds"
    passes._clock_ms = clock
    passes.sign_with([b"another key, of thirty-two bytes and more"])
    assert await _knock(second.url, passes.issue(second.node.id, "")) == 403
    assert relay_of(second).passes.refused == 10


async def test_the_socket_of_a_node_serves_nobody_but_nodes(postgresql_url: str, tmp_path: Path) -> None:
    async with running_node(postgresql_url, tmp_path) as node:
        address = relay_of(node)._sockets.address(node.node.id)
        assert address is not None
        transport = httpx.AsyncHTTPTransport(uds=address)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get("/health/ready")).status_code == 403
        assert [file.stat().st_mode & 0o777 for file in (tmp_path / "run").iterdir()] == [0o600]
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "run").iterdir()) == [], "a node that stops removes its socket"


def test_nodes_that_start_together_keep_each_others_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SocketDirectory(tmp_path), SocketDirectory(tmp_path)
    sockets: list[socket.socket | None] = []
    chmod = os.chmod

    def interrupted(path: Path, mode: int) -> None:
        """The second node starts while the socket of the first is bound, but does not listen."""
        monkeypatch.setattr(os, "chmod", chmod)
        sockets.append(second.listen("second"))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", interrupted)
    sockets.append(first.listen("first"))
    for node in ("first", "second"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(first.address(node) or "")
    for listening in sockets:
        assert listening is not None
        listening.close()


async def test_the_owner_limits_relayed_connections_by_the_address_of_the_client(
    nodes: list[RunningNode],
) -> None:
    first, second = nodes
    second.node.connections._max_per_source = 2
    passes = relay_of(first).passes
    writers = []
    statuses = []
    host, _, port = second.url.rpartition("/")[2].partition(":")
    for address in ["203.0.113.9"] * 3 + ["203.0.113.8"]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        writer.write(_door_request(passes.issue(second.node.id, address)))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        statuses.append(int((await reader.readuntil(b"\r\n")).split()[1]))
    for writer in writers:
        writer.close()
    assert statuses == [200, 200, 503, 200]


async def test_streams_to_other_nodes_are_bounded_and_end_with_their_clients(nodes: list[RunningNode]) -> None:
    first, second = nodes
    relay = relay_of(first)
    relay._max_open = 2
    async with httpx.AsyncClient(base_url=second.url, verify=NO_TLS) as http:
        sids = [await _opened(http) for _ in range(3)]
        async with httpx.AsyncClient(base_url=first.url, verify=NO_TLS, timeout=DEADLINE_S) as elsewhere:
            polls = [asyncio.create_task(_poll(elsewhere, sid)) for sid in sids[:2]]
            for sid, poll in zip(sids, polls, strict=False):
                while not (session := second.node.socketio.eio.session_of(sid)) or not session.polling:
                    assert not poll.done(), poll
                    await asyncio.to_thread(str)
            assert (await _poll(elsewhere, sids[2])).status_code == 503
            for poll in polls:
                poll.cancel()
            await asyncio.wait(polls)
        async with asyncio.timeout(DEADLINE_S):
            while relay.streams:
                await asyncio.to_thread(str)
            while any(second.node.socketio.eio.session_of(sid) for sid in sids[:2]):
                await asyncio.to_thread(str)  # as without a relay: the packets of an unanswered poll may be lost
