"""The web client as served: the headers and caching of its files, and unchanged routes."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder
from websockets.asyncio.client import connect

from tests.support.node import NO_TLS, RunningNode, running_node
from tests.support.process import ServerProcess
from tidings.gateways import docs
from tidings.gateways.static_files import TYPES, built
from tidings.monitoring.logs import Logs

ROOT = Path(__file__).parents[2]
FIRST_LOAD = 200 * 1000
"""The limit in bytes, compressed."""
FILES = {
    "index.html": b"<!doctype html><title>Tidings</title>" + b"<p>" * 200,
    "assets/index-Ab12.js": b"console.log('Tidings');" * 200,
    "assets/index-Cd34.css": b"p { color: red }" * 200,
    "sw.js": b"self.skipWaiting();" * 50,
    "shell.json": b"[]",
    "manifest.webmanifest": b'{"name": "Tidings"}',
    "icon.svg": b"<svg></svg>" * 20,
    "icon-192.png": b"\x89PNG" + bytes(range(256)),
    "emoji/en/data.json": json.dumps(["grinning"] * 200).encode(),
}
MEDIA_TYPES = {
    "": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
PATHS = {"/" if name == "index.html" else f"/{name}": body for name, body in FILES.items()}


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A folder like that of a built client."""
    for name, body in FILES.items():
        path = tmp_path / "static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "static/.hidden").write_text("not a file of the client")
    return tmp_path / "static"


@pytest.fixture
async def node(static: Path, quiet_log: None, sqlite_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(sqlite_url, tmp_path, options={"static": static}) as running:
        yield running


@pytest.fixture
async def http(node: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def page() -> dict[str, bytes]:
    """The files of the client that this checkout has built, by name."""
    folder = Path(str(built()))
    if not (folder / "index.html").is_file():
        reason = "the page is not built: make web"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: body for name, body in files.items() if not name.endswith(".br")}


async def test_every_file_is_served_unchanged_with_its_media_type(http: httpx.AsyncClient) -> None:
    for path, body in PATHS.items():
        answer = await http.get(path)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["Content-Type"].partition(";")[0] == MEDIA_TYPES[PurePosixPath(path).suffix]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_content_policy_allows_only_this_server_and_its_files(http: httpx.AsyncClient) -> None:
    for path in PATHS:
        for headers in ({}, {"If-None-Match": (await http.get(path)).headers["ETag"]}):
            answer = await http.get(path, headers=headers)
            policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
            sources = {name: value for name, value in policy.items() if name.endswith("-src")}
            assert sources.pop("default-src") == "'none'"
            assert sources.pop("img-src") == "'self' data: blob:"
            assert sources.keys() == {
                f"{kind}-src" for kind in ("script", "style", "font", "connect", "manifest", "media", "worker")
            }
            assert set(sources.values()) == {"'self'"}
            assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
            assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "tidings")
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "camera=()" in answer.headers["Permissions-Policy"]


async def test_only_files_with_a_hash_in_their_name_are_cached_without_revalidation(http: httpx.AsyncClient) -> None:
    for path in PATHS:
        cache_control = (await http.get(path)).headers["Cache-Control"]
        assert cache_control == ("public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache")


async def test_a_file_that_the_browser_has_cached_is_not_sent_again(http: httpx.AsyncClient) -> None:
    for path in PATHS:
        tag = (await http.get(path)).headers["ETag"]
        assert (await http.get(path, headers={"Accept-Encoding": "identity"})).headers["ETag"] == tag
        for known in (tag, f'"another", {tag}', tag.removeprefix("W/"), "*"):
            answer = await http.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
        assert (await http.get(path, headers={"If-None-Match": '"another"'})).status_code == 200
    assert len({(await http.get(path)).headers["ETag"] for path in PATHS}) == len(PATHS)


async def test_a_file_that_the_build_has_compressed_by_brotli_is_sent_so_to_clients_that_accept_it(
    static: Path, sqlite_url: str, tmp_path: Path
) -> None:
    (static / "sw.js.br").write_bytes(b"compressed")
    async with (
        running_node(sqlite_url, tmp_path, options={"static": static}) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http,
    ):
        for accepted, coding in (("gzip, br", "br"), ("br", "br"), ("gzip, br;q=0", "gzip"), ("identity", None)):
            async with http.stream("GET", "/sw.js", headers={"Accept-Encoding": accepted}) as answer:
                sent = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert answer.headers.get("Content-Encoding") == coding, accepted
            assert (sent == b"compressed") is (coding == "br")
        assert (await http.get("/sw.js.br")).status_code == 404


