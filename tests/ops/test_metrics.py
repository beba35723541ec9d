"""`/metrics` counts events, and no client can increase its number of labels."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateways.raw import entered, opened, polling
from tests.support.client import DEADLINE_S, Client, Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings import __version__


class Scrape:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation
            for sample in family.samples:
                at = sample.name, frozenset(sample.labels.items())
                assert at not in self.samples
                self.samples[at] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a sample of Tidings; 0 if it is missing."""
        return self.samples.get((f"tidings_{name}", frozenset(labels.items())), 0.0)

    def names(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {at for at in self.samples if at[0].startswith("tidings_")}


async def scrape(node: RunningNode) -> Scrape:
    async with httpx.AsyncClient(base_url=node.url) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return Scrape(answer.text)


async def until(node: RunningNode, name: str, value: float, **labels: str) -> Scrape:
    """Scrape until a sample has a value."""
    async with asyncio.timeout(DEADLINE_S):
        while (metrics := await scrape(node))(name, **labels) != value:
            pass
    return metrics


async def test_actions_are_counted_by_name_and_outcome_over_every_gateway(node: RunningNode) -> None:
    token = await node.register("omar")
    async with connected(node.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        for n in range(5):
            await omar.ask("message", topic_name="noticias", content=f"{n}")
        for payload in ({"topic_name": "nothing", "content": "x"}, {"nonsense": 1}):
            with pytest.raises(Refused):
                await omar.ask("message", payload)
        async with httpx.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer {token}"}) as http:
            await http.post("/api/messages", json={"topic_name": "noticias", "content": "by REST"})
            await http.post("/api/subscriptions", json={"topic_name": "noticias"})
        with pytest.raises(Refused):
            await omar.ask("suscribe", topic_name="noticias")  # an alias of `subscribe`
    metrics = await scrape(node)
    assert metrics("actions_total", action="message", outcome="ok") == 6
    assert metrics("actions_total", action="message", outcome="not_found") == 1
    assert metrics("actions_total", action="message", outcome="invalid") == 1
    assert metrics("actions_total", action="subscribe", outcome="conflict") == 2
    assert metrics("actions_total", action="subscribe", outcome="ok") == 0
    assert metrics("actions_total", action="register", outcome="ok") == 1
    assert metrics("action_seconds_count", action="message") == 8
    assert metrics("action_seconds_bucket", action="message", le="+Inf") == 8
    assert 0 < metrics("action_seconds_sum", action="message") < DEADLINE_S
    # Six messages and the creation of the room; some changes may share a commit.
    changes = metrics("journal_batch_changes_sum")
    assert changes >= 7
    assert 1 <= metrics("journal_commit_seconds_count") == metrics("journal_batch_changes_count")
    assert metrics("journal_commit_seconds_sum") > 0


async def test_names_that_clients_invent_add_no_labels(node: RunningNode) -> None:
    async with connected(node.url, await node.register("omar")) as omar:
        before = await until(node, "connections", 1, gateway="socketio", transport="websocket")
        with pytest.raises(Refused):
            await omar.ask("first")
        once = await scrape(node)
        for n in range(50):
            with pytest.raises(Refused):
                await omar.ask(f"made up {n}", {"topic_name": f"topic {n}"})
        with pytest.raises(Refused):
            await omar.ask("login")  # REST only
    async with httpx.AsyncClient(base_url=node.url) as http:
        for n in range(50):
            await http.get(f"/api/made-up-{n}")
    after = await scrape(node)
    assert after("actions_total", action="unknown", outcome="unknown_action") == 52
    assert len(once.names() - before.names()) == 1
    assert len(after.names() - once.names()) <= 1  # the reason of the close of omar's connection
    assert "made up" not in after.text


async def test_gauges_count_the_current_connections_users_and_rooms(node: RunningNode) -> None:
    tokens = {name: await node.register(name) for name in ("omar", "diego")}
    async with connected(node.url, tokens["omar"]) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("create", topic_name="otra")
        async with entered(node.url, tokens["omar"]), polling(node.url, tokens["diego"]), opened(node.url):
            metrics = await scrape(node)
            assert metrics("connections", gateway="socketio", transport="websocket") == 2
            assert metrics("connections", gateway="socketio", transport="polling") == 1
            assert metrics("connections_half_open") == 1
            assert metrics("online_users") == 2
            assert metrics("live_rooms") == 2
            assert metrics("connections_opened_total", gateway="socketio") == 3
    metrics = await until(node, "online_users", 0)
    assert metrics("live_rooms") == 0
    assert metrics("connections", gateway="socketio", transport="websocket") == 0
    assert metrics("connections", gateway="socketio", transport="polling") == 0
    ended = [value for (name, _), value in metrics.samples.items() if name == "tidings_connections_closed_total"]
    assert sum(ended) == 3


async def test_replayed_entries_are_counted(node: RunningNode) -> None:
    tokens = {name: await node.register(name) for name in ("omar", "diego")}
    async with connected(node.url, tokens["omar"]) as omar, connected(node.url, tokens["diego"]) as diego:
        await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        await omar.close()
        for n in range(7):
            await diego.ask("message", topic_name="noticias", content=f"{n}")
        assert (await scrape(node))("replayed_entries_total") == 0
        async with connected(node.url, tokens["omar"]) as returned:
            assert len(returned.of("message")) == 7
        assert (await scrape(node))("replayed_entries_total") == 7


async def test_the_queue_and_the_close_of_a_slow_consumer_are_counted(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        tokens = {name: await node.register(name) for name in ("omar", "diego")}
        async with connected(node.url, tokens["diego"]) as diego, entered(node.url, tokens["omar"]) as omar:
            await diego.ask("create", topic_name="noticias")
            await omar.ask("subscribe", {"topic_name": "noticias"})
            queued = 0.0
            for _ in range(200):  # 64 MB: more than the kernel holds
                await _fill(diego)
                metrics = await scrape(node)
                if metrics("connections_closed_total", reason="slow_consumer"):
                    break
                queued = max(queued, metrics("connections_queued_bytes"))
            assert metrics("connections_closed_total", reason="slow_consumer") == 1
            assert queued > 0
            assert metrics("connections", gateway="socketio", transport="websocket") == 1
            omar.socket.transport.abort()  # a close would wait ten seconds for the unread messages


async def _fill(diego: Client) -> None:
    sent = [diego.send("message", {"topic_name": "noticias", "content": "x" * 16_000}) for _ in range(20)]
    assert all(answer["ok"] for answer in await asyncio.gather(*sent))
    diego.events.clear()


async def test_closes_are_counted_by_reason(node: RunningNode) -> None:
    token = await node.register("omar")
    async with entered(node.url, token) as raw:
        await raw.send("not a packet")
        await raw.until_closed()
    async with connected(node.url, token) as omar:
        await omar.ask("logout")
        await asyncio.wait_for(omar.closed.wait(), DEADLINE_S)
    metrics = await until(node, "connections_closed_total", 1, reason="token_revoked")
    assert metrics("connections_closed_total", reason="shutdown") == 0
    assert metrics("online_users") == 0


async def test_passwords_that_wait_for_bcrypt_are_counted(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, options={"bcrypt_rounds": 11}) as node:
        await node.register("omar")
        assert (await scrape(node))("bcrypt_waiting") == 0
        async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:
            account = {"username": "omar", "password": PASSWORD}
            logins = [asyncio.create_task(http.post("/api/login", json=account)) for _ in range(8)]
            async with asyncio.timeout(DEADLINE_S):
                while (await scrape(node))("bcrypt_waiting") < 3:
                    pass
            assert {(await login).status_code for login in logins} == {200}
        assert (await scrape(node))("bcrypt_waiting") == 0


async def test_the_lag_of_the_search_index_is_measured(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    token = await node.register("omar")
    async with connected(node.url, token) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="x")
        await until(node, "search_rooms_behind", 0)
        assert (await scrape(node))("search_behind_seconds") == 0
        await node.node.indexer.stop()
        monkeypatch.setattr(node.node.indexer, "_clock", lambda: now)
        await omar.ask("message", topic_name="noticias", content="x")
        first = await until(node, "search_rooms_behind", 1)
        assert first("search_behind_seconds") == 0
        now += 20
        await omar.ask("create", topic_name="deportes")
        for topic_name in ("noticias", "deportes"):  # the lag counts from the first message that is not indexed
            await omar.ask("message", topic_name=topic_name, content="x")
        now += 10
        second = await scrape(node)
        assert second("search_rooms_behind") == 2
        assert second("search_behind_seconds") == 30


async def test_the_process_and_the_build_are_named(node: RunningNode) -> None:
    metrics = await scrape(node)
    (build,) = [dict(labels) for name, labels in metrics.samples if name == "tidings_build_info"]
    assert build["version"] == __version__
    assert metrics.samples["process_resident_memory_bytes", frozenset()] > 1e6
    assert metrics.samples["process_cpu_seconds_total", frozenset()] > 0
    assert metrics("journal_queue_changes") == metrics("journal_queue_bytes") == 0


async def test_two_nodes_in_one_process_count_for_themselves(
    node: RunningNode, sqlite_url: str, tmp_path: Path
) -> None:
    other_dir = tmp_path / "other"
    async with running_node("", other_dir) as other:
        await node.register("omar")
        assert (await scrape(node))("actions_total", action="register", outcome="ok") == 1
        assert (await scrape(other))("actions_total", action="register", outcome="ok") == 0


async def test_delivery_the_loop_and_the_disk_are_measured(node: RunningNode) -> None:
    async with connected(node.url, await node.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="hola")
        await omar.event("message")
    metrics = await scrape(node)
    assert metrics("delivery_seconds_count") == 1
    assert 0 <= metrics("delivery_seconds_sum") < DEADLINE_S
    assert 0 < metrics("disk_bytes", state="free") <= metrics("disk_bytes", state="total")
    assert metrics("ready") == 1
    assert metrics("database_errors_total") == 0
    async with asyncio.timeout(DEADLINE_S):
        while (await scrape(node))("loop_lag_seconds_count") < 2:
            pass
