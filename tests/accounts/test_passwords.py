"""Passwords: their limits, the queue of checks, and what a failed login reveals."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import bcrypt
import httpx
import pytest

from tests.accounts.gate import Gate, server_bcrypt
from tests.support.client import connected
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.auth.passwords import HASHES_WAITING, THREADS, Passwords
from tidings.contract.errors import ActionError, ErrorCode
from tidings_db.queries import users

ROUNDS = 4


async def _login(http: httpx.AsyncClient, username: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/api/login", json={"username": username, "password": password})


PASSWORDS = {
    "x" * 7: False,
    "x" * 8: True,
    "ñ" * 3: False,  # 6 bytes
    "ñ" * 4: True,
    "😀": False,
    "😀😀": True,
    "x" * 72: True,
    "x" * 73: False,
    "ñ" * 36: True,
    "ñ" * 36 + "x": False,
    "😀" * 18: True,
    "😀" * 18 + "!": False,
    "long" * 1_000: False,
    "nul\0nul\0": False,
    "        ": True,
}


async def test_a_password_has_8_to_72_bytes_in_utf_8(lite: RunningNode) -> None:
    async with httpx.AsyncClient(base_url=lite.url, timeout=30) as http:
        for number, (password, fits) in enumerate(PASSWORDS.items()):
            name = f"user{number}"
            registered = await http.post("/api/register", json={"username": name, "password": password})
            if fits:
                assert registered.status_code == 201, password
                assert (await _login(http, name, password)).status_code == 200, password
                continue
            assert (registered.status_code, registered.json()["code"]) == (422, "invalid"), password
            assert registered.json()["details"]["fields"].keys() == {"password"}
            assert (await _login(http, name, password)).status_code == 401, password


async def test_every_byte_of_a_password_is_compared(lite: RunningNode) -> None:
    await lite.register("omar", "x" * 71 + "y")
    async with httpx.AsyncClient(base_url=lite.url, timeout=30) as http:
        assert (await _login(http, "omar", "x" * 71 + "y")).status_code == 200
        for wrong in ("x" * 72, "x" * 71, "x" * 71 + "yz", "x" * 71 + "y\0", "X" * 71 + "y"):
            assert (await _login(http, "omar", wrong)).status_code == 401, wrong


async def test_every_failed_login_costs_the_same_and_is_answered_alike(
    server: RunningNode, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.register("omar")
    await server.register("eve")
    database = server.node.database
    await database.write(lambda conn: users.add(conn, "memoor", None, 1))  # has no password
    eve = await server.node.auth.user("eve")
    await database.write(lambda conn: users.set_disabled(conn, eve.key, True))
    work: list[bytes] = []
    check = bcrypt.checkpw

    def recorded(password: bytes, hashed: bytes) -> bool:
        work.append(hashed[:7])  # the algorithm and the cost
        return check(password, hashed)

    monkeypatch.setattr(server_bcrypt(), "checkpw", recorded)
    bodies = set()
    for username, password in (
        ("omar", "wrong password"),
        ("nobody", PASSWORD),
        ("not a name", PASSWORD),
        ("x" * 200, PASSWORD),
        ("omar", "x" * 73),
        ("omar", ""),
        ("omar", "nul\0"),
        ("memoor", PASSWORD),
        ("eve", PASSWORD),
        ("eve", "wrong password"),
    ):
        work.clear()
        answer = await _login(http, username, password)
        assert answer.status_code == 401, username
        assert work == [f"$2b${ROUNDS:02}$".encode()], (username, password)
        bodies.add(answer.content)
    assert len(bodies) == 1
    assert (await _login(http, "omar")).status_code == 200


async def test_live_connections_are_served_while_passwords_are_checked(lite: RunningNode, gate: Gate) -> None:
    async with (
        connected(lite.url, await lite.register("omar")) as omar,
        httpx.AsyncClient(base_url=lite.url, timeout=30) as http,
    ):
        logins = [asyncio.create_task(_login(http, "omar")) for _ in range(10)]
        await gate.reached()
        await omar.ask("create", topic_name="noticias")
        sent = await omar.ask("message", topic_name="noticias", content="meanwhile")
        assert sent["seq"] == 1
        assert not any(login.done() for login in logins)
        gate.open()
        assert [answer.status_code for answer in await asyncio.gather(*logins)] == [200] * 10


async def test_logins_beyond_the_queue_limit_are_unavailable(lite: RunningNode, gate: Gate) -> None:
    await lite.register("omar")
    limits = httpx.Limits(max_connections=HASHES_WAITING + THREADS + 8)
    async with httpx.AsyncClient(base_url=lite.url, timeout=120, limits=limits) as http:
        logins = {asyncio.create_task(_login(http, "omar")) for _ in range(HASHES_WAITING + THREADS + 5)}
        refused: set[asyncio.Task[httpx.Response]] = set()
        while len(refused) < 5:
            done, _ = await asyncio.wait(logins - refused, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert done, "no login was refused"
            refused |= done
        for login in refused:
            answer = login.result()
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.json()["retryable"] is True
        assert len(refused) == 5
        gate.open()
        accepted = await asyncio.gather(*(logins - refused))
        assert [answer.status_code for answer in accepted] == [200] * (HASHES_WAITING + THREADS)
        assert (await _login(http, "omar")).status_code == 200


async def test_a_login_in_progress_while_the_password_changes_begins_no_session(
    database_url: str, tmp_path: Path, gate: Gate
) -> None:
    async with (
        running_node(database_url, tmp_path) as node,
        httpx.AsyncClient(base_url=node.url, timeout=30) as http,
    ):
        await node.register("omar")
        user = await node.node.auth.user("omar")
        login = asyncio.create_task(_login(http, "omar"))
        await gate.reached()
        fresh = await node.node.auth.passwords.hash("another password")

        def change(conn: object) -> None:
            users.set_password(conn, user.key, fresh)  # type: ignore[arg-type]
            users.revoke_sessions_of(conn, user.key, 1)  # type: ignore[arg-type]

        await node.node.database.write(change)
        gate.open()
        assert (await login).status_code == 401
        assert (await _login(http, "omar", "another password")).status_code == 200


async def test_queued_password_hashes_are_refused_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue would take longer than the server may take to stop."""
    hold = threading.Event()
    hashpw = bcrypt.hashpw

    def held(password: bytes, salt: bytes) -> bytes:
        assert hold.wait(60)
        return hashpw(password, salt)

    passwords = Passwords(ROUNDS)
    monkeypatch.setattr(bcrypt, "hashpw", held)
    hashes = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(10)]
    await asyncio.sleep(0)  # each joins the queue in its first step
    assert passwords.waiting == len(hashes)
    passwords.drain()
    hold.set()
    answers = await asyncio.gather(*hashes, passwords.hash(PASSWORD), return_exceptions=True)
    passwords.stop()
    refused = [answer for answer in answers if isinstance(answer, ActionError)]
    assert {answer.error.code for answer in refused} == {ErrorCode.UNAVAILABLE}
    assert len(answers) - len(refused) == THREADS
