"""Random valid and invalid requests made from `/openapi.json`: none may cause a server error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tests.campaign.support.lab import PASSWORD, Area, Lab, Server
from tests.campaign.support.report import Seen
from tests.campaign.support.wire import GONE, Answer, Http

area = Area("requests")
CLIENTS = 6
_DEAR = re.compile(r"/(login|register|password|deactivate|logout|sessions/|user$|disable)")
"""Operations that hash a password, or end the session of the next requests: chosen less often."""
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *("", " ", "0", "null", "true", "[]", "\0", "\n", "\u202e", "\ud800", "é" * 70, "x" * 70, "x" * 20_000, "％００"),
    *("' OR 1=1 --", '" OR ""="', "a*", '"', "NEAR(", "{}", "${7*7}", "../../etc/passwd", "%00", "%s%n", "\u2028"),
    *("2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "👍", "ﷺ" * 30, "İ", "ß", "\u0301" * 40, "-", "∞"),
    *([], [None], [[]], {}, {"a": {}}, [1] * 300, ["x"] * 300, {"__proto__": 1}),
]


class Forge:
    """Makes requests from the document's operations, with valid or random values."""

    def __init__(self, document: Mapping[str, Any], chance: random.Random, known: Mapping[str, list[str]]) -> None:
        self._document = document
        self._random = chance
        self._known = known
        """Existing values, by the name of the parameter or member."""
        self.operations = [
            (method.upper(), path, operation, [*item.get("parameters", []), *operation.get("parameters", [])])
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in ("get", "post", "put", "patch", "delete")
        ]
        self._weights = [0.1 if _DEAR.search(path) else 1.0 for _, path, _, _ in self.operations]

    def _schema(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def value(self, schema: Mapping[str, Any], name: str = "", wild: float = 0.12, depth: int = 0) -> Any:
        """A value for a schema; with probability `wild` an odd one."""
        chance = self._random
        schema = self._schema(schema)
        if chance.random() < wild or depth > 6:
            return chance.choice(ODD)
        if name in self._known and chance.random() < 0.8:
            return chance.choice(self._known[name])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.value(chance.choice(schema[key]), name, wild, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return chance.choice(schema["enum"])
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = chance.choice(kind)
        if kind == "object" or "properties" in schema:
            return self._object(schema, wild, depth)
        if kind == "array":
            most = min(schema.get("maxItems", 4), 4)
            return [
                self.value(schema.get("items", {}), name, wild, depth + 1) for _ in range(chance.randint(0, most))
            ]
        if kind == "integer":
            low, high = schema.get("minimum", -3), schema.get("maximum", 1000)
            return chance.choice((low, high, chance.randint(math.ceil(low), math.floor(high)), 1))
        if kind == "number":
            return chance.random() * 100
        if kind == "boolean":
            return chance.random() < 0.5
        if kind == "null":
            return None
        return self._text(schema)

    def _object(self, schema: Mapping[str, Any], wild: float, depth: int) -> dict[Any, Any]:
        chance, required = self._random, set(schema.get("required", ()))
        found: dict[Any, Any] = {}
        for name, of in schema.get("properties", {}).items():
            # References exclude each other: mostly few of what may be left out.
            if chance.random() < (0.96 if name in required else 0.3):
                found[name] = self.value(of, name, wild, depth + 1)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for _ in range(chance.randint(0, 3)):
                found[self._text({})] = self.value(extra, "", wild, depth + 1)
        if chance.random() < 0.04:
            found[self._text({})] = chance.choice(ODD)
        return found

    def _text(self, schema: Mapping[str, Any]) -> str:
        chance = self._random
        low, high = schema.get("minLength", 0), min(schema.get("maxLength", 20), 40)
        alphabet = chance.choice((string.ascii_lowercase, string.printable, "éßİ👍\u0301\u202eaA1 "))
        return "".join(chance.choice(alphabet) for _ in range(chance.randint(low, max(low, high))))

    def request(self) -> tuple[str, str, bytes | None, list[tuple[str, str]]]:
        """Method, path, body, headers."""
        chance = self._random
        method, path, operation, parameters = chance.choices(self.operations, self._weights)[0]
        query, headers = [], []
        for parameter in map(self._schema, parameters):
            name, place = parameter["name"], parameter["in"]
            if place != "path" and not parameter.get("required") and chance.random() < 0.5:
                continue
            value = self.value(parameter.get("schema", {}), name)
            text = value if isinstance(value, str) else json.dumps(value)
            if place == "path":
                path = path.replace("{" + name + "}", quote(text[:500].encode("utf-8", "surrogatepass"), safe=""))
            elif place == "query":
                query.append(f"{quote(name)}={quote(text[:3000].encode('utf-8', 'surrogatepass'), safe='')}")
            elif place == "header":
                headers.append((name, "".join(c for c in text[:300] if c not in "\r\n\0")))
        if query:
            path += "?" + "&".join(query)
        body = None
        if "requestBody" in operation:
            content = self._schema(operation["requestBody"]).get("content", {})
            kind = chance.choice(list(content) or ["application/json"])
            value = self.value(content.get(kind, {}).get("schema", {}))
            if "form" in kind and isinstance(value, dict):
                pairs = (
                    f"{quote(str(k)[:200], errors='replace')}={quote(str(v)[:3000], errors='replace')}"
                    for k, v in value.items()
                )
                body = "&".join(pairs).encode()
            else:
                body = json.dumps(value, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")
            if chance.random() < 0.03:
                at = chance.randrange(len(body) + 1)
                body = body[:at] + chance.randbytes(3) + body[at:]
            if chance.random() < 0.03:
                kind = chance.choice(("text/plain", "application/xml", "", "application/json; charset=utf-16"))
            headers.append(("Content-Type", kind))
        if chance.random() < 0.02:
            method = chance.choice(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
        return method, path, body, headers


async def _known(server: Server) -> dict[str, list[str]]:
    """Create rooms and messages for the requests."""
    names = ["omar", "diego", "memoor"]
    await server.users(*names)
    omar = await server.live("omar")
    rooms = [(await omar.ask("create", topic_name=f"topic {n}", is_private=n > 1))["room_id"] for n in range(4)]
    rooms.append((await omar.ask("create_conversation", usernames=["diego", "memoor"], title="three"))["room_id"])
    messages = []
    for room in rooms:
        messages += [(await omar.ask("message", room_id=room, content=f"@diego {n}"))["id"] for n in range(3)]
    link = (await omar.ask("create_invitation_link", room_id=rooms[2]))["code"]
    omar.abort()
    return {
        "username": names,
        "usernames": names,
        "room_id": rooms,
        "topic_name": [f"topic {n}" for n in range(4)],
        "message_id": messages,
        "reply_to": messages,
        "before": messages,
        "code": [link],
        "password": [PASSWORD],
        "new_password": [PASSWORD],
        # In the words of the dialects.
        **dict.fromkeys(("login", "Username", "Recipient", "Recipients"), names),
        "Password": [PASSWORD],
        "ConversationId": rooms,
        "MessageId": messages,
        "Id": [*rooms, *messages],
    }


async def _requests(lab: Lab, count: int) -> Seen:
    async with lab.server(
        TIDINGS_RATES="logins=1000000/minute,registrations=1000000/minute", TIDINGS_LOG_LEVEL="error"
    ) as server:
        known = await _known(server)
        document = (await server.get("/openapi.json")).json()
        forges = [Forge(document, random.Random(f"{lab.seed} {n}"), known) for n in range(CLIENTS)]
        faults: Counter[str] = Counter()
        statuses: Counter[int] = Counter()
        covered: set[tuple[str, str]] = set()
        examples: list[str] = []

        # Before any request may change the password.
        logins = [await server.login("omar") for _ in range(CLIENTS)]

        async def client(number: int) -> None:
            forge, tokens = forges[number], 0
            async with Http(server.url, logins[number], f"127.3.3.{number + 1}") as http:
                for done in range(count // CLIENTS):
                    method, path, body, headers = forge.request()
                    anonymous = forge._random.random() < 0.03
                    token, http.token = http.token, None if anonymous else http.token
                    try:
                        answer: Answer | None = await http.ask(method, path, body=body, headers=headers)
                    except (TimeoutError, ValueError, *GONE) as error:
                        answer = None
                        faults[f"{method} {_route(path)}: {type(error).__name__}"] += 1
                        examples.append(f"{method} {path} {body!r:.300}: {error!r}")
                    http.token = token
                    if answer is None:
                        continue
                    statuses[answer.status] += 1
                    if answer.status < 300:
                        covered.add((method, _route(path)))
                    if answer.status >= 500 and answer.code != "unavailable":
                        faults[f"{method} {_route(path)}: {answer.status}"] += 1
                        examples.append(f"{method} {path} {body!r:.500}: {answer.status} {answer.body[:200]!r}")
                    elif answer.status >= 400 and not answer.body and method != "HEAD":
                        faults[f"{method} {_route(path)}: {answer.status} without a word"] += 1
                    if answer.status == 401 and not anonymous:
                        tokens += 1
                        name = f"guest{number}-{tokens}"
                        http.token = await server.user(name)
                    elif done % 1000 == 999:
                        # Until a request has changed their password, or taken their account away.
                        with contextlib.suppress(AssertionError):
                            http.token = await server.login("diego")

        await asyncio.gather(*(client(n) for n in range(CLIENTS)), return_exceptions=False)
        asked = sum(statuses.values())
        complaints = len(server.complaints())
    told = ", ".join(f"{what} × {number}" for what, number in faults.most_common(6))
    spread = {f"{hundred}xx": sum(n for s, n in statuses.items() if s // 100 == hundred) for hundred in (2, 4, 5)}
    seen = f"{spread}, {complaints} error lines" + (f"; {told}" if told else "")
    figures = {"statuses": dict(statuses), "examples": examples[:50], "succeeded": sorted(map(" ".join, covered))}
    return Seen(asked, "no 5xx, each answered", seen, not faults and not complaints, figures)


def _route(path: str) -> str:
    return "/".join(part if len(part) < 16 else "…" for part in path.partition("?")[0].split("/"))


@area.check("no request made from the OpenAPI document causes a server error")
async def from_document(lab: Lab) -> Seen:
    return await _requests(lab, lab.size(3_000, 50_000))
