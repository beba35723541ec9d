"""Usernames and topic names: their accepted form, and the key by which they share one namespace."""

from __future__ import annotations

import re
import unicodedata

from precis_i18n import get_profile

from server.contract.errors import ActionError, invalid

_username_profile = get_profile("UsernameCaseMapped")

# Control, surrogate, format (which holds the direction controls) and line separator characters. The two joiners
# are kept for topic names: scripts and emoji need them; `name_key` ignores them.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_IGNORED = {ord(char): None for char in "\u00ad\u034f\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff"}


def username(raw: str) -> str:
    """Map a username to the form it is kept and compared in (PRECIS UsernameCaseMapped, RFC 8265).

    Raises `invalid` for what the profile refuses, and for more than 32 characters.
    """
    try:
        mapped: str = _username_profile.enforce(raw)
    except UnicodeEncodeError as why:
        raise invalid("username", f"not allowed: {why.reason.partition('/')[2] or why.reason}") from None
    if not 1 <= len(mapped) <= 32:
        raise invalid("username", "1–32 characters")
    if any(char.isspace() or unicodedata.category(char) in _HIDDEN for char in mapped):
        raise invalid("username", "no whitespace, control or direction characters")
    return mapped


def try_username(raw: str) -> str | None:
    """The mapped username, or None if it cannot be one (and so names nobody)."""
    try:
        return username(raw)
    except ActionError:
        return None


def topic_name(raw: str) -> str:
    """Bring a topic name to its kept form: NFC, trimmed. Raises `invalid`."""
    name = unicodedata.normalize("NFC", raw).strip()
    if not 1 <= len(name) <= 64:
        raise invalid("topic_name", "1–64 characters")
    if any(unicodedata.category(char) in _HIDDEN and char not in _JOINERS for char in name):
        raise invalid("topic_name", "no control or direction characters")
    if not name_key(name):
        raise invalid("topic_name", "nothing of it is visible")
    return name


def name_key(name: str) -> str:
    """The key by which topic names, and topics against usernames, are compared.

    Case-folded NFKC without what cannot be seen (as Unicode's NFKC_Casefold).
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded.translate(_IGNORED)).strip()


MAX_MENTIONS = 50
_CODE = re.compile(
    r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)"  # a fenced block
    r"|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)",  # a span
    re.DOTALL | re.MULTILINE,
)
_MENTION = re.compile(r"(?<![^\s(\[{<\"'“‘«¿¡,;:/*_~|>-])@([^\s@]{1,64})")
_AFTER_A_NAME = ".,;:!?…'\"”’»)]}>*_~|/-"


def mentions(content: str) -> tuple[str, ...]:
    """Usernames that a message may mention: what follows an `@` at the beginning of a word, outside of code.

    Code is what CommonMark takes for a code span or a fenced code block. A username may end in punctuation, and so
    may a sentence: of "@ana." both "ana." and "ana" are returned. Whether they are members is not known here.
    """
    if "@" not in content:
        return ()
    found: dict[str, None] = {}
    for match in _MENTION.finditer(_CODE.sub(" ", content) if "`" in content or "~~~" in content else content):
        raw = match[1]
        if (owner := try_username(re.split("['’]", raw)[0])) is not None:  # @ana's
            found[owner] = None
        while raw:
            name = try_username(raw)
            if name is not None:
                found[name] = None
            if raw[-1] not in _AFTER_A_NAME:
                break
            raw = raw[:-1]
        if len(found) >= MAX_MENTIONS:
            break
    return tuple(found)
