"""Guesses of a password, from many addresses."""

from __future__ import annotations

import httpx

from tests.support.node import NO_TLS

HOME = "127.4.4.4"
ELSEWHERE = "127.5.5.5"
CROWD = [f"127.6.{n // 200}.{n % 200 + 1}" for n in range(40)]


async def ask(url: str, source: str, action: str, username: str, password: str) -> int:
    """The status of the answer to a client whose local address is `source`."""
    transport = httpx.AsyncHTTPTransport(local_address=source, verify=NO_TLS)
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=60) as http:
        return (await http.post(f"/api/{action}", json={"username": username, "password": password})).status_code


async def guess(url: str, source: str, username: str = "omar") -> int:
    return await ask(url, source, "login", username, "wrong password")
