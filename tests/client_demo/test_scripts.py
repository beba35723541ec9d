"""What scripts rely on: a sent message is acknowledged, and a tail prints each message once, across restarts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.client_demo.conftest import DEADLINE, PASSWORD, Cli, Server


def contents(out: str) -> list[str]:
    return [json.loads(line)["content"] for line in out.splitlines()]


async def line_of(tail: asyncio.subprocess.Process) -> dict[str, Any]:
    assert tail.stdout is not None
    async with asyncio.timeout(DEADLINE):
        line = await tail.stdout.readline()
    assert line, (await tail.communicate())[1]
    message: dict[str, Any] = json.loads(line)
    return message


async def test_what_one_user_sends_another_tails_live(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    await cli("diego", "join", "noticias")
    await cli("omar", "send", "noticias", "pending")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "2")
    assert (await line_of(tail))["content"] == "pending"
    await cli("omar", "send", "noticias", "-", stdin="live\nin two lines\n")
    message = await line_of(tail)
    assert message["content"] == "live\nin two lines"
    assert (message["sender"], message["topic_name"], message["seq"]) == ("omar", "noticias", 2)
    assert await tail.wait() == 0


async def test_a_tail_goes_on_where_the_one_before_ended(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    await cli("diego", "join", "noticias")
    for n in range(6):
        await cli("omar", "send", "noticias", f"m{n}")
    got: list[str] = []
    for count in (1, 2, 3):
        got += contents(await cli("diego", "tail", "noticias", "--json", "--count", str(count)))
    assert got == [f"m{n}" for n in range(6)]
    status, out, _ = await cli.run("diego", "tail", "noticias", "--json", "--count", "1", "--timeout", "1")
    assert (status, out) == (1, "")


async def test_a_tail_takes_nothing_from_the_other_rooms_of_its_user(cli: Cli) -> None:
    for topic in ("noticias", "deportes"):
        await cli("omar", "create", topic)
        await cli("diego", "join", topic)
        await cli("omar", "send", topic, f"in {topic}")
    assert contents(await cli("diego", "tail", "noticias", "--json", "--count", "1")) == ["in noticias"]
    assert contents(await cli("diego", "tail", "deportes", "--json", "--count", "1")) == ["in deportes"]


async def test_a_tail_joins_the_topic_if_need_be(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    await cli("omar", "send", "noticias", "before")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "1")
    while "diego" not in await cli("omar", "history", "noticias") + str(await members(cli)):
        pass
    await cli("omar", "send", "noticias", "after")
    assert (await line_of(tail))["content"] == "after"
    assert await tail.wait() == 0


async def members(cli: Cli) -> int:
    (room,) = map(json.loads, (await cli("omar", "rooms", "--json")).splitlines())
    return int(room["members"])


async def test_a_tail_outlives_the_server(cli: Cli, server: Server) -> None:
    await cli("omar", "create", "noticias")
    await cli("diego", "join", "noticias")
    await cli("omar", "send", "noticias", "one")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "3")
    assert (await line_of(tail))["content"] == "one"
    server.kill()
    server.start()
    await cli("omar", "send", "noticias", "two")
    assert (await line_of(tail))["content"] == "two"
    await cli("omar", "send", "noticias", "three")
    assert (await line_of(tail))["content"] == "three"
    assert await tail.wait() == 0


async def test_a_tail_that_is_killed_loses_nothing(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    await cli("diego", "join", "noticias")
    for n in range(4):
        await cli("omar", "send", "noticias", f"m{n}")
    tail = await cli.start("diego", "tail", "noticias", "--json")
    got = [(await line_of(tail))["content"]]
    tail.kill()
    got += contents((await tail.communicate())[0].decode())
    rest = (
        contents(await cli("diego", "tail", "noticias", "--json", "--count", str(4 - len(got))))
        if got[3:] == []
        else []
    )
    assert [*got, *rest] == [f"m{n}" for n in range(4)]


async def test_a_conversation_can_be_tailed_before_it_begins(cli: Cli) -> None:
    await cli("omar", "rooms")
    tail = await cli.start("diego", "tail", "omar", "--json", "--count", "2", "--timeout", "20")
    while (await cli.run("omar", "send", "diego", "hola diego"))[0]:
        pass  # until there is a diego
    assert (await line_of(tail))["content"] == "hola diego"
    await cli("diego", "send", "omar", "hola omar")
    assert (await line_of(tail))["content"] == "hola omar"


async def test_sent_twice_with_one_client_id_it_is_one_message(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    first, again = [
        json.loads(await cli("omar", "send", "noticias", "hola", "--client-id", "c-1", "--json")) for _ in range(2)
    ]
    assert first == again
    assert contents(await cli("omar", "history", "noticias", "--json")) == ["hola"]


async def test_a_refusal_is_a_status_and_a_code_on_stderr(cli: Cli) -> None:
    assert await cli.run("omar", "send", "nowhere", "hola") == (1, "", "not_found: no such room\n")
    await cli("omar", "create", "noticias")
    status, _, err = await cli.run("diego", "create", "Noticias")
    assert (status, err.partition(":")[0]) == (1, "conflict")
    status, _, err = await cli.run("diego", "send", "noticias", "hola")
    assert (status, err.partition(":")[0]) == (1, "forbidden")


async def test_a_room_is_named_by_topic_user_or_id(cli: Cli) -> None:
    await cli("diego", "rooms")
    room = json.loads(await cli("omar", "send", "diego", "by name", "--json"))["room_id"]
    await cli("omar", "send", room, "by id")
    assert contents(await cli("diego", "history", "omar", "--json")) == ["by name", "by id"]
    assert contents(await cli("diego", "history", room, "--json")) == ["by name", "by id"]


async def test_only_the_invited_find_a_private_topic(cli: Cli) -> None:
    await cli("omar", "create", "secreto", "--private")
    status, _, err = await cli.run("diego", "join", "secreto")
    assert (status, err.partition(":")[0]) == (1, "not_found")
    await cli("omar", "invite", "secreto", "diego")
    await cli("omar", "send", "secreto", "entre nosotros")
    assert contents(await cli("diego", "history", "secreto", "--json")) == ["entre nosotros"]


async def test_unread_counts_are_listed(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    await cli("diego", "join", "noticias")
    for _ in range(3):
        await cli("omar", "send", "noticias", "hola")
    (room,) = map(json.loads, (await cli("diego", "rooms", "--json")).splitlines())
    assert (room["topic_name"], room["unread"], room["last_seq"]) == ("noticias", 3, 3)
    assert "#noticias" in await cli("diego", "rooms")


async def test_who_has_signed_in_once_needs_no_password(cli: Cli) -> None:
    await cli("omar", "create", "noticias")
    cli_without = {**cli.environment}
    del cli_without["TIDINGS_PASSWORD"]
    process = await asyncio.create_subprocess_exec(
        *cli.command("omar", "send", "noticias", "hola"), env=cli_without, stdin=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_a_wrong_password_neither_signs_in_nor_registers(cli: Cli) -> None:
    await cli("omar", "rooms")
    status, out, err = await cli.run("omar", "--device", "other", "--password", f"not {PASSWORD}", "rooms")
    assert (status, out, err.partition(":")[0]) == (1, "", "unauthenticated")


async def test_without_a_server_it_says_so(cli: Cli, server: Server) -> None:
    server.kill()
    status, _, err = await cli.run("omar", "send", "noticias", "hola", "--timeout", "1")
    assert status == 1
    assert err.startswith(f"cannot reach {server.url}")
