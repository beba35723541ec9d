"""What the server exposes: origins, hosts, links, headers, files, development tokens, deployment."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.campaign.support.clients import ENGINE_PATH
from tests.campaign.support.clock import Clock
from tests.campaign.support.lab import Area, Lab, Server
from tests.campaign.support.report import Seen
from tests.campaign.support.tokens import claims_of
from tests.campaign.support.wire import GONE, Connection, Refused, WebSocket, handshake

area = Area("exposure", together=2)
ROOT = Path(__file__).parents[3]


async def _upgrade(server: Server, path: str, host: str | None, headers: dict[str, str]) -> int:
    async with await Connection.open(server.url) as connection:
        await connection.write(handshake(path, headers, host))
        try:
            return (await connection.answer()).status
        except GONE:
            return 0


async def _doors(server: Server) -> list[str]:
    token = await server.user("omar")
    return [
        "/ws",
        f"/ws?token={token}",
        ENGINE_PATH,
        "/websocket",
        "/",
        f"/{token}",
        f"/echo_ws?token={token}",
        f"/pub_ws?token={token}",
    ]


@area.check("a page of a foreign origin is refused by every gateway")
async def foreign_origins(lab: Lab) -> Seen:
    wrong, tries = [], 0
    for cors in ("", "https://good.example"):
        async with lab.server(TIDINGS_CORS_ORIGINS=cors) as server:
            host = server.url.removeprefix("http://")
            origins = [
                "http://evil.example",
                "null",
                "",
                f"http://{host}.evil.example",
                f"http://evil.example/{host}",
            ]
            origins += [
                f"http://{host}@evil.example",
                "http://127.0.0.1:1",
                "file://",
                "http://good.example",
                "https://good.example.evil",
            ]
            origins += [
                "https://good.example:444",
                "https://xgood.example",
                "chrome-extension://abc",
                f"http://x{host}",
            ]
            for path, origin in itertools.product(await _doors(server), origins):
                tries += 1
                status = await _upgrade(server, path, host, {"Origin": origin})
                if status != 403:
                    wrong.append(f"{origin or 'empty'} at {path[:12]}: {status}")
            for extra in ("X-Forwarded-Host", "Forwarded", "X-Original-Host"):
                tries += 1
                headers = {
                    "Origin": "http://evil.example",
                    extra: "host=evil.example" if extra == "Forwarded" else "evil.example",
                }
                if (status := await _upgrade(server, "/ws", host, headers)) != 403:
                    wrong.append(f"{extra}: {status}")
            for path in await _doors(server):
                tries += 1
                if (status := await _upgrade(server, path, host, {"Origin": f"http://{host}"})) != 101:
                    wrong.append(f"own origin at {path[:12]}: {status}")
    return Seen(tries, "403; 101 for its own", "; ".join(wrong[:8]) or "all", not wrong)


@area.check("a foreign name for a loopback address (DNS rebinding) is refused by every gateway")
async def rebinding(lab: Lab) -> Seen:
    server = await lab.shared()
    port = server.url.rpartition(":")[2]
    wrong = []
    doors = await _doors(server)
    for path in doors:
        status = await _upgrade(server, path, f"evil.example:{port}", {"Origin": f"http://evil.example:{port}"})
        if status == 101:
            wrong.append(f"{path[:12]}: {status}")
    answer = await server.post(
        "/api/register",
        {"username": "rebound", "password": "correct horse"},
        headers={"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
    )
    if answer.status == 201:
        wrong.append("register: 201")
    return Seen(len(doors) + 1, "refused", "; ".join(wrong) or "all", not wrong)


@area.check("answers to foreign pages carry no permission to read them")
async def cors(lab: Lab) -> Seen:
    wrong, tries = [], 0
    for setting in ("", "https://good.example", "*"):
        async with lab.server(TIDINGS_CORS_ORIGINS=setting) as server:
            token = await server.user("omar")
            for origin in ("https://evil.example", "null", "https://good.example"):
                for path in (
                    "/api/me",
                    "/socket.io/?EIO=4&transport=polling",
                    "/openapi.json",
                    "/history",
                    "/user/omar",
                ):
                    tries += 1
                    answer = await server.get(path, token, headers={"Origin": origin})
                    allowed = answer.headers.get("access-control-allow-origin", "")
                    may = setting == "*" or (setting and origin == setting)
                    if allowed and not may:
                        wrong.append(f"{setting or 'unset'}, {origin}, {path}: {allowed}")
                    if answer.headers.get("access-control-allow-credentials"):
                        wrong.append(f"{setting or 'unset'}, {path}: credentials")
    return Seen(tries, "only for allowed origins", "; ".join(wrong) or "all", not wrong)


@area.check("links in answers do not take their host from a stranger's `Host`")
async def host_in_links(lab: Lab) -> Seen:
    server = await lab.shared()
    token, wrong = await server.user("omar"), []
    tries = ("/pub_ws", "/echo_ws", "/docs/", "/api/me/", "/conversation?limit=1", "/openapi.json", "/asyncapi.json")
    for path in tries:
        answer = await server.get(path, token, headers={"Host": "evil.example"})
        if b"evil.example" in answer.body or "evil.example" in str(answer.headers):
            wrong.append(f"{path}: {answer.status}")
    return Seen(len(tries), "none", "; ".join(wrong) or "none", not wrong)


@area.check("answers with secrets are not stored, and no answer is sniffed or framed")
async def headers(lab: Lab) -> Seen:
    server = await lab.shared()
    token, wrong = await server.user("omar"), []
    who = {"username": "omar", "password": "correct horse"}
    secret = {
        "POST /api/login": await server.post("/api/login", who),
        "POST /api/refresh": await server.post("/api/refresh", None, token, body=b""),
        "GET /api/me/export": await server.get("/api/me/export", token),
        "GET /api/sessions": await server.get("/api/sessions", token),
        "POST /user/login": await server.post("/user/login", {"Username": "omar", "Password": "correct horse"}),
        "POST /login": await server.post("/login", who),
        "GET /pub_ws": await server.get("/pub_ws", token),
    }
    for name, answer in secret.items():
        if answer.status != 200:
            wrong.append(f"{name}: {answer.status}")
        if "no-store" not in answer.headers.get("cache-control", ""):
            wrong.append(f"{name}: Cache-Control")
        if answer.headers.get("x-content-type-options") != "nosniff":
            wrong.append(f"{name}: nosniff")
    page = await server.get("/docs")
    policy = page.headers.get("content-security-policy", "")
    if "frame-ancestors" not in policy and "x-frame-options" not in page.headers:
        wrong.append("/docs can be framed")
    if re.search(r"script-src[^;]*'unsafe-inline'", policy) or not policy:
        wrong.append("/docs runs inline scripts")
    return Seen(len(secret) + 1, "no-store, nosniff, no frames", "; ".join(wrong) or "all", not wrong)


@area.check("only their owner can read the files of the data directory")
async def file_modes(lab: Lab) -> Seen:
    lab.only("sqlite")
    folder = Path(lab.folder) / "open" / "data"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    before = os.umask(0o022)
    try:
        async with lab.server(data_dir=folder, TIDINGS_SECRET_KEY="") as server:
            omar = await server.live("omar")
            await omar.ask("create", topic_name="noticias")
            omar.abort()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    finally:
        os.umask(before)
    wrong = [f"{name} {mode:04o}" for name, mode in modes.items() if mode & 0o077 and not name.endswith(".lock")]
    return Seen(len(modes), "0600", ", ".join(wrong) or "all", not wrong)


@area.check("development tokens are not served through a proxy on the same machine")
async def dev_tokens_proxy(lab: Lab) -> Seen:
    wrong, tries = [], 0
    async with lab.server(TIDINGS_DEV_TOKENS="true") as server:
        if (await server.get("/token?username=root", headers={"Host": "localhost"})).status != 200:
            wrong.append("not at home either")
        for name, value in {
            "X-Forwarded-For": "203.0.113.9",
            "Forwarded": "for=203.0.113.9",
            "X-Real-IP": "203.0.113.9",
            "Via": "1.1 proxy",
            "X-Forwarded-Host": "evil.example",
        }.items():
            tries += 1
            answer = await server.get("/token?username=root", headers={"Host": "localhost", name: value})
            if answer.status == 200:
                wrong.append(name)
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example"):
            tries += 1
            if (await server.get("/token?username=root", headers={"Host": host})).status == 200:
                wrong.append(f"Host {host}")
    async with lab.server() as server:
        tries += 1
        if (await server.get("/token?username=root", headers={"Host": "localhost"})).status == 200:
            wrong.append("without the setting")
    return Seen(tries, "refused", f"handed out: {', '.join(wrong)}" if wrong else "all", not wrong)


@area.check("development tokens are not served to pages of other origins")
async def dev_tokens_cors(lab: Lab) -> Seen:
    wrong = []
    async with lab.server(TIDINGS_DEV_TOKENS="true") as server:
        tries: dict[str, dict[str, str]] = {
            "Origin": {"Origin": "https://evil.example"},
            "Sec-Fetch-Site": {"Sec-Fetch-Site": "cross-site"},
        }
        for name, extra in tries.items():
            answer = await server.get("/token?username=root", headers={"Host": "localhost", **extra})
            if answer.status == 200:
                wrong.append(name)
    for origins in ("*", "https://good.example"):
        try:
            async with lab.server(TIDINGS_DEV_TOKENS="true", TIDINGS_CORS_ORIGINS=origins) as server:
                origin = "https://good.example"
                answer = await server.get("/token?username=root", headers={"Host": "localhost", "Origin": origin})
                if answer.status == 200 and "access-control-allow-origin" in answer.headers:
                    wrong.append(f"readable with TIDINGS_CORS_ORIGINS={origins}")
        except RuntimeError:
            pass  # it does not start with both settings: as good
    return Seen(4, "refused, or does not start", "; ".join(wrong) or "all", not wrong)


@area.check("a session that is refreshed repeatedly still ends")
async def session_end(lab: Lab) -> Seen:
    """The server's clock is set forward by libfaketime."""
    clock = Clock(lab.folder)
    async with lab.server(TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES=str(20 * 1440), **clock.environment) as server:
        token = await server.user("omar")
        days, most = 0.0, 800
        while days < most:
            days += 18
            clock.set(days * 86_400)
            answer = await server.post("/api/refresh", None, token, body=b"")
            if answer.status != 200:
                break
            token = answer.json()["token"]
        ends = claims_of(token)["exp"] - claims_of(token)["iat"]
    seen = f"refused after {days:.0f} days" if days < most else f"still good after {days:.0f} days"
    return Seen(1, "within 400 days", f"{seen}; each token for {ends / 3600:.0f} h", days < 400)


