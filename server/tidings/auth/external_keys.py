"""The keys of another issuer: from a setting, or fetched from its JWKS (RFC 7517).

Keys are fetched in a thread, by one fetch at a time, and at most once per `COOLDOWN_S` however many unknown keys
tokens name. While they cannot be fetched, known keys remain valid.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jwt
import orjson

from tidings.contract.errors import ActionError, ErrorCode
from tidings.supervision import spawn

T = TypeVar("T")

MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
MAX_KEYS = 64
"""The keys of a JWKS beyond these are ignored."""
MAX_JWKS_BYTES = 256 * 1024
FETCH_S = 5.0
"""The longest that a fetch takes by default."""
COOLDOWN_S = 30.0
"""The shortest interval between two fetches for keys that are not known."""
RETRY_S = 5.0
"""The same after a fetch that failed."""
RENEW_S = 600.0
"""The age after which the next token renews the keys in the background, so that a key can be withdrawn."""

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ASYMMETRIC = _RSA | {*_CURVES.values(), "EdDSA"}

logger = logging.getLogger("tidings.external")


class Key(NamedTuple):
    kid: str | None
    material: Any
    """A public key of `cryptography`, or a shared secret: the argument of PyJWT."""
    algorithms: frozenset[str]


def key_from(text: str) -> Key:
    """The key of a setting: a PEM public key, or a shared secret. Raises `ValueError`."""
    text = text.replace("\\n", "\n").strip()
    if "-----BEGIN" in text:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            material = load_pem_public_key(text.encode())
        except Exception:  # of several types, depending on what the text is instead
            raise ValueError("this PEM is not a public key; give the one that begins BEGIN PUBLIC KEY") from None
        if not (algorithms := _algorithms(material)):
            raise ValueError(f"give a key of RSA ({MIN_RSA_BITS} bits or more), P-256, P-384, P-521 or Ed25519")
        return Key(None, material, algorithms)
    if len(secret := text.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"a shared secret has at least {MIN_SECRET_BYTES} bytes; a public key is given as PEM")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("this is a public key, and not as PEM: it would be used as a shared secret") from None
    return Key(None, secret, frozenset({"HS256"}))


def _algorithms(material: object) -> frozenset[str]:
    """The algorithms of a public key by its type; none for a weak, private or unsupported key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    match material:
        case RSAPublicKey() if material.key_size >= MIN_RSA_BITS:
            return _RSA
        case EllipticCurvePublicKey() if material.curve.name in _CURVES:
            return frozenset({_CURVES[material.curve.name]})
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()


class Jwks:
    """The public keys of an issuer, fetched when they are needed."""

    def __init__(self, url: str, fetch_s: float, clock: Callable[[], float]) -> None:
        self.keys: tuple[Key, ...] = ()
        self._url = url
        self._fetch_s = fetch_s
        self._clock = clock
        self._fetching: asyncio.Task[None] | None = None
        self._next_fetch = self._renew_at = -math.inf
        self._failed = False

    def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()

    def renew(self) -> None:
        """Begin a fetch if the keys are old."""
        if self._clock() >= self._renew_at:
            self._begin()

    async def fetch(self) -> None:
        """Fetch the keys, unless that was done just now. Concurrent callers share one fetch. Raises `unavailable`."""
        self._begin()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        if self._failed:
            raise ActionError(ErrorCode.UNAVAILABLE, "the keys of the token's issuer cannot be fetched now")

    def _begin(self) -> None:
        if self._fetching is None and self._clock() >= self._next_fetch:
            self._fetching = spawn(self._fetch(), "keys of the external issuer")

    async def _fetch(self) -> None:
        self._failed = True
        self._next_fetch = math.inf
        interval = RETRY_S
        try:
            download = partial(_download, self._url, self._fetch_s)
            self.keys = await asyncio.wait_for(_in_thread(download), self._fetch_s)
            self._failed, interval = False, COOLDOWN_S
            self._renew_at = self._clock() + RENEW_S
        except Exception as problem:
            logger.warning("the keys of the external issuer cannot be fetched from %s: %r", self._url, problem)
        finally:
            self._fetching = None
            self._next_fetch = self._clock() + interval


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run a function in a thread of its own, which a stop of the server does not wait for."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="jwks", daemon=True).start()
    return asyncio.wrap_future(outcome)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _download(url: str, within_s: float) -> tuple[Key, ...]:
    """The keys at an address. Raises an exception of any type."""
    deadline = time.monotonic() + within_s
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    body = bytearray()
    try:
        with urllib.request.build_opener(_NoRedirects()).open(request, timeout=within_s) as response:
            while chunk := response.read1(65_536):
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError(f"more than {MAX_JWKS_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError("too slow")
    except urllib.error.HTTPError as refusal:
        refusal.close()
        raise
    return keys_of(orjson.loads(bytes(body)))


def keys_of(document: object) -> tuple[Key, ...]:
    """The keys of a JWKS that can verify signatures. Raises `ValueError` if there is none."""
    listed = document.get("keys") if isinstance(document, dict) else None
    keys = tuple(filter(None, map(_key_of, listed[:MAX_KEYS]))) if isinstance(listed, list) else ()
    if not keys:
        raise ValueError("no JWKS with a usable public key")
    return keys


def _key_of(entry: object) -> Key | None:
    """None for a key that is secret, weak, malformed, or not for signatures."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    kid, algorithm = entry.get("kid"), entry.get("alg")
    if not (kid is None or isinstance(kid, str)) or not (algorithm is None or isinstance(algorithm, str)):
        return None
    try:
        material = jwt.PyJWK(entry).key
    except Exception:  # of several types, depending on what the entry is instead
        return None
    algorithms = _algorithms(material)
    if algorithm is not None:
        algorithms &= {algorithm}
    return Key(kid, material, algorithms) if algorithms else None
