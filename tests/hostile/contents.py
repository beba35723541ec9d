"""Contents that are expensive to search, each as long as a content may be."""

from __future__ import annotations

from typing import Final

from tidings.contract.actions import MAX_CONTENT


def _long(piece: str) -> str:
    return (piece * (MAX_CONTENT // len(piece) + 1))[:MAX_CONTENT]


CONTENTS: Final[dict[str, str]] = {
    "plain": _long("x"),
    "words": _long("word "),
    "names with punctuation": _long((" @" + "é" * 33 + ")") * 31),
    "names that begin with punctuation": _long(" @・" + "." * 63),
    "names that get longer": _long(" @" + "İ" * 32),
    "names that are taken apart": _long(" @" + "\ufdfa" * 64),
    "half-width names": _long(" @" + "ｱﾞ" * 32),
    "combining marks": _long("@a" + "\u0301" * 60 + " "),
    "one letter with all its marks": _long("a" + "\u0301" * MAX_CONTENT),
    "unordered marks": _long("a\u0301\u0316\u0323"),
    "many names": _long("".join(f" @x{n}" for n in range(4000))),
    "many names with punctuation": _long("".join(f" @x{n}" + ")" * 7 for n in range(2000))),
    "many words that are too long for a name": _long("".join(f" @{n:033}" for n in range(1000))),
    "at signs": _long("@"),
    "backticks": _long("@a `b "),
    "growing backticks": _long("@a " + "".join("`" * n + " " for n in range(1, 180))),
    "one run of backticks": _long("@a " + "`" * MAX_CONTENT),
    "paragraphs with a backtick": _long("@a `\n\n"),
    "fences": _long("@a\n```\n~~~\n"),
    "indented fences": _long("@a\n   ~~~"),
    "blank lines": _long("@a\n~~~\n" + "\n" * MAX_CONTENT),
    "ligatures": _long("\ufdfa"),
    "emoji joined": _long("👩‍👩‍👧‍👦"),
    "expanding case": _long("ŉǰΐẖ"),
    "quotes": _long('"'),
    "backslashes": _long("\\"),
    "controls": _long("\x01"),
    "right to left": _long("سلام "),
    "hangul": _long("\u1112\u1161\u11ab"),
    "markdown": _long("*a_ [b](c) > "),
}
