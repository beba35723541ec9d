"""The keys by which names are compared; the names themselves are stored and shown as given."""

from __future__ import annotations

import re
import unicodedata

_WIDTH = {
    code: mapped for code in range(0xFF01, 0xFFF0) if len(mapped := unicodedata.normalize("NFKC", chr(code))) == 1
}
"""The width mapping rule of RFC 8265, section 3.3.1: half- and full-width characters to their decompositions."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
"""Default_Ignorable_Code_Point of Unicode 15, and the Braille pattern without dots."""


def username_key(name: str) -> str:
    """The key by which usernames are compared: the mappings of PRECIS UsernameCaseMapped (RFC 8265)."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.translate(_WIDTH).lower())


def name_key(name: str) -> str:
    """The key by which topic names, and topics against usernames, are compared: Unicode's NFKC_Casefold, trimmed.

    Empty for a name without visible characters.
    """
    if name.isascii():
        return name.lower().strip()
    folded = unicodedata.normalize("NFKC", without_invisible(name)).casefold()
    return without_invisible(unicodedata.normalize("NFKC", folded)).strip()


def without_invisible(text: str) -> str:
    """The text without invisible characters."""
    return _INVISIBLE.sub("", text)


_LOOKALIKES = str.maketrans(
    {char: group.split()[0] for group in (
        "a а α ɑ", "A А Α", "B В Β", "c с ϲ", "C С Ϲ", "d ԁ", "e е", "E Е Ε", "F Ϝ", "g ɡ ց", "G Ԍ", "h һ հ", "H Н Η",
        "i і ι ı ɩ", "j ј ϳ յ", "J Ј", "k к κ ĸ", "K К Κ", "l 1 I | І Ӏ ӏ Ι ǀ", "M М Μ", "n ո η", "N Ν",
        "o ο о օ σ O 0 О Ο Օ", "p р ρ", "P Р Ρ", "q ԛ զ", "Q Ԛ", "r г", "s ѕ", "S Ѕ Տ", "T Т Τ", "u υ ս ʋ", "U Ս",
        "v ν ѵ", "V Ѵ", "w ԝ", "W Ԝ", "x х", "X Х Χ", "y у γ ү", "Y У Ү Υ", "Z Ζ", "b Ь ь", "3 З", "6 б", "rn m ᴍ",
        "a ᴀ", "b ʙ", "c ᴄ", "d ᴅ", "e ᴇ", "f ꜰ", "g ɢ", "h ʜ", "i ɪ", "j ᴊ", "k ᴋ", "l ʟ", "n ɴ", "o ᴏ", "p ᴘ",
        "q ꞯ", "r ʀ", "s ꜱ", "t ᴛ", "u ᴜ", "v ᴠ", "w ᴡ", "y ʏ", "z ᴢ",
        "ك ک", "ي ی ى", "力 カ", "口 ロ", "二 ニ", "八 ハ", "夕 タ", "へ ヘ", "工 エ", "卜 ト", "一 ー",
    ) for char in group.split()[1:]}
)  # fmt: skip
"""Characters of living scripts that look the same in most typefaces (UTS 39, confusables.txt)."""


def skeleton(username: str) -> str:
    """Equal for usernames that look the same, in the manner of UTS 39, section 4: `paypaI` and `paypal`."""
    parts = unicodedata.normalize("NFD", username).translate(_LOOKALIKES)
    return unicodedata.normalize("NFD", parts.casefold())
