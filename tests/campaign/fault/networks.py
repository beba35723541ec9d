"""Slow, cut, frozen and half-open networks, also within frames, on every transport."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.campaign.support.lab import Area, Lab, pace
from tests.campaign.support.load import KINDS, Load, load
from tests.campaign.support.report import Seen
from tests.support.network import Conditions, Network, network

area = Area("networks")
WHOLE = "0 lost, 0 twice, no gap, no repeat"
CUT_KINDS = tuple(kind for kind in KINDS if kind not in ("python polling", "python upgrade"))
"""Without python-socketio over polling: it waits forever if the body of an answer was cut."""
Weather = Callable[[Lab, Network, Load], Awaitable[str]]


async def _through(
    lab: Lab,
    weather: Weather,
    *,
    up: Conditions = Conditions(),  # noqa: B008  # frozen
    down: Conditions = Conditions(),  # noqa: B008
    kinds: tuple[str, ...] = KINDS,
    tries: int = 1,
) -> Seen:
    async with (
        lab.server(TIDINGS_RATE_LIMITS="off") as server,
        network(server.url, up, down, seed=lab.seed) as bad,
        load(server, lab.seed, url=bad.url, kinds=kinds, writers=4) as traffic,
    ):
        told = await weather(lab, bad, traffic)
        bad.thaw()
        bad.heal()
        await traffic.acknowledged(10, 90)
        violations = await traffic.finish()
        return Seen(tries, WHOLE, f"{told}; {traffic.told(violations)}", not violations and not traffic.final)


async def _for_a_while(lab: Lab, bad: Network, traffic: Load) -> str:
    await traffic.acknowledged(lab.size(15, 150), 300)
    return f"{bad.opened} connections"


@area.check("a network that splits everything into single bytes")
async def single_bytes(lab: Lab) -> Seen:
    single = Conditions(split=1)
    kinds = ("ws", "python polling", "js websocket") if lab.quick else KINDS
    return await _through(lab, _for_a_while, up=single, down=single, kinds=kinds)


@area.check("a network that splits unevenly, and merges the pieces")
async def ragged(lab: Lab) -> Seen:
    return await _through(
        lab, _for_a_while, up=Conditions(split=7, ragged=True), down=Conditions(split=900, ragged=True, merge=0.01)
    )


@area.check("a network with 150 ms of delay each way")
async def delayed(lab: Lab) -> Seen:
    far = Conditions(delay=0.15, jitter=0.05)
    return await _through(lab, _for_a_while, up=far, down=far)


@area.check("a network of 20 kB/s for each connection")
async def throttled(lab: Lab) -> Seen:
    slow = Conditions(rate=20_000)
    return await _through(lab, _for_a_while, up=slow, down=slow)


@area.check("connections that are reset within a frame")
async def cut_in_frames(lab: Lab) -> Seen:
    cuts = lab.size(15, 80)

    async def weather(lab: Lab, bad: Network, traffic: Load) -> str:
        for _ in range(cuts):
            before = len(traffic.acks)
            for link in list(bad.links):
                if lab.random.random() < 0.5:
                    direction = lab.random.choice(("up", "down"))
                    link.cut_after(direction, lab.random.randint(1, 900), reset=lab.random.random() < 0.7)
            await pace(0.3)
            await traffic.acknowledged(1 if len(traffic.acks) > before else 3, 60)
        return f"{cuts} times half of them cut, {bad.opened} connections"

    return await _through(lab, weather, kinds=CUT_KINDS, tries=cuts)


@area.check("connections that are cut at each byte of the handshake and the upgrade")
async def cut_in_openings(lab: Lab) -> Seen:
    """New connections end after so many bytes down: in the handshake, CONNECT, replay or upgrade."""
    step = lab.size(97, 13)
    sizes = list(range(1, 2_000, step))

    async def weather(lab: Lab, bad: Network, traffic: Load) -> str:
        for size in sizes:
            for _ in range(6):
                bad.cut_next("down", size, reset=bool(size % 2))
            bad.cut()
            await traffic.acknowledged(2, 90)
        return f"{len(sizes)} places, {bad.opened} connections"

    return await _through(lab, weather, kinds=CUT_KINDS, tries=len(sizes))


@area.check("a network that freezes and then delivers the bytes in transit")
async def frozen(lab: Lab) -> Seen:
    lengths = (3.0, 6.0) if lab.quick else (3.0, 10.0, 30.0, 60.0)

    async def weather(lab: Lab, bad: Network, traffic: Load) -> str:
        for length in lengths:
            bad.freeze()
            await pace(length)
            bad.thaw()
            await traffic.acknowledged(10, 90)
        return f"frozen for {', '.join(f'{length:.0f}' for length in lengths)} s"

    return await _through(lab, weather, tries=len(lengths))


@area.check("connections that are half-open, without a notice to either end")
async def half_open(lab: Lab) -> Seen:
    rounds = lab.size(1, 4)
    directions: list[tuple[str, ...]] = [("up", "down"), ("up",), ("down",), ("up", "down")]

    async def weather(lab: Lab, bad: Network, traffic: Load) -> str:
        for n in range(rounds):
            bad.swallow(*directions[n])  # type: ignore[arg-type]
            await pace(5)
            bad.heal()
            await traffic.acknowledged(10, 120)
        return f"{rounds} × 5 s"

    return await _through(lab, weather, kinds=CUT_KINDS, tries=rounds)


@area.check("a network that refuses for a while")
async def refused(lab: Lab) -> Seen:
    async def weather(lab: Lab, bad: Network, traffic: Load) -> str:
        for _ in range(lab.size(2, 6)):
            bad.refuse()
            bad.cut()
            await pace(lab.size(2, 8))
            bad.heal()
            await traffic.acknowledged(10, 90)
        return f"{bad.opened} connections"

    return await _through(lab, weather, kinds=CUT_KINDS)
