"""Forged, broken, withdrawn and absurd tokens at every gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.campaign.attack.doors import DOORS, IN, OUT, TOKEN_IN_ADDRESS, knock
from tests.campaign.support.lab import SECRET_KEY, Area, Lab, Server
from tests.campaign.support.report import Seen
from tests.campaign.support.tokens import claims_of, forged

area = Area("tokens")
SIGNED_WITH_THE_KEY = ("exp 10^15", "exp 10^30", "exp text", "exp 1e400", "until", "sid a lone surrogate")
"""Forms that need the key: they must be refused clearly, without a server error."""


async def _prepared(lab: Lab) -> tuple[Server, str, list[tuple[str, str]]]:
    server = await lab.shared()
    good, other = await server.users("omar", "diego")
    return server, good, list(forged(good, SECRET_KEY, claims_of(other)["sid"], "diego"))


def _told(wrong: list[str]) -> str:
    return "all as expected" if not wrong else f"{len(wrong)} not: " + "; ".join(wrong[:6])


@area.check("a valid token is accepted by every gateway (the control of the next checks)")
async def good_tokens(lab: Lab) -> Seen:
    server, good, _ = await _prepared(lab)
    found = {door: await knock(door, server.url, good, "omar") for door in DOORS}
    wrong = [f"{door}: {what}" for door, what in found.items() if what != IN]
    return Seen(len(DOORS), "let in", _told(wrong), not wrong)


@area.check("a forged or broken token is refused as such by every gateway")
async def forged_tokens(lab: Lab) -> Seen:
    server, _, forms = await _prepared(lab)
    return await _all_refused(server, [f for f in forms if not f[0].startswith(SIGNED_WITH_THE_KEY)])


@area.check("claims with absurd values are refused as an invalid token, without a server error")
async def absurd_claims(lab: Lab) -> Seen:
    server, _, forms = await _prepared(lab)
    return await _all_refused(server, [f for f in forms if f[0].startswith(SIGNED_WITH_THE_KEY)])


async def _all_refused(server: Server, forms: list[tuple[str, str]]) -> Seen:
    wrong: list[str] = []
    waiting: list[asyncio.Task[Any]] = []
    gate = asyncio.Semaphore(8)

    async def one(name: str, door: str, token: str) -> None:
        async with gate:
            what = await knock(door, server.url, token, "omar")
        if what != OUT:
            wrong.append(f"{name} at {door}: {what}")

    for name, token in forms:
        for door in DOORS:
            if token in ("", "..") and door in TOKEN_IN_ADDRESS:
                continue  # another address
            waiting.append(asyncio.create_task(one(name, door, token)))
    await asyncio.gather(*waiting)
    kinds = Counter(text.partition(" at ")[0] for text in wrong)
    seen = _told(wrong) if len(kinds) < 7 else f"{_told(wrong)}; forms: {dict(kinds)}"
    return Seen(len(waiting), "refused: 4xx, 4401 or unauthenticated", seen, not wrong, {"wrong": wrong})


@area.check("a token is refused by every gateway once its session has ended")
async def ended_sessions(lab: Lab) -> Seen:
    server, _, _ = await _prepared(lab)
    old: dict[str, str] = {}
    old["logged out"] = await server.login("omar")
    await server.post("/api/logout", None, old["logged out"], body=b"")
    await server.user("memoor")
    old["after a change of password"] = await server.login("memoor")
    changed = await server.post(
        "/api/me/password",
        {"password": "correct horse", "new_password": "battery staple"},
        server.tokens["memoor"],
    )
    await server.user("satoshi")
    old["deactivated"] = server.tokens["satoshi"]
    await server.post("/api/me/deactivate", {"password": "correct horse"}, old["deactivated"])
    wrong = [] if changed.status in (200, 204) else [f"change of password: {changed.status} {changed.body!r:.150}"]
    tries = 0
    for name, token in old.items():
        user = {"logged out": "omar", "deactivated": "satoshi"}.get(name, "memoor")
        for door in DOORS:
            tries += 1
            if (what := await knock(door, server.url, token, user)) != OUT:
                wrong.append(f"{name} at {door}: {what}")
    return Seen(tries, "refused", _told(wrong), not wrong)


@area.check("a link to one channel opens that channel only")
async def tickets(lab: Lab) -> Seen:
    server, good, _ = await _prepared(lab)
    wrong: list[str] = []
    tries = 0
    for channel, own in (("/echo_ws", "/echo_ws?token="), ("/pub_ws", "/pub_ws?token=")):
        link: str = (await server.get(channel, good)).json()["link"]
        for door in DOORS:
            tries += 1
            wanted = IN if door == own else OUT
            if (what := await knock(door, server.url, link.partition("token=")[2], "omar")) != wanted:
                wrong.append(f"link of {channel} at {door}: {what}")
    return Seen(tries, "let in at its channel, refused elsewhere", _told(wrong), not wrong)


@area.check("a live connection keeps its user, whatever token `authenticate` brings")
async def another_users_token(lab: Lab) -> Seen:
    server, _, forms = await _prepared(lab)
    client = await server.live("omar")
    wrong = []
    answer = await client.call("authenticate", {"token": await server.user("diego")})
    if answer.get("error", {}).get("code") != "forbidden":
        wrong.append(f"another user's: {answer}")
    for name, token in lab.random.sample(forms, 20):
        answer = await client.call("authenticate", {"token": token})
        if answer["ok"] or answer["error"]["code"] not in (
            "unauthenticated",
            "token_expired",
            "invalid",
            "too_large",
        ):
            wrong.append(f"{name}: {answer['error']['code'] if not answer['ok'] else 'ok'}")
        if client.ended.done():
            client = await server.live("omar")
    answer = await client.call("get_profile", {"username": "omar"})
    if not answer["ok"]:
        wrong.append(f"afterwards: {answer}")
    client.abort()
    return Seen(22, "refused, the connection stays", _told(wrong), not wrong)
