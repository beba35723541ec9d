"""The sign-in is kept, renewed for each connection, and asked for again only when it has to be."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tidings_client
from tests.client_demo.conftest import PASSWORD
from tests.support.node import RunningNode
from tidings_chat.account import Account
from tidings_chat.errors import SignedOut
from tidings_chat.state import State


async def yes() -> bool:
    return True


async def no_password() -> str | None:
    return None


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    with State(tmp_path / "diego.sqlite3") as state:
        yield state


@contextlib.asynccontextmanager
async def account(url: str, state: State, password: str | None = PASSWORD) -> AsyncIterator[Account]:
    account = Account(url, state, "diego", password)
    try:
        yield account
    finally:
        await account.close()


async def token_until(server: RunningNode, account: Account, seconds: int) -> str:
    """A token of the account's session that expires in `seconds`."""
    sid = (await server.node.auth.authenticate(account.token())).sid
    now = time.time_ns() // 1_000_000
    return server.node.auth._tokens.make("diego", sid, now - 10_000, now + seconds * 1000)


async def test_a_client_with_an_expired_token_signs_in_with_the_password(server: RunningNode, state: State) -> None:
    async with account(server.url, state) as diego:
        await diego.sign_in(yes, no_password)
        state.put(token=await token_until(server, diego, -5))
        async with tidings_client.connect(server.url, diego.fresh_token) as client:
            assert client.username == "diego"


async def test_a_token_is_exchanged_before_it_expires_without_the_password(server: RunningNode, state: State) -> None:
    async with account(server.url, state) as diego:
        await diego.sign_in(yes, no_password)
        state.put(token=await token_until(server, diego, 40))
    async with account(server.url, state, None) as diego:
        async with tidings_client.connect(server.url, diego.fresh_token, device="laptop"):
            (connection,) = [each for each in server.node.hub.connections if each.device == "laptop"]
            assert connection.principal.expires_at / 1000 > time.time() + 60
        assert diego.expires_in() > 60


async def test_a_refused_client_stops_with_the_reason(server: RunningNode, state: State) -> None:
    state.put(token="not a token")
    async with account(server.url, state, None) as diego:
        with pytest.raises(SignedOut, match="sign in again"):
            await tidings_client.connect(server.url, diego.fresh_token)
    assert state.get("token") is None


async def test_the_token_is_kept_while_it_cannot_be_exchanged(state: State) -> None:
    state.put(token="t1")
    async with account("http://127.0.0.1:1", state, None) as diego:
        assert await diego.fresh_token() == "t1"


async def test_a_username_takes_the_registered_spelling_even_offline(server: RunningNode, state: State) -> None:
    await server.register("Diego")
    async with account(server.url, state) as diego:
        await diego.sign_in(yes, no_password)
        assert diego.username == "Diego"
    async with account("http://127.0.0.1:1", state) as diego:
        assert diego.username == "Diego"
