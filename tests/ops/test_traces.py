"""OpenTelemetry: the spans of one message, from the request to the node that delivered it."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.delivery.support import make_topic, rest
from tests.support.client import connected
from tests.support.node import NO_TLS, running_node
from tidings.settings import SettingsError

ONLY_SOCKETIO = True
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A `traceparent`: the example of W3C Trace Context, 3.2.3"""


class Collector:
    """Takes spans over OTLP/HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        """By the name of the node."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans[attributes["service.instance.id"]] += scope.spans

    def named(self, node: str, name: str, trace: str) -> list[Span]:
        return [span for span in self.spans[node] if span.name == name and span.trace_id.hex() == trace]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    thread = Thread(target=collector.server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


async def test_the_trace_of_a_message_has_its_id_and_a_span_of_each_node_that_delivers_it(
    postgresql_url: str, tmp_path: Path, collector: Collector
) -> None:
    async with (
        running_node(postgresql_url, tmp_path / "one", node_name="one") as one,
        running_node(postgresql_url, tmp_path / "two", node_name="two") as two,
    ):
        omar, diego = await one.register("omar"), await two.register("diego")
        room_id = await make_topic(one.url, omar, "noticias", diego)
        async with connected(one.url, omar) as near, connected(two.url, diego) as far:
            async with rest(one.url, omar) as http:
                answer = await http.post(
                    "/api/messages", json={"room_id": room_id, "content": "hola"}, headers={"traceparent": CALLER}
                )
            message = answer.json()
            for client in (near, far):
                assert (await client.event("message"))["id"] == message["id"]
    trace = message["id"]
    (root,) = collector.named("one", "message", trace)
    (of_caller,) = collector.named("one", "message", CALLER.split("-")[1])
    assert of_caller.parent_span_id.hex() == CALLER.split("-")[2]
    assert [link.trace_id.hex() for link in of_caller.links] == [trace]
    assert [link.span_id for link in root.links] == [of_caller.span_id], "each leads to the other"
    for node in ("one", "two"):
        (delivery,) = collector.named(node, "deliver", trace)
        assert delivery.parent_span_id == root.span_id
        assert delivery.start_time_unix_nano <= delivery.end_time_unix_nano
    values = {item.key: item.value for item in root.attributes}
    assert (values["tidings.room_id"].string_value, values["tidings.seq"].int_value) == (room_id, message["seq"])
    assert "hola" not in str(collector.spans), "no content leaves the server"


async def test_a_refused_action_has_a_span_with_its_code(
    sqlite_url: str, tmp_path: Path, collector: Collector
) -> None:
    async with running_node(sqlite_url, tmp_path, node_name="one") as server:
        token = await server.register("omar")
        async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as http:
            headers = {"Authorization": f"Bearer {token}", "traceparent": "not one"}
            answer = await http.get("/api/messages", params={"topic_name": "nothing"}, headers=headers)
            assert answer.status_code == 404
    (span,) = [span for span in collector.spans["one"] if span.name == "history"]
    assert {item.key: item.value.string_value for item in span.attributes}["tidings.outcome"] == "not_found"
    assert not span.parent_span_id


async def test_without_a_collector_nothing_is_traced_or_imported(sqlite_url: str, tmp_path: Path) -> None:
    code = "import os, sys, tidings.app; sys.exit('opentelemetry.exporter' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
    async with running_node(sqlite_url, tmp_path) as server:
        assert server.node.traces is None


async def test_a_collector_without_the_libraries_is_a_mistake_in_the_settings(
    sqlite_url: str, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"install tidings\[otel\]"):
        async with running_node(sqlite_url, tmp_path):
            pass
