"""Names in the environment and in `.env` that no setting has: mistakes, and the settings of other systems."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
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
_BY_KEY: Final = {"TIDINGS_LIMIT_": "TIDINGS_RATES", "TIDINGS_MAX_": "TIDINGS_QUOTAS"}
"""How settings began in unreleased versions -> the setting that has their values by key."""
_OTHERS: Final = re.compile(
    # The terminal client, the tests, and what Kubernetes sets for a service named `tidings`.
    r"TIDINGS_(SERVER|PASSWORD|PYTHON|CHROMIUM|FUZZED|(TEST|DISK|CRASH)_\w+|SERVICE_\w+|PORT_\w+)"
)


def check_names(given: Mapping[str, str | None], settings: Collection[str]) -> None:
    """Refuse a name that looks like a setting and is none. Raises ValueError.

    Args:
        given: names and values.
        settings: the names of all settings, with the prefix.
    """
    unknown = {
        upper: value
        for name, value in given.items()
        if (upper := name.upper()).startswith(PREFIX) and upper not in settings and not _OTHERS.fullmatch(upper)
    }
    for prefix, setting in _BY_KEY.items():
        if old := [name for name in unknown if name.startswith(prefix)]:
            new = ",".join(f"{name.removeprefix(prefix).lower()}={unknown[name] or ''}" for name in old)
            raise ValueError(f"not a setting: {', '.join(old)}; write {setting}={new}")
    for name in unknown:
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
