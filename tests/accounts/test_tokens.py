"""Tokens: their claims, and which of them are accepted."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from pydantic import SecretStr

from tests.support.client import connected
from tests.support.node import SECRET_KEY, RunningNode, running_node
from tidings.auth.tokens import Tokens
from tidings.contract.errors import ActionError

DAY_S = 24 * 60 * 60
Claims = dict[str, Any]


def _signed(claims: Claims, algorithm: str = "HS256", key: str = SECRET_KEY) -> str:
    return jwt.encode(claims, key, algorithm)


def _forged(claims: Claims, header: dict[str, Any], digest: str | None = "sha256") -> str:
    """A token with a header and a signature of the attacker's choice."""

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    body = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    signature = hmac.new(SECRET_KEY.encode(), body, digest).digest() if digest else b""
    return (body + b"." + part(signature)).decode()


async def _code(http: httpx.AsyncClient, token: str) -> str:
    """The error code with which REST answers a token, or "ok"."""
    answer = await http.get("/api/me", headers={"Authorization": f"Bearer {token}"})
    if answer.status_code == 200:
        return "ok"
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    code: str = answer.json()["code"]
    return code


async def test_a_token_has_exactly_the_claims_of_the_contract(lite: RunningNode) -> None:
    token = await lite.register("Omar")
    second = await lite.login("omar")
    claims = jwt.decode(token, SECRET_KEY, ["HS256"], audience="tidings")
    assert claims.keys() == {"sub", "sid", "iat", "exp", "iss", "aud"}
    assert claims["sub"] == "Omar"
    assert claims["iss"] == claims["aud"] == "tidings"
    assert claims["exp"] - claims["iat"] in (DAY_S, DAY_S - 1)  # both are whole seconds
    assert abs(claims["iat"] - time.time()) < 30
    assert isinstance(claims["sid"], str)
    assert claims["sid"] != jwt.decode(second, SECRET_KEY, ["HS256"], audience="tidings")["sid"]
    assert jwt.get_unverified_header(token)["alg"] == "HS256"


