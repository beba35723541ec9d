"""`tidings token`, `user` and `migrate`, also beside a server that runs on the same data."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
from pathlib import Path

import httpx
import jwt
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect

from tests.cli.conftest import Run, Start
from tests.support.client import DEADLINE_S, connected
from tests.support.node import NO_TLS, PASSWORD, running_node
from tidings.cli.commands import main
from tidings.settings import SettingsError
from tidings_db.schema import pending


async def _login(url: str, username: str, password: str) -> int:
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as http:
        return (await http.post("/api/login", json={"username": username, "password": password})).status_code


@pytest.mark.long
async def test_commands_take_effect_on_a_running_server(serve: Start, command: Run) -> None:
    server = await serve()
    first = (await command("token", "Omar")).out.strip()
    second = (await command("token", "omar", "--minutes", "5")).out.strip()
    await command("user", "add", "diego", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert await _login(server.url, "diego", PASSWORD) == 200
    diego = (await command("token", "diego")).out.strip()
    async with (
        connected(server.url, first) as omar,
        connected(server.url, second, device="phone") as phone,
        connected(server.url, diego) as diego_client,
    ):
        claims = json.loads(base64.urlsafe_b64decode(second.split(".")[1] + "=="))
        assert claims["exp"] - claims["iat"] in (299, 300)
        await omar.ask("create", topic_name="noticias")

        await command("user", "disable", "OMAR")
        for client in (omar, phone):
            assert await client.event("closing") == {"reason": "token_revoked", "reconnect": False}
        assert "disabled" in (await command("token", "omar", status=1)).err
        await command("user", "disable", "omar")  # disabling again changes nothing

        await command("user", "passwd", "diego", stdin="another password\n")
        assert await diego_client.event("closing") == {"reason": "token_revoked", "reconnect": False}
        assert await _login(server.url, "diego", PASSWORD) == 401
        assert await _login(server.url, "diego", "another password") == 200


async def test_users_are_listed_with_what_operators_ask_for_and_keys_are_not(command: Run) -> None:
    for name in ("omar", "diego"):
        await command("user", "add", name, "--password-stdin", stdin=f"{PASSWORD}\n")
    await command("user", "disable", "diego")
    await command("user", "admin", "omar")
    await command("key", "create", "backend", "--scope", "read")
    table = [line.split() for line in (await command("user", "list")).out.splitlines()]
    assert table[0] == ["username", "display", "name", "created", "last", "seen", "disabled", "admin"]
    assert [(row[0], row[-2], row[-1]) for row in table[1:]] == [("diego", "yes", "no"), ("omar", "no", "yes")]
    listed = [json.loads(line) for line in (await command("user", "list", "--json")).out.splitlines()]
    created = {row[0]: row[2] for row in table[1:]}
    assert listed == [
        {
            "username": name,
            "display_name": None,
            "created_at": created[name],
            "last_seen": None,
            "disabled": name == "diego",
            "admin": name == "omar",
        }
        for name in ("diego", "omar")
    ]


async def test_commands_appoint_administrators_and_enable_users(serve: Start, command: Run) -> None:
    server = await serve()
    for name in ("omar", "diego"):
        await command("user", "add", name, "--password-stdin", stdin=f"{PASSWORD}\n")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        answer = await http.post("/api/login", json={"username": "omar", "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {answer.json()['token']}"

        async def listed() -> int:
            return (await http.get("/api/admin/users")).status_code

        assert await listed() == 403
        assert "omar is an administrator" in (await command("user", "admin", "OMAR")).out
        assert await listed() == 200, "the token from before is an administrator's now"
        assert "omar is no administrator" in (await command("user", "no-admin", "omar")).out
        assert await listed() == 403
    await command("user", "disable", "diego")
    assert await _login(server.url, "diego", PASSWORD) == 401
    assert "diego enabled" in (await command("user", "enable", "diego")).out
    assert await _login(server.url, "diego", PASSWORD) == 200
    for change in ("admin", "no-admin", "enable"):
        assert "no such user" in (await command("user", change, "nobody", status=1)).err


async def test_invite_prints_a_link_with_which_one_user_registers(serve: Start, command: Run) -> None:
    server = await serve(TIDINGS_REGISTRATION="invite")
    result = await command("invite", "--days", "2")
    assert result.out.startswith(f"{server.url}/?invitation=")
    public = await command("invite", TIDINGS_PUBLIC_URL="https://chat.example.org")
    assert public.out.startswith("https://chat.example.org/?invitation=")
    code = result.out.strip().rpartition("=")[2]
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as http:
        statuses = [
            (await http.post("/api/register", json={"username": name, "password": PASSWORD, **fields})).status_code
            for name, fields in (("omar", {}), ("omar", {"invitation": code}), ("diego", {"invitation": code}))
        ]
    assert statuses == [403, 201, 403]
    await command("user", "add", "eva", "--password-stdin", stdin=f"{PASSWORD}\n")


async def test_user_reset_prints_a_link_with_which_the_user_sets_a_password_once(serve: Start, command: Run) -> None:
    server = await serve()
    await command("user", "add", "omar", "--password-stdin", stdin=f"{PASSWORD}\n")
    result = await command("user", "reset", "OMAR")
    assert result.out.startswith(f"{server.url}/?reset=")
    new = {"code": result.out.strip().rpartition("=")[2], "new_password": "battery staple"}
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30) as http:
        assert [(await http.post("/api/reset-password", json=new)).status_code for _ in range(2)] == [200, 403]
    assert await _login(server.url, "omar", "battery staple") == 200
    await command("user", "disable", "omar")
    assert "cannot sign in" in (await command("user", "reset", "omar", status=1)).err


async def test_commands_without_a_server_create_the_database_and_the_key(command: Run, tmp_path: Path) -> None:
    await command("user", "add", "omar", "--password-stdin", stdin=f"{PASSWORD}\n")
    token = (await command("token", "omar")).out.strip()
    url = f"sqlite:///{tmp_path / 'data' / 'tidings.db'}"
    assert pending(url) == []
    assert "up to date" in (await command("migrate")).out
    # A server on the same directory reads the same key, so it accepts the token.
    async with (
        running_node(url, tmp_path / "data", secret_key=SecretStr("")) as node,
        connected(node.url, token) as omar,
    ):
        await omar.ask("get_rooms")


async def test_token_names_the_running_server_of_its_data_directory(
    serve: Start, command: Run, tmp_path: Path
) -> None:
    server = await serve()
    assert (await command("token", "omar")).err.startswith(f"wscat -c {server.url.replace('http', 'ws')}/")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with contextlib.chdir(elsewhere):
        refused = await command("token", "omar", status=1)
        assert refused.err == (
            f"tidings: there is no server's data in {elsewhere / 'data'}: set TIDINGS_DATA_DIR to where it is\n"
        )
        assert not list(elsewhere.iterdir())
        there = await command("token", "omar", TIDINGS_DATA_DIR=str(tmp_path / "data"))
    async with connected(server.url, there.out.strip()) as omar:
        await omar.ask("get_rooms")
    assert await server.end(signal.SIGTERM) == 0
    assert "ws://127.0.0.1:8000/" in (await command("token", "omar")).err


async def test_token_prints_the_token_on_stdout_and_its_usage_on_stderr(command: Run, tmp_path: Path) -> None:
    for environment, address in (
        ({}, "ws://127.0.0.1:8000/"),
        ({"TIDINGS_HOST": "localhost", "TIDINGS_PORT": "5000"}, "ws://localhost:5000/"),
        ({"TIDINGS_HOST": "::1"}, "ws://[::1]:8000/"),
        ({"TIDINGS_HOST": "0.0.0.0"}, "ws://127.0.0.1:8000/"),
        ({"TIDINGS_HOST": "::"}, "ws://[::1]:8000/"),
    ):
        result = await command("token", "omar", **environment)
        token = result.out.removesuffix("\n")
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["sub"], claims["exp"] - claims["iat"]) == ("omar", 24 * 3600)
        assert result.err == f"wscat -c {address}{token}\n"
    async with (
        running_node(
            f"sqlite:///{tmp_path / 'data' / 'tidings.db'}", tmp_path / "data", secret_key=SecretStr("")
        ) as node,
        connect(node.url.replace("http", "ws") + f"/{token}", proxy=None) as socket,
    ):
        await socket.send('{"action": "create", "topic_name": "noticias"}')
        assert json.loads(await asyncio.wait_for(socket.recv(), DEADLINE_S))["status"] == "ok"


async def test_concurrent_commands_migrate_once_and_create_one_key(tidings: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    commands = [await tidings("migrate"), await tidings("migrate"), await tidings("token", "omar")]
    assert [await command.end() for command in commands] == [0, 0, 0]
    token = commands[2].out.strip()
    assert [command.err for command in commands] == ["", "", f"wscat -c ws://127.0.0.1:8000/{token}\n"]
    assert sum("applied r0001" in command.out for command in commands) <= 1
    url = f"sqlite:///{tmp_path / 'data' / 'tidings.db'}"
    async with (
        running_node(url, tmp_path / "data", secret_key=SecretStr("")) as node,
        connected(node.url, token) as omar,
    ):
        await omar.ask("get_rooms")


async def test_a_failed_command_prints_one_line_with_the_reason(
    command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    await command("user", "add", "omar", stdin=f"{PASSWORD}\n")
    for args, stdin, problem in (
        (("user", "add", "Omar"), PASSWORD, "taken"),
        (("user", "add", "diego"), "short", "8–72 bytes"),
        (("user", "passwd", "omar"), "x" * 73, "8–72 bytes"),
        (("user", "disable", "nobody"), "", "no such user"),
        (("user", "passwd", "two words"), PASSWORD, "no such user"),
        (("token", "two words"), "", "username"),
    ):
        assert problem in (await command(*args, stdin=f"{stdin}\n", status=1)).err
    for minutes in ("0", "-1", "99999999999", "many"):
        with pytest.raises(SystemExit) as exited:
            main(["token", "omar", "--minutes", minutes])
        assert exited.value.code == 2
        assert "--minutes" in capsys.readouterr().err


async def test_epoch_makes_clients_without_cursors_read_their_rooms_again(command: Run, tmp_path: Path) -> None:
    token = (await command("token", "omar")).out.strip()
    url = f"sqlite:///{tmp_path / 'data' / 'tidings.db'}"
    async with running_node(url, tmp_path / "data", secret_key=SecretStr("")) as node:
        async with connected(node.url, token, device="phone") as omar:
            room = await omar.ask("create", topic_name="noticias")
            await omar.ask("message", topic_name="noticias", content="hola")
            await omar.ask("delivered", cursors={room["room_id"]: 1})
        await node.stop()
        assert (await command("epoch")).out.startswith("epoch 1 of the log begins")
        await node.start()
        async with connected(node.url, token, device="phone") as omar:
            assert omar.of("ready")[0]["reset"] == [room["room_id"]]


async def test_commands_refuse_a_postgresql_database_that_is_not_migrated(
    command: Run, empty_postgresql_url: str
) -> None:
    environment = {"TIDINGS_DATABASE_URL": empty_postgresql_url}
    assert "tidings migrate" in (await command("token", "omar", status=1, **environment)).err
    assert (await command("migrate", **environment)).out.startswith("applied r0001")
    assert len((await command("token", "omar", **environment)).out.strip().split(".")) == 3
    await command("user", "disable", "omar", **environment)
    assert "disabled" in (await command("token", "omar", status=1, **environment)).err


async def test_nodes_lists_the_servers_on_a_postgresql_database(
    command: Run, postgresql_url: str, tmp_path: Path
) -> None:
    environment = {"TIDINGS_DATABASE_URL": postgresql_url}
    async with (
        running_node(postgresql_url, tmp_path, node_name="berlin"),
        running_node(postgresql_url, tmp_path, node_name="a", options={"lease_s": 0.2}) as ended,
        running_node(postgresql_url, tmp_path, node_name="c") as leaving,
    ):
        ended.node.cluster.registry.loop.cancel()
        await leaving.node.cluster.registry.leave()
        while "ended" not in (listed := (await command("nodes", **environment)).out):
            pass  # each is a round trip
        head, *rows = [line.split() for line in listed.splitlines()]
        assert head == ["name", "id", "version", "started", "lease"]
        assert [(row[0], row[4]) for row in rows] == [("a", "ended"), ("berlin", "live"), ("c", "leaving")]
        assert [row[1] for row in rows if row[0] == "a"] == [ended.node.id]


async def test_nodes_says_that_sqlite_has_one_server(command: Run) -> None:
    assert "SQLite" in (await command("nodes", status=1)).err


async def test_rekey_replaces_a_lost_signing_key(command: Run, postgresql_url: str, tmp_path: Path) -> None:
    environment = {"TIDINGS_DATABASE_URL": postgresql_url}
    async with running_node(postgresql_url, tmp_path) as node:
        await node.register("omar")
    assert "TIDINGS_SECRET_KEY" in (await command("token", "omar", status=1, **environment)).err
    await command("rekey", **environment)
    token = (await command("token", "omar", **environment)).out.strip()
    with pytest.raises(SettingsError):
        async with running_node(postgresql_url, tmp_path):
            pass
    async with (
        running_node(postgresql_url, tmp_path / "data", secret_key=SecretStr("")) as node,
        connected(node.url, token),
    ):
        pass


async def test_rekey_says_that_sqlite_needs_none(command: Run) -> None:
    assert "SQLite" in (await command("rekey", status=1)).err
