"""Words: those of a text, those of a query, and the excerpt of a message around a match.

The databases do none of this, so both find the same messages. A word is a run of letters, digits
and marks (Unicode categories L, N and M), folded: case, diacritics and compatibility forms make no difference. In
scripts that put no spaces between words (Chinese, Japanese, Thai …) and in Hangul each character is a word: a run of
them in a query is a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import orjson

MAX_WORD = 64
"""Significant characters of a word; later ones are ignored."""
MAX_WORDS = 16_383
"""Indexed words of a text: the limit of PostgreSQL's positions."""
WINDOW = 160
"""Characters of an excerpt."""
_LEAD = 40
"""Characters of an excerpt before the first match."""
_MAX_CACHED = 20_000

# Without spaces between words: Thai to Lao, Myanmar, Hangul, Khmer, then CJK and its extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u30ff"
    "\u3100-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff]"
)
# Marks that only modify a letter: accents, Hebrew and Arabic points, variation selectors. Vowel signs stay.
_DIACRITIC = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u08d3-\u08ff\u1ab0-\u1aff"
    "\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
# Invisible within a word: soft hyphen, joiners, Arabic tatweel.
_INVISIBLE = "\u00ad\u034f\u0640\u200c\u200d\u2060"


class _Characters(dict[int, str]):
    """A bounded cache: code point -> the result of `make` for the character."""

    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make

    def __missing__(self, code: int) -> str:
        if len(self) >= _MAX_CACHED:
            self.clear()
        result = self[code] = self._make(chr(code))
        return result


def _fold(char: str) -> str:
    """Fold a character to lower-case letters, to a space if it separates words, or to "" if it modifies a letter."""
    if char in _INVISIBLE or _DIACRITIC.match(char):
        return ""
    if _UNSPACED.match(char):
        return f" {char} " if unicodedata.category(char)[0] in "LNM" else " "
    base = "".join(c for c in unicodedata.normalize("NFKD", char.casefold()) if not _DIACRITIC.match(c))
    return "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in base) or " "


def _kind(char: str) -> str:
    """The role of a character: `w` part of a word, `c` a word by itself, `m` a mark, or a space for a separator."""
    folded = unicodedata.normalize("NFKC", char).translate(_folded)
    if not folded:
        return "m"
    if folded.isspace():
        return " "
    return "c" if " " in folded else "w"


_folded = _Characters(_fold)
_kinds = _Characters(_kind)


def words(text: str) -> list[str]:
    """The words of a text, folded, in order."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return [word[:MAX_WORD] for word in text.translate(_folded).split()[:MAX_WORDS]]


def directory_words(username: str, display_name: str | None) -> str:
    """The words of a user's names, each after a space, so that ` gar` is in them if a word begins with `gar`."""
    return "".join(f" {word}" for word in words(f"{username} {display_name or ''}"))


class Phrase(NamedTuple):
    """Consecutive words. With `prefix`, the last one is only the begin of a word."""

    words: tuple[str, ...]
    prefix: bool

    def ends_at(self, text: Sequence[str], end: int) -> bool:
        """Whether the text has these words right before the position `end`."""
        start = end - len(self.words)
        if start < 0 or not self._last(text[end - 1]):
            return False
        return len(self.words) == 1 or tuple(text[start : end - 1]) == self.words[:-1]

    def _last(self, word: str) -> bool:
        return word.startswith(self.words[-1]) if self.prefix else word == self.words[-1]


Query = tuple[Phrase, ...]
"""Phrases that a match must all contain; never empty."""

_PART = re.compile(r'"(?P<quoted>[^"]*)"?(?P<star>\*?)|(?P<plain>[^\s"]+)')


def parse(query: str) -> Query:
    """Parse a query: words, `prefix*`, `"a phrase"`. Punctuation within a word makes a phrase of its parts.

    Any text is a query; one without a word is empty.
    """
    phrases: dict[Phrase, None] = {}
    for part in _PART.finditer(unicodedata.normalize("NFKC", query)):
        plain = part["plain"]
        text = part["quoted"] if plain is None else plain.rstrip("*")
        parts = tuple(words(text))
        if parts:
            star = part["star"] if plain is None else plain[len(text) :]
            phrases[Phrase(parts, bool(star) and bool(words(text[-1])))] = None
    return tuple(phrases)


_FILTER = re.compile(
    r'"[^"]*"?|(?<!\S)(?P<name>from|in|before|after|has):(?:"(?P<quoted>[^"]+)"|(?P<plain>[^\s"]+))', re.IGNORECASE
)


