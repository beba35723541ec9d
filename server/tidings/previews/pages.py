"""The summary of a web page: its title, its description, and the name of its site.

The page may be hostile, so the parser takes time in proportion to its length. That of Python's `html.parser` grows
with its square, within single matches that hold up the event loop from any thread.
"""

from __future__ import annotations

import codecs
import html
import re
import unicodedata
from typing import NamedTuple

MAX_TITLE = 200
MAX_DESCRIPTION = 300
MAX_SITE_NAME = 60


class PageSummary(NamedTuple):
    title: str
    description: str | None
    site_name: str | None


_MAX_TAG = 4096
"""Characters of a tag, or of a title, that are read."""
_TAG = re.compile(r"<(?:!--|(/?)(title|meta|script|style|noscript|template|textarea|head|body)(?=[\s/>]))", re.I)
_ATTRIBUTE = re.compile(r"""[\s/]*([^\s=>"'/]+|["'=])(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+)))?""")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""", re.I)
_ENCODING = re.compile(
    r"utf-8(-sig)?|utf-16(-[lb]e)?|ascii|cp125\d|iso8859-\d+|koi8-[ru]|shift_jis|euc_(jp|kr)|gb(2312|k|18030)|big5"
    r"|iso2022_jp"
)
"""Python's names of the encodings of web pages. Some others take long to decode."""


def decoded(body: bytes, charset: str | None) -> str:
    """The text of a page, by the charset of its header or else of the page."""
    if body.startswith(codecs.BOM_UTF8):
        return body.decode("utf-8-sig", "replace")
    if charset is None and (match := _CHARSET.search(body[:_MAX_TAG])):
        charset = match[1].decode("ascii", "replace")
    try:
        name = codecs.lookup(charset or "utf-8").name
    except (LookupError, ValueError):
        name = "utf-8"
    if name in ("iso8859-1", "ascii"):  # as browsers do
        name = "cp1252"
    return body.decode(name if _ENCODING.fullmatch(name) else "utf-8", "replace")


def parsed(text: str) -> PageSummary | None:
    """The summary in the head of a page; None if it has no title."""
    title, meta, at = "", dict[str, str](), 0
    while (tag := _TAG.search(text, at)) is not None:
        at = tag.end()
        name = (tag[2] or "").lower()
        if name == "body" or (name == "head" and tag[1]):
            break
        if name == "meta" and not tag[1]:
            attributes, length = _attributes(text[at : at + _MAX_TAG])
            at += length
            key = attributes.get("property") or attributes.get("name") or ""
            meta.setdefault(key.lower(), attributes.get("content", ""))
        elif name not in ("meta", "head") and not tag[1]:
            closing = "-->" if not name else f"</{name}"
            end = re.compile(re.escape(closing), re.I).search(text, at)
            if name == "title" and not title:
                inner = text[at : at + _MAX_TAG if end is None else min(end.start(), at + _MAX_TAG)]
                title = inner.partition(">")[2]
            if end is None:
                break
            at = end.end()
    shown = cleaned(meta.get("og:title", ""), MAX_TITLE) or cleaned(title, MAX_TITLE)
    if not shown:
        return None
    description = cleaned(meta.get("og:description", "") or meta.get("description", ""), MAX_DESCRIPTION)
    return PageSummary(shown, description or None, cleaned(meta.get("og:site_name", ""), MAX_SITE_NAME) or None)


def _attributes(text: str) -> tuple[dict[str, str], int]:
    """The attributes at the beginning of a text, up to the end of their tag, and their length."""
    found: dict[str, str] = {}
    at = 0
    while (match := _ATTRIBUTE.match(text, at)) is not None:
        found.setdefault(match[1].lower(), match[2] or match[3] or match[4] or "")
        at = match.end()
    return found, at


_JOINERS = frozenset("\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def cleaned(text: str, most: int) -> str:
    """A text on one line of up to `most` characters, without control and direction characters."""
    words = " ".join(html.unescape(text[:_MAX_TAG]).split())
    shown = "".join(char for char in words if char in _JOINERS or unicodedata.category(char) not in _HIDDEN).strip()
    return shown if len(shown) <= most else shown[: most - 1].rstrip() + "…"
