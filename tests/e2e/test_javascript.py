"""The official socket.io-client under Node.js against a real server."""

from __future__ import annotations

import time

import jwt
import pytest

from tests.e2e.conftest import SECRET
from tests.e2e.javascript import run
from tests.support.process import ServerProcess

pytestmark = pytest.mark.long


async def test_the_story_of_the_four_users_in_javascript(process: ServerProcess, tokens: dict[str, str]) -> None:
    claims = jwt.decode(tokens["satoshi"], options={"verify_signature": False})
    expired = jwt.encode({**claims, "exp": int(time.time()) - 1}, SECRET, algorithm="HS256")
    await run("story.mjs", {"url": process.url, "tokens": tokens, "expired": expired}, {})


async def test_a_stock_client_loses_and_repeats_nothing_across_a_restart_and_a_crash(
    process: ServerProcess, tokens: dict[str, str]
) -> None:
    async def terminate() -> None:
        assert await process.terminate() == 0

    commands = {"terminate": terminate, "kill": process.kill, "start": process.start}
    await run("restart.mjs", {"url": process.url, "tokens": tokens}, commands)


async def test_no_transport_or_upgrade_loses_repeats_or_reorders_messages(
    process: ServerProcess, tokens: dict[str, str]
) -> None:
    await run("transports.mjs", {"url": process.url, "tokens": tokens}, {})
