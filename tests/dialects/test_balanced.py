"""The HTTP routes of the dialects behind a load balancer: each request goes to the next of two nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.dialects import test_channels as channels
from tests.dialects import test_messenger as messenger
from tests.support.balancer import Balancer, balanced
from tests.support.node import NO_TLS, PASSWORD, running_node


@pytest.fixture
async def balancer(postgresql_url: str, tmp_path: Path) -> AsyncIterator[Balancer]:
    """A load balancer in front of two nodes on two machines."""
    async with (
        running_node(postgresql_url, tmp_path / "a", publish_url=True, public_channel="start") as first,
        running_node(postgresql_url, tmp_path / "b", publish_url=True, public_channel="start") as second,
        balanced([first.url, second.url]) as balancer,
    ):
        yield balancer


def ports(balancer: Balancer, path: str) -> set[int]:
    """The nodes that requests for a path went to."""
    return {port for line, port in balancer.served if line.split()[1].partition("?")[0] == path}


async def test_a_messenger_that_has_logged_out_is_refused_by_every_node(balancer: Balancer) -> None:
    (brian,) = await messenger.people(balancer.url, "brian")
    assert await brian.ask("POST /user/logout") is None
    for _ in range(4):
        await brian.ask("GET /conversation", 401)
    brian.token = ""
    brian.token = await brian.ask("POST /user/login", Username="brian", Password=PASSWORD)
    for _ in range(4):
        await brian.ask("GET /conversation")
    assert len(ports(balancer, "/conversation")) == 2


async def test_the_links_of_the_channels_are_valid_on_every_node(balancer: Balancer) -> None:
    async with httpx.AsyncClient(base_url=balancer.url, verify=NO_TLS, timeout=30) as http:
        answer = await http.post("/register", json={"login": "omar", "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        form = {"username": "omar", "password": PASSWORD}
        tokens = [(await http.post("/login", data=form)).json()["access_token"] for _ in range(4)]
    for n, token in enumerate(tokens):
        async with channels.opened(await channels.link(balancer.url, token, "echo_ws")) as echo:
            assert await echo.echo(str(n)) == str(n)
        async with channels.opened(await channels.link(balancer.url, token, "pub_ws")) as public:
            await public.say(str(n))
            while await public.message() != ("omar", str(n)):
                pass
        log = await channels.history(balancer.url, token)
        assert log == [(direction, str(k)) for k in range(n + 1) for direction in ("sent", "received")]
    for path in ("/login", "/echo_ws", "/pub_ws", "/history"):
        assert len(ports(balancer, path)) == 2, path
