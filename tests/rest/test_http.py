"""REST as HTTP: every bad request is answered as a problem."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest

from tests.rest.problems import problem
from tests.support.node import RunningNode, running_node
from tidings.gateways.rest import MAX_BODY


async def test_unknown_paths_and_methods_are_problems(http: httpx.AsyncClient) -> None:
    for path in ("/nowhere", "/api", "/api/nowhere", "/api/users/a/b", "/docs/assets/x.js", "/health"):
        problem(await http.get(path), "not_found", 404)
        problem(await http.post(path, json={}), "not_found", 404)
    for method, path, allowed in (
        ("GET", "/api/login", "POST"),
        ("DELETE", "/api/me", "GET"),
        ("PATCH", "/api/topics", "POST"),
        ("POST", "/health/live", "GET"),
        ("PUT", "/openapi.json", "GET"),
        ("PUT", "/api/messages", "GET, POST"),
        ("OPTIONS", "/api/subscriptions", "DELETE, POST"),
    ):
        answer = await http.request(method, path)
        problem(answer, "not_found", 405)
        assert set(allowed.split(", ")) <= set(answer.headers["Allow"].split(", "))


NOT_OBJECTS = [
    b"{",
    b"topic_name=noticias",
    b'{"topic_name": "noticias",}',
    b"{'topic_name': 'noticias'}",
    b'{"topic_name": NaN}',
    b'{"topic_name": "\xff\xfe"}',
    b'{"topic_name": "\\ud800"}',
    b'"noticias"',
    b"[]",
    b'[{"topic_name": "noticias"}]',
    b"null",
    b"1",
    b"[" * 100_000,
    b'{"a":' * 40_000,
    b"\x00",
]


async def test_a_body_that_is_not_a_json_object_is_invalid(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for body in NOT_OBJECTS:
        details = problem(await http.post("/api/topics", content=body), "invalid")
        assert details["fields"].keys() == {"body"}, body[:40]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (await http.get("/api/rooms")).json()["rooms"] == []


async def test_an_empty_body_is_an_empty_payload(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/refresh")).status_code == 200
    assert (await http.post("/api/refresh", json={})).status_code == 200
    assert "topic_name" in problem(await http.post("/api/topics"), "invalid")["fields"]
    assert problem(await http.post("/api/refresh", json={"x": 1}), "invalid")["fields"].keys() == {"x"}


async def test_a_body_over_the_limit_is_too_large_with_and_without_a_length(http: httpx.AsyncClient) -> None:
    fits = {"topic_name": "noticias", "is_private": False}
    padded = json.dumps(fits).encode().ljust(MAX_BODY)
    assert (await http.post("/api/topics", content=padded)).status_code == 201
    assert problem(await http.post("/api/topics", content=padded + b" "), "too_large") == {"limit": MAX_BODY}

    async def pieces() -> object:
        for _ in range(5):
            yield b" " * (MAX_BODY // 4)

    answer = await http.post("/api/topics", content=pieces())  # type: ignore[arg-type]
    assert problem(answer, "too_large") == {"limit": MAX_BODY}
    # Content within the limit of bodies, and over its own.
    long = {"topic_name": "noticias", "content": "é" * 16_385}
    assert problem(await http.post("/api/messages", json=long), "too_large") == {"limit": 16_384}


async def test_a_query_string_is_converted_to_the_types_of_the_payload(http: httpx.AsyncClient) -> None:
    await http.post("/api/topics", json={"topic_name": "noticias"})
    for number in range(3):
        sent = await http.post("/api/messages", json={"topic_name": "noticias", "content": str(number)})
        assert sent.status_code == 201
    answer = await http.get("/api/messages", params={"topic_name": "noticias", "limit": "2", "before": "3"})
    assert [message["content"] for message in answer.json()["messages"]] == ["0", "1"]
    mine = await http.get("/api/rooms?member=true&kind=topic&limit=5")
    assert len(mine.json()["rooms"]) == 1
    assert (await http.get("/api/rooms?member=false")).json()["rooms"] == []


BAD_QUERIES = [
    ("limit=many", "limit"),
    ("limit=", "limit"),
    ("limit=0", "limit"),
    ("limit=501", "limit"),
    ("limit=1.5", "limit"),
    ("member=perhaps", "member"),
    ("kind=rooms", "kind"),
    ("unknown=1", "unknown"),
    ("limit=1&limit=1", "limit"),
    ("limit=1&limit=2", "limit"),
    ("unknown", "unknown"),
    ("after=%00", "after"),
    ("token=x", "token"),
]


async def test_a_bad_query_string_is_invalid_and_names_the_parameter(http: httpx.AsyncClient) -> None:
    for query, field in BAD_QUERIES:
        details = problem(await http.get(f"/api/rooms?{query}"), "invalid")
        assert details["fields"].keys() == {field}, query


async def test_a_parameter_of_the_path_is_refused_in_the_query(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/users/omar")).status_code == 200
    details = problem(await http.get("/api/users/omar?username=diego"), "invalid")
    assert details["fields"].keys() == {"username"}


async def test_paths_are_decoded_once_and_malformed_ones_are_not_found(
    lite: RunningNode, http: httpx.AsyncClient
) -> None:
    await lite.register("ダイゴ")
    assert (await http.get("/api/users/%E3%83%80%E3%82%A4%E3%82%B4")).json()["username"] == "ダイゴ"
    for path in ("%25", "%FF", "%E2%80%AE", "..%2f..", "omar%20"):
        answer = await http.get(f"/api/users/{path}")
        problem(answer, "not_found", 404)
    problem(await http.get("/api/users/%00"), "invalid")


async def test_a_client_that_disconnects_within_a_body_causes_no_error(
    lite: RunningNode, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    host, port = lite.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = http.headers["Authorization"]
    writer.write(
        f"POST /api/topics HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\nContent-Length: 100\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert b"100" in await asyncio.wait_for(reader.readline(), 30)  # the server waits for the body now
    writer.write(b'{"topic')
    writer.close()
    await writer.wait_closed()
    await lite.stop()  # waits for the request to end
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_other_origins_are_accepted_only_if_the_settings_allow_them(sqlite_url: str, tmp_path: Path) -> None:
    origin = "https://chat.example"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for cors_origins, allowed in (([], None), ([origin], origin), (["https://other.example"], None)):
        async with (
            running_node(sqlite_url, tmp_path, cors_origins=cors_origins) as node,
            httpx.AsyncClient(base_url=node.url) as http,
        ):
            answer = await http.options("/api/login", headers=preflight)
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            answer = await http.get("/health/live", headers={"Origin": origin})
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