@area.check("metrics can be closed to strangers, and contain no usernames")
async def metrics(lab: Lab) -> Seen:
    server = await lab.shared()
    omar = await server.live("omar")
    await omar.call("exotic-action-of-omar", {})
    text = (await server.get("/metrics")).body
    omar.abort()
    wrong = ["it names a user"] if b"omar" in text else []
    readme = (ROOT / "README.md").read_text()
    setting = re.search(r"`(TIDINGS_METRICS\w*)`", readme)
    if setting is None:
        wrong.append("no setting closes it")
    else:
        async with lab.server(**{setting[1]: "a long and secret word of 32 bytes"}) as closed:
            status = 0
            with suppress(*GONE):
                status = (await closed.get("/metrics")).status
            if status == 200:
                wrong.append(f"open in spite of {setting[1]}")
    return Seen(2, "closed by a setting, no names", "; ".join(wrong) or "all", not wrong)


@area.check("the deployment files contain no default password, and their images can be pinned")
async def deployment(lab: Lab) -> Seen:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    wrong = []
    for name, service in compose["services"].items():
        for key, value in (service.get("environment") or {}).items():
            if "PASSWORD" in key and value is not None and not re.match(r"\$\{\w+:?\?", str(value)):
                wrong.append(f"{name}: {key} is given")
        image = service.get("image")
        if image is not None and "@sha256:" not in image and not re.match(r"\$\{\w+:-", image):
            wrong.append(f"{name}: {image} by tag")
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM ") and "@sha256:" not in line and not re.match(r"FROM (\w+|\$\{\w+\})( |$)", line):
            wrong.append(line)
    expected = "passwords required, images by digest or by a variable"
    return Seen(len(compose["services"]), expected, "; ".join(wrong) or "all", not wrong)


@area.check("the refusal of a WebSocket reveals only the code")
async def refusals(lab: Lab) -> Seen:
    server = await lab.shared()
    wrong = []
    for path in ("/nothing", "/ws/more", "/socket.io", "/api/me", quote("/../ws")):
        try:
            (await WebSocket.connect(server.url, path, deadline=15)).abort()
            wrong.append(f"{path}: let in")
        except Refused as refused:
            body = b"" if refused.answer is None else refused.answer.body
            if b"Traceback" in body or b"tidings/" in body:
                wrong.append(f"{path}: {body[:60]!r}")
            with suppress(ValueError):
                json.loads(body or b"{}")
        except TimeoutError:
            wrong.append(f"{path}: no answer")
    return Seen(5, "4xx", "; ".join(wrong) or "all", not wrong)
