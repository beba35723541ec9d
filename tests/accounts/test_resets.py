"""Links by which a user sets a new password."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httpx
import pytest

from tests.accounts.conftest import check_closed
from tests.support.client import connected
from tests.support.node import PASSWORD, RunningNode
from tidings.auth.registration import create_link
from tidings_db.models import registration_links
from tidings_db.queries import users

NEW = "battery staple"


async def link(server: RunningNode, username: str = "omar", by: str | None = None, expires_in_s: int = 60) -> str:
    """The code of a link for a user; `by`: an administrator, or the command line."""
    keys = [None if name is None else (await server.node.auth.user(name)).key for name in (username, by)]
    make = partial(create_link, user_key=keys[1], expires_in_s=expires_in_s, resets_key=keys[0])
    return (await server.node.database.write(make))[0]


async def reset(http: httpx.AsyncClient, code: str, password: str = NEW) -> Any:
    return (await http.post("/api/reset-password", json={"code": code, "new_password": password})).json()


async def login(http: httpx.AsyncClient, password: str) -> int:
    return (await http.post("/api/login", json={"username": "omar", "password": password})).status_code


async def test_a_link_sets_a_password_once_and_ends_the_sessions(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    token = await server.register("omar")
    async with connected(server.url, token) as omar:
        code = await link(server)
        assert await login(http, PASSWORD) == 200, "until then the old password is valid"
        assert (await reset(http, code, "short"))["code"] == "invalid"
        credentials = await reset(http, code)
        await check_closed(omar)
    assert credentials["user"]["username"] == "omar"
    me = await http.get("/api/me", headers={"Authorization": f"Bearer {credentials['token']}"})
    assert me.json()["username"] == "omar"
    assert (await login(http, PASSWORD), await login(http, NEW)) == (401, 200)
    assert (await reset(http, code))["code"] == "forbidden"


async def test_of_ten_who_use_a_link_one_sets_the_password(server: RunningNode, http: httpx.AsyncClient) -> None:
    await server.register("omar")
    code = await link(server)
    answers = await asyncio.gather(*(reset(http, code, f"{NEW} {n}") for n in range(10)))
    assert sorted(str(answer.get("code", "ok")) for answer in answers) == ["forbidden"] * 9 + ["ok"]


@pytest.mark.parametrize(
    "end", ["expired", "replaced", "changed", "disabled", "not an administrator", "registration"]
)
async def test_a_link_that_has_ended_sets_no_password(end: str, server: RunningNode, http: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {await server.register('omar')}"}
    await server.register("root")
    omar, root = [await server.node.auth.user(name) for name in ("omar", "root")]
    await server.node.database.write(partial(users.set_admin, user_key=root.key, admin=True))
    code = await link(server, by="root", expires_in_s=0 if end == "expired" else 60)
    password = PASSWORD
    match end:
        case "replaced":
            await link(server)
        case "changed":
            change = {"password": PASSWORD, "new_password": (password := "changed by omar")}
            assert (await http.post("/api/me/password", json=change, headers=headers)).is_success
        case "disabled":
            await server.node.auth.set_disabled(omar, True)
        case "not an administrator":
            await server.node.database.write(partial(users.set_admin, user_key=root.key, admin=False))
        case "registration":
            make = partial(create_link, user_key=None, expires_in_s=60)
            code, _ = await server.node.database.write(make)
    assert (await reset(http, code))["code"] == "forbidden"
    assert await login(http, password) == (401 if end == "disabled" else 200)


async def test_a_link_to_a_password_registers_nobody_and_is_not_stored(
    server: RunningNode, http: httpx.AsyncClient
) -> None:
    await server.register("omar")
    await server.register("root")
    root = await server.node.auth.user("root")
    await server.node.database.write(partial(users.set_admin, user_key=root.key, admin=True))
    headers = {"Authorization": f"Bearer {await server.login('root')}"}
    await http.put("/api/admin/registration", json={"registration": "invite"}, headers=headers)
    code = await link(server)
    new = {"username": "diego", "password": PASSWORD, "invitation": code}
    assert (await http.post("/api/register", json=new)).json()["code"] == "forbidden"
    assert (await http.get("/api/admin/registration-links", headers=headers)).json()["links"] == []
    rows = await server.node.database.read(lambda conn: conn.execute(registration_links.select()).all())
    assert code not in str(rows)
