"""The texts of the terminal in the user's language, as gettext has it.

The English text is the key of its translation; the translations are in `locale`. LANGUAGE, LC_ALL, LC_MESSAGES and
LANG choose, in this order.
"""

from __future__ import annotations

import gettext
import io
import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final

from babel.core import Locale, UnknownLocaleError, negotiate_locale
from babel.dates import format_date, format_datetime
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LANGUAGES: Final = ("en", "es")
_VARIABLES: Final = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


def t(text: str, /, **values: object) -> str:
    """A text in the user's language. `values` replace its placeholders, such as `{name}`."""
    translated = _translations().gettext(text) if text else text
    return translated.format_map(values) if values else translated


def n(one: str, many: str, count: int, /, **values: object) -> str:
    """A text with a number, `{count}`, which decides its form."""
    return _translations().ngettext(one, many, count).format_map({**values, "count": count})


def m(text: str) -> str:
    """Mark a text that `t` translates later."""
    return text


def translation_of(message: str) -> str | None:
    """A message of the server in the user's language; None if there is no translation."""
    if locale().language == "en" or t(message) != message:
        return t(message)
    for text in _of_server():
        found = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(text)), message)
        if found:
            return t(text, **found.groupdict())
    return None


def day_of(when: datetime) -> str:
    """A date with its weekday."""
    if locale().language == "en":
        return f"{when:%A}, {when.day} {when:%B %Y}"
    return format_date(when, "full", locale())


def moment_of(when: datetime) -> str:
    """A date without its year, and the time."""
    return format_datetime(when, "dd MMM HH:mm", locale=locale())


def chosen(environment: Mapping[str, str] = os.environ) -> Locale:
    """The locale for texts and dates: the user's country with one of `LANGUAGES`."""
    preferred = next((environment[name] for name in _VARIABLES if environment.get(name)), "").split(":")
    for name in preferred:
        language = name.partition(".")[0].partition("@")[0]
        if negotiate_locale([language], LANGUAGES, sep="_"):
            try:
                return Locale.parse(language)
            except (UnknownLocaleError, ValueError):
                return Locale(language.partition("_")[0])
    return Locale("en")


@cache
def locale() -> Locale:
    return chosen()


@cache
def _catalogue() -> Catalog:
    language = locale().language
    source = files("tidings_chat").joinpath("locale", f"{language}.po").read_text("utf-8")
    return read_po(io.StringIO(source), locale=language)


@cache
def _of_server() -> list[str]:
    """The server's messages that have placeholders."""
    return [
        message.id
        for message in _catalogue()
        if isinstance(message.id, str) and "{" in message.id and message.locations[0][0].startswith("server/")
    ]


@cache
def _translations() -> gettext.NullTranslations:
    if locale().language == "en":
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    write_mo(compiled, _catalogue())
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
