"""Every setting, and the only reader of the environment."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.limits import Limit, rate
from server.logs import Level

SECRET_KEY_BYTES = 32
MAX_TOKEN_MINUTES = 10 * 366 * 24 * 60
MAX_RETENTION_DAYS = 100 * 366


def _rate(text: str) -> str:
    rate(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]
"""How often something may be done: "6000/minute"."""


class SettingsError(Exception):
    """The settings cannot be served with; the message says which and why."""


class Settings(BaseSettings):
    """Read from `TIDINGS_*` environment variables and a `.env` file; constructor arguments come first."""

    model_config = SettingsConfigDict(
        env_prefix="TIDINGS_", env_file=".env", extra="ignore", frozen=True, str_strip_whitespace=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one")
    data_dir: Path = Field(
        default=Path("data"), description="The SQLite file, the generated secret (mode 0600), uploads"
    )
    database_url: str = Field(default="", description="`postgresql+asyncpg://…`; empty: SQLite in the data directory")
    redis_url: str = Field(default="", description="Needed when there is more than one node")
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the tokens; empty: generated once, in the data directory. 32 bytes or more",
    )
    access_token_expire_minutes: int = Field(default=1440, ge=1, le=MAX_TOKEN_MINUTES, description="Life of a token")
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Comma-separated origins, or `*`; empty: same origin only"
    )
    echo_upstream: str = Field(
        default="", description="A `ws://` or `wss://` echo server; set, the echo channel is a proxy to it"
    )
    retention_topic_days: int = Field(
        default=0, ge=0, le=MAX_RETENTION_DAYS, description="Messages of topics are kept so many days; 0: for ever"
    )
    retention_direct_days: int = Field(
        default=0, ge=0, le=MAX_RETENTION_DAYS, description="The same for direct conversations"
    )
    retention_group_days: int = Field(default=0, ge=0, le=MAX_RETENTION_DAYS, description="The same for groups")
    durability: Literal["full", "normal"] = Field(
        default="full", description="`normal` survives a crash of the process, not of the machine"
    )
    rate_limits: Literal["on", "off"] = Field(
        default="on", description="`off` lifts every rate limit and per-address cap"
    )
    limit_sends: Rate = Field(
        default="6000/minute", description="What a user may send (messages, edits …); a connection half of it"
    )
    limit_joins: Rate = Field(
        default="3000/minute", description="Changes of rooms and who is in them; a connection half of it"
    )
    limit_reads: Rate = Field(
        default="6000/minute", description="History, lists, profiles, markers; a connection half of it"
    )
    limit_searches: Rate = Field(default="300/minute", description="Searches; a connection half of it")
    limit_exports: Rate = Field(default="10/hour", description="Exports of all that is kept of a user")
    limit_logins: Rate = Field(
        default="10/minute", description="Attempts to sign in to one account; from one address three times as many"
    )
    limit_registrations: Rate = Field(default="20/minute", description="Accounts made from one address")
    log_level: Level = Field(
        default="info", description="`debug`, `info`, `warning` or `error`; above `info`, actions make no line"
    )
    parser: Literal["json", "msgpack"] = Field(
        default="json", description="`msgpack`: clients use `socket.io-msgpack-parser`; all of them, or none"
    )
    dev_tokens: bool = Field(default=False, description="Serves `GET /token?username=`; only on a loopback host")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("echo_upstream")
    @classmethod
    def _a_websocket(cls, value: str) -> str:
        if value:
            try:
                where = urlsplit(value)
                good = where.scheme in ("ws", "wss") and bool(where.hostname) and where.port != 0
            except ValueError:
                good = False
            if not good:
                raise ValueError("give a ws:// or wss:// address")
        return value

    @model_validator(mode="after")
    def _dev_tokens_stay_home(self) -> Settings:
        if self.dev_tokens and not is_loopback(self.host):
            raise ValueError(f"TIDINGS_DEV_TOKENS hands out tokens to anyone: not on the host {self.host}")
        return self

    @property
    def database(self) -> str:
        """The database URL in effect."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'tidings.db'}"

    @property
    def limited(self) -> bool:
        return self.rate_limits == "on"

    @property
    def limits(self) -> dict[Limit, str]:
        """The rates of the kinds of actions."""
        return {
            Limit.SENDS: self.limit_sends,
            Limit.JOINS: self.limit_joins,
            Limit.READS: self.limit_reads,
            Limit.SEARCHES: self.limit_searches,
            Limit.EXPORTS: self.limit_exports,
        }

    def prepare_data_dir(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def signing_key(self) -> bytes:
        """The key that signs tokens; made at the first call on a data directory if none was given."""
        given = self.secret_key.get_secret_value().encode()
        if given:
            if len(given) < SECRET_KEY_BYTES:
                raise SettingsError(f"TIDINGS_SECRET_KEY must have at least {SECRET_KEY_BYTES} bytes")
            return given
        self.prepare_data_dir()
        path = self.data_dir / "secret_key"
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
        if len(key) < SECRET_KEY_BYTES:
            raise SettingsError(f"{path} holds no key of at least {SECRET_KEY_BYTES} bytes; remove it for a new one")
        return key


def _make_key(path: Path) -> None:
    """Put a new key into a file that is there whole or not at all; of two who do so at once, the first wins."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(SECRET_KEY_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(made)
    finally:
        made.unlink(missing_ok=True)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
