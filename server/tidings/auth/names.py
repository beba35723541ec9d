"""Usernames and topic names: validation, stored form, and the mentions in a message."""

from __future__ import annotations

import re
import unicodedata
from itertools import islice

from precis_i18n import get_profile

from tidings.contract.errors import invalid
from tidings_db.names import name_key, username_key, without_invisible

__all__ = [
    "after",
    "emoji",
    "mentions",
    "most_mentions",
    "name_key",
    "title",
    "topic_name",
    "try_username_key",
    "username",
    "username_key",
    "without_code",
]

_preserving = get_profile("UsernameCasePreserved")
_mapping = get_profile("UsernameCaseMapped")

# Control, surrogate, format (which includes the direction controls) and line separator characters. Topic names may
# contain the two joiners, because scripts and emoji need them; `name_key` ignores them.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_TAGS = frozenset(map(chr, range(0xE0020, 0xE0080)))
"""Tag characters, which occur only in the flags of England, Scotland and Wales."""
_MIXABLE_SCRIPTS = (
    {"LATIN", "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA"},
    {"LATIN", "CJK", "IDEOGRAPHIC", "BOPOMOFO"},
    {"LATIN", "CJK", "IDEOGRAPHIC", "HANGUL"},
)
"""Sets of scripts that one name may mix: "highly restrictive" in UTS 39, section 5.2."""


def username(raw: str, field: str = "username") -> str:
    """The stored form of a new user's username (PRECIS UsernameCasePreserved, RFC 8265), which is also shown.

    Raises `invalid` for the field if the profile refuses the name, it has more than 32 characters, or it mixes
    scripts.
    """
    try:
        preserved: str = _preserving.enforce(raw)
        mapped: str = _mapping.enforce(raw)
    except UnicodeEncodeError as error:
        raise invalid(field, f"not allowed: {error.reason.partition('/')[2] or error.reason}") from None
    if not (1 <= len(preserved) <= 32 and 1 <= len(mapped) <= 32):
        raise invalid(field, "1–32 characters")
    if any(char.isspace() or unicodedata.category(char) in _HIDDEN for char in preserved):
        raise invalid(field, "no whitespace, control or direction characters")
    scripts = {_script(char) for char in preserved if unicodedata.category(char) in _LETTERS}
    if len(scripts) > 1 and not any(scripts <= mixable for mixable in _MIXABLE_SCRIPTS):
        raise invalid(field, f"letters of one script only, not of {' and '.join(sorted(map(str.title, scripts)))}")
    return preserved


_LETTERS = frozenset({"Ll", "Lo", "Lt", "Lu"})


def _script(letter: str) -> str:
    """The first word of the letter's Unicode name, which identifies its script."""
    return unicodedata.name(letter, "").partition(" ")[0]


MAX_TYPED = 128
"""The most typed characters of a username of 32: each may be typed as up to 4 (canonical decomposition)."""


def _is_possible_key(mapped: str) -> bool:
    return 1 <= len(mapped) <= 32 and mapped.isprintable() and " " not in mapped


def try_username_key(raw: str) -> str | None:
    """The key of the user with that name, in any case; None if no user can have it.

    A name that `username` refuses may have a key here: no user has that key.
    """
    key = username_key(raw[: MAX_TYPED + 1])
    return key if len(raw) <= MAX_TYPED and _is_possible_key(key) else None


def after(raw: str | None) -> str | None:
    """The key of the username that a page continues after. Raises `invalid`."""
    key = None if raw is None else try_username_key(raw)
    if key is None and raw is not None:
        raise invalid("after", "not allowed: not a username")
    return key


def topic_name(raw: str) -> str:
    """The stored form of a topic name: NFC, trimmed. Raises `invalid`."""
    name = unicodedata.normalize("NFC", raw).strip()
    if not 1 <= len(name) <= 64:
        raise invalid("topic_name", "1–64 characters")
    _check_shown(name, "topic_name", _JOINERS)
    return name


def title(raw: str, field: str = "title") -> str:
    """The stored form of a group's title, or of another short text: NFC, trimmed. Raises `invalid`."""
    text = unicodedata.normalize("NFC", raw).strip()
    _check_shown(text, field, _JOINERS)
    return text


def display_name(raw: str) -> str:
    """The stored form of a display name: NFC, trimmed. Raises `invalid`."""
    text = unicodedata.normalize("NFC", raw).strip()
    _check_shown(text, "display_name", _JOINERS)
    return text


def status(raw: str) -> str:
    """The stored form of a status's text, which may be empty: NFC. Raises `invalid`."""
    text = unicodedata.normalize("NFC", raw)
    if text:
        _check_shown(text, "status", _JOINERS | _TAGS)
    return text


