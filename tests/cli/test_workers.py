"""`tidings serve --workers`: several processes on one port, which are replaced when they crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import socketio
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import PATIENCE_S, Command, Run, Start
from tests.delivery.support import make_topic
from tests.support.client import connected
from tests.support.locks import locked
from tests.support.node import SECRET_KEY, running_node, token_from
from tidings.cluster.workers import MAX_CRASHES

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CRASHING = """
import os, pathlib

if pathlib.Path("broken").exists():
    os._exit(3)
"""
"""Python runs it at its start: it crashes while there is a file `broken`."""


def processes_of(server: Command) -> set[psutil.Process]:
    """The workers."""
    return set(psutil.Process(server.process.pid).children())


async def gone(processes: set[psutil.Process]) -> None:
    """Wait until the processes have ended."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, list(processes), PATIENCE_S)
    assert alive == []


async def text_of_metrics(url: str) -> str:
    """Get the metrics over a connection of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
        return (await http.get("/metrics")).text


async def metrics(url: str) -> dict[str, dict[str, float]]:
    """The samples of the metrics without labels, by name and worker."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(await text_of_metrics(url)):
        for sample in family.samples:
            if sample.labels.keys() <= {"worker"}:
                found.setdefault(sample.name, {})[sample.labels.get("worker", "")] = sample.value
    return found


async def until_up(url: str, *workers: str) -> None:
    """Wait until exactly these workers answer for their metrics."""
    async with asyncio.timeout(PATIENCE_S):
        while {worker for worker, up in (await metrics(url))["tidings_worker_up"].items() if up} != set(workers):
            pass


async def test_workers_without_postgresql_are_refused_in_a_sentence_that_says_what_to_set(command: Run) -> None:
    refused = await command("serve", "--workers", "4", status=1)
    assert "4 workers need PostgreSQL" in refused.err
    assert "TIDINGS_DATABASE_URL" in refused.err
    refused = await command("serve", status=1, TIDINGS_WORKERS="2")
    assert "2 workers need PostgreSQL" in refused.err
    assert "TIDINGS_WORKERS" in (await command("serve", "--workers", "0", status=1)).err


async def test_workers_do_not_start_before_the_migrations(command: Run, empty_postgresql_url: str) -> None:
    refused = await command("serve", "--workers", "2", status=1, TIDINGS_DATABASE_URL=empty_postgresql_url)
    assert "run `tidings migrate`" in refused.err


async def test_workers_are_nodes_that_share_a_port_and_sum_up_their_metrics(
    serve_workers: Start, command: Run, postgresql_url: str
) -> None:
    server = await serve_workers(3, TIDINGS_NODE_NAME="berlin", TIDINGS_LOG_LEVEL="info")
    assert "with 3 workers" in server.out
    listed = await command("nodes", TIDINGS_DATABASE_URL=postgresql_url)
    assert re.findall(r"^(\S+) .* live$", listed.out, re.MULTILINE) == ["berlin-1", "berlin-2", "berlin-3"]
    token = await token_from(server.url, "register", "omar")
    async with contextlib.AsyncExitStack() as stack:
        for n in range(24):
            await stack.enter_async_context(connected(server.url, token, device=f"device {n}"))
        found = await metrics(server.url)
        assert found["tidings_worker_up"] == {"1": 1.0, "2": 1.0, "3": 1.0}
        assert found["tidings_worker_crashes_total"] == {"": 0.0}
        assert found["tidings_tasks"].keys() == {"1", "2", "3"}
        text = await text_of_metrics(server.url)
        (family,) = [one for one in text_string_to_metric_families(text) if one.name == "tidings_connections"]
        by_worker: Counter[str] = Counter()
        for sample in family.samples:
            by_worker[sample.labels["worker"]] += int(sample.value)
        assert by_worker.total() == 24
        assert min(by_worker.values()) > 0, "connections are distributed among the workers"
        assert text.count("# TYPE tidings_connections gauge") == 1
    workers = processes_of(server)
    assert len(workers) == 3
    assert await server.end(signal.SIGTERM) == 0
    await gone(workers)
    lines = [json.loads(line) for line in server.err.splitlines()]
    assert {line["node"] for line in lines if line["event"] == "connection opened"} == {
        "berlin-1",
        "berlin-2",
        "berlin-3",
    }
    listed = await command("nodes", TIDINGS_DATABASE_URL=postgresql_url)
    assert "berlin" not in listed.out, "workers that stop leave the registry"


