"""Every setting, and the only reader of the environment."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import make_url

from tidings.auth.limits import QUOTAS, QUOTAS_FORM, RATES, RATES_FORM, read_quotas, read_rates
from tidings.monitoring.logs import Level
from tidings.settings.other_names import PREFIX, check_names, not_read
from tidings.transport.addresses import host_of, is_loopback

SECRET_KEY_BYTES = 32
METRICS_TOKEN_LENGTH = 16
"""Minimum, in characters."""
MAX_TOKEN_MINUTES = 10 * 366 * 24 * 60
MAX_RETENTION_DAYS = 100 * 366
OTHER_NAMES = {"ACCESS_TOKEN_EXPIRE_MINUTES": "access_token_expire_minutes", "APP_PORT": "port"}
"""Setting names from the documents of other systems. They are read from a `.env` file only, because variables of
the environment may belong to another program: Kubernetes sets `APP_PORT=tcp://…`."""

_ORIGIN = re.compile(r"https?://[^/?#@\s]+")


def _split_urls(value: str) -> list[str]:
    """Comma-separated addresses. One that is only `host:port` has the rest of the first one."""
    urls = [url.strip() for url in value.split(",") if url.strip()]
    first = urlsplit(urls[0] if urls else "")
    if first.scheme in ("redis", "rediss"):
        user = "".join(first.netloc.rpartition("@")[:2])
        urls = [url if "://" in url else urlunsplit(first._replace(netloc=user + url)) for url in urls]
    return urls


def _host_of_origin(origin: str) -> str:
    return "*" if origin == "*" else host_of(origin.partition("://")[2])


def _days(default: int, description: str) -> Any:
    return Field(default=default, ge=0, le=MAX_RETENTION_DAYS, description=description)


FOREIGN_KEY = (
    "this server's signing key is not that of the other servers on its database: set TIDINGS_SECRET_KEY to theirs, or"
    " run `tidings rekey` if theirs is lost or leaked"
)


MIGRATIONS_NEEDED = "the database needs migrations: run `tidings migrate`"
REDIS_NEEDS_POSTGRESQL = (
    "TIDINGS_REDIS_URL joins the servers on one PostgreSQL: set TIDINGS_DATABASE_URL too, or leave it empty"
)


LOGO_BYTES = 256 * 1024


class SettingsError(Exception):
    """The server cannot start with a setting; the message names the setting and the reason."""


class Settings(BaseSettings):
    """Read from `TIDINGS_*` environment variables and a `.env` file; constructor arguments come first."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, str_strip_whitespace=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0: any free port. In `.env` also `APP_PORT`"
    )
    data_dir: Path = Field(default=Path("data"), description="The SQLite file and the generated secret (mode 0600)")
    database_url: str = Field(default="", description="`postgresql+asyncpg://…`; empty: SQLite in the data directory")
    redis_url: str = Field(
        default="",
        description="`redis://…`, `rediss://…` (with TLS) or `unix://…`: passes messages between the servers on one"
        " PostgreSQL in milliseconds; empty: within 0.2 s. For a Redis Cluster name several of its nodes,"
        " comma-separated",
    )
    workers: int = Field(
        default=1, ge=1, le=256, description="Server processes on the port; more than one needs PostgreSQL"
    )
    node_name: str = Field(
        default="",
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="The name of this server in its log and in `tidings nodes`, on PostgreSQL; empty: the host name"
        " and the process id",
    )
    drain_wait: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds for which a server that stops still accepts connections while `/health/ready` says 503."
        " No effect if it is the only one on its database",
    )
    drain_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds over which a server that stops then closes its connections, at most; few take less. No"
        " effect if it is the only one on its database",
    )
    node_url: str = Field(
        default="",
        description="`http://host:port` at which the other servers on a PostgreSQL database reach this one, to pass"
        " requests of its sessions on; empty: only servers with the same `TIDINGS_DATA_DIR` do",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs the tokens, 32 bytes or more; empty: generated once, in the data directory. To replace it,"
        " `new,old`: the first signs, tokens of the others stay valid",
    )
    access_token_expire_minutes: int = Field(
        default=1440,
        ge=1,
        le=MAX_TOKEN_MINUTES,
        description="Token lifetime in minutes. In `.env` also `ACCESS_TOKEN_EXPIRE_MINUTES`",
    )
    session_days: int = _days(
        90,
        "Days after which a session ends, however often it is refreshed; one of the messenger: days without a use."
        " 0: never",
    )
    jwt_jwks_url: str = Field(
        default="",
        description="Address of the public keys (JWKS) of another issuer, whose tokens sign its users in here: see"
        " docs/deployment.md#tokens-of-another-issuer",
    )
    jwt_key: SecretStr = Field(
        default=SecretStr(""),
        description="In place of `TIDINGS_JWT_JWKS_URL` the only key of that issuer: its public key as PEM, `\\n` for"
        " a new line, or a secret of 32 bytes or more that it shares with this server (HS256)",
    )
    jwt_issuer: str = Field(default="", description="The `iss` of that issuer's tokens; required with either")
    jwt_audience: str = Field(
        default="",
        description="What `aud` of its tokens must contain; empty: `aud` is not checked, and a token that was made"
        " for another service of the issuer is accepted too",
    )
    jwt_username_claim: str = Field(
        default="sub", min_length=1, description="The claim that is the username; the issuer must never reassign it"
    )
    jwt_name_claim: str = Field(
        default="name", min_length=1, description="The claim that becomes the display name of a new user"
    )
    registration: Literal["open", "invite", "closed"] = Field(
        default="open",
        description="Who may create an account: anyone, whoever has an administrator's registration link (`tidings"
        " invite`), or nobody. Not for users of `tidings user add` and of external tokens. An administrator may"
        " choose otherwise while the server runs",
    )
    directory: Literal["open", "closed"] = Field(
        default="open",
        description="Which users `get_users` lists: all, or (`closed`) only those who share a room with the caller;"
        " administrators, and keys of all rooms, find all. It hides no user from one who knows the username:"
        " profiles and direct messages work as ever",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Comma-separated origins whose pages may connect, or `*`; empty: same origin only. The"
        " origin of a browser extension is `chrome-extension://<its id>`",
    )
    cors_credentials: bool = Field(
        default=False,
        description="Whether pages of `TIDINGS_CORS_ORIGINS` may connect with cookies (`withCredentials`), as a"
        " sticky load balancer needs; not with `*`",
    )
    server_name: str = Field(
        default="Tidings", min_length=1, max_length=50, description="The name of the server in the page and its title"
    )
    server_logo: str = Field(
        default="",
        description="An `.svg` or `.png` file of up to 256 KiB, shown beside the name; empty: that of Tidings",
    )
    public_url: str = Field(
        default="",
        description="The address that clients use if a proxy is in front of the server: `https://chat.example.org`",
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Comma-separated host names accepted in the `Host` header, or `*`; empty: any. If"
        " `TIDINGS_HOST` is loopback, empty means its own names and those of `TIDINGS_PUBLIC_URL` and"
        " `TIDINGS_CORS_ORIGINS`. IP addresses are always accepted",
    )
    echo_upstream: str = Field(
        default="",
        description="Address of a `ws://` or `wss://` echo server; if set, the echo channel is a proxy to it",
    )
    public_channel: Literal["start", "entry"] = Field(
        default="start",
        description="When the topic `public` is created: at the first start, or when a user first enters it"
        " (`entry`)",
    )
    retention_topic_days: int = _days(0, "Days to keep topic messages; 0: for ever")
    retention_direct_days: int = _days(0, "Days to keep direct messages; 0: for ever")
    retention_group_days: int = _days(0, "Days to keep group messages; 0: for ever")
    purge_sessions_days: int = _days(
        90, "Days to keep ended sessions, and the addresses that their users signed in from; 0: for ever"
    )
    purge_devices_days: int = _days(
        365, "Days to keep a device and its cursors after its last connection; 0: for ever"
    )
    webhook_private: Literal["on", "off"] = Field(
        default="off",
        description="`on`: webhooks may use http, and addresses in private networks and on this machine",
    )
    push: Literal["on", "off", "private"] = Field(
        default="on",
        description="Push notifications. `private`: endpoints may use http, and addresses in private networks and on"
        " this machine",
    )
    push_contact: str = Field(
        default="",
        description="Where operators of push services reach those of this server: `mailto:ops@example.org` or an"
        " `https:` address, as some services demand; empty: `TIDINGS_PUBLIC_URL`",
    )
    link_previews: Literal["on", "off"] = Field(
        default="on",
        description="`off`: the server does not fetch the pages of links in messages, to show their titles",
    )
    files_url: str = Field(
        default="",
        pattern=r"^(s3://[^/\s]+(/\S*)?)?$",
        description="`s3://bucket/prefix`: where the files of messages are kept; keys, region and endpoint are in the"
        " variables `AWS_*`. Empty: the data directory, which all servers on one database then share",
    )
    files_origin: str = Field(
        default="",
        description="Another origin of this server, `https://files.example.org`, from which files are served: a file"
        " that a browser runs cannot reach the page. Empty: that of the page",
    )
    file_bytes: int = Field(default=100_000_000, ge=1, description="The most bytes of one file")
    durability: Literal["full", "normal"] = Field(
        default="full", description="`normal` survives a crash of the process, not of the machine"
    )
    rate_limits: Literal["on", "off"] = Field(
        default="on", description="`off` lifts every rate limit and per-address cap"
    )
    rates: Annotated[dict[str, str], NoDecode, BeforeValidator(read_rates)] = Field(
        default="",
        validate_default=True,
        description=f"`{RATES_FORM}`: how often one user may do something per second, minute, hour or day; other keys"
        f" keep their defaults. The keys are {', '.join(RATES)}: see docs/protocol.md#limits",
    )
    quotas: Annotated[dict[str, int], NoDecode, BeforeValidator(read_quotas)] = Field(
        default="",
        validate_default=True,
        description=f"`{QUOTAS_FORM}`: how much one user may have, 0: no bound; other keys keep their defaults. The"
        f" keys are {', '.join(QUOTAS)}: see docs/protocol.md#limits",
    )
    log_level: Level = Field(
        default="info", description="`debug`, `info`, `warning` or `error`; above `info`, actions are not logged"
    )
    metrics_token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token required by `GET /metrics`; empty: only clients in a private network may read it",
    )
    parser: Literal["json", "msgpack"] = Field(
        default="json", description="`msgpack`: all Socket.IO clients must use `socket.io-msgpack-parser`"
    )
    dev_tokens: bool = Field(
        default=False, description="Serves `GET /token?username=` to this machine only; not allowed with CORS origins"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        variables = dotenv_settings.env_vars
        try:
            check_names({**variables, **os.environ}, {PREFIX + name.upper() for name in settings_cls.model_fields})
        except ValueError as error:
            raise SettingsError(str(error)) from None
        aliases = {field: value for name, field in OTHER_NAMES.items() if (value := variables.get(name.lower()))}
        sources = init_settings, env_settings, dotenv_settings, file_secret_settings
        return *sources, InitSettingsSource(settings_cls, aliases)

    @field_validator("cors_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("server_logo")
    @classmethod
    def _check_logo(cls, value: str) -> str:
        if value and (Path(value).suffix.lower() not in (".svg", ".png") or not Path(value).is_file()):
            raise ValueError("give the path of an .svg or .png file")
        if value and Path(value).stat().st_size > LOGO_BYTES:
            raise ValueError(f"the file has more than {LOGO_BYTES // 1024} KiB")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_host_names(cls, value: list[str]) -> list[str]:
        names = [name.lower() for name in value]
        if any(name != "*" and host_of(name) != name for name in names):
            raise ValueError("give host names without scheme, port and path")
        return names

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < METRICS_TOKEN_LENGTH:
            raise ValueError(f"a token has at least {METRICS_TOKEN_LENGTH} characters")
        return value

    @field_validator("public_url", "files_origin")
    @classmethod
    def _check_public_url(cls, value: str) -> str:
        value = value.removesuffix("/").lower()
        if value and not _ORIGIN.fullmatch(value):
            raise ValueError("give an address like https://chat.example.org, without a path")
        return value

    @field_validator("push_contact")
    @classmethod
    def _check_push_contact(cls, value: str) -> str:
        if value and not value.startswith(("mailto:", "https:")):
            raise ValueError("give an address like mailto:ops@example.org or https://example.org")
        return value

    @field_validator("node_url")
    @classmethod
    def _check_node_url(cls, value: str) -> str:
        value = value.removesuffix("/").lower()
        try:
            valid = not value or (_ORIGIN.fullmatch(value) is not None and urlsplit(value).port != 0)
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("give an address like http://10.0.0.5:8000, without a path")
        return value

    @field_validator("echo_upstream")
    @classmethod
    def _check_echo_upstream(cls, value: str) -> str:
        if value:
            try:
                url = urlsplit(value)
                valid = url.scheme in ("ws", "wss") and bool(url.hostname) and url.port != 0
            except ValueError:
                valid = False
            if not valid:
                raise ValueError("give a ws:// or wss:// address")
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _check_jwks_url(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            valid = not value or (url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0)
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("give an address like https://login.example.org/jwks.json")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: str) -> str:
        if any(urlsplit(url).scheme not in ("redis", "rediss", "unix") for url in _split_urls(value)):
            raise ValueError("give an address like redis://host:6379")
        return value

    @model_validator(mode="after")
    def _check_external(self) -> Settings:
        given = bool(self.jwt_jwks_url) + bool(self.jwt_key.get_secret_value())
        if given == 2:
            raise ValueError("give TIDINGS_JWT_JWKS_URL or TIDINGS_JWT_KEY, not both")
        if given != bool(self.jwt_issuer):
            raise ValueError("TIDINGS_JWT_ISSUER and TIDINGS_JWT_JWKS_URL or TIDINGS_JWT_KEY need each other")
        return self

    @model_validator(mode="after")
    def _check_dev_tokens(self) -> Settings:
        if self.dev_tokens and not is_loopback(self.host):
            raise ValueError(
                f"TIDINGS_DEV_TOKENS gives a token to anyone who asks, so it is not allowed on the host {self.host}"
            )
        if self.dev_tokens and self.cors_origins:
            raise ValueError(
                "TIDINGS_DEV_TOKENS gives a token to anyone who asks, so it is not allowed with TIDINGS_CORS_ORIGINS"
            )
        return self

    @model_validator(mode="after")
    def _check_cors_credentials(self) -> Settings:
        if self.cors_credentials and (not self.cors_origins or "*" in self.cors_origins):
            raise ValueError(
                "TIDINGS_CORS_CREDENTIALS needs TIDINGS_CORS_ORIGINS with the origins themselves, not `*`"
            )
        return self

    @property
    def database(self) -> str:
        """The database URL in effect."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'tidings.db'}"

    @property
    def redis_urls(self) -> list[str]:
        """The addresses of Redis; empty: it is not used."""
        return _split_urls(self.redis_url)

    @property
    def origins(self) -> list[str]:
        """Origins whose pages may connect, besides the origin of the requested host."""
        return [*self.cors_origins, *([self.public_url] if self.public_url else [])]

    @property
    def public_contact(self) -> str:
        """The contact for push services, if none is configured."""
        return self.public_url if self.public_url.startswith("https:") else "mailto:postmaster@localhost"

    @property
    def host_names(self) -> frozenset[str] | None:
        """Host names accepted in the `Host` header; None: any."""
        allowed = self.allowed_hosts
        if not allowed and is_loopback(self.host):
            allowed = [*map(_host_of_origin, self.cors_origins)]
        elif not allowed:
            return None
        own = map(_host_of_origin, (self.public_url, self.files_origin))
        return None if "*" in allowed else frozenset((*allowed, *own)) - {""}

    @property
    def not_read(self) -> list[str]:
        """Names in `.env` that only another system reads, and the setting to use instead."""
        given = {PREFIX + name.upper() for name in self.model_fields_set}
        names = DotEnvSettingsSource(type(self)).env_vars
        return [f"{', '.join(found)} (here {instead})" for found, instead in not_read(names, given)]

    @property
    def limited(self) -> bool:
        return self.rate_limits == "on"

    @property
    def signing_key_file(self) -> Path | None:
        """The file that holds the signing key; None if the key comes from the environment."""
        if not self.secret_key.get_secret_value():
            return self.data_dir / "secret_key"
        dotenv = Path(".env")
        return dotenv.absolute() if "TIDINGS_SECRET_KEY" not in os.environ and dotenv.is_file() else None

    @property
    def traced(self) -> bool:
        """Whether OpenTelemetry's own variables name a collector of traces."""
        names = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        return any(map(os.environ.get, names)) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"

    @property
    def node_label(self) -> str:
        """The name of this process for people."""
        return self.node_name or f"{socket.gethostname()}-{os.getpid()}"

    def worker_environment(self, number: int) -> dict[str, str]:
        """The environment of a worker process, whose supervisor this process is."""
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', self.node_label)[-60:]}-{number}"
        return os.environ | {"TIDINGS_WORKERS": str(self.workers), "TIDINGS_NODE_NAME": name}

    @property
    def mark_file(self) -> Path:
        """See `tidings.log.epochs`: for SQLite beside the database."""
        url = make_url(self.database)
        if url.get_backend_name() == "sqlite" and url.database:
            return Path(f"{url.database}-mark")
        return self.data_dir / "postgresql-mark"

    @property
    def address_file(self) -> Path:
        """Where the running server has written the address that it listens on."""
        return self.data_dir / "address"

    @property
    def socket_dir(self) -> Path:
        """Where servers that share the data directory have their Unix sockets."""
        return self.data_dir / "run"

    def prepare_data_dir(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def signing_keys(self) -> list[bytes]:
        """The key that signs tokens, and older ones whose tokens are still accepted.

        Without a configured key, the first call writes one to the data directory. Raises SettingsError if a key is
        too short.
        """
        if configured := self.secret_key.get_secret_value():
            keys = [key.strip().encode() for key in configured.split(",")]
            if min(map(len, keys)) >= SECRET_KEY_BYTES:
                return keys
            # A single key with a comma in it: the parts alone are too short for keys.
            if len(configured.encode()) < SECRET_KEY_BYTES:
                raise SettingsError(f"TIDINGS_SECRET_KEY must have at least {SECRET_KEY_BYTES} bytes")
            return [configured.encode()]
        self.prepare_data_dir()
        path = self.data_dir / "secret_key"
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
        if len(key) < SECRET_KEY_BYTES:
            raise SettingsError(f"{path} holds no key of at least {SECRET_KEY_BYTES} bytes; remove it for a new one")
        return [key]


def _make_key(path: Path) -> None:
    """Write a new key atomically: the file is complete or missing. Of two concurrent writers, the first wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(SECRET_KEY_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
