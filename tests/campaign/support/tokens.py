"""Valid and invalid JSON Web Tokens, made by hand (RFC 7519, RFC 7515)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

DAY_S = 86_400


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(decode(token.split(".")[1]))
    return found


def signature(signed: str, key: str, algorithm: str = "sha256") -> str:
    return encode(hmac.new(key.encode(), signed.encode("utf-8", "surrogatepass"), algorithm).digest())


def make(
    claims: Mapping[str, Any] | str,
    key: str,
    header: Mapping[str, Any] | str | None = None,
    algorithm: str = "sha256",
) -> str:
    """A token with these claims and this header, each as an object or as JSON text; signed with HMAC."""
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    signed = ".".join(encode(part.encode("utf-8", "surrogatepass")) for part in parts)
    return f"{signed}.{signature(signed, key, algorithm)}"


def forged(good: str, key: str, other_sid: str, other_name: str) -> Iterator[tuple[str, str]]:
    """Tokens that must be refused, by name. `good` is a valid one, signed with `key`.

    `other_sid` is a session of the user `other_name`. Some need the key: its holder may sign anything, and still gets
    a clear refusal for an invalid token.
    """
    now = int(time.time())
    claims = claims_of(good)
    signed, _, mac = good.rpartition(".")
    head, body = signed.split(".")

    def but(**changes: Any) -> dict[str, Any]:
        return {name: value for name, value in {**claims, **changes}.items() if value is not ...}

    def text(**raw: str) -> str:
        """The claims as JSON text, with raw values that Python would not write."""
        kept = {name: json.dumps(value) for name, value in claims.items()}
        return "{" + ",".join(f'"{name}":{value}' for name, value in {**kept, **raw}.items()) + "}"

    for name in ("none", "None", "nOnE"):
        yield f"alg {name}, no signature", f"{encode(json.dumps({'alg': name}).encode())}.{body}."
    yield "alg none, good signature", make(claims, key, {"alg": "none"})
    yield "alg missing", make(claims, key, {"typ": "JWT"})
    yield "alg null", make(claims, key, {"alg": None})
    yield "alg a list", make(claims, key, {"alg": ["HS256"]})
    yield "alg HS384", make(claims, key, {"alg": "HS384"}, "sha384")
    yield "alg HS512", make(claims, key, {"alg": "HS512"}, "sha512")
    for name in ("RS256", "ES256", "PS256", "EdDSA"):
        yield f"alg {name}", make(claims, key, {"alg": name})
    for name, value in {
        "kid of a path": {"kid": "../../../dev/null"},
        "kid of SQL": {"kid": "x' UNION SELECT 'a"},
        "kid a number": {"kid": 7},
        "jku": {"jku": "http://127.0.0.1:1/keys"},
        "jwk": {"jwk": {"kty": "oct", "k": encode(b"a" * 32)}},
        "x5u": {"x5u": "http://127.0.0.1:1/cert"},
    }.items():
        yield f"header {name}, key of an attacker", make(claims, "a" * 32, {"alg": "HS256", **value})
    yield "header crit unknown", make(claims, key, {"alg": "HS256", "crit": ["exotic"], "exotic": True})
    yield "header b64 false", make(claims, key, {"alg": "HS256", "b64": False, "crit": ["b64"]})
    yield "header a list", make(claims, key, "[]")
    yield "header not JSON", make(claims, key, "{alg:HS256}")
    yield "header deeply nested", make(claims, key, '{"alg":"HS256","x":' + "[" * 5000 + "]" * 5000 + "}")
    for name, wrong in (
        ("another key", "another key of 32 bytes and even more"),
        ("an empty key", ""),
        ("the key's hash", hashlib.sha256(key.encode()).hexdigest()),
        ("a cut key", key[:-1]),
    ):
        yield f"signed with {name}", make(claims, wrong)
    yield "no signature", f"{signed}."
    yield "signature cut", good[:-4]
    yield "signature changed", good[:-6] + ("A" if good[-6] != "A" else "B") + good[-5:]
    yield "signature of another token", f"{make(but(sub=other_name), 'x' * 32).rpartition('.')[0]}.{mac}"
    yield "two segments", signed
    yield "one segment", body
    yield "four segments", f"{good}.{mac}"
    yield "five segments", f"{head}.{body}.{mac}.{mac}.{mac}"
    yield "sub changed, signature kept", f"{head}.{encode(json.dumps(but(sub=other_name)).encode())}.{mac}"
    yield "only dots", ".."
    yield "NUL inside", good[:20] + "\0" + good[20:]
    yield "line end inside", good[:20] + "\t" + good[20:]
    yield "space inside", good[:20] + " " + good[20:]
    yield "full-width dots", good.replace(".", "．")
    yield "Cyrillic letter inside", good.replace("e", "е", 1)
    yield "padding inside", f"{head}==.{body}==.{mac}="
    yield "percent signs", good.replace(".", "%2e")
    yield "iss wrong", make(but(iss="someone"), key)
    yield "iss a list", make(but(iss=["tidings"]), key)
    yield "iss null", make(but(iss=None), key)
    yield "iss missing", make(but(iss=...), key)
    yield "aud wrong", make(but(aud="someone"), key)
    yield "aud missing", make(but(aud=...), key)
    yield "aud null", make(but(aud=None), key)
    yield "aud a list of numbers", make(but(aud=[1, 2]), key)
    yield "aud an object", make(but(aud={"tidings": True}), key)
    yield "aud empty list", make(but(aud=[]), key)
    yield "exp missing", make(but(exp=...), key)
    yield "exp null", make(but(exp=None), key)
    yield "exp text", make(but(exp="tomorrow"), key)
    yield "exp text of a number, past", make(but(exp=str(now - 60)), key)
    yield "exp a list", make(but(exp=[now + DAY_S]), key)
    yield "exp an object", make(but(exp={}), key)
    yield "exp NaN", make(text(exp="NaN"), key)
    yield "exp infinite", make(text(exp="Infinity"), key)
    yield "exp 1e400", make(text(exp="1e400"), key)
    yield "exp -1e400", make(text(exp="-1e400"), key)
    yield "exp 10^15", make(but(exp=10**15), key)
    yield "exp 10^30", make(but(exp=10**30), key)
    yield "exp of 5,000 digits", make(text(exp="9" * 5000), key)
    yield "exp negative", make(but(exp=-1), key)
    yield "exp zero", make(but(exp=0), key)
    yield "exp true", make(but(exp=True), key)
    yield "exp a minute ago", make(but(exp=now - 60), key)
    yield "exp a second ago", make(but(exp=now - 1), key)
    yield "until 10^15", make(but(until=10**15), key)
    yield "until 1e400", make(text(until="1e400"), key)
    yield "until text", make(but(until="tomorrow"), key)
    yield "until a list", make(but(until=[1]), key)
    yield "nbf in an hour", make(but(nbf=now + 3600), key)
    yield "nbf text", make(but(nbf="later"), key)
    yield "iat missing", make(but(iat=...), key)
    yield "sub missing", make(but(sub=...), key)
    yield "sub null", make(but(sub=None), key)
    yield "sub a number", make(but(sub=1), key)
    yield "sub a list", make(but(sub=[claims["sub"]]), key)
    yield "sub of another user", make(but(sub=other_name), key)
    yield "sub unknown", make(but(sub="nobody-at-all"), key)
    yield "sub with NUL", make(but(sub=claims["sub"] + "\0"), key)
    yield "sub empty", make(but(sub=""), key)
    yield "sid missing", make(but(sid=...), key)
    yield "sid null", make(but(sid=None), key)
    yield "sid a number", make(but(sid=1), key)
    yield "sid a list", make(but(sid=[claims["sid"]]), key)
    yield "sid of another user", make(but(sid=other_sid), key)
    yield "sid unknown", make(but(sid="unknown"), key)
    yield "sid with NUL", make(but(sid=claims["sid"] + "\0"), key)
    yield "sid a lone surrogate", make(text(sid='"\\ud800"'), key)
    yield "sid of 20,000 characters", make(but(sid="x" * 20_000), key)
    yield "claims a list", make("[]", key)
    yield "claims null", make("null", key)
    yield "claims text", make('"tidings"', key)
    yield "claims not JSON", make("{sub:1}", key)
    yield (
        "claims not UTF-8",
        f"{head}.{encode(b'{' + bytes([255]) + b'}')}."
        + signature(f"{head}.{encode(b'{' + bytes([255]) + b'}')}", key),
    )
    yield "claims deeply nested", make(text(x="[" * 5000 + "]" * 5000), key)
    yield "a token of 100 KB", good + "A" * 100_000
    yield "a token of 900 KB", good + "A" * 900_000
    yield "another word", "x"
    yield "null", "null"
    yield "the key itself", key