async def answered(host: str, port: int) -> bool:
    """Open a connection and request something; returns whether it is answered, and not cut."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        return answer.startswith(b"HTTP/1.1 200")
    except ConnectionResetError:
        return False
    finally:
        writer.close()


async def test_no_connection_is_refused_while_a_killed_worker_is_replaced(serve_workers: Start) -> None:
    server = await serve_workers(3)
    url = urlsplit(server.url)
    host, port = url.hostname or "", url.port or 0
    before = processes_of(server)
    enough, stopped = asyncio.Event(), asyncio.Event()
    outcomes: Counter[bool] = Counter()

    async def keep_connecting() -> None:
        while not stopped.is_set():
            outcomes[await answered(host, port)] += 1
            if outcomes[True] > 50:
                enough.set()

    connecting = [asyncio.create_task(keep_connecting()) for _ in range(8)]
    await asyncio.wait_for(enough.wait(), PATIENCE_S)
    victim = min(before, key=lambda process: process.pid)
    victim.suspend()
    # A third of these wait in the queue of the worker that will never accept them.
    queued = [asyncio.create_task(answered(host, port)) for _ in range(60)]
    await asyncio.wait(queued, return_when=asyncio.FIRST_COMPLETED)
    victim.send_signal(signal.SIGKILL)
    await server.until("err", "worker 1 has ended with signal 9, and is replaced")
    assert await asyncio.gather(*queued) == [True] * len(queued)
    await until_up(server.url, "1", "2", "3")
    assert len(processes_of(server) - before) == 1
    assert (await metrics(server.url))["tidings_worker_crashes_total"] == {"": 1.0}
    stopped.set()
    await asyncio.gather(*connecting)
    assert outcomes[False] <= len(connecting), "only connections that the killed worker had accepted"
    assert await server.end(signal.SIGTERM) == 0


async def test_a_worker_that_hangs_is_killed_and_replaced(serve_workers: Start) -> None:
    server = await serve_workers(2)
    before = processes_of(server)
    hung = min(before, key=lambda process: process.pid)
    hung.suspend()
    await server.until("err", "worker 1 hangs, and is killed")
    await gone({hung})
    await until_up(server.url, "1", "2")
    assert len(processes_of(server) - before) == 1
    assert await server.end(signal.SIGTERM) == 0


async def test_the_metrics_do_not_wait_for_a_worker_that_hangs(serve_workers: Start) -> None:
    server = await serve_workers(2)
    assert (await text_of_metrics(server.url)).count("tidings_worker_up{") == 2
    hung = min(processes_of(server), key=lambda process: process.pid)
    hung.suspend()
    # Each has a connection of its own. The hung worker does not accept its share of them.
    requests = [asyncio.create_task(text_of_metrics(server.url)) for _ in range(16)]
    answered, unanswered = await asyncio.wait(requests, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    assert answered
    # The supervisor kills a worker that is silent for too long.
    assert hung.status() == psutil.STATUS_STOPPED, "the worker that works has waited for the other"
    hung.resume()
    answer = answered.pop().result()
    await asyncio.gather(*answered, *unanswered)
    ups = re.findall(r"^tidings_worker_up\{.*\} (\S+)$", answer, re.MULTILINE)
    assert sorted(ups) == ["0.0", "1.0"]
    assert await server.end(signal.SIGTERM) == 0


async def test_workers_end_when_their_supervisor_is_killed(serve_workers: Start) -> None:
    server = await serve_workers(2)
    workers = processes_of(server)
    token = await token_from(server.url, "register", "omar")
    async with connected(server.url, token) as omar:
        server.process.kill()
        assert await omar.event("closing") == {"reason": "shutdown", "reconnect": True}
    await gone(workers)


async def test_a_second_signal_ends_supervisor_and_workers_immediately(
    serve_workers: Start, postgresql_url: str
) -> None:
    server = await serve_workers(2, TIDINGS_LOG_LEVEL="info")
    workers = processes_of(server)
    token = await token_from(server.url, "register", "omar")
    room_id = await make_topic(server.url, token, "noticias")
    async with connected(server.url, token) as omar, locked(postgresql_url, room_id):
        omar.send("message", {"room_id": room_id, "content": "its worker waits for it when it stops"})
        async with asyncio.timeout(PATIENCE_S):
            while not sum((await metrics(server.url))["tidings_journal_queue_changes"].values()):
                pass
        server.process.send_signal(signal.SIGINT)
        await server.until("err", "the workers are told to stop")
        assert await server.end(signal.SIGINT) == -signal.SIGINT
    await gone(workers)
    assert "the server stops without waiting any longer" not in server.err


async def test_workers_that_keep_crashing_end_the_server_with_a_sentence(
    serve_workers: Start, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    server = await serve_workers(2, PYTHONPATH=str(tmp_path))
    first = processes_of(server)
    (tmp_path / "broken").touch()
    server.process.send_signal(signal.SIGHUP)
    await server.until("err", "could not be replaced: the restart ends here")
    assert first == processes_of(server), "the workers that run stay"
    min(first, key=lambda process: process.pid).kill()
    assert await server.end() == 1
    assert server.err.count("and is replaced") == MAX_CRASHES
    assert server.err.splitlines()[-1].startswith("tidings: the workers have crashed 5 times within 60 s")
    await gone(first)


async def test_a_worker_that_cannot_start_ends_the_server(
    tidings: Start, postgresql_url: str, tmp_path: Path
) -> None:
    async with running_node(postgresql_url, tmp_path):
        pass  # its key is not the one that the workers generate
    server = await tidings("serve", "--port", "0", "--workers", "2", TIDINGS_DATABASE_URL=postgresql_url)
    server.deadline_s = PATIENCE_S
    assert await server.end() == 1
    assert server.out == ""
    assert "this server's signing key is not that of the other servers" in server.err
    assert server.err.splitlines()[-1] == "tidings: a worker could not start"


async def test_what_an_application_emits_reaches_the_clients_of_all_workers(
    tidings: Start, postgresql_url: str, tmp_path: Path
) -> None:
    (tmp_path / "game.py").write_text(GAME)
    environment = {"TIDINGS_DATABASE_URL": postgresql_url, "TIDINGS_SECRET_KEY": SECRET_KEY}
    server = await tidings("serve", "--port", "0", "--workers", "2", "--app", "game:app", **environment)
    url = (await server.listening()).url
    async with AsyncExitStack() as stack:
        clients: dict[int, tuple[socketio.AsyncClient, asyncio.Queue[int]]] = {}
        while len(clients) < 2:  # until there is one on each worker
            client, heard = socketio.AsyncClient(reconnection=False), asyncio.Queue[int]()
            client.on("said", heard.put_nowait, namespace="/game")
            await client.connect(url, namespaces=["/game"], transports=["websocket"], wait_timeout=10)
            stack.push_async_callback(client.disconnect)
            process = await client.call("process", namespace="/game")
            clients.setdefault(process, (client, heard))
        everybody = {client.get_sid("/game") for client, _ in clients.values()}
        for client, _ in clients.values():  # a worker learns of another one when it next renews its lease
            async with asyncio.timeout(PATIENCE_S):
                while not everybody <= set(await client.call("players", namespace="/game")):
                    pass
        for number, (client, _) in enumerate(clients.values()):
            await client.emit("say", number, namespace="/game")
            for _, heard in clients.values():
                assert await asyncio.wait_for(heard.get(), PATIENCE_S) == number
    assert await server.end(signal.SIGTERM) == 0


GAME = """
import os

import socketio

from tidings import create_app

app = create_app()


class Game(socketio.AsyncNamespace):
    authenticate = False

    async def on_process(self, sid):
        return os.getpid()

    async def on_players(self, sid):
        try:
            return await app.sio.participants(namespace="/game")
        except TimeoutError:  # a worker has started, and does not answer yet
            return []

    async def on_say(self, sid, number):
        await self.emit("said", number)


app.sio.register_namespace(Game("/game"))
"""
