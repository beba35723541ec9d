"""A session that was withdrawn on one node can do nothing more on another, before that one has heard of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.brokers import SilentBroker
from tests.delivery.support import make_topic, rest
from tests.support.client import Refused, connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.contract.errors import ActionError

DEAF = {"poll_s": 3600.0, "session_check_s": 3600.0, "head_check_s": 3600.0}
ACTIONS: dict[str, dict[str, Any]] = {
    "block": {"username": "diego"},
    "unblock": {"username": "diego"},
    "change_password": {"password": PASSWORD, "new_password": "other" + PASSWORD},
    "deactivate": {"password": PASSWORD},
    "revoke_session": {"session_id": "0" * 24},
    "get_rooms": {},
    "get_members": {"topic_name": "noticias"},
    "history": {"topic_name": "noticias"},
    "search": {"query": "hola"},
    "get_profile": {"username": "diego"},
    "get_sessions": {},
    "echo_history": {},
}


@pytest.fixture
async def nodes(postgresql_url: str, tmp_path: Path) -> AsyncIterator[tuple[RunningNode, RunningNode]]:
    """Two nodes, of which the second does not hear of what the first commits."""
    async with (
        running_node(postgresql_url, tmp_path / "1") as first,
        running_node(postgresql_url, tmp_path / "2", options=DEAF | {"broker": SilentBroker()}) as second,
    ):
        yield first, second


async def test_every_action_of_a_withdrawn_session_is_refused(nodes: tuple[RunningNode, RunningNode]) -> None:
    first, second = nodes
    tokens = {name: await first.register(name) for name in ("omar", "diego")}
    await make_topic(first.url, tokens["omar"], "noticias")
    for action, payload in ACTIONS.items():
        token = await first.login("omar")
        async with connected(second.url, token) as omar:
            async with rest(first.url, token) as http:
                assert (await http.post("/api/logout")).is_success
            with pytest.raises(Refused) as refused:
                await omar.ask(action, payload)
            assert (action, refused.value.code) == (action, "token_revoked")
    assert (await first.node.auth.user("omar")).disabled is False
    await first.login("omar")  # by the same password


async def test_an_administrator_who_was_signed_out_meanwhile_disables_nobody(
    nodes: tuple[RunningNode, RunningNode],
) -> None:
    first, second = nodes
    token = await first.register("admin")
    await first.register("omar")
    admin = await second.node.auth.authenticate(token)
    async with rest(first.url, token) as http:
        assert (await http.post("/api/logout")).is_success
    auth = second.node.auth
    for disabled in (True, False):
        with pytest.raises(ActionError) as refused:
            await auth.set_disabled(await auth.user("omar"), disabled, by=admin)
        assert refused.value.code == "token_revoked"
    assert not (await auth.user("omar")).disabled
