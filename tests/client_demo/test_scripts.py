"""For scripts: `send` waits for the acknowledgement; `tail` prints each message once, across restarts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.client_demo.conftest import DEADLINE, PASSWORD, Cli, People, Server, line_of
from tests.support.client import connected

POLL_S = 0.05
"""The pause between two queries; a busy loop would slow down the process that the test waits for."""


def contents(out: str) -> list[str]:
    return [json.loads(line)["content"] for line in out.splitlines()]


async def test_a_tail_prints_pending_messages_before_live_ones(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await cli("omar", "send", "noticias", "pending")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "2")
    assert (await line_of(tail))["content"] == "pending"
    await cli("omar", "send", "noticias", "-", stdin="live\nin two lines\n")
    message = await line_of(tail)
    assert message["content"] == "live\nin two lines"
    assert (message["sender"], message["topic_name"], message["seq"]) == ("omar", "noticias", 2)
    assert await tail.wait() == 0


async def test_a_tail_continues_where_the_previous_one_ended(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", *[f"m{n}" for n in range(6)])
    printed: list[str] = []
    for count in (1, 2, 3):
        printed += contents(await cli("diego", "tail", "noticias", "--json", "--count", str(count)))
    assert printed == [f"m{n}" for n in range(6)]
    status, out, _ = await cli.run("diego", "tail", "noticias", "--json", "--count", "1", "--timeout", "1")
    assert (status, out) == (1, "")


async def test_a_tail_of_one_room_does_not_consume_messages_of_another(cli: Cli, people: People) -> None:
    for topic in ("noticias", "deportes"):
        await people.topic(topic, "omar", "diego")
        await people.send("omar", topic, f"in {topic}")
    assert contents(await cli("diego", "tail", "noticias", "--json", "--count", "1")) == ["in noticias"]
    assert contents(await cli("diego", "tail", "deportes", "--json", "--count", "1")) == ["in deportes"]


async def test_a_tail_joins_the_topic_if_necessary(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar")
    tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "1")
    line = asyncio.ensure_future(line_of(tail))
    while not line.done() and (await people.ask("omar", "GET", "/api/rooms"))["rooms"][0]["members"] < 2:
        await asyncio.wait([line], timeout=POLL_S)
    await people.send("omar", "noticias", "after")
    assert (await line)["content"] == "after"
    assert await tail.wait() == 0


async def test_an_event_is_published_listed_and_printed_by_a_tail_that_asks_for_events(
    cli: Cli, people: People
) -> None:
    await people.topic("orders", "omar", "diego")
    published = json.loads(await cli("omar", "publish", "--json", "orders", "order.paid", '{"id": 17}'))
    assert (published["event"], published["seq"]) == ("order.paid", 1)
    await cli("omar", "send", "orders", "after")
    both = await cli("diego", "tail", "orders", "--json", "--events", "--count", "2")
    first, second = map(json.loads, both.splitlines())
    assert (first["event"], first["data"]["data"], second["content"]) == ("order.paid", {"id": 17}, "after")
    listed = await cli("diego", "events", "orders", "order.paid")
    assert 'omar: order.paid {"id": 17}' in listed
    status, _, err = await cli.run("omar", "publish", "orders", "order.paid", "{id: 17}")
    assert (status, err) == (1, "{id: 17} is not JSON\n")
    room = json.loads(await cli("omar", "posting", "--json", "orders", "moderators"))
    assert room["posting"] == "moderators"
    status, _, err = await cli.run("diego", "send", "orders", "x")
    assert (status, "only moderators may write" in err) == (1, True)


async def test_a_tail_that_is_killed_loses_nothing(cli: Cli, people: People) -> None:
    expected = [f"m{n}" for n in range(50)]
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", *expected)
    tail = await cli.start("diego", "tail", "noticias", "--json")
    printed = [(await line_of(tail))["content"]]
    tail.kill()
    printed += contents((await tail.communicate())[0].decode())
    await people.send("omar", "noticias", "end")
    next_tail = await cli.start("diego", "tail", "noticias", "--json")
    while printed[-1] != "end":
        printed.append((await line_of(next_tail))["content"])
    # Killed between printing a message and recording it, a tail prints it again: a repeat, never a loss.
    assert list(dict.fromkeys(printed)) == [*expected, "end"]
    assert len(printed) <= len(expected) + 2


async def test_a_tail_whose_reader_exits_loses_no_message(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "one")
    tail = await cli.start("diego", "tail", "noticias", "--json")
    assert (await line_of(tail))["content"] == "one"
    tail._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # as `| head -1` would
    await people.send("omar", "noticias", "two")
    async with asyncio.timeout(DEADLINE):
        assert await tail.wait() == 0
    assert contents(await cli("diego", "tail", "noticias", "--json", "--count", "1")) == ["two"]


async def test_a_conversation_can_be_tailed_before_it_begins(cli: Cli, people: People) -> None:
    await people.ask("diego", "GET", "/api/me")
    await people.ask("omar", "GET", "/api/me")
    tail = await cli.start("diego", "tail", "omar", "--json", "--count", "2")
    line = asyncio.ensure_future(line_of(tail))
    while not line.done() and not (await people.ask("omar", "GET", "/api/users/diego"))["online"]:
        await asyncio.wait([line], timeout=POLL_S)
    await people.send("omar", "diego", "hola diego")
    assert (await line)["content"] == "hola diego"
    await people.send("diego", "omar", "hola omar")
    assert (await line_of(tail))["content"] == "hola omar"
    assert await tail.wait() == 0


async def test_two_sends_with_the_same_client_id_make_one_message(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar")
    first, repeated = [
        json.loads(await cli("omar", "send", "noticias", "hola", "--client-id", "c-1", "--json")) for _ in range(2)
    ]
    assert first == repeated
    assert await people.contents("omar", "noticias") == ["hola"]


async def test_a_refusal_sets_the_exit_status_and_prints_the_code(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar")
    assert await cli.run("diego", "send", "nowhere", "hola") == (1, "", "not_found: no such room\n")
    for command, code in (("create", "conflict"), ("send", "forbidden")):
        status, out, err = await cli.run("diego", command, "Noticias", *(["hola"] if command == "send" else []))
        assert (status, out, err.partition(":")[0]) == (1, "", code)


async def test_a_room_can_be_named_by_topic_user_or_id(cli: Cli, people: People) -> None:
    await people.ask("diego", "GET", "/api/me")
    room = json.loads(await cli("omar", "send", "diego", "by name", "--json"))["room_id"]
    await cli("omar", "send", room, "by id")
    assert contents(await cli("diego", "history", "omar", "--json")) == ["by name", "by id"]
    assert contents(await cli("diego", "history", room, "--json")) == ["by name", "by id"]


async def test_a_private_topic_is_visible_only_after_an_invitation(cli: Cli) -> None:
    await cli("omar", "create", "secreto", "--private")
    status, _, err = await cli.run("diego", "join", "secreto")
    assert (status, err.partition(":")[0]) == (1, "not_found")
    assert await cli("omar", "invite", "secreto", "diego") == ""
    await cli("omar", "send", "secreto", "entre nosotros")
    assert contents(await cli("diego", "history", "secreto", "--json")) == ["entre nosotros"]


async def test_rooms_lists_unread_counts(cli: Cli, people: People) -> None:
    await people.topic("noticias", "omar", "diego")
    await people.send("omar", "noticias", "a", "b", "c")
    (room,) = map(json.loads, (await cli("diego", "rooms", "--json")).splitlines())
    assert (room["topic_name"], room["unread"], room["last_seq"]) == ("noticias", 3, 3)
    assert "#noticias" in await cli("diego", "rooms")


async def test_a_stored_session_needs_no_password(cli: Cli, people: People) -> None:
    await cli("omar", "create", "noticias")
    environment = {name: value for name, value in cli.environment.items() if name != "TIDINGS_PASSWORD"}
    process = await asyncio.create_subprocess_exec(
        *cli.command("omar", "send", "noticias", "hola"), env=environment, stdin=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_a_wrong_password_neither_signs_in_nor_registers(cli: Cli, people: People) -> None:
    await people.ask("omar", "GET", "/api/me")
    status, out, err = await cli.run("omar", "--password", f"not {PASSWORD}", "rooms")
    assert (status, out, err.partition(":")[0]) == (1, "", "unauthenticated")


async def test_a_token_signs_in_without_a_username(cli: Cli, server: Server) -> None:
    token = await server.register("omar")
    command = [part for part in cli.command("omar", "--token", token, "create", "noticias") if part != "omar"]
    command.remove("--user")
    process = await asyncio.create_subprocess_exec(*command, env=cli.environment, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"#noticias\n"


async def test_stop_reaches_the_author_of_a_streaming_message(cli: Cli, server: Server) -> None:
    async with connected(server.url, await server.register("omar")) as omar:
        await omar.ask("create", topic_name="noticias")
        await cli("diego", "join", "noticias")
        message = await omar.ask("message", topic_name="noticias", content="", stream=True)
        assert "omar is asked to stop" in await cli("diego", "stop", "noticias", str(message["seq"]))
        assert (await omar.ask("append", message_id=message["id"], offset=0, text="Había"))["stop"]


async def test_a_tail_prints_a_streaming_message_once_when_it_is_finished(cli: Cli, server: Server) -> None:
    """Also one that was opened before this run, and one that a replay brings whole."""
    async with connected(server.url, await server.register("omar")) as omar:

        async def stream(content: str) -> dict[str, Any]:
            return await omar.ask("message", topic_name="noticias", content=content, stream=True)

        await omar.ask("create", topic_name="noticias")
        await cli("diego", "join", "noticias")
        first = await stream("one")
        await omar.ask("message", topic_name="noticias", content="two")
        assert contents(await cli("diego", "tail", "noticias", "--json", "--count", "1")) == ["two"]
        await omar.ask("finish", message_id=first["id"], content="one, whole")
        assert contents(await cli("diego", "tail", "noticias", "--json", "--count", "1")) == ["one, whole"]
        await omar.ask("finish", message_id=(await stream("three"))["id"])
        last = await stream("")
        tail = await cli.start("diego", "tail", "noticias", "--json", "--count", "2")
        assert (await line_of(tail))["content"] == "three"
        await omar.ask("append", message_id=last["id"], offset=0, text="four")
        await omar.ask("finish", message_id=last["id"])
        assert (await line_of(tail))["content"] == "four"
        assert await tail.wait() == 0
