"""Messages that are hard to render: a user who opens their room must still see it and write in it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.campaign.support.lab import PASSWORD, Area, Lab
from tests.campaign.support.report import NotTried, Seen

area = Area("page")
ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("page.mjs")
LONGEST = 16_384
SLOWEST_MS = 8_000
"""Maximum time until a room is shown, on a busy machine: less than users wait before they close the page."""


def contents() -> dict[str, str]:
    half = {
        "> × 3,000": ">" * 3_000,
        "> × 16,384": ">" * LONGEST,
        "- × 1,500": "- " * 1_500,
        "- × 8,192": "- " * 8_192,
        "*a_ × 4,096": "*a_ " * 4_096,
        '"*a_ × 4,096': '"*a_ '[:4] * 4_096,
        "_* × 8,192": "_*" * 8_192,
        "[ × 16,384": "[" * LONGEST,
        "![ × 8,192": "![" * 8_192,
        "[a]( × 4,096": "[a](" * 4_096,
        "~ × 16,384": "~a" * 8_192,
        "`a × 8,192": "`a" * 8_192,
        "http://a.b/&a;": "http://a.b/" + "&a;" * 5_000,
        "www. × 4,000": "www." * 4_000,
        "a@ × 5,000": "a@b." * 4_096,
        "1. × 4,000": "1. " * 4_000,
        "nested quotes and lists": "> - " * 1_000,
        "lines of quotes": "\n".join(">" * n for n in range(1, 150)),
        "combining marks": "a" + "\u0301" * 16_000,
        "direction marks": "\u202e\u2066" * 8_000,
        "one long word": "x" * LONGEST,
        "line ends": "\n" * 10_000 + "x",
        "<img onerror>": '<img src=x onerror=alert(1)><svg onload=alert(1)>"><script>alert(1)</script>',
        "javascript: links": "[a](javascript:alert(1)) [b](data:text/html,<script>alert(1)</script>)",
    }
    return {name: text[:LONGEST] for name, text in half.items()}


@area.check("the page survives every message, and shows later messages")
async def hard_messages(lab: Lab) -> Seen:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise NotTried("no Chromium (apt-get install chromium)")
    if (
        not (ROOT / "web/node_modules/playwright-core").is_dir()
        or not (ROOT / "server/tidings/static/index.html").exists()
    ):
        raise NotTried("the page is not built (make web)")
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    async with lab.server(TIDINGS_RATE_LIMITS="off") as server:
        await server.user("omar")
        diego = await server.live("diego")
        rooms = []
        for number, (name, content) in enumerate(contents().items()):
            room = await server.topic("diego", f"hard {number}", "omar")
            await diego.ask("message", room_id=room, content=content)
            await diego.ask("message", room_id=room, content=f"said after {number}")
            rooms.append({"name": name, "room_id": room, "text": f"said after {number}"})
        diego.abort()
        given: dict[str, Any] = {
            "url": server.url,
            "chromium": chromium,
            "username": "omar",
            "password": PASSWORD,
            "rooms": [rooms[n] for n in (0, 2, 6, -2)] if lab.quick else rooms,
            "patience": 20_000,
        }
        process = await asyncio.create_subprocess_exec(
            node,
            str(SCRIPT),
            json.dumps(given),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(900):
                told, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
    wrong = [f"{name}: {one.get('why') or one.get('dialogs')}"[:80] for name, one in found.items() if not one["ok"]]
    wrong += [f"{name}: {one['ms']} ms" for name, one in found.items() if one["ok"] and one["ms"] > SLOWEST_MS]
    slowest = max((one["ms"] for one in found.values() if one["ok"]), default=0)
    seen = "; ".join(wrong) or f"all, {slowest} ms at most"
    return Seen(len(given["rooms"]), f"shown within {SLOWEST_MS} ms", seen, not wrong and bool(found), found)
