"""Where the server goes for a preview, how long it stays, and how much it reads."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from tests.previews.site import Site, page, redirect, serving, titled
from tests.support.look_ups import Names
from tidings.previews.fetching import MAX_BODY, PER_HOST, Fetcher, TooOften
from tidings.previews.pages import PageSummary, parsed


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(agent="Tidings/test", private=True, at_a_time=4)
    yield fetcher
    await fetcher.close()


@pytest.fixture
async def public_only(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fetcher]:
    """Takes 127.0.0.2 for the only public address, and any port for that of a web site."""
    monkeypatch.setattr("tidings.transport.outgoing.is_public_address", lambda address: address == "127.0.0.2")
    monkeypatch.setattr("tidings.previews.fetching._PORTS", range(65536))
    fetcher = Fetcher(agent="Tidings/test", private=False, at_a_time=4)
    yield fetcher
    await fetcher.close()


async def test_a_page_is_fetched_without_cookies_or_referrer_by_a_server_that_names_itself(
    fetcher: Fetcher, site: Site
) -> None:
    site.pages["/"] = page("<title>Menu</title>", "set-cookie: a=b")
    for _ in range(2):
        assert await fetcher.fetch(site.url + "/") == PageSummary("Menu", None, None)
    for head in site.heads:
        names = {line.partition(":")[0].lower() for line in head.strip().split("\r\n")[1:]}
        assert names == {"host", "user-agent", "accept", "accept-encoding"}
        assert "Tidings/test" in head


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_this_machine_is_refused_where_it_is_connected_to(public_only: Fetcher, site: Site, host: str) -> None:
    site.pages["/"] = titled("secret")
    assert await public_only.fetch(f"http://{host}:{site.port}/") is None
    assert site.connections == 0


async def test_a_redirect_to_a_private_address_is_refused(public_only: Fetcher, site: Site) -> None:
    site.pages["/"] = titled("secret")
    async with serving("127.0.0.2") as outside:
        outside.pages["/open"] = titled("open")
        outside.pages["/in"] = redirect(site.url + "/")
        outside.pages["/name"] = redirect(f"http://localhost:{site.port}/")
        outside.pages["/file"] = redirect("file:///etc/passwd")
        outside.pages["/on"] = redirect("/open")
        assert await public_only.fetch(outside.url + "/on") == PageSummary("open", None, None)
        for path in ("/in", "/name", "/file"):
            assert await public_only.fetch(outside.url + path) is None
    assert site.connections == 0


async def test_a_name_that_changes_its_address_leads_to_the_checked_one(
    public_only: Fetcher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a second look-up would give this machine."""
    names = Names(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    site.pages["/"] = titled("secret")
    assert await public_only.fetch(f"http://hook.test:{site.port}/") is None
    assert (names.asked, site.connections) == (1, 0)
    assert await public_only.fetch(f"http://hook.test:{site.port}/") is None
    assert (names.asked, site.connections) == (2, 0)


async def test_only_the_ports_of_the_web_are_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.transport.outgoing.is_public_address", lambda _: True)
    fetcher = Fetcher(agent="Tidings/test", private=False, at_a_time=4)
    site.pages["/"] = titled("a service of another kind")
    assert await fetcher.fetch(site.url + "/") is None
    await fetcher.close()
    assert site.connections == 0


async def test_redirects_end(fetcher: Fetcher, site: Site) -> None:
    site.pages["/round"] = redirect("/round")
    assert await fetcher.fetch(site.url + "/round") is None
    assert site.asked["/round"] == 4


async def test_an_endless_page_is_read_up_to_a_limit(fetcher: Fetcher, site: Site) -> None:
    written = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\n\r\n<title>Endless</title>")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    site.pages["/"] = endless
    assert await fetcher.fetch(site.url + "/") == PageSummary("Endless", None, None)
    assert written < 64 * MAX_BODY, "more than the buffers of the system"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\n\r\n<title>Slow"])
async def test_a_slow_page_is_given_up(site: Site, head: bytes) -> None:
    fetcher = Fetcher(agent="Tidings/test", private=True, at_a_time=4, fetch_s=0.2)

    async def drips(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await asyncio.Event().wait()

    site.pages["/"] = drips
    assert await fetcher.fetch(site.url + "/") is None
    await fetcher.close()


async def test_a_gzip_bomb_takes_little_memory(fetcher: Fetcher, site: Site) -> None:
    bomb = gzip.compress(b"<title>Small</title>" + bytes(200 * 1024 * 1024), 9)
    assert len(bomb) < MAX_BODY
    site.pages["/"] = page(bomb, "content-encoding: gzip")
    tracemalloc.start()
    assert await fetcher.fetch(site.url + "/") == PageSummary("Small", None, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MAX_BODY


async def test_other_types_and_encodings_and_errors_have_no_preview(fetcher: Fetcher, site: Site) -> None:
    text = "<title>No</title>"
    site.pages["/pdf"] = page(text, "content-type: application/pdf")
    site.pages["/brotli"] = page(text, "content-encoding: br")
    site.pages["/broken"] = page(text, "content-encoding: gzip")
    site.pages["/error"] = page(text, status=500)
    site.pages["/nonsense"] = b"\x00\x01\r\n\r\n"
    site.pages["/untitled"] = page("<p>Hola")
    for path in site.pages:
        assert await fetcher.fetch(site.url + path) is None, path
    assert await fetcher.fetch("http://127.0.0.1:1/") is None
    assert await fetcher.fetch("http://no-such-host.invalid/") is None


async def test_a_host_is_asked_only_so_often(fetcher: Fetcher, site: Site) -> None:
    site.pages["/"] = titled("Menu")
    for _ in range(PER_HOST[0]):
        assert await fetcher.fetch(site.url + "/") is not None
    with pytest.raises(TooOften):
        await fetcher.fetch(site.url + "/")


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("<title>Menú</title>".encode("latin-1"), "; charset=ISO-8859-1"),
        ('<meta charset="windows-1252"><title>Menú</title>'.encode("cp1252"), ""),
        ("<title>Menú</title>".encode("utf-16"), "; charset=utf-16"),
        ("<title>Menú</title>".encode(), "; charset=punycode"),
    ],
)
async def test_the_charset_of_a_page_is_that_of_its_header_or_its_own(
    fetcher: Fetcher, site: Site, body: bytes, charset: str
) -> None:
    site.pages["/"] = page(body, f"content-type: text/html{charset}")
    assert await fetcher.fetch(site.url + "/") == PageSummary("Menú", None, None)


def test_a_page_is_described_by_its_head() -> None:
    head = """<!-- <title>No</title> --><script>"<title>No</title>"</script><style><title>No</title></style>
    <svg><meta></svg><TITLE lang=es>A &amp; B</TITLE><meta name=description content='plain > text'>
    <meta property="og:title" content="Caf&eacute;&#x202e; at\x07 the\n corner"><meta content="1" property=og:title>
    <meta property=og:site_name content=Diario><meta name="og:description" content="">"""
    assert parsed(head) == PageSummary("Café at the corner", "plain > text", "Diario")
    assert parsed("<head></head><body><title>No</title>") is None
    assert parsed(f"<title>{'x' * 300}</title>") == PageSummary("x" * 199 + "…", None, None)


@pytest.mark.parametrize(
    "part",
    ["<", "<!--", "<meta ", "<meta a=", '<meta a="', "<title>", "<script ", "</head", "<meta content='", "&#", " = "],
)
def test_a_hostile_page_takes_no_longer_than_another(part: str) -> None:
    text = part * (MAX_BODY // len(part))
    began = time.process_time()
    parsed("<title>x" + text)
    parsed("<meta " + text)
    parsed(text)
    assert time.process_time() - began < 1.0
