"""`tidings serve`: its output, its shutdown, and its start-up errors."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sqlite3
import stat
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from tests.cli.conftest import Command, Run, Start
from tests.support.client import connected
from tests.support.node import PASSWORD, token_from
from tidings.app import create_app
from tidings.cli.banner import banner
from tidings.cli.file_lock import only_server
from tidings.settings import Settings, SettingsError
from tidings_db.schema import pending


async def _token(command: Run, username: str) -> str:
    return (await command("token", username)).out.strip()


def _contents(database: Path) -> list[str]:
    """The contents of the only room's log, in order."""
    with sqlite3.connect(database) as conn:
        rows = conn.execute("SELECT seq, content FROM entry ORDER BY seq").fetchall()
    conn.close()
    assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1))
    return [content for _, content in rows]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_stopping_server_finishes_running_actions_and_sends_closing(
    serve: Start, command: Run, tmp_path: Path, number: signal.Signals
) -> None:
    tokens = [await _token(command, name) for name in ("omar", "diego")]
    server = await serve()
    async with connected(server.url, tokens[0]) as omar, connected(server.url, tokens[1]) as diego:
        await omar.ask("create", topic_name="noticias")
        await diego.ask("subscribe", topic_name="noticias")
        sent = [omar.send("message", {"topic_name": "noticias", "content": str(n)}) for n in range(300)]
        await sent[0]
        status = await server.end(number)
        for client in (omar, diego):
            assert await client.event("closing") == {"reason": "shutdown", "reconnect": True}
            await client.closed.wait()
    assert status == 0
    assert server.err == ""
    # The log holds exactly the acknowledged messages.
    answers = [answer.result() for answer in sent if answer.done()]
    acknowledged = [answer["data"]["content"] for answer in answers if answer["ok"]]
    assert {answer["error"]["code"] for answer in answers if not answer["ok"]} <= {"unavailable"}
    log = _contents(tmp_path / "data" / "tidings.db")
    assert log == acknowledged
    assert log == [str(n) for n in range(len(log))]


@pytest.mark.long
async def test_a_stopping_server_answers_a_login_in_progress(serve: Start, command: Run) -> None:
    await command("user", "add", "omar", stdin=f"{PASSWORD}\n")
    server = await serve()
    body = f'{{"username": "omar", "password": "{PASSWORD}"}}'.encode()
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /api/login HTTP/1.1\r\nHost: [::1]\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head.encode())
    assert b"100" in await asyncio.wait_for(reader.readline(), 30)  # the server reads the payload now
    await reader.readline()
    writer.write(body)
    await writer.drain()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await http.get("/health/live")  # the server has received the body before this request
    status, answer = await asyncio.gather(server.end(signal.SIGTERM), asyncio.wait_for(reader.read(), 30))
    writer.close()
    await writer.wait_closed()
    assert status == 0
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert server.err == ""


async def test_the_banner_shows_address_data_durability_and_safety_in_four_lines(
    serve: Start, tmp_path: Path
) -> None:
    data = tmp_path / "elsewhere"
    server = await serve(TIDINGS_DATA_DIR=str(data), TIDINGS_DURABILITY="normal", TIDINGS_RATE_LIMITS="on")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        assert (await http.get("/health/ready")).status_code == 200
    address, database, durability, safety = server.out.splitlines()
    assert re.fullmatch(r"Tidings listening on http://127\.0\.0\.1:\d+", address)
    assert database.split(maxsplit=1) == ["data", f"SQLite, {data / 'tidings.db'}"]
    assert durability.split(maxsplit=1) == [
        "durability",
        "normal: an acknowledged message survives a crash of the process, not of the machine",
    ]
    assert safety.split(maxsplit=1) == [
        "safety",
        "ok: rate limits are on; X-Forwarded-For is trusted only from 127.0.0.1,::1 (FORWARDED_ALLOW_IPS); "
        f"the signing key is generated, in {data / 'secret_key'} (mode 0600)",
    ]
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "secret_key").stat().st_mode) == 0o600
    files = {path.name for path in data.iterdir() if not path.name.startswith("tidings.db")}
    assert files == {"secret_key", "address"}


