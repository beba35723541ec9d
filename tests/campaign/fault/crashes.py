"""Crashes, pauses and restarts of the process under load."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.campaign.support.lab import Area, Lab
from tests.campaign.support.load import load
from tests.campaign.support.report import NotTried, Seen
from tests.clients.runner import BUILT, LIBRARIES
from tests.crash.checker import check
from tests.crash.libraries import libraries, violations
from tests.crash.load import record

area = Area("crashes")
WHOLE = "0 lost, 0 twice, no gap, no repeat"


@area.check("acknowledged messages survive `kill -9` under load, in order, once for every reader")
async def kills(lab: Lab) -> Seen:
    cycles = lab.options.cycles or lab.size(4, 60)
    async with AsyncExitStack() as stack:
        environment = {}
        if lab.postgres is not None:
            environment["TIDINGS_DATABASE_URL"] = await lab.database_url(stack)
        crashes = await record(Path(tempfile.mkdtemp(dir=lab.folder)), lab.seed, cycles, **environment)
    violations = check(crashes.history)
    busy = min(crashes.in_flight[:-1], default=0) > 0
    wrong = "; ".join(f"{law}: {what}" for law, what in violations[:3])
    seen = (
        f"{crashes.counts['acknowledged']} acked, {sum(crashes.in_flight)} in flight at the kills; {wrong or 'whole'}"
    )
    return Seen(crashes.kills, WHOLE, seen, not violations and busy, {"seen": dict(crashes.counts)})


@area.check("the client libraries send and receive once, in order, when they and the server are killed")
async def kills_of_libraries(lab: Lab) -> Seen:
    if not BUILT.exists():
        raise NotTried("the JavaScript library is not built")
    cycles, folder = lab.options.cycles or lab.size(4, 30), Path(tempfile.mkdtemp(dir=lab.folder))
    async with libraries({name: command() for name, command in LIBRARIES.items()}, folder / "stores") as beside:
        crashes = await record(folder, lab.seed, cycles, pause_s=0.2, beside=beside)
    wrong = [*violations(beside.seen), *map(str, check(crashes.history))]
    seen = f"{beside.seen}; {'; '.join(wrong[:3]) or 'whole'}"
    return Seen(crashes.kills, WHOLE, seen, not wrong and bool(beside.seen.promised))


@area.check("stock clients on every transport get the complete log after kills and restarts")
async def kills_with_stock_clients(lab: Lab) -> Seen:
    cycles = lab.options.cycles or lab.size(3, 20)
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server, load(server, lab.seed) as traffic:
        for n in range(cycles):
            await traffic.acknowledged(lab.random.randint(10, 60))
            if n % 3 == 2:
                assert await server.terminate() == 0
            else:
                await server.kill()
            await server.start()
        await traffic.acknowledged(50)
        violations = await traffic.finish()
        return Seen(cycles, WHOLE, traffic.told(violations), not violations and not traffic.final)


@area.check("a process that is frozen for a while loses nothing and continues immediately")
async def frozen(lab: Lab) -> Seen:
    lengths = (5.0,) if lab.quick else (5.0, 30.0, 60.0)
    told, kept = [], True
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server, load(server, lab.seed) as traffic:
        for length in lengths:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(length)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            first = await traffic.acknowledged(30)
            told.append(f"first ack {first:.2f} s after {length:.0f} s")
            kept = kept and first < 10
        violations = await traffic.finish()
        seen = f"{', '.join(told)}; {traffic.told(violations)}"
        return Seen(
            len(lengths), f"{WHOLE}; first ack within 10 s", seen, kept and not violations and not traffic.final
        )


@area.check("restarts by SIGTERM under load end with status 0 and lose nothing")
async def restarts(lab: Lab) -> Seen:
    count, stops, boots = lab.size(3, 20), [], []
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server, load(server, lab.seed) as traffic:
        statuses = []
        for _ in range(count):
            await traffic.acknowledged(20)
            began = time.monotonic()
            statuses.append(await server.terminate())
            stops.append(time.monotonic() - began)
            await server.start()
            boots.append(time.monotonic() - began - stops[-1])
        violations = await traffic.finish()
        kept = not violations and not traffic.final and not any(statuses) and max(stops) < 15
        seen = f"statuses {sorted(set(statuses))}, stop ≤ {max(stops):.1f} s, boot ≤ {max(boots):.1f} s"
        seen += f"; {traffic.told(violations)}"
        return Seen(count, f"status 0 within 15 s; {WHOLE}", seen, kept)


@area.check("failed syncs and power cuts lose no acknowledged message")
async def power_cuts(lab: Lab) -> Seen:
    """Runs the campaign `powercut`, if it exists."""
    lab.only("sqlite")
    if importlib.util.find_spec("tests.campaign.powercut") is None:
        raise NotTried("there is no campaign `powercut`")
    size = ["--messages", "60", "--cuts", "40", "--only", "one sync in 7"] if lab.quick else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.campaign", "powercut", *size),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    if process.returncode != 1 or b"Traceback" in told:
        assert process.returncode == 0, told.decode(errors="replace")[-200:]  # the campaign itself failed: no verdict
    last = told.decode(errors="replace").strip().splitlines()[-1:]
    return Seen(1, "status 0", f"status {process.returncode}: {' '.join(last)[:200]}", process.returncode == 0)
