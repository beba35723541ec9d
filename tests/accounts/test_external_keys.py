"""The keys of another issuer: what is accepted as one, and how they are fetched."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from tests.accounts.external_issuer import (
    EC_384,
    ISSUER,
    OTHER_RSA,
    PUBLISHED,
    REFUSED,
    RSA,
    WEAK_RSA,
    Clock,
    Issuer,
    ask,
    code,
    hmac_with,
    jwk,
    pem,
    token,
)
from tests.support.node import RunningNode, running_node, settings_for
from tidings.app import create_app
from tidings.auth.external_keys import COOLDOWN_S, MAX_KEYS, RENEW_S, RETRY_S
from tidings.settings import SettingsError


@pytest.fixture
async def server(trusting: RunningNode) -> RunningNode:
    return trusting


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
