"""Parsing of command arguments."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tidings.contract.models import Message
from tidings_chat.errors import InvalidCommand
from tidings_chat.i18n import t

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


_QUOTED: Final = re.compile(r"""("[^"]+"|'[^']+'|\S+)\s*(.*)""", re.DOTALL)


def path(text: str) -> Path:
    """A path, which may be in quotes and begin with `~`."""
    text = text[1:-1] if len(text) > 2 and text[0] in "\"'" and text[-1] == text[0] else text
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def path_and_text(rest: str) -> tuple[Path, str]:
    """A path, in quotes if it has spaces, and the text after it."""
    found = _QUOTED.fullmatch(rest)
    assert found is not None  # no command with such arguments gets an empty rest
    return path(found[1]), found[2]


def file_number(reference: str) -> tuple[str, int | None]:
    """`12.2` as the number of a message and that of a file in it; None: all of its files."""
    message, _, place = reference.rpartition(".")
    return (message, int(place)) if message and place.isdecimal() else (reference, None)


def username(text: str) -> str:
    """A username, with or without its `@`."""
    return text.strip().removeprefix("@")


def number_and_text(rest: str, usage: str) -> tuple[str, str]:
    number, _, text = rest.partition(" ")
    if not text.strip():
        raise InvalidCommand(t(usage))
    return number, text.strip()


def words(rest: str, usage: str, minimum: int, maximum: int) -> list[str]:
    split = rest.split()
    if not minimum <= len(split) <= maximum:
        raise InvalidCommand(t(usage))
    return split


def number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidCommand(t("{text} is not a number", text=text))
    return int(text)


def seconds(text: str) -> int:
    """Parse `90`, `90s`, `10m`, `2h`, `7d`, `2w`."""
    count, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise InvalidCommand(t("{text} is not a time: 90s, 10m, 2h, 7d", text=text))
    return int(count) * _UNITS[unit]


def duration(length: int) -> str:
    """Seconds in the largest unit that divides them: `10 m`."""
    for unit in ("w", "d", "h", "m"):
        if length >= _UNITS[unit] and length % _UNITS[unit] == 0:
            return f"{length // _UNITS[unit]} {unit}"
    return f"{length} s"


_EXPIRY: Final = re.compile(r"(?:^|\s)for\s+(\d{1,9}[smhdw])$")


def status(rest: str) -> dict[str, Any]:
    """`[EMOJI] TEXT [for TIME]` as a status of `set_profile`."""
    expiry = _EXPIRY.search(rest)
    text = rest[: expiry.start()].strip() if expiry else rest
    first, _, others = text.partition(" ")
    fields: dict[str, Any] = {"text": text}
    if first and unicodedata.category(first[0]) == "So":  # the emoji; a keycap begins with a digit, and is text
        fields = {"text": others.strip(), "emoji": first}
    return fields | ({"expires_in": seconds(expiry[1])} if expiry else {})


def conversation(rest: str) -> dict[str, Any]:
    """`USER… [: TITLE]` as the payload of `create_conversation`."""
    people, colon, title = rest.partition(":")
    usernames = [username(name) for name in re.split(r"[\s,]+", people) if username(name)]
    if not usernames or (colon and not title.strip()):
        raise InvalidCommand(t("/new USER… [: TITLE]"))
    return {"usernames": usernames, **({"title": title.strip()} if colon else {})}


async def find_message(
    reference: str, *, last: Callable[[], Awaitable[Message | None]], at: Callable[[int], Awaitable[Message | None]]
) -> Message:
    """Find the message that `reference` names: `.` by `last`, a number by `at`."""
    if reference == ".":
        message = await last()
    elif reference.isascii() and reference.isdigit() and 0 < len(reference) < 16:
        message = await at(int(reference))
    else:
        raise InvalidCommand(t("{text} is not the number of a message; . is the last one", text=reference))
    if message is None:
        raise InvalidCommand(
            t("there is no message yet")
            if reference == "."
            else t("there is no message {number} here", number=reference)
        )
    return message
