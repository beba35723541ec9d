"""Usernames and topic names: their accepted form, and the key by which they share one namespace."""

from __future__ import annotations

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
