"""All nodes on a database accept each other's tokens, also while the signing key is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from tests.nodes.conftest import SOON, Registry
from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS, RunningNode, running_node, settings_for
from tidings.settings import SettingsError

OLD, NEW = "the old key of 32 bytes and more", "the new key of 32 bytes and more"


@asynccontextmanager
async def _keyed(url: str, data_dir: Path, keys: str) -> AsyncIterator[RunningNode]:
    async with running_node(url, data_dir, options=SOON, secret_key=SecretStr(keys)) as node:
        yield node


async def _accepts(node: RunningNode, token: str) -> bool:
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http:
        answer = await http.get("/api/rooms", headers={"Authorization": f"Bearer {token}"})
    assert answer.is_success or answer.json()["code"] == "unauthenticated", answer.text
    return answer.is_success


@pytest.mark.parametrize("keys", [NEW, ""], ids=["another key", "a generated key"])
async def test_a_node_whose_key_is_not_that_of_the_others_refuses_to_start(
    postgresql_url: str, tmp_path: Path, registry: Registry, keys: str
) -> None:
    async with _keyed(postgresql_url, tmp_path / "a", OLD) as one:
        token = await one.register("omar")
        with pytest.raises(SettingsError, match="TIDINGS_SECRET_KEY") as refused:
            async with _keyed(postgresql_url, tmp_path / "b", keys):
                pass
        assert "\n" not in str(refused.value)
        assert (await registry.rows()).keys() == {one.node.id}
        assert await _accepts(one, token)
    with pytest.raises(SettingsError):  # also while no other one runs
        async with _keyed(postgresql_url, tmp_path / "b", keys):
            pass
    async with _keyed(postgresql_url, tmp_path / "b", OLD) as another:
        assert await _accepts(another, token)


async def test_the_key_is_replaced_node_by_node_without_a_token_refused(postgresql_url: str, tmp_path: Path) -> None:
    steps = [
        (0, OLD),
        (1, OLD),
        (0, f"{OLD},{NEW}"),
        (1, f"{OLD},{NEW}"),
        (0, f"{NEW},{OLD}"),
        (1, f"{OLD},{NEW}"),  # one that crashed is restarted as it was
        (1, f"{NEW},{OLD}"),
        (0, NEW),
        (1, NEW),
    ]
    running: dict[int, tuple[AsyncExitStack, RunningNode]] = {}
    tokens: list[tuple[str, str]] = []
    try:
        for place, keys in steps:
            if place in running:
                await running.pop(place)[0].aclose()
            stack = AsyncExitStack()
            node = await stack.enter_async_context(_keyed(postgresql_url, tmp_path / str(place), keys))
            running[place] = stack, node
            if not tokens:
                await node.register("omar")
            signing = keys.partition(",")[0]
            tokens.append((signing, await node.login("omar")))
            if keys == NEW:  # once the tokens of the old key have expired
                tokens = [(signing, token) for signing, token in tokens if signing == NEW]
            for _, node in running.values():
                for _, token in tokens:
                    assert await _accepts(node, token), (place, keys)
        with pytest.raises(SettingsError):
            async with _keyed(postgresql_url, tmp_path / "late", OLD):
                pass
    finally:
        for stack, _ in running.values():
            await stack.aclose()


async def test_a_node_without_the_key_that_others_sign_with_says_so(
    postgresql_url: str, tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async with _keyed(postgresql_url, tmp_path, OLD), _keyed(postgresql_url, tmp_path, f"{NEW},{OLD}"):
        await registry.until(lambda _: any("signs tokens with a key" in text for text in caplog.messages))
    assert sum("signs tokens with a key" in text for text in caplog.messages) == 1


async def test_the_database_does_not_contain_the_key(postgresql_url: str, tmp_path: Path, registry: Registry) -> None:
    async with _keyed(postgresql_url, tmp_path, OLD):
        recorded = await registry.database.read(
            lambda conn: conn.exec_driver_sql("SELECT key_fingerprint FROM instance").scalar_one()
        )
    assert len(recorded) == 16
    assert set(recorded) <= set("0123456789abcdef")
    assert bytes.fromhex(recorded) not in OLD.encode()


async def test_nodes_that_start_first_at_the_same_time_agree(
    postgresql_url: str, tmp_path: Path, registry: Registry
) -> None:
    settings = [
        settings_for(postgresql_url, tmp_path / str(n), secret_key=SecretStr(key)) for n, key in ((0, OLD), (1, NEW))
    ]
    first = [RunningNode(each, bcrypt_rounds=4) for each in settings]
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'instance'::regclass AND NOT granted"
    conn = await asyncpg.connect(postgresql_url.replace("+asyncpg", ""))
    async with conn.transaction():
        await conn.execute("LOCK TABLE instance IN SHARE MODE")
        starting = asyncio.gather(*(node.start() for node in first), return_exceptions=True)
        async with asyncio.timeout(DEADLINE_S):
            while await conn.fetchval(waiting) < 2:
                pass  # each is a round trip
    await conn.close()
    started = await starting
    assert sorted(map(type, started), key=str) == sorted([type(None), SettingsError], key=str)
    winner = first[started.index(None)]
    again = RunningNode(settings[started.index(None)], bcrypt_rounds=4)
    await again.start()
    assert again.node.cluster.registry.public_since == winner.node.cluster.registry.public_since
    rows = await registry.database.read(lambda conn: conn.exec_driver_sql("SELECT id FROM instance").all())
    assert len(rows) == 1
    for node in (winner, again):
        await node.stop()
