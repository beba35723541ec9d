"""Tokens of another issuer sign its users in at every gateway, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from hmac import digest
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.accounts.conftest import check_closed
from tests.accounts.token_doors import DOORS
from tests.support.client import connected
from tests.support.node import NO_TLS, PASSWORD, RunningNode, running_node, settings_for
from tidings.app import create_app
from tidings.auth.external import COOLDOWN_S, MAX_KEYS, RENEW_S, RETRY_S
from tidings.settings import SettingsError
from tidings_db.models import sessions, users
from tidings_db.queries import purge

ISSUER = "https://login.example.org/"
AUDIENCE = "chat"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
WEAK_RSA = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC_384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}
KEYS: dict[str, Any] = {"rsa": RSA, "ec": EC, "ed": ED}


def pem(key: Any) -> str:
    raw: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return raw.decode()


def jwk(kid: str | None, key: Any, algorithm: str, **changes: Any) -> dict[str, Any]:
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**public, **({} if kid is None else {"kid": kid}), "use": "sig", "alg": algorithm, **changes}


PUBLISHED = [jwk(kid, key, ALGORITHMS[kid]) for kid, key in KEYS.items()]


def token(
    subject: str = "omar", kid: str | None = "rsa", key: Any = RSA, algorithm: str | None = "RS256", **claims: Any
) -> str:
    """A valid token of the issuer; `claims` change it, None removes one."""
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": int(time.time()) + 600, **claims}
    named = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(named, key, algorithm, headers=None if kid is None else {"kid": kid})


class Issuer:
    """An HTTP server that publishes a JWKS."""

    def __init__(self) -> None:
        self.keys = PUBLISHED
        self.body: bytes | None = None
        """Sent in place of the keys."""
        self.status = "200 OK"
        self.location = ""
        self.fetches = 0
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.sent = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Issuer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        try:
            yield self
        finally:
            self.answering.set()
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            self.asked.set()
            await self.answering.wait()
            body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
            head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(body)}\r\nLocation: {self.location}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode())
            for start in range(0, len(body), 65_536):
                writer.write(body[start : start + 65_536])
                await writer.drain()
                self.sent = start
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(issuer: Issuer, clock: Clock, database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    options = {"external": {"clock": clock}}
    async with running_node(
        database_url,
        tmp_path,
        options=options,
        jwt_jwks_url=issuer.url,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    ) as node:
        yield node


@asynccontextmanager
async def with_key(sqlite_url: str, tmp_path: Path, key: str, **changes: Any) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, jwt_key=key, jwt_issuer=ISSUER, **changes) as node:
        yield node


async def ask(url: str, token: str, method: str = "GET", path: str = "/api/me") -> Any:
    """The answer to a REST request with a token."""
    async with httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=30) as http:
        answer = await http.request(method, path, headers={"Authorization": f"Bearer {token}"})
        return answer.json() if answer.content else {}


async def code(url: str, token: str) -> str:
    """The error code with which REST answers a token, or "ok"."""
    answer = await ask(url, token)
    return str(answer.get("code", "ok"))


async def columns(node: RunningNode, *selected: Any) -> Any:
    return await node.node.database.read(lambda conn: [tuple(row) for row in conn.execute(*selected)])


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


def unsigned(valid: str, algorithm: str = "none") -> str:
    header = urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode()).rstrip(b"=").decode()
    return f"{header}.{valid.split('.')[1]}."


def hmac_with(secret: bytes, valid: str, algorithm: str = "HS256") -> str:
    header = urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "rsa"}).encode()).rstrip(b"=").decode()
    body = f"{header}.{valid.split('.')[1]}"
    return f"{body}.{urlsafe_b64encode(digest(secret, body.encode(), sha256)).rstrip(b'=').decode()}"


REFUSED: dict[str, tuple[str, str]] = {
    "another issuer": (token(iss="https://other.example"), "unauthenticated"),
    "no issuer": (token(iss=None), "unauthenticated"),
    "another audience": (token(aud="mail"), "unauthenticated"),
    "no audience": (token(aud=None), "unauthenticated"),
    "expired": (token(exp=int(time.time()) - 5), "token_expired"),
    "no expiry": (token(exp=None), "unauthenticated"),
    "an expiry beyond any clock": (token(exp=10**15), "unauthenticated"),
    "not valid yet": (token(nbf=int(time.time()) + 3600), "unauthenticated"),
    "alg none": (unsigned(token()), "unauthenticated"),
    "alg None": (unsigned(token(), "None"), "unauthenticated"),
    "HS256 with the public key": (hmac_with(pem(RSA).encode(), token()), "unauthenticated"),
    "HMAC, called RS256": (hmac_with(pem(RSA).encode(), token(), "RS256"), "unauthenticated"),
    "another key": (token(key=OTHER_RSA), "unauthenticated"),
    "another key's kid": (token(kid="ec"), "unauthenticated"),
    "a kid for another algorithm": (token(kid="rsa", key=EC, algorithm="ES256"), "unauthenticated"),
    "an algorithm that its key does not name": (token(algorithm="RS512"), "unauthenticated"),
    "no kid": (token(kid=None), "unauthenticated"),
    "an unknown kid": (token(kid="made up"), "unauthenticated"),
    "this server as issuer": (token(iss="tidings", aud="tidings", sid="x", iat=1), "unauthenticated"),
    "too long": (token(more="x" * 8192), "unauthenticated"),
    "cut": (token()[:-2], "unauthenticated"),
    "nested deeply": ("a." + urlsafe_b64encode(b"[" * 3000).decode() + ".b", "unauthenticated"),
}


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


SSH = RSA.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
PRIVATE = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jwt_key": "x" * 31, "jwt_issuer": ISSUER}, "TIDINGS_JWT_KEY: a shared secret has at least 32 bytes"),
        ({"jwt_key": PRIVATE, "jwt_issuer": ISSUER}, "TIDINGS_JWT_KEY: this PEM is not a public key"),
        ({"jwt_key": pem(WEAK_RSA), "jwt_issuer": ISSUER}, "TIDINGS_JWT_KEY: give a key of RSA"),
        ({"jwt_key": SSH, "jwt_issuer": ISSUER}, "TIDINGS_JWT_KEY: this is a public key, and not as PEM"),
        ({"jwt_key": "x" * 32, "jwt_issuer": "tidings"}, "TIDINGS_JWT_ISSUER: tidings is the issuer of this server"),
        ({"jwt_key": "x" * 32}, "need each other"),
        ({"jwt_jwks_url": "https://h/jwks"}, "need each other"),
        ({"jwt_issuer": ISSUER}, "need each other"),
        ({"jwt_key": "x" * 32, "jwt_jwks_url": "https://h/jwks", "jwt_issuer": ISSUER}, "not both"),
        ({"jwt_jwks_url": "file:///etc/passwd", "jwt_issuer": ISSUER}, "give an address like https://"),
    ],
)
def test_the_server_does_not_start_with_settings_that_contradict(
    changes: dict[str, str], message: str, sqlite_url: str, tmp_path: Path
) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        create_app(settings_for(sqlite_url, tmp_path, **changes))


# -- the keys -------------------------------------------------------------------------------------------------------


async def test_keys_rotate_and_made_up_keys_cause_few_fetches(
    server: RunningNode, issuer: Issuer, clock: Clock
) -> None:
    assert await code(server.url, token()) == "ok"
    for n in range(20):
        assert await code(server.url, token(kid=f"made up {n}")) == "unauthenticated"
    assert issuer.fetches == 1
    clock.now += COOLDOWN_S
    issuer.keys = [*PUBLISHED, jwk("new", OTHER_RSA, "RS256")]
    assert await code(server.url, token(kid="new", key=OTHER_RSA)) == "ok"
    for n in range(20):
        assert await code(server.url, token(kid=f"made up {n}")) == "unauthenticated"
    assert issuer.fetches == 2


async def test_a_withdrawn_key_verifies_no_token_after_the_keys_are_renewed(
    server: RunningNode, issuer: Issuer, clock: Clock
) -> None:
    valid = token()
    assert await code(server.url, valid) == "ok"
    issuer.keys = PUBLISHED[1:]
    clock.now += RENEW_S
    issuer.asked.clear()
    issuer.answering.clear()
    assert await code(server.url, valid) == "ok", "a renewal does not delay the token that begins it"
    await asyncio.wait_for(issuer.asked.wait(), 10)
    issuer.answering.set()
    assert await code(server.url, token(kid="made up")) == "unauthenticated", "waits for the renewal"
    assert await code(server.url, valid) == "unauthenticated"
    assert issuer.fetches == 2


async def test_while_the_issuer_hangs_one_fetch_serves_all_and_other_requests_are_answered(
    server: RunningNode, issuer: Issuer
) -> None:
    own = await server.register("diego")
    issuer.answering.clear()
    waiting = [asyncio.create_task(code(server.url, token(f"user{n}"))) for n in range(10)]
    await asyncio.wait_for(issuer.asked.wait(), 10)
    for _ in range(5):
        assert await asyncio.wait_for(code(server.url, own), 4) == "ok"
    assert not any(task.done() for task in waiting)
    issuer.answering.set()
    assert await asyncio.gather(*waiting) == ["ok"] * 10
    assert issuer.fetches == 1


async def test_a_caller_who_gives_up_does_not_end_the_fetch_of_the_others(
    server: RunningNode, issuer: Issuer
) -> None:
    issuer.answering.clear()
    first, second = (asyncio.create_task(server.node.auth.authenticate(token(name))) for name in ("omar", "diego"))
    await asyncio.wait_for(issuer.asked.wait(), 10)
    first.cancel()
    issuer.answering.set()
    assert (await second).username == "diego"


async def test_a_fetch_ends_in_time_and_is_tried_again(issuer: Issuer, sqlite_url: str, tmp_path: Path) -> None:
    clock = Clock()
    issuer.answering.clear()
    async with running_node(
        sqlite_url,
        tmp_path,
        options={"external": {"clock": clock, "fetch_s": 0.1}},
        jwt_jwks_url=issuer.url,
        jwt_issuer=ISSUER,
    ) as server:
        answer = await ask(server.url, token())
        assert (answer["code"], answer["status"], answer["retryable"]) == ("unavailable", 503, True)
        issuer.answering.set()
        assert await code(server.url, token()) == "unavailable", "not tried again immediately"
        clock.now += RETRY_S
        server.node.auth._external._jwks._fetch_s = 5  # type: ignore[union-attr]
        assert await code(server.url, token()) == "ok"


BROKEN: dict[str, bytes] = {
    "garbage": b"\xff<html>",
    "nothing": b"",
    "a list": b"[]",
    "no keys": b'{"keys": []}',
    "keys of another type": b'{"keys": {"a": 1}}',
    "entries of other types": b'{"keys": [1, null, "x", [], {}, {"kty": 5}, {"kty": "RSA", "n": 1}]}',
    "nested deeply": b"[" * 100_000,
    "100 MB": b'{"keys": [' + b" " * 100_000_000,
    "a secret": json.dumps(
        {"keys": [{"kty": "oct", "kid": "rsa", "k": urlsafe_b64encode(b"k" * 32).decode()}]}
    ).encode(),
    "a private key": json.dumps(
        {"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "rsa"}]}
    ).encode(),
    "a weak key": json.dumps({"keys": [jwk("rsa", WEAK_RSA, "RS256")]}).encode(),
    "a key for encryption": json.dumps({"keys": [jwk("rsa", RSA, "RS256", use="enc")]}).encode(),
    "an RSA key for HS256": json.dumps({"keys": [jwk("rsa", RSA, "RS256", alg="HS256")]}).encode(),
    "an RSA key for ES256": json.dumps({"keys": [jwk("rsa", RSA, "RS256", alg="ES256")]}).encode(),
    "an RSA key called EC": json.dumps({"keys": [jwk("rsa", RSA, "RS256", kty="EC")]}).encode(),
    "P-384 for ES256": json.dumps({"keys": [jwk("rsa", EC_384, "ES384", alg="ES256")]}).encode(),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_while_the_jwks_is_unusable_known_keys_stay_valid(
    server: RunningNode, issuer: Issuer, clock: Clock, kind: str
) -> None:
    assert await code(server.url, token()) == "ok"
    clock.now += COOLDOWN_S
    issuer.body = BROKEN[kind]
    for forged in (token(kid="new", key=OTHER_RSA), token("diego", "new", EC_384, "ES384")):
        assert await code(server.url, forged) == "unavailable"
    assert await code(server.url, token("diego")) == "ok", "with a known key"
    assert await code(server.url, hmac_with(b"k" * 32, token())) == "unauthenticated"
    assert issuer.sent < 20_000_000, "not read to its end"


@pytest.mark.parametrize("status", ["500 Oops", "404 Not Found", "302 Found"])
async def test_an_error_or_a_redirect_is_no_jwks(server: RunningNode, issuer: Issuer, status: str) -> None:
    issuer.status, issuer.location = status, issuer.url
    assert await code(server.url, token()) == "unavailable"
    assert issuer.fetches == 1


async def test_keys_beyond_the_limit_are_ignored(server: RunningNode, issuer: Issuer, clock: Clock) -> None:
    issuer.keys = [jwk(f"{n}", RSA, "RS256") for n in range(MAX_KEYS)] + [jwk("beyond", RSA, "RS256")]
    assert await code(server.url, token(kid=f"{MAX_KEYS - 1}")) == "ok"
    assert await code(server.url, token(kid="beyond")) == "unauthenticated"


async def test_a_token_without_kid_is_verified_with_the_only_key(server: RunningNode, issuer: Issuer) -> None:
    issuer.keys = [jwk(None, RSA, "RS256")]
    assert await code(server.url, token(kid=None)) == "ok"
    assert await code(server.url, token(kid=None, key=OTHER_RSA)) == "unauthenticated"


async def test_the_issuer_is_not_asked_about_tokens_that_cannot_be_valid(server: RunningNode, issuer: Issuer) -> None:
    for kind in ("another issuer", "expired", "no expiry", "alg none", "HS256 with the public key", "too long"):
        refused, expected = REFUSED[kind]
        assert await code(server.url, refused) == expected
    assert issuer.fetches == 0
