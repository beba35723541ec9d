"""Tokens of another issuer sign its users in at every gateway, and nobody else."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import httpx
import jwt
import pytest

from tests.accounts.conftest import check_closed
from tests.accounts.external_issuer import (
    ALGORITHMS,
    EC,
    ISSUER,
    KEYS,
    OTHER_RSA,
    REFUSED,
    RSA,
    Issuer,
    ask,
    code,
    columns,
    hmac_with,
    pem,
    token,
    unsigned,
    with_key,
)
from tests.accounts.token_doors import DOORS
from tests.support.client import connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node
from tidings_db.models import sessions, users
from tidings_db.queries import purge


@pytest.fixture
async def server(trusting: RunningNode) -> RunningNode:
    return trusting


# -- who is signed in -----------------------------------------------------------------------------------------------


async def test_every_gateway_accepts_an_external_token_and_refuses_a_forged_one(
    server: RunningNode, issuer: Issuer
) -> None:
    for kid, key in KEYS.items():
        valid = token("omar", kid, key, ALGORITHMS[kid])
        answers = {name: await door(server.url, valid) for name, (door, _) in DOORS.items()}
        assert answers == dict.fromkeys(DOORS, "ok"), kid
    forged = token(key=OTHER_RSA)
    answers = {name: await door(server.url, forged) for name, (door, _) in DOORS.items()}
    assert answers == {name: refused for name, (_, refused) in DOORS.items()}
    assert issuer.fetches == 1


async def test_users_of_this_server_sign_in_as_ever(server: RunningNode, issuer: Issuer) -> None:
    own = await server.register("omar")
    assert {name: await door(server.url, own) for name, (door, _) in DOORS.items()} == dict.fromkeys(DOORS, "ok")
    assert issuer.fetches == 0


async def test_the_first_token_makes_the_user_with_a_display_name_and_without_a_password(server: RunningNode) -> None:
    assert (await ask(server.url, token("omar", name=" Omar Jiménez ")))["username"] == "omar"
    assert await code(server.url, token("omar", name="Another")) == "ok"
    assert await code(server.url, token("diego", name="\u202eoge\u0000id")) == "ok"
    rows = await columns(
        server, users.select().with_only_columns(users.c.username, users.c.display_name, users.c.issuer)
    )
    assert sorted(rows) == [("diego", None, ISSUER), ("omar", "Omar Jiménez", ISSUER)]
    async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as http:
        login = await http.post("/api/login", json={"username": "omar", "password": PASSWORD})
        assert login.json()["code"] == "unauthenticated"
        taken = await http.post("/api/register", json={"username": "omar", "password": PASSWORD})
        assert taken.json()["code"] == "conflict"


async def test_a_user_of_this_server_is_not_taken_over(server: RunningNode) -> None:
    own = await server.register("omar")
    await server.node.auth.token_for("bot")
    async with connected(server.url, own) as omar:
        await omar.ask("create", topic_name="noticias")
        for name in ("omar", "bot", "noticias", "оmar"):
            assert await code(server.url, token(name)) == "unauthenticated", name
        assert (await ask(server.url, token("omar")))["detail"] == (
            "the user omar of this server was not made by the token's issuer"
        )
        assert len((await omar.ask("get_sessions"))["sessions"]) == 1


async def test_two_names_of_an_issuer_never_become_one_user(server: RunningNode) -> None:
    assert await code(server.url, token("omar")) == "ok"
    for name in ("Omar", "ｏmar", "omar ", " omar", "", "x" * 33, "a b", "omar\u200b", 7, None):
        assert await code(server.url, token(name)) == "unauthenticated", name  # type: ignore[arg-type]
    assert len(await columns(server, users.select())) == 1


async def test_another_issuer_does_not_sign_in_the_users_of_the_first(sqlite_url: str, tmp_path: Path) -> None:
    async with with_key(sqlite_url, tmp_path, pem(RSA)) as server:
        assert await code(server.url, token("omar")) == "ok"
    async with running_node(sqlite_url, tmp_path, jwt_key=pem(RSA), jwt_issuer="https://other.example") as server:
        other = token("omar", iss="https://other.example")
        assert await code(server.url, other) == "unauthenticated"
        assert await code(server.url, token("diego", iss="https://other.example")) == "ok"


async def test_the_claims_of_the_names_can_be_chosen(sqlite_url: str, tmp_path: Path) -> None:
    changes = {"jwt_username_claim": "preferred_username", "jwt_name_claim": "nick"}
    async with with_key(sqlite_url, tmp_path, pem(RSA), **changes) as server:
        assert (await ask(server.url, token("1234", preferred_username="omar", nick="O")))["username"] == "omar"
        assert await code(server.url, token("omar")) == "unauthenticated"
        assert await columns(server, users.select().with_only_columns(users.c.display_name)) == [("O",)]


# -- sessions -------------------------------------------------------------------------------------------------------


async def test_a_token_has_a_session_that_can_be_listed_and_withdrawn(server: RunningNode) -> None:
    first, second = token("omar", jti="1"), token("omar", jti="2")
    async with connected(server.url, first) as omar, connected(server.url, second, device="phone") as phone:
        listed = (await ask(server.url, first, path="/api/sessions"))["sessions"]
        assert len(listed) == 2
        expiry = jwt.decode(first, options={"verify_signature": False})["exp"]
        assert {each["expires_at"][:19] for each in listed} == {
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expiry))
        }
        assert await ask(server.url, first, "POST", "/api/logout") == {}
        await check_closed(omar)
        assert await code(server.url, first) == "token_revoked"
        assert await code(server.url, token("omar", jti="1")) == "token_revoked", "the same jti"
        assert len((await phone.ask("get_sessions"))["sessions"]) == 1
    assert await code(server.url, second) == "ok"


async def test_the_tokens_of_one_session_of_the_issuer_share_a_session(server: RunningNode) -> None:
    now = int(time.time())
    first, fresh = (token("omar", sid="s", jti=f"{life}", exp=now + life) for life in (600, 900))
    async with connected(server.url, first) as omar:
        assert (await omar.ask("authenticate", token=fresh))["token_expires_at"]
        (session,) = (await omar.ask("get_sessions"))["sessions"]
        assert session["expires_at"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + 900)))
        assert await code(server.url, token("diego", sid="s")) == "ok"
        assert len((await omar.ask("get_sessions"))["sessions"]) == 1
        await ask(server.url, first, "DELETE", f"/api/sessions/{session['session_id']}")
        await check_closed(omar)
    for each in (first, fresh, token("omar", sid="s", exp=now + 1200)):
        assert await code(server.url, each) == "token_revoked"
    assert await code(server.url, token("diego", sid="s")) == "ok"


async def test_a_token_without_an_identity_is_its_own_session_however_its_signature_is_written(
    server: RunningNode,
) -> None:
    valid = token("omar", "ec", EC, "ES256")
    assert await code(server.url, valid) == "ok"
    body, _, signature = valid.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    s = int.from_bytes(raw[32:])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    again = f"{body}.{urlsafe_b64encode(raw[:32] + (order - s).to_bytes(32)).rstrip(b'=').decode()}"
    assert await code(server.url, again) == "ok", "ECDSA has two signatures for each"
    assert len(await columns(server, sessions.select())) == 1
    await ask(server.url, valid, "POST", "/api/logout")
    assert await code(server.url, again) == "token_revoked"


async def test_concurrent_first_tokens_make_one_user_and_one_session(server: RunningNode) -> None:
    valid = token("omar")
    arrivals = [server.node.auth.arrive(valid, f"device{n}") for n in range(10)]
    principals = {principal for principal, _ in await asyncio.gather(*arrivals)}
    assert len(principals) == 1
    assert len(await columns(server, sessions.select())) == 1


async def test_a_refresh_does_not_outlive_the_external_token(server: RunningNode) -> None:
    valid = token("omar")
    refreshed = await ask(server.url, valid, "POST", "/api/refresh")
    expiry = jwt.decode(valid, options={"verify_signature": False})["exp"]
    assert refreshed["expires_at"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expiry)))
    assert await code(server.url, refreshed["token"]) == "ok"
    await ask(server.url, valid, "POST", "/api/logout")
    assert await code(server.url, refreshed["token"]) == "token_revoked"


async def test_a_withdrawn_session_is_kept_while_its_token_is_valid(server: RunningNode) -> None:
    valid = token("omar", jti="1")
    await ask(server.url, valid, "POST", "/api/logout")
    await code(server.url, token("omar", jti="2"))  # the newest session is never purged
    now = int(time.time() * 1000)
    database = server.node.database
    assert await database.read(lambda conn: purge.ended_sessions(conn, now + 60_000, 10)) == []
    assert len(await database.read(lambda conn: purge.ended_sessions(conn, now + 700_000, 10))) == 1


async def test_a_disabled_user_is_refused_with_a_new_token_too(server: RunningNode) -> None:
    async with connected(server.url, token("omar", jti="1")) as omar:
        auth = server.node.auth
        for notice in await auth.set_disabled(await auth.user("omar"), True):
            auth.withdraw(notice)
        await check_closed(omar)
    for jti in ("1", "2"):
        assert await code(server.url, token("omar", jti=jti)) == "token_revoked"
    assert len(await columns(server, sessions.select())) == 1


# -- which tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_token_that_is_not_valid_is_refused(server: RunningNode, kind: str) -> None:
    assert await code(server.url, token("diego")) == "ok"
    refused, expected = REFUSED[kind]
    assert await code(server.url, refused) == expected
    assert await columns(server, users.select().with_only_columns(users.c.username)) == [("diego",)]


async def test_a_shared_secret_verifies_hs256_alone(sqlite_url: str, tmp_path: Path) -> None:
    secret = "a secret that two servers share, long enough for HS512 as well: 64 bytes"
    async with with_key(sqlite_url, tmp_path, secret) as server:
        assert await code(server.url, token(key=secret, algorithm="HS256")) == "ok"
        assert await code(server.url, token(key=secret, algorithm="HS512")) == "unauthenticated"
        assert await code(server.url, token(key="another secret of 32 bytes and more", algorithm="HS256")) != "ok"
        for refused in (unsigned(token()), token()):
            assert await code(server.url, refused) == "unauthenticated"


@pytest.mark.parametrize("kid", KEYS)
async def test_a_public_key_verifies_the_algorithms_of_its_type(kid: str, sqlite_url: str, tmp_path: Path) -> None:
    public = pem(KEYS[kid])
    async with with_key(sqlite_url, tmp_path, public.replace("\n", "\\n")) as server:
        for other, key in KEYS.items():
            expected = "ok" if kid == other else "unauthenticated"
            assert await code(server.url, token("omar", None, key, ALGORITHMS[other])) == expected, other
        assert await code(server.url, hmac_with(public.encode(), token())) == "unauthenticated"
