"""The programs in examples/ do what they promise."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from examples.order_desk import make_app
from tests.extending.conftest import under_uvicorn
from tests.support.client import connected
from tests.support.node import settings_for, token_from


@pytest.mark.long  # PostgreSQL only
async def test_the_order_desk_announces_each_order_once_and_in_order(postgresql_url: str, tmp_path: Path) -> None:
    app = make_app(settings_for(postgresql_url, tmp_path))
    async with under_uvicorn(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        token = await token_from(url, "register", "omar")
        headers = {"authorization": f"Bearer {token}"}
        assert (await http.post("/api/topics", json={"topic_name": "orders"}, headers=headers)).is_success
        placed = []
        async with connected(url, token) as omar:
            for number in range(1, 21):
                refused = await http.post("/orders", json={"item": "tea", "quantity": 101})
                assert refused.status_code == 409
                answer = await http.post("/orders", json={"item": "tea", "quantity": number})
                assert answer.status_code == 201
                placed.append(answer.json())
            await omar.until(lambda: len(omar.of("order.placed")) == len(placed))
            assert [event["data"] for event in omar.of("order.placed")] == placed
        late = (await http.post("/orders", json={"item": "coffee", "quantity": 1})).json()
        async with connected(url, token) as back:
            await back.event("order.placed", lambda event: event["data"] == late)
