"""Names in the environment and in `.env` that no setting has: mistakes, and the settings of other systems."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Final

PREFIX: Final = "TIDINGS_"
_DATABASE_URL: Final = "TIDINGS_DATABASE_URL"
INSTEAD: Final = {
    "APP_HOST": "TIDINGS_HOST",
    "DEBUG": "TIDINGS_LOG_LEVEL",
    "POSTGRES_DB": _DATABASE_URL,
    "POSTGRES_USER": _DATABASE_URL,
    "POSTGRES_PASSWORD": _DATABASE_URL,
    "POSTGRES_HOST": _DATABASE_URL,
    "POSTGRES_PORT": _DATABASE_URL,
    "SECRET_KEY": "TIDINGS_SECRET_KEY",
    "IS_PROXY": "TIDINGS_ECHO_UPSTREAM",
}
"""Settings of the system with the two channels (`docs/dialects.md`) -> those of Tidings."""
_OTHERS: Final = re.compile(
    # The terminal client, the tests, and what Kubernetes sets for a service named `tidings`.
    r"TIDINGS_(SERVER|PASSWORD|PYTHON|CHROMIUM|FUZZED|(TEST|DISK|CRASH)_\w+|SERVICE_\w+|PORT_\w+)"
)


def check_names(names: Iterable[str], settings: Collection[str]) -> None:
    """Refuse a name that looks like a setting and is none. Raises ValueError.

    `settings`: the names of all settings, with the prefix.
    """
    for name in map(str.upper, names):
        if name.startswith(PREFIX) and name not in settings and not _OTHERS.fullmatch(name):
            ours = [setting.removeprefix(PREFIX) for setting in settings]
            close = get_close_matches(name.removeprefix(PREFIX), ours, 1, 0.7)
            raise ValueError(f"{name} is not a setting" + (f": did you mean {PREFIX}{close[0]}?" if close else ""))


def not_read(names: Iterable[str], given: Collection[str]) -> Iterator[tuple[list[str], str]]:
    """The settings of another system among the names, with the one to use instead, unless it is `given`."""
    upper = {name.upper() for name in names}
    for instead in dict.fromkeys(INSTEAD.values()):
        found = [name for name, setting in INSTEAD.items() if setting == instead and name in upper]
        if found and instead not in given:
            yield found, instead
