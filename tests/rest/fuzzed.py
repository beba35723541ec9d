"""Hooks of schemathesis: every request has a valid token, even after requests that ended the session."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import httpx
import schemathesis

from tests.support.node import PASSWORD


@schemathesis.auth()
class SignedIn:
    """A fresh token for each batch of requests, of another user once the current one can no longer sign in."""

    def __init__(self) -> None:
        self._http = httpx.Client(base_url=os.environ["TIDINGS_FUZZED"], timeout=30)
        self._names = (f"omar{number}" for number in count())
        self._account = {"username": "omar", "password": PASSWORD}

    def get(self, case: Any, context: Any) -> str:
        answer = self._http.post("/api/login", json=self._account)
        while not answer.is_success:
            self._account["username"] = next(self._names)
            answer = self._http.post("/api/register", json=self._account)
        token: str = answer.json()["token"]
        return token

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Keep the server's own host: asked for another one, it answers no operation."""
    for headers in (case.headers, kwargs.get("headers")):
        for name in [name for name in headers or () if name.lower() == "host"]:
            del headers[name]
