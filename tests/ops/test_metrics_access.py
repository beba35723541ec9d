"""Access to the metrics: by default from private networks, with a token for every request that has it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.node import NO_TLS, running_node
from tidings.settings import Settings
from tidings.transport.addresses import is_private_address

TOKEN = "sixteen characters and more"


async def test_without_a_token_strangers_get_no_metrics_directly_or_by_a_proxy(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path) as node:
        async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http:
            assert (await http.get("/metrics")).status_code == 200
            for client, status in (("203.0.113.9", 403), ("10.1.2.3", 200), ("2001:db8::1", 403), ("fd00::1", 200)):
                answer = await http.get("/metrics", headers={"X-Forwarded-For": client})
                assert answer.status_code == status, client
                assert ("tidings_" in answer.text) is (status == 200)
                if status == 403:
                    assert answer.json()["code"] == "forbidden"
        for peer, status in ((("203.0.113.9", 1), 403), (("127.0.0.1", 1), 200), (None, 200)):
            transport = httpx.ASGITransport(node.app, client=peer)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                assert (await http.get("/metrics")).status_code == status, peer


async def test_with_a_metrics_token_only_requests_with_it_get_the_metrics(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        running_node(sqlite_url, tmp_path, metrics_token=TOKEN) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS) as http,
    ):
        user = await node.register("omar")
        for shown in (
            None,
            "",
            TOKEN,
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {user}",
        ):
            headers = {} if shown is None else {"Authorization": shown}
            answer = await http.get("/metrics", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), shown
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        wrong = {b"Authorization": "Bearer ñandú".encode("latin-1")}
        assert (await http.get("/metrics", headers=wrong)).status_code == 401
        for extra in ({}, {"X-Forwarded-For": "203.0.113.9"}):
            answer = await http.get("/metrics", headers={"Authorization": f"bearer {TOKEN}", **extra})
            assert (answer.status_code, "tidings_" in answer.text) == (200, True)


def test_a_token_that_can_be_guessed_keeps_the_server_from_starting() -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        Settings(_env_file=None, metrics_token="short")


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:10.0.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.1.1", True),
        ("169.254.0.1", True),
        ("fe80::1%eth0", True),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("100.64.0.1", False),
        ("", False),
        ("unix:", False),
    ],
)
def test_private_addresses_are_recognized(address: str, own: bool) -> None:
    assert is_private_address(address) is own
