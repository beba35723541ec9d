"""The lines that `tidings serve` prints when it listens: address, data, durability, safety, and what it ignores."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import URL

from tidings.settings import Settings

DURABILITY = {
    "full": "an acknowledged message survives a crash of the machine",
    "normal": "an acknowledged message survives a crash of the process, not of the machine",
}
WIDEST_PREFIX = 8
"""Bits. A wider network of trusted proxies would include clients."""
EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Check:
    safe: bool
    text: str


def banner(
    settings: Settings, database: URL, host: str, port: int, proxies: Sequence[str] | str, *, workers: int = 1
) -> str:
    """Describe a server that listens on `host` and `port`.

    The text contains no secret.

    Args:
        proxies: addresses and networks whose `X-Forwarded-For` uvicorn trusts: a list, or a comma-separated string.
    """
    return "\n".join(
        (
            f"Tidings listening on {url_of(host, port)}" + (f" with {workers} workers" if workers > 1 else ""),
            f"  data        {_data(settings, database)}",
            f"  durability  {settings.durability}: {DURABILITY[settings.durability]}",
            f"  safety      {_safety(settings, database, proxies)}",
            *([f"  not read    in .env: {'; '.join(settings.not_read)}"] if settings.not_read else []),
        )
    )


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _data(settings: Settings, database: URL) -> str:
    if database.get_backend_name() == "sqlite":
        data = f"SQLite, {database.database}"
    else:
        # The query of the URL may also contain a password.
        data = f"PostgreSQL, {database.set(query={}).render_as_string(hide_password=True)}"
    if settings.redis_urls:
        data += f"; Redis, {' or '.join(map(_place, settings.redis_urls))}"
    return data


def _place(url: str) -> str:
    """Where an URL leads, without the password that it may contain."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]


def _safety(settings: Settings, database: URL, proxies: Sequence[str] | str) -> str:
    checks = [
        _limits(settings),
        _proxies(proxies),
        _signing_key(settings),
        *_database(database),
        *_dev_tokens(settings),
    ]
    safe = "; ".join(check.text for check in checks if check.safe)
    unsafe = "; ".join(check.text for check in checks if not check.safe)
    if not unsafe:
        return f"ok: {safe}"
    return f"NOT SAFE: {unsafe}" + (f". Safe: {safe}" if safe else "")


def _limits(settings: Settings) -> Check:
    if settings.limited:
        return Check(True, "rate limits are on")
    return Check(False, "rate limits are off (TIDINGS_RATE_LIMITS=off), so one client can overload the server")


def _proxies(proxies: Sequence[str] | str) -> Check:
    listed = [part.strip() for part in (proxies.split(",") if isinstance(proxies, str) else proxies)]
    listed = [part for part in listed if part]
    shown = ",".join(listed)
    if listed == [EVERYBODY]:
        return Check(False, f"clients can claim any address in X-Forwarded-For (FORWARDED_ALLOW_IPS={shown})")
    for proxy in listed:
        try:
            network = ipaddress.ip_network(proxy)
        except ValueError:
            return Check(
                False, f"{proxy!r} in FORWARDED_ALLOW_IPS is not an address or network, so it matches no proxy"
            )
        if network.prefixlen < WIDEST_PREFIX:
            return Check(False, f"{proxy} in FORWARDED_ALLOW_IPS also trusts X-Forwarded-For from clients")
    if not listed:
        return Check(True, "X-Forwarded-For is trusted from no proxy")
    return Check(True, f"X-Forwarded-For is trusted only from {shown} (FORWARDED_ALLOW_IPS)")


def _signing_key(settings: Settings) -> Check:
    origin = "given in TIDINGS_SECRET_KEY" if settings.secret_key.get_secret_value() else "generated"
    if (path := settings.signing_key_file) is None:
        return Check(True, f"the signing key is {origin}")
    mode = _mode(path)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check(False, f"other local users can read the signing key (chmod 600 {path}, now {mode:04o})")
    return Check(True, f"the signing key is {origin}, in {path} (mode {mode:04o})")


def _database(database: URL) -> Iterator[Check]:
    """Check whether other local users can read or replace the SQLite file."""
    if database.get_backend_name() != "sqlite" or not (path := Path(database.database or "").absolute()).exists():
        return
    folder, file = _mode(path.parent), _mode(path)
    if folder & (stat.S_IWGRP | stat.S_IWOTH) and not folder & stat.S_ISVTX:
        yield Check(False, f"other local users can replace the database (chmod 700 {path.parent}, now {folder:04o})")
    for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH)):
        if file & read and folder & enter:
            yield Check(False, f"other local users can read the database (chmod 600 {path}*, now {file:04o})")
            return


def _mode(path: Path) -> int:
    """Permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def _dev_tokens(settings: Settings) -> Iterator[Check]:
    if settings.dev_tokens:
        yield Check(False, "any program on this machine can get a token of any user from /token (TIDINGS_DEV_TOKENS)")
