"""REST answers are compressed if that saves bytes."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest

from tidings.gateways import responses
from tidings.gateways.responses import COMPRESSED_FROM, INLINE_UP_TO

ROOMS = "/api/rooms?member=true&limit=500"


async def _raw(http: httpx.AsyncClient, path: str, accepted: str) -> tuple[httpx.Response, bytes]:
    async with http.stream("GET", path, headers={"Accept-Encoding": accepted}) as answer:
        return answer, b"".join([chunk async for chunk in answer.aiter_raw()])


async def test_a_long_list_of_rooms_is_compressed_for_clients_that_accept_gzip(http: httpx.AsyncClient) -> None:
    for number in range(20):
        made = await http.post("/api/topics", json={"topic_name": f"topic {number}"})
        assert made.status_code == 201
    plain, body = await _raw(http, ROOMS, "identity")
    assert "Content-Encoding" not in plain.headers
    assert len(body) >= COMPRESSED_FROM
    for accepted in ("gzip, br", "br;q=1, GZIP;q=0.5"):
        answer, sent = await _raw(http, ROOMS, accepted)
        assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert answer.headers["Cache-Control"] == "no-store"
        assert gzip.decompress(sent) == body
        assert len(sent) < len(body) / 5
    for accepted in ("br", "gzip;q=0, br"):
        answer, sent = await _raw(http, ROOMS, accepted)
        assert "Content-Encoding" not in answer.headers
        assert sent == body


async def test_small_answers_errors_and_the_export_are_not_compressed(http: httpx.AsyncClient) -> None:
    for path in ("/api/me", "/api/users/nobody", "/api/me/export"):
        answer, sent = await _raw(http, path, "gzip")
        assert "Content-Encoding" not in answer.headers
        assert json.loads(sent.splitlines()[0])
        assert len(sent) < COMPRESSED_FROM or path.endswith("export")


async def test_large_answers_are_compressed_off_the_loop(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await http.post("/api/topics", json={"topic_name": "noticias"})
    on_loop: dict[int, bool] = {}
    compressed = responses._compressed

    def recording(body: bytes) -> bytes:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            on_loop[len(body)] = False
        else:
            on_loop[len(body)] = True
        return compressed(body)

    monkeypatch.setattr(responses, "_compressed", recording)
    for _ in range(3):
        await http.post("/api/messages", json={"topic_name": "noticias", "content": "a" * 16_000})
        assert (await http.get("/api/messages?topic_name=noticias")).headers["Content-Encoding"] == "gzip"
    assert set(on_loop.values()) == {True, False}
    assert all(inline == (size <= INLINE_UP_TO) for size, inline in on_loop.items())