async def test_a_file_is_compressed_for_clients_that_accept_gzip_if_that_is_smaller(http: httpx.AsyncClient) -> None:
    for path, body in PATHS.items():
        small = path in ("/shell.json", "/manifest.webmanifest", "/icon-192.png")
        for accepted, compressed in (
            ("gzip, br", not small),
            ("br;q=1, GZIP;q=0.5", not small),
            ("identity", False),
            ("br, x-gzip", False),
            ("gzip;q=0, br", False),
        ):
            async with http.stream("GET", path, headers={"Accept-Encoding": accepted}) as answer:
                sent = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert answer.headers.get("Content-Encoding") == ("gzip" if compressed else None), (path, accepted)
            assert int(answer.headers["Content-Length"]) == len(sent)
            assert (gzip.decompress(sent) if compressed else sent) == body
            assert len(sent) < len(body) or not compressed


async def test_head_answers_with_the_headers_of_get(http: httpx.AsyncClient) -> None:
    for path in PATHS:
        head, full = await http.head(path), await http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        varying = ("date", "x-request-id")
        assert {name: value for name, value in head.headers.items() if name not in varying} == {
            name: value for name, value in full.headers.items() if name not in varying
        }


NOT_FILES = (
    "/../app.py",
    "/assets/../../app.py",
    "/assets/%2e%2e/%2e%2e/app.py",
    "/..%2fapp.py",
    "/assets/..%5c..%5capp.py",
    "//etc/passwd",
    "/assets//etc/passwd",
    "/.hidden",
    "/assets",
    "/assets/",
    "/index.html",
    "/nothing",
)
"""Sent over a raw connection, because an HTTP client would normalize them."""


async def test_only_the_files_of_the_client_are_served(node: RunningNode) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    for target in NOT_FILES:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert head.split()[1] == b"404", target
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["code"] == "not_found"


@pytest.mark.parametrize(("file", "media_type"), [("logo.SVG", "image/svg+xml"), ("logo.png", "image/png")])
async def test_the_page_has_the_name_and_the_logo_of_the_server(
    file: str, media_type: str, static: Path, sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"the logo")
    (static / "index.html").write_bytes(
        b'<!doctype html><link rel="icon" href="./icon.svg" type="image/svg+xml" />'
        b"<title>Tidings</title><h1>Tidings</h1>"
    )
    branded = {"server_name": "Café <Central>", "server_logo": str(tmp_path / file)}
    async with (
        running_node(sqlite_url, tmp_path, options={"static": static}, **branded) as node,
        httpx.AsyncClient(base_url=node.url) as http,
    ):
        shown, administration = [(await http.get(path)).text for path in ("/", "/admin")]
        assert (
            shown
            == administration
            == (
                f'<!doctype html><link rel="icon" href="./icon.svg" type="{media_type}" />'
                "<title>Café &lt;Central&gt;</title><h1>Café &lt;Central&gt;</h1>"
            )
        )
        icon = await http.get("/icon.svg")
        assert (icon.content, icon.headers["Content-Type"]) == (b"the logo", media_type)
        manifest = (await http.get("/manifest.webmanifest")).json()
        assert (manifest["name"], manifest["icons"][0]["type"]) == ("Café <Central>", media_type)


async def test_the_page_changes_no_other_route(node: RunningNode, http: httpx.AsyncClient) -> None:
    assert (await http.get("/docs")).headers["Content-Security-Policy"] == docs.GUARDS["Content-Security-Policy"]
    refused = await http.post("/")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (await http.get("/api/me")).status_code == 401
    signed_up = await http.post("/register", json={"username": "omar", "password": "correct horse"})
    assert signed_up.is_success
    assert "Content-Security-Policy" not in (await http.get("/openapi.json")).headers


async def test_a_websocket_at_the_address_of_the_page_belongs_to_the_chat_rooms(node: RunningNode) -> None:
    async with connect(f"{node.url.replace('http', 'ws')}/", proxy=None) as socket:
        await socket.send(json.dumps({"command": "nothing"}))
        answer = json.loads(await asyncio.wait_for(socket.recv(), 30))
        assert answer.keys() == {"statusCode", "type", "data"}


