"""Another issuer of tokens: its keys, its tokens and forged ones, and the HTTP server that publishes its keys."""

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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.node import NO_TLS, RunningNode, running_node

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
