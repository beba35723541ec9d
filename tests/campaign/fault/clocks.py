"""Clocks that are set, and backups that are restored."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.campaign.support.clients import Plain
from tests.campaign.support.clock import Clock
from tests.campaign.support.lab import Area, Lab, Server
from tests.campaign.support.load import load, log_of
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import Http

area = Area("clocks and backups")
WHOLE = "0 lost, 0 twice, no gap, no repeat"
KINDS = ("ws", "python websocket", "js upgrade")


@asynccontextmanager
async def clocked(lab: Lab) -> AsyncIterator[tuple[Server, Clock]]:
    """A server whose clock the check can set."""
    clock = Clock(lab.folder)
    async with lab.server(TIDINGS_RATE_LIMITS="off", **clock.environment) as server:
        yield server, clock


@area.check("setting the clock an hour forward or back has no effect on clients")
async def set_clock(lab: Lab) -> Seen:
    steps = (3600, -3600, 0, -5, 0)
    async with clocked(lab) as (server, clock), load(server, lab.seed, kinds=KINDS) as traffic:
        wrong = []
        for step in steps:
            clock.set(step)
            await traffic.acknowledged(20)
            # New connections with earlier tokens and with new ones.
            for token in (server.tokens["writer1"], await server.login("writer1")):
                try:
                    (await Plain.open(server.url, token, device="clock")).abort()
                except Exception as error:
                    wrong.append(f"{step:+} s: {error}")
        violations = await traffic.finish()
        seen = f"{'; '.join(wrong) or 'all accepted'}; {traffic.told(violations)}"
        return Seen(len(steps), f"accepted; {WHOLE}", seen, not wrong and not violations and not traffic.final)


@area.check("a clock set beyond the expiry of tokens refuses them until it is set back")
async def beyond_tokens(lab: Lab) -> Seen:
    async with clocked(lab) as (server, clock):
        token = await server.user("omar")
        client = await Plain.open(server.url, token)
        clock.set(25 * 3600)
        code = ""
        try:
            (await Plain.open(server.url, token, device="later")).abort()
        except Exception as error:
            code = getattr(error, "code", repr(error))
        fresh = await server.login("omar")
        later = await Plain.open(server.url, fresh, device="later")
        answer = await later.call("get_profile", {"username": "omar"})
        clock.set(0)
        again = await Plain.open(server.url, token, device="again")
        kept = code == "token_expired" and answer["ok"]
        for connection in (client, later, again):
            connection.abort()
        return Seen(3, "token_expired; a fresh one is good; the old one again later", f"{code}, {answer['ok']}", kept)


def _backup(data_dir: Path, to: Path) -> None:
    with closing(sqlite3.connect(data_dir / "tidings.db")) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


async def _restored(lab: Lab, grow: int) -> Seen:
    """Back up, continue, restore, and let the log grow again by `grow` messages."""
    lab.only("sqlite")
    wrong = []
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server:
        room = await server.topic("omar", "noticias", "diego")
        omar = await server.live("omar")

        async def send(count: int, word: str) -> None:
            nonlocal omar
            answers = await asyncio.gather(
                *(omar.send("message", {"room_id": room, "content": f"{word} {n}"}) for n in range(count))
            )
            assert all(answer["ok"] for answer in answers)

        await send(50, "kept")
        backup = server.data_dir.with_name("backup.db")
        await asyncio.to_thread(_backup, server.data_dir, backup)
        await send(60, "lost")
        diego = await server.live("diego", cursors={})
        held = max(p["seq"] for name, p in diego.events if name == "message")
        # A stock client on a known device, whose cursor the server keeps.
        stock = await server.live("diego", device="stock")
        await stock.ask("delivered", cursors={room: held})
        for client in (omar, diego, stock):
            await client.close()
        assert await server.terminate() == 0
        for path in server.data_dir.glob("tidings.db*"):
            if not path.name.endswith((".lock", "-mark")):
                path.unlink()
        shutil.copy(backup, server.data_dir / "tidings.db")
        await server.start()
        omar = await server.live("omar")
        await send(grow, "new")
        diego = await server.live("diego", cursors={room: held})
        ready = await diego.event("ready")
        if room not in ready["reset"]:
            wrong.append(f"the cursor {held} is taken for good, the log ends at {50 + grow}")
        for client in (omar, diego):
            client.abort()
    return Seen(1, "`reset` names the room", "; ".join(wrong) or "it does", not wrong)


@area.check("a client with cursors beyond a restored log gets a `reset`")
async def restored(lab: Lab) -> Seen:
    return await _restored(lab, 5)


@area.check("a client gets a `reset` even if the restored log has grown to its cursors again")
async def restored_and_grown(lab: Lab) -> Seen:
    return await _restored(lab, 90)


@area.check("a backup made under load is complete")
async def backup_under_load(lab: Lab) -> Seen:
    lab.only("sqlite")
    wrong, count = [], lab.size(3, 12)
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server, load(server, lab.seed, kinds=("ws",)) as traffic:
        for n in range(count):
            await traffic.acknowledged(20)
            before = list(traffic.acks)
            copy = server.data_dir.with_name(f"copy{n}.db")
            await asyncio.to_thread(_backup, server.data_dir, copy)
            with closing(sqlite3.connect(copy)) as database:
                (sound,) = database.execute("PRAGMA integrity_check").fetchone()
                if sound != "ok":
                    wrong.append(str(sound)[:80])
            # A server on the copy has every message that was acknowledged before the copy.
            folder = Path(tempfile.mkdtemp(dir=lab.folder)) / "data"
            folder.mkdir()
            shutil.copy(copy, folder / "tidings.db")
            if n == count - 1:
                async with lab.server(data_dir=folder, TIDINGS_RATE_LIMITS="off") as other:
                    room_of = {ack.message_id: ack for ack in before}
                    async with Http(other.url, server.tokens["writer0"]) as http:
                        found = {entry.message_id for entry in await log_of(http, traffic.rooms)}
                    if missing := room_of.keys() - found:
                        wrong.append(f"{len(missing)} acknowledged before are missing")
        violations = await traffic.finish()
    return Seen(
        count, "sound, nothing missing", "; ".join(wrong) or traffic.told(violations), not wrong and not violations
    )