def emoji(raw: str) -> str:
    """Check the emoji of a reaction or a status, or its short name. Raises `invalid`."""
    _check_shown(raw, "emoji", _JOINERS | _TAGS)
    return raw


def _check_shown(text: str, field: str, allowed: frozenset[str]) -> None:
    if any(unicodedata.category(char) in _HIDDEN and char not in allowed for char in text):
        raise invalid(field, "no control or direction characters")
    if not without_invisible(text).strip():
        raise invalid(field, "no visible character")


MAX_MENTIONS = 64
"""The most words after an `@` that are examined in a message, and the most names that it mentions."""
MAX_PUNCTUATION = 7
"""The most punctuation characters at the end of a username that can be mentioned."""
MAX_MARKS = 500
"""After this many marks (an `@`, a run of backticks, a fence) the rest of a message is not searched for mentions."""
_MARK = re.compile("@|`+|~{3,}")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
_BACKTICKS = re.compile("`+")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_MENTION = re.compile(r"(?<![^\s(\[{<\"'“‘«¿¡,;:/*_~|>-])@([^\s@]{1,64})")
_FINAL_PUNCTUATION = ".,;:!?…'\"”’»)]}>*_~|/-"


def mentions(content: str) -> tuple[str, ...]:
    """Keys of users whom a message may mention: names after an `@` at the start of a word, outside of code.

    Code is a code span or a fenced code block of CommonMark. A username may end in punctuation, and so may a
    sentence: for "@ana." both "ana" and "ana." are returned. The names need not be users. `MAX_MENTIONS` and
    `MAX_MARKS` bound the time to a few ms for any content.
    """
    if "@" not in content:
        return ()
    last_mark = next(islice(_MARK.finditer(content), MAX_MARKS, None), None)
    if last_mark is not None:
        content = content[: last_mark.start()]
    keys: dict[str, None] = {}
    words = dict.fromkeys(match[1] for match in _MENTION.finditer(without_code(content)))
    for word in islice(words, MAX_MENTIONS):
        for name in _names_in(word):
            keys[name] = None
        if len(keys) >= MAX_MENTIONS:
            break
    return tuple(keys)[:MAX_MENTIONS]


def most_mentions(content: str) -> int:
    """Upper bound of the names that `mentions` returns, without parsing the content."""
    return min((1 + MAX_PUNCTUATION) * content.count("@"), MAX_MENTIONS)


def _names_in(word: str) -> list[str]:
    """Keys of users that a word may name: the word itself, without final punctuation, and without a genitive 's."""
    mapped = username_key(word)
    if mapped.isalnum():
        return [mapped] if len(mapped) <= 32 else []
    shortest = max(1, len(mapped.rstrip(_FINAL_PUNCTUATION)))
    longest = min(len(mapped), shortest + MAX_PUNCTUATION)
    candidates = [mapped[:length] for length in range(shortest, longest + 1)]
    if "'" in word or "’" in word:
        candidates.append(re.split("['’]", mapped, maxsplit=1)[0])  # @ana's
    return [name for name in candidates if _is_possible_key(name)]


def without_code(content: str) -> str:
    """The content without its fenced code blocks and code spans (CommonMark 0.31, sections 4.5 and 6.1)."""
    if "`" not in content and "~~~" not in content:
        return content
    outside: list[str] = []
    fence, begin = "", 0
    for line in _FENCE.finditer(content):
        run, rest = line.groups()
        if fence:
            if run.startswith(fence) and not rest.strip():
                fence, begin = "", line.end()
        elif run[0] == "~" or "`" not in rest:
            outside.append(content[begin : line.start()])
            fence = run
    if not fence:
        outside.append(content[begin:])
    return _without_spans("\n\n".join(outside))


def _without_spans(text: str) -> str:
    """The text without code spans: the parts between two runs of equally many backticks in one paragraph."""
    runs = [run.span() for run in _BACKTICKS.finditer(text)]
    closing: list[int | None] = [None] * len(runs)
    following: dict[int, int] = {}
    """Length of a run -> index of the nearest later run of that length in the paragraph."""
    for index in range(len(runs) - 1, -1, -1):
        start, end = runs[index]
        if index + 1 < len(runs) and _BLANK_LINE.search(text, end, runs[index + 1][0]):
            following.clear()
        closing[index] = following.get(end - start)
        following[end - start] = index
    outside: list[str] = []
    index = begin = 0
    while index < len(runs):
        last = closing[index]
        if last is not None:
            outside.append(text[begin : runs[index][0]])
            begin, index = runs[last][1], last
        index += 1
    return " ".join([*outside, text[begin:]])
