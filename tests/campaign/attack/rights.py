"""What members, former members, blocked users and strangers may not do, see, or make others see."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from tests.campaign.support.clients import Plain, Refusal
from tests.campaign.support.lab import Area, Lab, Server
from tests.campaign.support.report import Seen

area = Area("rights")


async def _code(client: Plain, action: str, **fields: Any) -> str:
    """The error code of an action, or "ok"."""
    answer = await client.call(action, fields)
    return "ok" if answer["ok"] else str(answer["error"]["code"])


@area.check("a removed member learns nothing by retrying an old message")
async def repeated_message(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    omar, diego = await server.live("omar"), await server.live("diego")
    for how in ("kick", "ban"):
        room = await server.topic("omar", f"secret {how}", "diego", private=True)
        fields = {"room_id": room, "content": "mine", "client_id": f"first {how}"}
        sent = await diego.ask("message", **fields)
        await omar.ask(how, room_id=room, username="diego")
        await omar.ask("react", message_id=sent["id"], emoji="👀")
        code = await _code(diego, "message", **fields)
        rest = await server.post("/api/messages", fields, server.tokens["diego"])
        if code not in ("not_found", "forbidden"):
            wrong.append(f"{how}, live: {code}")
        if rest.status not in (403, 404):
            wrong.append(f"{how}, REST: {rest.status} {b'reactions' in rest.body and 'with the reactions'}")
    omar.abort()
    diego.abort()
    return Seen(4, "not_found", "; ".join(wrong) or "all", not wrong)


@area.check("no action gives a removed member anything of the room")
async def removed_member(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    room = await server.topic("omar", "secret again", "diego", private=True)
    omar, diego = await server.live("omar"), await server.live("diego")
    own = (await diego.ask("message", room_id=room, content="mine"))["id"]
    theirs = (await omar.ask("message", room_id=room, content="theirs"))["id"]
    await omar.ask("kick", room_id=room, username="diego")
    await diego.event("room_removed")
    diego.events.clear()
    tries: list[tuple[str, dict[str, Any]]] = [
        ("history", {"room_id": room}),
        ("get_members", {"room_id": room}),
        ("get_receipts", {"room_id": room}),
        ("get_bans", {"room_id": room}),
        ("message", {"room_id": room, "content": "x"}),
        ("message", {"topic_name": "secret again", "content": "x"}),
        ("edit", {"message_id": own, "content": "x"}),
        ("delete", {"message_id": own}),
        ("react", {"message_id": theirs, "emoji": "👍"}),
        ("react", {"message_id": own, "emoji": "👍"}),
        ("typing", {"room_id": room}),
        ("read", {"room_id": room, "seq": 1}),
        ("search", {"query": "theirs", "room_id": room}),
        ("invite", {"room_id": room, "username": "diego"}),
        ("create_invitation_link", {"room_id": room}),
        ("subscribe", {"topic_name": "secret again"}),
        ("connect_to_room", {"topic_name": "secret again"}),
        ("kick", {"room_id": room, "username": "omar"}),
        ("clear_pending", {"room_id": room}),
    ]
    for action, fields in tries:
        if (code := await _code(diego, action, **fields)) not in ("not_found", "forbidden"):
            wrong.append(f"{action}: {code}")
    await omar.ask("message", room_id=room, content="afterwards")
    await omar.ask("edit", message_id=theirs, content="changed")
    await diego.ask("get_profile", username="omar")
    if leaked := [name for name, payload in diego.events if room in str(payload)]:
        wrong.append(f"events {leaked}")
    omar.abort()
    diego.abort()
    return Seen(len(tries) + 2, "not_found, and no events", "; ".join(wrong) or "all", not wrong)


@area.check("an invitation link ends with the membership of its maker, and moderators can list links")
async def links(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    omar, diego, memoor = [await server.live(name) for name in ("omar", "diego", "memoor")]
    for how in ("kick", "ban"):
        room = await server.topic("omar", f"links {how}", "diego", private=True)
        made = await diego.ask("create_invitation_link", room_id=room, expires_in=None)
        await omar.ask(how, room_id=room, username="diego")
        for name, client in (("its maker", diego), ("another", memoor)):
            if (code := await _code(client, "join_by_link", code=made["code"])) == "ok":
                wrong.append(f"after a {how}, {name} came in by the link")
            elif code not in ("not_found", "forbidden"):
                wrong.append(f"{name}: {code}")
    paths = (await server.get("/openapi.json")).json()["paths"]
    if "get" not in paths.get("/api/invitation-links", {}):
        wrong.append("no way to list links")
    for client in (omar, diego, memoor):
        client.abort()
    return Seen(5, "not_found; a list", "; ".join(wrong) or "all", not wrong)


@area.check("a blocked user gets no receipts and no presence of the blocking user")
async def blocked(lab: Lab) -> Seen:
    server = await lab.shared()
    omar, diego = await server.live("omar"), await server.live("diego")
    sent = [await diego.ask("message", username="omar", content=str(n)) for n in range(2)]
    await omar.ask("block", username="diego")
    await diego.ask("get_profile", username="diego")
    diego.events.clear()
    room = sent[0]["room_id"]
    await omar.ask("read", room_id=room, seq=sent[1]["seq"])
    await omar.ask("delivered", cursors={room: sent[1]["seq"]})
    omar.abort()
    again = await server.live("omar")
    await asyncio.sleep(1.5)
    await diego.ask("get_profile", username="diego")
    wrong = [f"{name} of omar" for name, payload in diego.events if payload.get("username") == "omar"]
    receipts = await diego.call("get_receipts", {"room_id": room})
    told = [one for one in receipts.get("data", {}).get("receipts", []) if one.get("username") == "omar"]
    if told and told[0].get("read_seq", 0) >= sent[1]["seq"]:
        wrong.append("get_receipts tells")
    again.abort()
    diego.abort()
    return Seen(4, "nothing", "; ".join(wrong) or "nothing", not wrong)


@area.check("a stranger can add a user to a bounded number of rooms")
async def unwanted_rooms(lab: Lab) -> Seen:
    server = await lab.shared()
    await server.user("memoor")
    diego = await server.live("diego", source="127.6.6.6")
    tries, added = 100, 0
    for n in range(tries):
        made = await diego.call("create", {"topic_name": f"unwanted {n}", "is_private": True})
        if made["ok"]:
            fields = {"room_id": made["data"]["room_id"], "username": "memoor"}
            added += (await diego.call("invite", fields))["ok"]
    diego.abort()
    return Seen(tries, "≤ 50 added", f"{added} of {tries} added", added <= 50)


@area.check("the time of a search reveals nothing about foreign private messages")
async def search_time(lab: Lab) -> Seen:
    server = await lab.shared(TIDINGS_RATE_LIMITS="off")
    rooms, messages, asked = 80, lab.size(2_000, 8_000), lab.size(15, 60)
    omar = await server.live("omar")
    secret = await omar.ask("create", topic_name="private", is_private=True)
    for at in range(0, messages, 100):
        fields = {"room_id": secret["room_id"], "content": "confidential word"}
        await asyncio.gather(*(omar.send("message", fields) for _ in range(at, at + 100)))
    diego = await server.live("diego")
    for n in range(rooms):
        room = await diego.ask("create", topic_name=f"own {n}", is_private=True)
        await diego.ask("message", room_id=room["room_id"], content="a word of my own")
    spent: dict[str, list[float]] = {"confidential": [], "unheardof": []}
    for query in ("confidential", "unheardof"):
        await diego.ask("search", query=query)
    for _ in range(asked):
        for query, times in spent.items():
            before = server.processor_seconds()
            found = await diego.ask("search", query=query)
            times.append(server.processor_seconds() - before)
            assert not found["messages"], "found what is another's"
    omar.abort()
    diego.abort()
    written, unwritten = (statistics.median(times) * 1000 for times in spent.values())
    kept = written <= 1.5 * unwritten + 0.3
    seen = f"{written:.1f} ms for a word of others, {unwritten:.1f} ms for one nobody wrote"
    return Seen(2 * asked, "the same, ± half", seen, kept)


@area.check("trying names of private topics is slowed down")
async def name_oracle(lab: Lab) -> Seen:
    server = await lab.shared()
    await server.topic("omar", "hidden 250", private=True)
    client = await server.live("guesser", source="127.6.6.6")
    tries, answered = 400, 0
    for _n in range(tries):
        # Names that are taken; a name that is free makes a topic, which is counted elsewhere.
        code = await _code(client, "create", topic_name="hidden 250")
        if code == "rate_limited":
            break
        answered += 1
    client.abort()
    return Seen(tries, "rate_limited before 400 conflicts", f"{answered} answered", answered < tries)


LOOK_ALIKE = ["\ufe00", "\ufe01", "\ufe0d", "\u180b", "\u17b4", "\u115f", "\u1160", "\u3164", "\uffa0", "\U000e0100"]


@area.check("names that look alike are the same name, or refused")
async def look_alikes(lab: Lab) -> Seen:
    server = await lab.shared()
    omar = await server.live("omar")
    await omar.ask("create", topic_name="general")
    wrong = []
    tries = [f"general{mark}" for mark in LOOK_ALIKE]
    tries += [f"gen{mark}eral" for mark in LOOK_ALIKE]
    tries += [
        "\u3164",
        "\u2800",
        "\u200b",
        "\u2060",
        "\ufeff",
        "gen\u00aderal",
        "general\u200d",
        " general ",
        "ｇｅｎｅｒａｌ",
    ]
    for name in tries:
        code = await _code(omar, "create", topic_name=name)
        if code not in ("invalid", "conflict"):
            wrong.append(f"{name!a}: {code}")
    # Cyrillic а, Greek ο: who sees only the name cannot tell.
    await server.user("admin")
    for name in ("\u0430dmin", "adm\u0456n"):
        fields = {"username": name, "password": "correct horse"}
        if (answer := await server.post("/api/register", fields, source="127.5.1.1")).status == 201:
            wrong.append(f"user {name!a}: {answer.status}")
    omar.abort()
    return Seen(len(tries) + 2, "invalid or conflict", "; ".join(wrong) or "all", not wrong)


@area.check("titles and reactions contain no control or invisible characters")
async def invisible(lab: Lab) -> Seen:
    server = await lab.shared()
    await server.users("omar", "diego", "memoor")
    omar = await server.live("omar")
    wrong = []
    tries = 0
    for title in ("\u202eecart", "a\n\nb", "\x1b[31mred", "\u200b", "\u2066x", "\x00", "\u2800", "  "):
        tries += 1
        code = await _code(omar, "create_conversation", usernames=["diego", "memoor"], title=title)
        if code != "invalid":
            wrong.append(f"title {title!a}: {code}")
    message = await omar.ask("message", username="diego", content="x")
    for emoji in ("\u200b", "\u202e", "\x1b", "\u2800", "\u3164", "\ufe0f", "\u200d"):
        tries += 1
        code = await _code(omar, "react", message_id=message["id"], emoji=emoji)
        if code != "invalid":
            wrong.append(f"emoji {emoji!a}: {code}")
    omar.abort()
    return Seen(tries, "invalid", "; ".join(wrong) or "all", not wrong)


@area.check("an action that is possible once succeeds once among concurrent attempts")
async def races(lab: Lab) -> Seen:
    server = await lab.shared()
    names = [f"racer{n}" for n in range(6)]
    await server.users(*names)
    racers = [await server.live(name) for name in names]
    omar = await server.live("omar")
    wrong = []
    rounds = lab.size(5, 40)
    for n in range(rounds):
        made = await asyncio.gather(*(racer.call("create", {"topic_name": f"race {n}"}) for racer in racers))
        if sum(answer["ok"] for answer in made) != 1:
            wrong.append(f"one name: {sum(a['ok'] for a in made)} made it")
        room = (await omar.ask("create", topic_name=f"prize {n}", is_private=True))["room_id"]
        link = await omar.ask("create_invitation_link", room_id=room, uses=1)
        came = await asyncio.gather(*(racer.call("join_by_link", {"code": link["code"]}) for racer in racers))
        if sum(answer["ok"] for answer in came) != 1:
            wrong.append(f"one use: {sum(a['ok'] for a in came)} came in")
    for client in (omar, *racers):
        client.abort()
    return Seen(12 * rounds, "one each", "; ".join(wrong) or "all", not wrong)


@area.check("a member kicked while messages are in flight gets no later message")
async def kicked_while_sending(lab: Lab) -> Seen:
    server = await lab.shared()
    omar, wrong, rounds = await server.live("omar"), 0, lab.size(5, 40)
    await server.user("diego")
    for n in range(rounds):
        room = await server.topic("omar", f"kick {n}", "diego", private=True)
        diego = await server.live("diego")
        sending = [diego.send("message", {"room_id": room, "content": str(m)}) for m in range(30)]
        kick = omar.send("kick", {"room_id": room, "username": "diego"})
        behind = [omar.send("message", {"room_id": room, "content": "behind"}) for _ in range(5)]
        answers = await asyncio.gather(*sending)
        await asyncio.gather(kick, *behind)
        await diego.ask("get_profile", username="diego")
        removed = [at for at, (name, p) in enumerate(diego.events) if name == "room_removed" and p["room_id"] == room]
        later = diego.events[removed[0] + 1 :] if removed else [("no room_removed", {})]
        wrong += sum(name == "no room_removed" or p.get("room_id") == room for name, p in later)
        entries = (await omar.ask("history", room_id=room, limit=200))["messages"]
        wrong += sum(m["sender"] == "diego" for m in entries) != sum(answer["ok"] for answer in answers)
        diego.abort()
    omar.abort()
    return Seen(rounds, "nothing after room_removed", f"{wrong} wrong", not wrong)


async def _count(server: Server) -> int:
    return len((await server.get("/api/rooms", await server.user("omar"))).json()["rooms"])


@area.check("SQL, full-text and template syntax is treated as text")
async def injection(lab: Lab) -> Seen:
    server = await lab.shared()
    omar = await server.live("omar")
    forms = [
        "' OR '1'='1",
        "'; DROP TABLE user; --",
        '" OR ""="',
        "1); DELETE FROM entry; --",
        "a' UNION SELECT 1 --",
    ]
    forms += [
        "NEAR(a b)",
        "a AND NOT b",
        '"unclosed',
        "content:*",
        "a^2",
        "(((",
        "a -b",
        "{x} : y",
        "*",
        "a*b*c",
        "\\",
        "%",
        "_",
    ]
    forms += [
        "a & b",
        "a | !b",
        "a <-> b",
        "a:*",
        "$$zz$$",
        "${7*7}",
        "{{7*7}}",
        "<%= 7*7 %>",
        "#{7*7}",
        "%s%s%n",
        "\x1a",
    ]
    before, wrong = await _count(server), []
    for text in forms:
        for action, fields in (
            ("search", {"query": text}),
            ("get_profile", {"username": text}),
            ("history", {"topic_name": text}),
            ("history", {"room_id": text}),
            ("message", {"username": text, "content": text}),
            ("edit", {"message_id": text, "content": text}),
            ("search", {"query": "zz", "before": text}),
            ("get_rooms", {"after": text}),
            ("join_by_link", {"code": text}),
            ("get_members", {"room_id": text, "after": text}),
        ):
            try:
                found = await omar.ask(action, **fields)
                if action == "search" and found["messages"]:
                    wrong.append(f"{action} {text!r} found something")
            except Refusal as refusal:
                if refusal.code in ("internal", "unavailable"):
                    wrong.append(f"{action} {text!r}: {refusal.code}")
    if await _count(server) < before:
        wrong.append("rooms are gone")
    omar.abort()
    return Seen(10 * len(forms), "no fault, nothing found", "; ".join(wrong[:5]) or "all", not wrong)


@area.check("the log contains no token, password or message, and each line is one JSON object")
async def quiet_log(lab: Lab) -> Seen:
    async with lab.server(TIDINGS_LOG_LEVEL="info") as server:
        token = await server.user("omar")
        odd = '\x1b[31mred\r\n{"level":"error"}'
        omar = await server.live("omar")
        await omar.call("message", {"username": "omar", "content": "confidential " + odd})
        await omar.call("message", {"topic_name": odd, "content": "confidential"})
        await omar.call(odd, {"content": "confidential"})
        for headers in (
            {"User-Agent": "confidential \x1b[31m"},
            {"X-Request-Id": "x" * 5_000},
            {"X-Request-Id": "\x1b[31m"},
        ):
            await server.get("/api/me?token=confidential", token, headers=headers)
        await server.get(f"/ws?token={token}")
        await server.post("/api/login", {"username": "omar", "password": "confidential"})
        omar.abort()
        await server.terminate()
        text = server.log.read_bytes()
        wrong = [
            name
            for name, part in {"token": token.encode(), "content": b"confidential", "ESC": b"\x1b"}.items()
            if part in text
        ]
        lines = text.decode(errors="replace").splitlines()
        wrong += ["a line that is no object" for line in lines if not (line.startswith("{") and line.endswith("}"))][
            :1
        ]
    return Seen(len(lines), "nothing of it", "; ".join(wrong) or "nothing", not wrong and bool(lines))
