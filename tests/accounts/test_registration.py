"""`TIDINGS_REGISTRATION`: who may create an account, by whichever gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tidings.auth.registration import create_link
from tidings_db.models import registration_links, users
from tidings_db.queries import registration
from tidings_db.queries import users as user_queries

DAY_S = 86_400


def client(server: RunningNode, token: str | None = None) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, verify=NO_TLS, timeout=30, headers=headers)


async def register(server: RunningNode, username: str, **fields: Any) -> str:
    """The error code of a registration, or "ok"."""
    async with client(server) as http:
        answer = await http.post("/api/register", json={"username": username, "password": PASSWORD, **fields})
        return str(answer.json().get("code", "ok"))


async def administrator(server: RunningNode) -> httpx.AsyncClient:
    token, _ = await server.node.auth.token_for("root")
    root = await server.node.auth.user("root")
    await server.node.database.write(lambda conn: user_queries.set_admin(conn, root.key, True))
    return client(server, token)


async def link(server: RunningNode, expires_in_s: int = DAY_S, uses: int = 1) -> str:
    """The code of a link by the command line."""
    code, _ = await server.node.database.write(lambda conn: create_link(conn, None, expires_in_s, uses))
    return code


async def usernames(server: RunningNode) -> set[str]:
    selected = users.select().with_only_columns(users.c.username)
    return set(await server.node.database.read(lambda conn: conn.scalars(selected).all()))


@pytest.mark.parametrize("mode", ["open", "invite", "closed"])
async def test_every_gateway_keeps_the_mode(mode: str, sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, registration=mode) as server, client(server) as http:
        assert (await http.get("/api/registration")).json() == {"registration": mode}
        status = 201 if mode == "open" else 403
        messenger = await http.post("/user", json={"Username": "omar", "Password": PASSWORD})
        channels = await http.post("/register", data={"username": "satoshi", "password": PASSWORD})
        assert (messenger.status_code, channels.status_code) == (status, status)
        refused = "ok" if mode == "open" else "forbidden"
        assert await register(server, "diego") == refused
        assert await register(server, "diego", invitation="made up") == ("conflict" if mode == "open" else refused)


async def test_an_administrator_changes_the_mode_for_good(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path) as server, await administrator(server) as admin:
        for mode, refused in (
            ("closed", "forbidden"),
            ("invite", "forbidden"),
            ("open", "ok"),
            ("closed", "forbidden"),
        ):
            chosen = await admin.put("/api/admin/registration", json={"registration": mode})
            assert chosen.json() == {"registration": mode}
            assert await register(server, "omar") == refused, mode
    async with running_node(database_url, tmp_path) as server, client(server) as http:
        assert (await http.get("/api/registration")).json() == {"registration": "closed"}


async def test_a_closed_server_takes_no_invitation_but_its_operator_adds_users(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with running_node(sqlite_url, tmp_path, registration="closed") as server:
        assert await register(server, "omar", invitation=await link(server)) == "forbidden"
        token, _ = await server.node.auth.token_for("omar")
        async with client(server, token) as http:
            assert (await http.get("/api/me")).json()["username"] == "omar"


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> Any:
    async with running_node(database_url, tmp_path, registration="invite") as node:
        yield node


async def test_an_administrator_creates_lists_and_deletes_links(server: RunningNode) -> None:
    async with await administrator(server) as admin:
        made = (await admin.post("/api/admin/registration-links", json={"uses": 2})).json()
        other = (await admin.post("/api/admin/registration-links", json={})).json()
        assert (made["uses_left"], other["uses_left"]) == (2, 1)
        assert await register(server, "omar", invitation=made["code"]) == "ok"
        page = (await admin.get("/api/admin/registration-links")).json()
        assert {(each["link_id"], each["uses_left"], each["username"]) for each in page["links"]} == {
            (made["link_id"], 1, "root"),
            (other["link_id"], 1, "root"),
        }
        first = (await admin.get("/api/admin/registration-links", params={"limit": "1"})).json()
        rest = await admin.get("/api/admin/registration-links", params={"after": first["next"]})
        assert first["links"] + rest.json()["links"] == page["links"]
        path = f"/api/admin/registration-links/{made['link_id']}"
        assert (await admin.delete(path)).json() == {}
        assert (await admin.delete(path)).json()["code"] == "not_found"
        assert await register(server, "diego", invitation=made["code"]) == "forbidden"
    token, _ = await server.node.auth.token_for("omar")
    async with client(server, token) as omar:
        assert (await omar.get("/api/admin/registration-links")).json()["code"] == "forbidden"
        assert (await omar.post("/api/admin/registration-links", json={})).json()["code"] == "forbidden"


async def test_a_link_ends_when_it_expires_or_its_creator_is_no_longer_an_administrator(server: RunningNode) -> None:
    assert await register(server, "omar", invitation=await link(server, expires_in_s=0)) == "forbidden"
    async with await administrator(server) as admin:
        code = (await admin.post("/api/admin/registration-links", json={"uses": 5})).json()["code"]
    root = await server.node.auth.user("root")
    await server.node.database.write(lambda conn: user_queries.set_admin(conn, root.key, False))
    assert await register(server, "omar", invitation=code) == "forbidden"
    await server.node.database.write(lambda conn: user_queries.set_admin(conn, root.key, True))
    assert await register(server, "omar", invitation=code) == "ok"
    await server.node.auth.set_disabled(root, True)
    assert await register(server, "diego", invitation=code) == "forbidden"


async def test_of_twenty_who_race_for_a_link_of_one_use_one_registers(server: RunningNode) -> None:
    code = await link(server)
    codes = await asyncio.gather(*(register(server, f"user{n}", invitation=code) for n in range(20)))
    assert sorted(codes) == ["forbidden"] * 19 + ["ok"]
    assert len(await usernames(server)) == 1


async def test_a_registration_that_fails_uses_up_no_link_and_leaves_no_user(server: RunningNode) -> None:
    code = await link(server, uses=2)
    assert await register(server, "omar", invitation=code) == "ok"
    for failing, refused in (("omar", "conflict"), ("a b", "invalid")):
        assert await register(server, failing, invitation=code) == refused
    assert await register(server, "diego", invitation=code, password="short") == "invalid"
    assert await register(server, "diego", invitation=code) == "ok"
    assert await register(server, "satoshi", invitation=code) == "forbidden"
    assert await usernames(server) == {"omar", "diego"}


async def test_a_code_is_not_stored_and_outdated_links_are_deleted(server: RunningNode) -> None:
    code = await link(server)
    (row,) = await server.node.database.read(
        lambda conn: [tuple(r) for r in conn.execute(registration_links.select())]
    )
    assert code not in map(str, row)
    await link(server, expires_in_s=0)
    await link(server, uses=0)
    now = row[3]
    await server.node.database.write(lambda conn: registration.drop_outdated(conn, before=now + 60_000))
    left = await server.node.database.read(lambda conn: [r.id for r in conn.execute(registration_links.select())])
    assert left == [row[0]]