async def test_a_new_build_does_not_change_the_files_of_a_running_server(
    static: Path, http: httpx.AsyncClient
) -> None:
    (static / "index.html").write_text("another")
    (static / "assets/index-Ab12.js").unlink()
    for path, body in PATHS.items():
        assert (await http.get(path)).content == body


async def test_without_a_built_client_the_root_redirects_to_the_documentation(
    sqlite_url: str, tmp_path: Path
) -> None:
    lines: list[bytes] = []
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "empty", tmp_path / "nothing"):
        options = {"static": missing, "logs": Logs("info", write=lines.append)}
        async with (
            running_node(sqlite_url, tmp_path, options=options) as node,
            httpx.AsyncClient(base_url=node.url) as http,
        ):
            answer = await http.get("/")
            assert (answer.status_code, answer.headers["Location"]) == (307, "docs")
            assert (await http.get("/sw.js")).status_code == 404
        logged = [json.loads(line)["event"] for line in b"".join(lines).splitlines()]
        assert logged[0] == "the web client is not built: / redirects to /docs"
        lines.clear()


class _Page(HTMLParser):
    """The files that a browser loads before it runs scripts, and the elements that the policy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.refused: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "style" or "style" in values or any(name.startswith("on") for name in values):
            self.refused.append(self.get_starttag_text() or tag)
        if tag == "script":
            if not values.get("src"):
                self.refused.append(self.get_starttag_text() or tag)
            self.loaded.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") in ("stylesheet", "modulepreload"):
            self.loaded.append(values.get("href") or "")


def test_the_page_loads_nothing_that_its_policy_refuses(page: dict[str, bytes]) -> None:
    parsed = _Page()
    parsed.feed(page["index.html"].decode())
    assert parsed.refused == []
    assert parsed.loaded
    assert {path.removeprefix("./") for path in parsed.loaded} <= page.keys()
    assert {PurePosixPath(name).suffix for name in page} <= TYPES.keys()


def test_the_first_load_is_at_most_200_kb(page: dict[str, bytes]) -> None:
    """The page, the files that it names, and the static imports of its scripts, without files loaded on demand."""
    parsed = _Page()
    parsed.feed(page["index.html"].decode())
    loaded, waiting = {"index.html"}, [path.removeprefix("./") for path in parsed.loaded]
    while waiting:
        name = waiting.pop()
        if name in loaded:
            continue
        loaded.add(name)
        if name.endswith(".js"):
            imported: list[str] = re.findall(
                r"""\b(?:from|import)\s*["'`]\./([^"'`]+\.js)["'`]""", page[name].decode()
            )
            waiting += [f"{name.rpartition('/')[0]}/{module}" for module in imported]
    sizes = {name: len(gzip.compress(page[name])) for name in sorted(loaded)}
    assert sum(sizes.values()) <= FIRST_LOAD, sizes


async def _run(*command: str, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, out.decode()


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_a_wheel_contains_the_page(page: dict[str, bytes]) -> None:
    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"tidings/static/{name}" for name in page} <= files


@pytest.mark.long
async def test_an_sdist_and_a_wheel_built_from_it_without_node_contain_the_page(
    page: dict[str, bytes], tmp_path: Path
) -> None:
    await _run(
        sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), HATCH_BUILD_NO_HOOKS="1"
    )
    sdist = _only(tmp_path, "*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix() for name in archive.getnames()]
    assert {f"server/tidings/static/{name}" for name in page} <= set(names)
    assert {"web/src/main.tsx", "web/package-lock.json", "web/vite.config.ts"} <= set(names)
    assert not [name for name in names if "node_modules" in name]

    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path))
    await _run(sys.executable, "-m", "pip", "wheel", *options, str(sdist), PATH=str(tmp_path))
    wheel = _only(tmp_path, "*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archived:
        archived.extractall(site)
    assert not (site / "web").exists()
    with (site / "tidings/static/index.html").open("ab") as index:
        index.write(b"<!-- of the wheel -->")

    server = ServerProcess(tmp_path / "data", PYTHONPATH=str(site), PYTHONSAFEPATH="1")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url) as http:
            for name, body in page.items():
                expected = body + b"<!-- of the wheel -->" * (name == "index.html")
                assert (await http.get("/" if name == "index.html" else f"/{name}")).content == expected
    finally:
        await server.terminate()
