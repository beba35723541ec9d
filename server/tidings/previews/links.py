"""The links in a message that have a preview."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

from tidings.auth.names import without_code

MAX_LINKS = 3
"""Links of one message that have a preview."""
MAX_URL = 2048
_LINK = re.compile(r"""(?<![\w<])https?://[^\s<>"`|]{1,2048}""", re.IGNORECASE)
"""A link in angle brackets has no preview: that is how its sender turns it off."""
_FINAL = re.compile(r"""[?!.,:;*_~'")\]]+\Z""")
_MAX_FINAL = 16
_SAFE = "%/:?#[]@!$&'()*+,;=~"


def links_in(content: str) -> list[str]:
    """The first `MAX_LINKS` links of a content, as they stand there, outside of code and of angle brackets."""
    if "://" not in content:
        return []
    found: dict[str, None] = {}
    for match in _LINK.finditer(without_code(content)):
        link = _without_final(match[0])
        if fetched_url(link) is not None:
            found[link] = None
            if len(found) == MAX_LINKS:
                break
    return list(found)


def _without_final(link: str) -> str:
    """A link without the punctuation of the sentence; a closing parenthesis stays if it was opened in the link."""
    for _ in range(_MAX_FINAL):
        if link.endswith(")") and link.count("(") >= link.count(")"):
            break
        if not _FINAL.search(link[-1:]):
            break
        link = link[:-1]
    return link


def fetched_url(link: str) -> str | None:
    """The URL in ASCII, without its fragment; None if it is not one of a web page, or contains a password."""
    try:
        parts = urlsplit(link)
        host = (parts.hostname or "").encode("ascii" if (parts.hostname or "").isascii() else "idna").decode()
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") or not host or "@" in parts.netloc or len(link) > MAX_URL:
        return None
    host = f"[{host}]" if ":" in host else host
    netloc = host if port is None else f"{host}:{port}"
    path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE)
    url = urlunsplit((scheme, netloc, path, query, ""))
    return url if url.isascii() and url.isprintable() and " " not in url and "\\" not in url else None
