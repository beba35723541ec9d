"""The server is killed and restarted on the same data: nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client_demo.conftest import AT, DEADLINE, Cli, People, Terminals, line_of
from tests.support.process import ServerProcess

pytestmark = pytest.mark.long


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server in its own process."""
    server = ServerProcess(tmp_path / "server")
    await server.start()
    yield server
    await server.kill()


async def test_a_tail_continues_after_the_server_was_killed(cli: Cli, people: People, server: ServerProcess) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "one")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "3")
    assert (await line_of(tail))["content"] == "one"
    await server.kill()
    await server.start()
    await people.send("omar", "noticias", "two")
    assert (await line_of(tail))["content"] == "two"
    await people.send("omar", "noticias", "three")
    assert (await line_of(tail))["content"] == "three"
    assert await tail.wait() == 0


async def test_a_send_waits_until_the_server_is_back(cli: Cli, people: People, server: ServerProcess) -> None:
    await people.topic("noticias", "omar")
    await cli("omar", "rooms")
    await server.kill()
    send = await cli.start("omar", "send", "noticias", "hola")
    await server.start()
    async with asyncio.timeout(DEADLINE):
        assert await send.wait() == 0
    assert await people.contents("omar", "noticias") == ["hola"]


async def test_a_send_without_a_server_reports_it(cli: Cli, server: ServerProcess) -> None:
    await server.kill()
    status, _, err = await cli.run("omar", "send", "noticias", "hola", "--timeout", "1")
    assert status == 1
    assert err.startswith(f"cannot reach {server.url}")


async def test_messages_typed_while_the_server_is_dead_are_sent_once(
    terminals: Terminals, people: People, server: ServerProcess
) -> None:
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/create noticias")
    await omar.sees("#noticias is yours")
    for n in range(5):
        omar.type(f"antes {n}")  # some of these are in flight when the server is killed
    await server.kill()
    await omar.sees("trying again")
    for n in range(5):
        omar.type(f"durante {n}")
    await omar.sees("waits to be sent: durante 4")
    await server.start()
    await omar.sees(AT + "omar +durante 4")
    expected = [f"antes {n}" for n in range(5)] + [f"durante {n}" for n in range(5)]
    assert await people.contents("omar", "noticias") == expected
    assert re.findall(AT + r"omar +((?:antes|durante) \d)", omar.text) == expected


async def test_unsent_messages_and_files_are_sent_after_the_next_start(
    terminals: Terminals, people: People, server: ServerProcess, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.txt"
    plan.write_text("uno")
    omar = terminals.open("omar")
    await omar.sees("/help lists the commands, Tab")
    omar.type("/create noticias")
    await omar.sees("#noticias is yours")
    await server.kill()
    await omar.sees("trying again")
    omar.type("nada")
    await omar.sees("waits to be sent: nada")
    omar.type("/delete .")
    await omar.sees("will not be sent: nada")
    omar.type(f"/send {plan}")
    await omar.sees(r"waits to be sent: \[plan\.txt\]")
    omar.type("/delete .")
    await omar.sees(r"will not be sent: \[plan\.txt\]")
    omar.type(f"/send {plan} el plan")
    await omar.sees(r"waits to be sent: el plan \[plan\.txt\]")
    omar.type("para lugo")
    await omar.sees("waits to be sent: para lugo")
    omar.type("/edit . para luego")
    await omar.sees("waits to be sent: para luego")
    omar.kill()
    plan.unlink()
    await server.start()
    omar = terminals.open("omar")
    await omar.sees(AT + "(#noticias 2 )?omar +para luego")
    assert await people.contents("omar", "noticias") == ["el plan", "para luego"]
    await omar.sees("#noticias ›")
    omar.type(f"/save 1 {plan}")
    await omar.sees("saved: ")
    assert plan.read_text() == "uno"