def split_filters(query: str) -> tuple[str, list[tuple[str, str]]]:
    """The words of a query, and its filters (name, value): `from:ana`, `in:"la plaza"`. In quotes they are words."""
    filters: list[tuple[str, str]] = []

    def take(part: re.Match[str]) -> str:
        if part["name"] is None:
            return part[0]
        filters.append((part["name"].lower(), part["quoted"] or part["plain"]))
        return " "

    return _FILTER.sub(take, query), filters


def sent_by(sender_key: int) -> Phrase:
    """A mark, which only messages of that sender have."""
    return Phrase((f"·{sender_key}",), False)


HAS: Final = {name: Phrase((f"·{name}",), False) for name in ("link", "code", "file")}
"""Marks of messages with a link, with something in backticks, and with a file."""
_FILE = "\0"
"""Stands before the name of a file; no content contains it."""


def with_names(content: str | None, files: str | None) -> str:
    """The text by which a message is found: its content, and the names of its files (JSON)."""
    names = [] if files is None else [f"{_FILE}{file['name']}" for file in orjson.loads(files)]
    return "".join((content or "", *names))


def shown(content: str | None, files: str | None) -> str:
    """That text as it is shown: a line for each name."""
    return with_names(content, files).replace(_FILE, "\n").lstrip("\n")


def marks(sender_key: int, text: str) -> list[str]:
    """The terms of a message in the index beside its words. `·` is not a letter: no word equals a mark."""
    found = [sent_by(sender_key)]
    if "http://" in text or "https://" in text:
        found.append(HAS["link"])
    if text.count("`") > 1:
        found.append(HAS["code"])
    if _FILE in text:
        found.append(HAS["file"])
    return [mark.words[0] for mark in found]


def matches(query: Query, sender_key: int, text: str) -> bool:
    """Whether a message matches the query."""
    text_words = words(text) + marks(sender_key, text)
    ends = range(1, len(text_words) + 1)
    return all(any(phrase.ends_at(text_words, end) for end in ends) for phrase in query)


def snippet(query: Query, text: str) -> list[tuple[str, bool]]:
    """A text around the first match in it, as (part, whether it is a match); the parts together are one window.

    The text is not folded; `…` marks where it continues. Without a match, the window is its begin.
    """
    text = unicodedata.normalize("NFC", text)
    matched = _matched_spans(query, text)
    first = matched[0][0] if matched else 0
    start = _excerpt_start(text, first - _LEAD, first) if first > _LEAD else 0
    end = min(len(text), start + WINDOW)
    parts: list[tuple[str, bool]] = [("…", False)] if start else []
    shown = start
    for low, high in matched:
        if low >= end:
            break
        if low > shown:
            parts.append((text[shown:low], False))
        parts.append((text[low : min(high, end)], True))
        shown = min(high, end)
    if shown < end:
        parts.append((text[shown:end], False))
    if end < len(text):
        parts.append(("…", False))
    return _merge(parts)


def _matched_spans(query: Query, text: str) -> list[tuple[int, int]]:
    """The spans of matches in a text, in order, not overlapping; up to one window after the first."""
    preceding: list[str] = []
    places: list[tuple[int, int]] = []
    matched: list[tuple[int, int]] = []
    for word, place in _words_with_spans(text):
        if matched and place[0] >= matched[0][0] + WINDOW:
            break
        preceding.append(word)
        places.append(place)
        for phrase in query:
            if phrase.ends_at(preceding, len(preceding)):
                low = places[-len(phrase.words)][0]
                while matched and matched[-1][1] >= low:
                    low = min(low, matched.pop()[0])
                matched.append((low, place[1]))
    return matched


_CELL = re.compile("cm*|w[wm]*")


def _words_with_spans(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The words of a text with their positions."""
    for cell in _CELL.finditer(text.translate(_kinds)):
        for word in words(text[cell.start() : cell.end()]):
            yield word, cell.span()


def _excerpt_start(text: str, start: int, before: int) -> int:
    """The start of an excerpt: the begin of a word between `start` and `before`, else `start`."""
    space = text.find(" ", start, before)
    return start if space < 0 else space + 1


def _merge(parts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Merge adjacent parts of the same kind."""
    merged: list[tuple[str, bool]] = []
    for part, is_match in parts:
        if merged and merged[-1][1] == is_match:
            merged[-1] = (merged[-1][0] + part, is_match)
        else:
            merged.append((part, is_match))
    return merged
