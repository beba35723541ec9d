"""Sessions that one node, or the command line, withdraws while others have their connections."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

from tests.campaign.nodes.cluster import Cluster, Ear, cluster, figures
from tests.campaign.support.lab import PASSWORD, SECRET_KEY, Area, Lab
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import Ended

area = Area("sessions")
NODES = 3
CLOSED_S = 1.0
Withdraw = Callable[[Cluster, str, str], Awaitable[None]]
"""Of a user with that name and token."""


async def _judge(lab: Lab, ways: Mapping[str, Withdraw], count: int) -> Seen:
    waits: list[float] = []
    problems: list[str] = []
    written = 0
    async with cluster(lab, NODES) as nodes:
        await _command(nodes, "add", "admin", PASSWORD)
        await _command(nodes, "admin", "admin")
        nodes.nodes[0].tokens["admin"] = await nodes.nodes[0].login("admin")
        room = await nodes.nodes[0].topic("owner", "tides", "reader")
        reader = await nodes.connect(0, "reader")
        for n in range(count):
            for way, withdraw in ways.items():
                name = f"{way}{n}"
                token = await nodes.token(name)
                await nodes.subscribe(0, name, "tides")
                ears = [await nodes.connect(at, name, device=f"d{at}") for at in range(1, NODES)]
                await withdraw(nodes, name, token)
                acked = time.monotonic()
                written += sum(await asyncio.gather(*(_writes(ear, room, name) for ear in ears)))
                for ear in ears:
                    event = await ear.event("closing", within=20)
                    if event is None or event.payload["reason"] != "token_revoked":
                        problems.append(f"{way}: {event and event.payload}")
                    else:
                        waits.append(max(0.0, event.time - acked))
                    ear.client.abort()
        reader.client.abort()
    seen = f"{written} written after it; closed in p50/p99/max {figures(waits)}; {problems[:3] or ''}"
    kept = not written and not problems and max(waits) <= CLOSED_S
    return Seen(count * len(ways), "nothing written after it; closed with token_revoked within 1 s", seen, kept)


async def _writes(ear: Ear, room: str, name: str) -> bool:
    """Whether a connection whose session was withdrawn could write."""
    try:
        answer = await ear.client.call("message", {"room_id": room, "content": f"by {name}, too late"})
    except Ended:
        return False
    return bool(answer["ok"])


async def _command(nodes: Cluster, *arguments: str) -> None:
    """Run `tidings user`; the last argument is the password, if the command reads one."""
    password = arguments[2] if len(arguments) > 2 else ""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidings", "user", *arguments[:2]),
        env={**os.environ, "TIDINGS_DATABASE_URL": nodes.url, "TIDINGS_SECRET_KEY": SECRET_KEY},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await process.communicate(f"{password}\n".encode())
    assert process.returncode == 0, arguments


async def _logout(nodes: Cluster, name: str, token: str) -> None:
    answer = await nodes.nodes[0].post("/api/logout", {}, token)
    assert answer.status == 204, (name, answer)


async def _password(nodes: Cluster, name: str, token: str) -> None:
    other = await nodes.nodes[0].login(name)  # changing the password keeps the session that does it
    fields = {"password": PASSWORD, "new_password": "staple battery"}
    answer = await nodes.nodes[0].post("/api/me/password", fields, other)
    assert answer.status < 300, (token, answer)


async def _deactivate(nodes: Cluster, name: str, token: str) -> None:
    answer = await nodes.nodes[0].post("/api/me/deactivate", {"password": PASSWORD}, token)
    assert answer.status < 300, (name, answer)


async def _disable(nodes: Cluster, name: str, token: str) -> None:
    answer = await nodes.nodes[0].post(f"/api/admin/users/{name}/disable", {}, nodes.nodes[0].tokens["admin"])
    assert answer.status < 300, (token, answer)


async def _disable_by_command(nodes: Cluster, name: str, _: str) -> None:
    await _command(nodes, "disable", name)


async def _password_by_command(nodes: Cluster, name: str, _: str) -> None:
    await _command(nodes, "passwd", name, "staple battery")


@area.check("a session that one node withdraws writes nothing more, and is closed on the others")
async def by_a_node(lab: Lab) -> Seen:
    ways = {"logout": _logout, "password": _password, "deactivate": _deactivate, "disable": _disable}
    return await _judge(lab, ways, lab.size(3, 50))


@area.check("a session that a command withdraws writes nothing more, and is closed on all nodes")
async def by_a_command(lab: Lab) -> Seen:
    return await _judge(lab, {"disable": _disable_by_command, "password": _password_by_command}, lab.size(2, 20))
