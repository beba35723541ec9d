"""Hooks of schemathesis: it asks as a user who is signed in, whatever its requests have done to the session."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import httpx
import schemathesis

from tests.support.node import PASSWORD


@schemathesis.auth()
class SignedIn:
    """A token until it is refused, then a fresh one; of another user once this one cannot sign in any more."""

    def __init__(self) -> None:
        self._http = httpx.Client(base_url=os.environ["TIDINGS_FUZZED"], timeout=30)
        self._names = (f"omar{number}" for number in count())
        self._who = {"username": "omar", "password": PASSWORD}

    def get(self, case: Any, context: Any) -> str:
        answer = self._http.post("/api/login", json=self._who)
        while not answer.is_success:
            self._who["username"] = next(self._names)
            answer = self._http.post("/api/register", json=self._who)
        token: str = answer.json()["token"]
        return token

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"