def test_a_token_that_was_accepted_before_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signature is not verified again, its expiry is checked each time."""
    tokens, now = Tokens([SECRET_KEY.encode()]), int(time.time())
    token = tokens.make("omar", "sid", now * 1000, (now + 60) * 1000)
    assert tokens.read(token) == tokens.read(token) == ("omar", "sid", (now + 60) * 1000)
    ticket, _ = tokens.ticket("channel", "omar", "sid", now * 1000, (now + 60) * 1000)
    assert tokens.read(ticket, "channel") == ("omar", "sid", (now + 60) * 1000)
    with pytest.raises(ActionError, match="no valid token"):
        tokens.read(ticket)
    monkeypatch.setattr("tidings.auth.tokens.time.time", lambda: now + 60.5)
    with pytest.raises(ActionError, match="expired") as refused:
        tokens.read(token)
    assert refused.value.code == "token_expired"


async def test_tokens_of_the_former_key_stay_valid_after_a_rotation(sqlite_url: str, tmp_path: Path) -> None:
    former, present = "the former key of 32 bytes and more", "the present key of 32 bytes and more"
    async with running_node(sqlite_url, tmp_path, secret_key=SecretStr(former)) as server:
        token = await server.register("omar")
    async with running_node(sqlite_url, tmp_path, secret_key=SecretStr(f"{present},{former}")) as server:
        async with connected(server.url, token) as omar:
            await omar.ask("get_rooms")
        fresh = await server.login("omar")
        assert jwt.decode(fresh, present, ["HS256"], audience="tidings")["sub"] == "omar"
    async with running_node(sqlite_url, tmp_path, secret_key=SecretStr(present)) as server:
        async with connected(server.url, fresh):
            pass
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert await _code(http, token) == "unauthenticated"


async def test_login_answers_the_expiry_of_its_token(lite: RunningNode) -> None:
    await lite.register("omar")
    async with httpx.AsyncClient(base_url=lite.url, timeout=30) as http:
        login = (await http.post("/api/login", json={"username": "omar", "password": "correct horse"})).json()
    exp = jwt.decode(login["token"], SECRET_KEY, ["HS256"], audience="tidings")["exp"]
    assert login["expires_at"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(exp))


TAMPERED: dict[str, Callable[[Claims], str]] = {
    "as issued": _signed,
    "alg none": lambda claims: _forged(claims, {"alg": "none", "typ": "JWT"}, digest=None),
    "alg None": lambda claims: _forged(claims, {"alg": "None", "typ": "JWT"}, digest=None),
    "alg none, signed": lambda claims: _forged(claims, {"alg": "none", "typ": "JWT"}),
    "alg HS512": lambda claims: _forged(claims, {"alg": "HS512", "typ": "JWT"}, digest="sha512"),
    "alg HS384": lambda claims: _forged(claims, {"alg": "HS384", "typ": "JWT"}, digest="sha384"),
    "alg RS256 with the secret": lambda claims: _forged(claims, {"alg": "RS256", "typ": "JWT"}),
    "no alg": lambda claims: _forged(claims, {"typ": "JWT"}),
    "alg of another type": lambda claims: _forged(claims, {"alg": ["HS256"], "typ": "JWT"}),
    "HS256 without a signature": lambda claims: _forged(claims, {"alg": "HS256", "typ": "JWT"}, digest=None),
    "another key": lambda claims: _signed(claims, key="another key for tests, of 32 bytes and more"),
    "another key, offered in the header": lambda claims: jwt.encode(
        claims, "x" * 32, "HS256", headers={"jwk": {"kty": "oct", "k": "eHh4"}, "kid": "../../dev/null"}
    ),
    **{
        f"no {claim}": lambda claims, claim=claim: _signed({k: v for k, v in claims.items() if k != claim})
        for claim in ("sub", "sid", "iat", "exp", "iss", "aud")
    },
    "another issuer": lambda claims: _signed({**claims, "iss": "someone"}),
    "another audience": lambda claims: _signed({**claims, "aud": "someone"}),
    "another user's name": lambda claims: _signed({**claims, "sub": "diego"}),
    "nobody's name": lambda claims: _signed({**claims, "sub": "nobody"}),
    "no session's id": lambda claims: _signed({**claims, "sid": "x"}),
    "a number for a session": lambda claims: _signed({**claims, "sid": 1}),
    "a list for a session": lambda claims: _signed({**claims, "sid": [claims["sid"]]}),
    "a text for exp": lambda claims: _signed({**claims, "exp": "never"}),
    "null for exp": lambda claims: _signed({**claims, "exp": None}),
    "infinity for exp": lambda claims: _signed({**claims, "exp": float("inf")}),
    "nbf to come": lambda claims: _signed({**claims, "nbf": claims["iat"] + 3600}),
    "empty": lambda _: "x",
    "not a token": lambda _: "a.b.c",
    "not ASCII": lambda claims: _signed(claims)[:-1] + "\u00e9",
    "cut": lambda claims: _signed(claims)[:-2],
    "long": lambda claims: _signed(claims) + "A" * 5000,
}


@pytest.fixture
async def claims(lite: RunningNode) -> Claims:
    await lite.register("diego")
    return jwt.decode(await lite.register("omar"), SECRET_KEY, ["HS256"], audience="tidings")


async def test_every_altered_token_is_refused(lite: RunningNode, claims: Claims) -> None:
    codes: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=lite.url, timeout=30) as http:
        for name, tamper in TAMPERED.items():
            token = tamper(dict(claims)).encode("latin-1")
            answer = await http.get("/api/me", headers={b"Authorization": b"Bearer " + token})
            codes[name] = "ok" if answer.status_code == 200 else answer.json()["code"]
    assert codes == dict.fromkeys(TAMPERED, "unauthenticated") | {"as issued": "ok"}


async def test_a_user_with_a_valid_session_is_signed_in_even_without_a_connection(server: RunningNode) -> None:
    auth = server.node.auth
    diego = await auth.authenticate(await server.register("diego"))
    token = await server.register("omar")
    user = await auth.user("omar")
    assert await auth.is_signed_in("omar", viewer=diego)
    await auth.logout(await auth.authenticate(token))
    assert not await auth.is_signed_in("omar", viewer=diego)
    await auth.sign_in(user, -1000)  # already expired
    assert not await auth.is_signed_in("omar", viewer=diego)
    await auth.sign_in(user)
    assert await auth.is_signed_in("omar", viewer=diego)
    await auth.set_disabled(user, True)
    assert not await auth.is_signed_in("omar", viewer=diego)
    assert not await auth.is_signed_in("nobody", viewer=diego)


async def test_logging_out_of_a_lasting_session_ends_all_lasting_sessions(server: RunningNode) -> None:
    auth = server.node.auth
    ordinary = await server.register("omar")
    user = await auth.user("omar")
    lasting = [(await auth.sign_in(user, until_logout=True))[0] for _ in range(2)]
    await auth.logout(await auth.authenticate(ordinary))  # ends only its own session
    ordinary = await server.login("omar")
    principals = [await auth.authenticate(token) for token in lasting]
    withdrawn = await auth.logout(principals[0])
    assert {notice.session_key for notice in withdrawn} == {principal.session_key for principal in principals}
    for token in lasting:
        with pytest.raises(ActionError, match="withdrawn"):
            await auth.authenticate(token)
    await auth.authenticate(ordinary)


async def test_a_token_is_accepted_only_as_a_bearer_token(lite: RunningNode) -> None:
    token = await lite.register("omar")
    async with httpx.AsyncClient(base_url=lite.url, cookies={"token": token}, timeout=30) as http:
        for header in (None, "", "Bearer", "Basic b21hcjpvbWFy", token, f"Token {token}"):
            headers = {} if header is None else {"Authorization": header}
            answer = await http.get(f"/api/me?token={token}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), header
        ok = await http.get(
            "/api/me", headers={"Authorization": f"bEARER {token}"}
        )  # RFC 9110: the scheme is case-insensitive
        assert ok.status_code == 200
