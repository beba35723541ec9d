"""`Idempotency-Key` is the `client_id` of a message that is sent over REST."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.rest.problems import problem

HOLA = {"topic_name": "noticias", "content": "Hola"}


async def _send(http: httpx.AsyncClient, *keys: str, **fields: Any) -> httpx.Response:
    headers = [("Idempotency-Key", key) for key in keys]
    return await http.post("/api/messages", json=HOLA | fields, headers=headers)


@pytest.fixture
async def omar(http: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await http.post("/api/topics", json={"topic_name": "noticias"})).status_code == 201
    return http


async def test_a_message_with_a_key_is_sent_once(omar: httpx.AsyncClient) -> None:
    first = await _send(omar, "hola-1")
    assert (first.status_code, first.json()["client_id"]) == (201, "hola-1")
    for again in (
        await _send(omar, "hola-1"),
        await _send(omar, client_id="hola-1"),
        await _send(omar, "hola-1", client_id="hola-1"),
        await _send(omar, "hola-1", client_id=None),
    ):
        assert (again.status_code, again.json()) == (201, first.json())
    other = await _send(omar, "hola-2")
    assert other.json()["seq"] == first.json()["seq"] + 1


async def test_an_invalid_key_is_refused_and_nothing_is_sent(omar: httpx.AsyncClient) -> None:
    for answer in (
        await _send(omar, "hola-1", client_id="hola-2"),
        await _send(omar, "hola-1", client_id=7),
        await _send(omar, "hola-1", "hola-1"),
        await _send(omar, ""),
        await _send(omar, "x" * 65),
        await _send(omar, "two words"),
        await omar.post("/api/messages", json=HOLA, headers={"Idempotency-Key": "día".encode()}),
    ):
        assert problem(answer, "invalid")["fields"].keys() == {"Idempotency-Key"}
    history = await omar.get("/api/messages", params={"topic_name": "noticias"})
    assert history.json()["messages"] == []
    longest = await _send(omar, "x" * 64)
    assert longest.status_code == 201


async def test_other_actions_ignore_the_key(omar: httpx.AsyncClient) -> None:
    answer = await omar.post("/api/topics", json={"topic_name": "otra"}, headers={"Idempotency-Key": "two words"})
    assert answer.status_code == 201