@pytest.mark.long
async def test_an_unsafe_restart_prints_each_problem_and_its_remedy(serve: Start, tmp_path: Path) -> None:
    server = await serve()
    assert await server.end(signal.SIGTERM) == 0
    key = tmp_path / "data" / "secret_key"
    key.chmod(0o644)
    server = await serve(TIDINGS_RATE_LIMITS="off", FORWARDED_ALLOW_IPS="*", TIDINGS_DEV_TOKENS="true")
    lines = server.out.splitlines()
    assert len(lines) == 4
    safety = lines[3].split(maxsplit=1)[1]
    assert safety.startswith("NOT SAFE: ")
    assert "TIDINGS_RATE_LIMITS=off" in safety
    assert "FORWARDED_ALLOW_IPS=*" in safety
    assert "chmod 600 data/secret_key, now 0644" in safety
    assert "TIDINGS_DEV_TOKENS" in safety
    assert "Safe: " not in safety


async def test_only_the_owner_can_read_the_servers_files_even_in_an_open_directory(
    serve: Start, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    server = await serve()
    await token_from(server.url, "register", "omar")
    names = {path.name for path in data.iterdir()}
    assert names >= {"secret_key", "tidings.db", "tidings.db-shm", "tidings.db-wal", "tidings.db.lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()} == {0o600}
    assert "other local users" not in server.out
    assert await server.end(signal.SIGTERM) == 0
    (data / "tidings.db").chmod(0o644)
    server = await serve()
    assert f"other local users can read the database (chmod 600 {data / 'tidings.db'}*, now 0644)" in server.out
    assert await server.end(signal.SIGTERM) == 0
    data.chmod(0o770)
    server = await serve()
    assert f"other local users can replace the database (chmod 700 {data}, now 0770)" in server.out


def _lines(settings: Settings, proxies: list[str] | str = "127.0.0.1,::1", host: str = "127.0.0.1") -> list[str]:
    lines = banner(settings, make_url(settings.database), host, 8000, proxies).splitlines()
    assert len(lines) == 4
    return lines


def test_the_banner_names_postgresql_without_the_password(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://omar:top-secret@db.example:5433/chat?password=top-secret"
    settings = Settings(_env_file=None, database_url=url, data_dir=tmp_path, secret_key=SecretStr("k" * 32))
    lines = _lines(settings, host="::1")
    assert lines[0].endswith("http://[::1]:8000")
    assert lines[1].endswith("PostgreSQL, postgresql+asyncpg://omar:***@db.example:5433/chat")
    assert "full: an acknowledged message survives a crash of the machine" in lines[2]
    assert "the signing key is given in TIDINGS_SECRET_KEY" in lines[3]
    assert "top-secret" not in "".join(lines)
    assert "kkkk" not in "".join(lines)


def test_the_banner_warns_about_trusting_too_many_proxies(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, secret_key=SecretStr("k" * 32))
    for safe, shown in (
        ("127.0.0.1,::1", "only from 127.0.0.1,::1 "),
        (["10.0.0.1", "172.16.0.0/12"], "only from 10.0.0.1,172.16.0.0/12 "),
        ("", "from no proxy"),
    ):
        assert "safety      ok: " in (line := _lines(settings, safe)[3]), line
        assert f"X-Forwarded-For is trusted {shown}" in line + " "
    for unsafe in ("*", ["*"], "0.0.0.0/0", "10.0.0.1, ::/0", "128.0.0.0/1", "localhost", "10.0.0.1/33", "*,::1"):
        assert "NOT SAFE: " in (line := _lines(settings, unsafe)[3]), line
        assert "FORWARDED_ALLOW_IPS" in line
        assert "Safe: rate limits are on" in line


def test_the_banner_warns_about_a_secret_in_a_readable_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDINGS_SECRET_KEY", raising=False)
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"TIDINGS_SECRET_KEY={'k' * 32}\n")
    for mode, safe in ((0o640, False), (0o604, False), (0o600, True)):
        dotenv.chmod(mode)
        line = _lines(Settings(data_dir=tmp_path))[3]
        assert ("NOT SAFE" not in line) == safe
        assert (f"chmod 600 {dotenv}, now {mode:04o}" in line) != safe
    monkeypatch.setenv("TIDINGS_SECRET_KEY", "e" * 32)
    dotenv.chmod(0o644)
    assert "safety      ok: " in _lines(Settings(data_dir=tmp_path))[3]


def test_the_banner_names_redis_without_its_password(tmp_path: Path) -> None:
    key = SecretStr("k" * 32)
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path,
        secret_key=key,
        redis_url="redis://omar:top-secret@h:1,rediss://:x-secret@i",
    )
    assert "; Redis, h:1 or i" in _lines(settings)[1]
    assert "-secret" not in "".join(_lines(settings))
    assert "Redis" not in "".join(_lines(Settings(_env_file=None, data_dir=tmp_path, secret_key=key)))


def test_redis_with_sqlite_is_refused_in_one_sentence(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, redis_url="redis://h")
    with pytest.raises(SettingsError, match=r"^TIDINGS_REDIS_URL joins the servers on one PostgreSQL: .* empty$"):
        create_app(settings)


@pytest.mark.parametrize("url", ["http://h", "h:6379", "redis://h?no_such_option=1", "redis://h,amqp://h"])
def test_a_wrong_address_of_redis_is_refused(url: str) -> None:
    with pytest.raises((ValueError, SettingsError), match=r"(?i)redis_url"):
        create_app(Settings(_env_file=None, database_url="postgresql+asyncpg://h/d", redis_url=url))


@pytest.mark.long
async def test_a_killed_server_restarts_with_the_same_data_and_key(serve: Start, tmp_path: Path) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        registered = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
    key = (tmp_path / "data" / "secret_key").read_bytes()
    assert await server.end(signal.SIGKILL) == -signal.SIGKILL
    server = await serve()
    assert server.err == ""  # the killed server has left no lock
    assert (tmp_path / "data" / "secret_key").read_bytes() == key
    async with connected(server.url, registered.json()["token"]) as omar:
        await omar.ask("create", topic_name="noticias")
        await omar.ask("message", topic_name="noticias", content="still here")
    assert await server.end(signal.SIGTERM) == 0
    assert not (tmp_path / "data" / "tidings.db-wal").exists()  # the write-ahead log was checkpointed
    assert _contents(tmp_path / "data" / "tidings.db") == ["still here"]


@pytest.mark.long
async def test_a_failed_start_prints_one_line_with_the_reason(tidings: Start, postgresql_server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as closed:
        port = str(taken.getsockname()[1])
        closed.bind(("127.0.0.1", 0))  # bound but not listening, so no other process gets the port
        unreachable = f"postgresql://x@127.0.0.1:{closed.getsockname()[1]}/x"
        cases: list[tuple[dict[str, str], list[str]]] = [
            ({"TIDINGS_PORT": port}, [f"cannot listen on 127.0.0.1:{port}", "in use"]),
            ({"TIDINGS_SECRET_KEY": "short"}, ["TIDINGS_SECRET_KEY", "32 bytes"]),
            ({"TIDINGS_DATABASE_URL": unreachable}, ["the database cannot be used", "Connect call failed"]),
            ({"TIDINGS_DATABASE_URL": postgresql_server}, ["tidings migrate"]),
            ({"TIDINGS_DATA_DIR": "/dev/null/data"}, ["/dev/null"]),
        ]
        commands = [
            await tidings("serve", **({"TIDINGS_PORT": "0", "TIDINGS_DATA_DIR": f"data{number}"} | environment))
            for number, (environment, _) in enumerate(cases)
        ]
        for command, (_, problem) in zip(commands, cases, strict=True):
            await _failed(command, *problem)


@pytest.mark.long
async def test_a_second_server_without_the_key_of_the_first_prints_one_line(
    tidings: Start, serve: Start, postgresql_url: str
) -> None:
    environment = {"TIDINGS_DATABASE_URL": postgresql_url}
    first = await serve(TIDINGS_DATA_DIR="first", **environment)
    second = await tidings("serve", TIDINGS_PORT="0", TIDINGS_DATA_DIR="second", **environment)
    await _failed(second, "TIDINGS_SECRET_KEY", "signing key")
    assert await first.end(signal.SIGTERM) == 0


async def _failed(command: Command, *problem: str) -> None:
    """The command ends with status 1 and prints one line with the reason."""
    assert await command.end() == 1, command.out
    assert command.out == ""
    assert command.err.count("\n") == 1, command.err
    assert command.err.startswith("tidings: ")
    for text in problem:
        assert text in command.err


async def test_every_command_reports_invalid_settings_in_one_line(command: Run) -> None:
    for name, value, problem in (
        ("TIDINGS_PORT", "65536", "65535"),
        ("TIDINGS_DURABILITY", "some", "'full' or 'normal'"),
        ("TIDINGS_DATABASE_URL", "mysql://x/y", "not mysql"),
        ("TIDINGS_DATABASE_URL", "nonsense", "URL"),
        ("TIDINGS_DATABASE_URL", "sqlite://", "SQLite"),
    ):
        result = await command("migrate", status=1, **{name: value})
        assert result.err.startswith(f"tidings: {name}: ")
        assert problem in result.err
    public = {"TIDINGS_HOST": "0.0.0.0", "TIDINGS_DEV_TOKENS": "true"}
    result = await command("migrate", status=1, **public)
    assert result.err.startswith("tidings: TIDINGS_DEV_TOKENS ")
    assert "0.0.0.0" in result.err
    assert "2 workers need PostgreSQL" in (await command("serve", "--workers", "2", status=1)).err


@pytest.mark.long
async def test_the_second_of_two_concurrent_starts_takes_over_when_the_first_stops(
    tidings: Start, tmp_path: Path
) -> None:
    both = [await tidings("serve", "--port", "0") for _ in range(2)]
    serving = [asyncio.create_task(command.listening()) for command in both]
    done, _ = await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    first = next(iter(done)).result()
    second = both[both[0] is first]
    await second.until("err", r"another server is running on .*waiting up to 10 s for it to stop")
    assert second.out == ""
    async with httpx.AsyncClient(base_url=first.url, timeout=30) as http:
        registered = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
    assert await first.end(signal.SIGTERM) == 0
    await asyncio.wait_for(asyncio.gather(*serving), 30)
    async with connected(second.url, registered.json()["token"]) as omar:  # with the same data and key
        await omar.ask("get_rooms")
    assert pending(f"sqlite:///{tmp_path / 'data' / 'tidings.db'}") == []
    assert await second.end(signal.SIGINT) == 0


@pytest.mark.long
async def test_a_server_that_waits_for_another_one_stops_on_a_signal(tidings: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with only_server(tmp_path / "data" / "tidings.db", 0):
        waiting = [await tidings("serve", "--port", "0") for _ in range(2)]
        for command, number in zip(waiting, (signal.SIGTERM, signal.SIGINT), strict=True):
            await command.until("err", "another server")
            assert await command.end(number) == 0
            assert "Traceback" not in command.err


@pytest.mark.long
async def test_a_second_server_on_a_file_gives_up_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, link = tmp_path / "tidings.db", tmp_path / "link.db"
    link.symlink_to(database)
    async with only_server(database, 0):
        for name in (database, link, tmp_path / "." / "tidings.db"):
            with pytest.raises(SettingsError, match="another server is running on"):
                async with only_server(name, patience_s=0.1):
                    pytest.fail("two servers on one file")
            assert capsys.readouterr().err.count("waiting up to 0.1 s for it to stop") == 1
        async with only_server(tmp_path / "other.db", patience_s=0):
            pass
    async with only_server(database, patience_s=0):
        pass
