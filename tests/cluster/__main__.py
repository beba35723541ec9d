"""Start servers behind a load balancer, with a PostgreSQL and a Redis of their own, until Ctrl-C: `make cluster`.

For trying several nodes out. Everything that is stored is removed at the end. Each request goes to the next server.
The servers know each other's URL, as on several machines. `TIDINGS_…` in the environment are settings of all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.balancer import balanced
from tests.support.process import ServerProcess
from tests.support.redis import redis_program, running_redis
from tidings.testing import postgresql
from tidings.testing.memory import folder_in_memory
from tidings_db.schema import migrate


def missing() -> str:
    """What this machine lacks for a cluster; empty if it lacks nothing."""
    try:
        postgresql.LocalServer().remove()
    except postgresql.NoServer:
        return "no PostgreSQL on this machine: install it (Debian: `apt install postgresql`)"
    if redis_program() is None:
        return "no Redis on this machine: install it (Debian: `apt install redis-server`)"
    return ""


async def _serve(count: int, port: int) -> None:
    """Start everything, print where it is, and serve until cancelled; then stop everything."""
    program = redis_program()
    assert program is not None
    async with AsyncExitStack() as stack:
        database_url = stack.enter_context(postgresql.cluster())
        await asyncio.to_thread(migrate, database_url)
        redis = await stack.enter_async_context(running_redis(program))
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidings-cluster-", dir=folder_in_memory()))
        shared = {
            "TIDINGS_RATE_LIMITS": "on",
            "TIDINGS_PUBLIC_CHANNEL": "start",
            **{name: value for name, value in os.environ.items() if name.startswith("TIDINGS_")},
            "TIDINGS_DATABASE_URL": database_url,
            "TIDINGS_REDIS_URL": redis.url,
            "TIDINGS_SECRET_KEY": secrets.token_urlsafe(48),
        }
        # Not in the working directory, whose `.env` belongs to another server.
        nodes = [
            ServerProcess(
                Path(home, f"node-{n}"), directory=Path(home), **{**shared, "TIDINGS_NODE_NAME": f"node-{n}"}
            )
            for n in range(1, count + 1)
        ]
        stack.push_async_callback(_stop, nodes)
        for node in nodes:
            node.publish_url()
        await asyncio.gather(*(node.start() for node in nodes))
        balancer = await stack.enter_async_context(balanced([node.url for node in nodes], port))
        print(f"Tidings     {balancer.url}")
        for n, node in enumerate(nodes, 1):
            print(f"node-{n}      {node.url}, process {node.pid}")
        print(f"PostgreSQL  {database_url}")
        print(f"Redis       {redis.url}")
        print("Ctrl-C stops them, and removes what they have stored", flush=True)
        await asyncio.Event().wait()


async def _stop(nodes: Sequence[ServerProcess]) -> None:
    """Stop all nodes together."""
    outcomes = await asyncio.gather(*(node.terminate() for node in nodes), return_exceptions=True)
    for node, outcome in zip(nodes, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            await node.kill()


async def _run(count: int, port: int) -> None:
    """Serve until a signal comes. A second one does not interrupt the stop."""
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    serving = asyncio.create_task(_serve(count, port))
    waiting = asyncio.create_task(signalled.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    if signalled.is_set():
        serving.cancel()
        await asyncio.wait((serving,))
    waiting.cancel()
    if not serving.cancelled():
        serving.result()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="of the load balancer; 0: any free one (8000)")
    parser.add_argument("--nodes", type=int, default=2, help="number of servers (2)")
    options = parser.parse_args(arguments)
    if reason := "needs Linux, which keeps the ports of the servers" if sys.platform != "linux" else missing():
        print(f"make cluster: {reason}", file=sys.stderr)
        return 1
    try:
        asyncio.run(_run(options.nodes, options.port))
    except (OSError, postgresql.NoServer, RuntimeError) as error:
        print(f"make cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
