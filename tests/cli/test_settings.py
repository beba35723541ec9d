"""Settings: names and defaults as in the contract, and their sources."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy.engine import make_url

from tidings.auth.limits import QUOTAS, QUOTAS_FORM, RATES, RATES_FORM, Limit
from tidings.cli.banner import banner
from tidings.settings import Settings, SettingsError

DEFAULTS: dict[str, Any] = {
    "TIDINGS_HOST": "127.0.0.1",
    "TIDINGS_PORT": 8000,
    "TIDINGS_DATA_DIR": Path("data"),
    "TIDINGS_DATABASE_URL": "",
    "TIDINGS_REDIS_URL": "",
    "TIDINGS_SECRET_KEY": SecretStr(""),
    "TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES": 1440,
    "TIDINGS_CORS_ORIGINS": [],
    "TIDINGS_ECHO_UPSTREAM": "",
    "TIDINGS_DURABILITY": "full",
    "TIDINGS_RATE_LIMITS": "on",
    "TIDINGS_DEV_TOKENS": False,
}
"""The whole table of the contract."""

SAMPLES: dict[str, tuple[str, Any]] = {
    "TIDINGS_HOST": ("::1", "::1"),
    "TIDINGS_PORT": ("1234", 1234),
    "TIDINGS_DATA_DIR": ("elsewhere", Path("elsewhere")),
    "TIDINGS_DATABASE_URL": ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    "TIDINGS_REDIS_URL": ("redis://h", "redis://h"),
    "TIDINGS_SECRET_KEY": ("k" * 32, SecretStr("k" * 32)),
    "TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES": ("5", 5),
    "TIDINGS_CORS_ORIGINS": ("https://a.example, https://b.example", ["https://a.example", "https://b.example"]),
    "TIDINGS_ECHO_UPSTREAM": ("wss://h", "wss://h"),
    "TIDINGS_DURABILITY": ("normal", "normal"),
    "TIDINGS_RATE_LIMITS": ("off", "off"),
    "TIDINGS_DEV_TOKENS": ("true", True),
}


def _field(name: str) -> str:
    return name.removeprefix("TIDINGS_").lower()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory and an environment without settings of Tidings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("TIDINGS_"):
            monkeypatch.delenv(name)


def test_every_setting_of_the_contract_exists_with_its_default() -> None:
    settings = Settings()
    assert {name: getattr(settings, _field(name)) for name in DEFAULTS} == DEFAULTS
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_is_read_from_a_dotenv_file_and_the_environment_wins(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw, value = SAMPLES[name]
    dotenv = tmp_path / ".env"
    dotenv.write_text(f'{name}="{raw}"\nANOTHER_PROGRAMS=setting\n')
    assert getattr(Settings(), _field(name)) == value
    dotenv.write_text(f"{name}=nonsense or not\n")
    monkeypatch.setenv(name, raw)
    assert getattr(Settings(), _field(name)) == value
    dotenv.unlink()
    assert getattr(Settings(), _field(name)) == value


@pytest.mark.parametrize(
    ("name", "ours"),
    [("ACCESS_TOKEN_EXPIRE_MINUTES", "TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES"), ("APP_PORT", "TIDINGS_PORT")],
)
def test_a_dotenv_name_of_another_system_sets_the_default_of_a_setting(
    name: str, ours: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    field, dotenv = _field(ours), tmp_path / ".env"
    dotenv.write_text(f"{name}=30\n")
    assert getattr(Settings(), field) == 30
    assert getattr(Settings(**{field: 34}), field) == 34
    dotenv.write_text(f"{name}=30\n{ours}=31\n")
    assert getattr(Settings(), field) == 31
    dotenv.write_text(f"{name}=30\n")
    monkeypatch.setenv(ours, "32")
    assert getattr(Settings(), field) == 32
    monkeypatch.delenv(ours)
    dotenv.write_text(f"{name}=\n")
    assert getattr(Settings(), field) == DEFAULTS[ours]


def test_names_of_other_systems_are_ignored_in_the_environment_and_for_keys_and_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APP_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("ACCESS_TOKEN_EXPIRE_MINUTES", "5")
    unrelated = {
        "SECRET_KEY": "k" * 32,
        "APP_HOST": "0.0.0.0",
        "POSTGRES_DB": "theirs",
        "DEBUG": "True",
        "IS_PROXY": "True",
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in unrelated.items()))
    assert Settings() == Settings(_env_file=None, **{_field(name): value for name, value in DEFAULTS.items()})


def test_settings_of_another_system_that_are_not_read_are_named_with_the_ones_to_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("APP_HOST=0.0.0.0\nAPP_PORT=8000\nPOSTGRES_DB=app\nPOSTGRES_USER=postgres\nANOTHER=1\n")
    assert Settings().not_read == [
        "APP_HOST (here TIDINGS_HOST)",
        "POSTGRES_DB, POSTGRES_USER (here TIDINGS_DATABASE_URL)",
    ]
    assert "not read    in .env: APP_HOST" in banner(
        Settings(secret_key=SecretStr("k" * 32)), make_url("sqlite:///x"), "127.0.0.1", 8000, ""
    )
    monkeypatch.setenv("TIDINGS_DATABASE_URL", "postgresql+asyncpg://postgres@db/app")
    dotenv.write_text(dotenv.read_text() + "TIDINGS_HOST=127.0.0.1\n")
    assert Settings().not_read == []


def test_an_unknown_setting_is_an_error_that_names_a_similar_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDINGS_PASSWORD", "of the terminal client")
    monkeypatch.setenv("TIDINGS_SERVICE_HOST", "of a service of Kubernetes")
    Settings()
    with monkeypatch.context() as patched:
        patched.setenv("TIDINGS_PROT", "1")
        with pytest.raises(SettingsError, match=r"^TIDINGS_PROT is not a setting: did you mean TIDINGS_PORT\?$"):
            Settings()
    (tmp_path / ".env").write_text("TIDINGS_FROBNICATE=1\n")
    with pytest.raises(SettingsError, match=r"^TIDINGS_FROBNICATE is not a setting$"):
        Settings()


def test_the_default_database_is_sqlite_in_the_data_directory(tmp_path: Path) -> None:
    assert Settings().database == f"sqlite:///{tmp_path / 'data' / 'tidings.db'}"
    assert Settings(data_dir=Path("/elsewhere")).database == "sqlite:////elsewhere/tidings.db"
    assert Settings(database_url="postgresql+asyncpg://h/d").database == "postgresql+asyncpg://h/d"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDINGS_PORT", "-1"),
        ("TIDINGS_PORT", "65536"),
        ("TIDINGS_PORT", "http"),
        ("TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES", "0"),
        ("TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES", "99999999999"),
        ("TIDINGS_DURABILITY", "off"),
        ("TIDINGS_RATE_LIMITS", "maybe"),
        ("TIDINGS_DEV_TOKENS", "maybe"),
        ("TIDINGS_RETENTION_TOPIC_DAYS", "-1"),
        ("TIDINGS_RETENTION_DIRECT_DAYS", "0.5"),
        ("TIDINGS_RETENTION_GROUP_DAYS", "99999999999"),
        ("TIDINGS_SERVER_NAME", ""),
        ("TIDINGS_SERVER_LOGO", "logo.gif"),
        ("TIDINGS_SERVER_LOGO", "/nowhere/logo.png"),
        ("TIDINGS_ECHO_UPSTREAM", "http://echo.example.org"),
        ("TIDINGS_ECHO_UPSTREAM", "echo.example.org"),
        ("TIDINGS_ECHO_UPSTREAM", "wss://"),
        ("TIDINGS_ECHO_UPSTREAM", "ws://echo.example.org:http"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == (_field(name),)


def test_rates_and_quotas_that_are_not_given_keep_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().rates, Settings().quotas) == (RATES, QUOTAS)
    monkeypatch.setenv("TIDINGS_RATES", "sends=600/minute, logins = 5/hour,typing=4/second,volume=1/day,")
    monkeypatch.setenv("TIDINGS_QUOTAS", "rooms=500,links=0")
    given = {"sends": "600/minute", "logins": "5/hour", "typing": "4/second", "volume": "1/day"}
    assert Settings().rates == {**RATES, **given}
    assert Settings().quotas == {**QUOTAS, "rooms": 500, "links": 0}
    assert RATES.keys() == {*Limit, "logins", "registrations"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("TIDINGS_RATES", "messages=20/second"),
        ("TIDINGS_RATES", "sends"),
        ("TIDINGS_RATES", "6000/minute"),
        ("TIDINGS_RATES", "sends="),
        ("TIDINGS_RATES", "sends=many"),
        ("TIDINGS_RATES", "joins=0/minute"),
        ("TIDINGS_RATES", "reads=-5/minute"),
        ("TIDINGS_RATES", "logins=5/minute;50/hour"),
        ("TIDINGS_RATES", "registrations=5/fortnight"),
        ("TIDINGS_RATES", "exports=1/hour"),  # a second time
        ("TIDINGS_QUOTAS", "members=3"),
        ("TIDINGS_QUOTAS", "rooms=-1"),
        ("TIDINGS_QUOTAS", "rooms=0.5"),
        ("TIDINGS_QUOTAS", "rooms="),
        ("TIDINGS_QUOTAS", "devices=3"),  # a second time
    ],
)
def test_a_wrong_rate_or_quota_is_refused_with_its_key_the_form_and_the_keys(
    monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    good, form, keys = {
        "TIDINGS_RATES": ("exports=5/hour", RATES_FORM, RATES),
        "TIDINGS_QUOTAS": ("devices=5", QUOTAS_FORM, QUOTAS),
    }[name]
    monkeypatch.setenv(name, f"{good},{part}")
    with pytest.raises(ValidationError) as refused:
        Settings()
    (error,) = refused.value.errors()
    assert error["loc"] == (_field(name),)
    assert f"cannot read {part}: write {form}" in error["msg"]
    assert error["msg"].endswith(f"the keys are {', '.join(keys)}")


def test_settings_that_are_rates_and_quotas_now_are_refused_with_the_line_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("TIDINGS_LIMIT_SENDS=7/hour\nTIDINGS_LIMIT_LOGINS=5/hour\n")
    monkeypatch.setenv("TIDINGS_LIMIT_SENDS", "600/minute")  # the environment wins
    line = "TIDINGS_RATES=sends=600/minute,logins=5/hour"
    with pytest.raises(SettingsError, match=rf"^not a setting: \w+_SENDS, \w+_LOGINS; write {line}$"):
        Settings()
    monkeypatch.delenv("TIDINGS_LIMIT_SENDS")
    dotenv.write_text("TIDINGS_MAX_ROOMS=500\n")
    with pytest.raises(SettingsError, match=r"^not a setting: TIDINGS_MAX_ROOMS; write TIDINGS_QUOTAS=rooms=500$"):
        Settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_dev_tokens_are_served_on_a_loopback_host(host: str) -> None:
    assert Settings(dev_tokens=True, host=host).dev_tokens is True


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "", "localhost.example.com"])
def test_dev_tokens_are_refused_on_any_other_host(host: str) -> None:
    with pytest.raises(ValidationError, match="TIDINGS_DEV_TOKENS"):
        Settings(dev_tokens=True, host=host)


def test_dev_tokens_are_refused_with_cors_origins() -> None:
    with pytest.raises(ValidationError, match="not allowed with TIDINGS_CORS_ORIGINS"):
        Settings(dev_tokens=True, cors_origins="https://app.example")


def test_concurrent_starts_create_one_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data")
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: Settings(data_dir=settings.data_dir).signing_keys()[0], range(64)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    (key,) = settings.data_dir.iterdir()  # no temporary file is left
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Settings(data_dir=tmp_path / "other").signing_keys() != settings.signing_keys()


@pytest.mark.parametrize("stored", [b"", b"\n", b"short", b"x" * 31])
def test_a_key_file_with_a_short_key_is_refused(tmp_path: Path, stored: bytes) -> None:
    (tmp_path / "secret_key").write_bytes(stored)
    with pytest.raises(SettingsError, match="secret_key"):
        Settings(data_dir=tmp_path).signing_keys()


def test_a_configured_key_has_32_bytes_or_more_and_is_not_written_to_disk(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="32 bytes"):
        Settings(secret_key=SecretStr("x" * 31), data_dir=tmp_path).signing_keys()
    assert Settings(secret_key=SecretStr("é" * 16), data_dir=tmp_path).signing_keys() == [("é" * 16).encode()]
    assert Settings(secret_key=SecretStr(f"{'n' * 32}, {'o' * 32}")).signing_keys() == [b"n" * 32, b"o" * 32]
    with_a_comma = "a sentence, of forty characters and more"
    assert Settings(secret_key=SecretStr(with_a_comma)).signing_keys() == [with_a_comma.encode()]
    assert list(tmp_path.iterdir()) == []
    assert "x" * 32 not in repr(Settings(secret_key=SecretStr("x" * 32)))


def test_the_example_file_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / ".env.example"
    assert Settings(_env_file=example) == Settings(_env_file=None)
    uncommented = re.sub(r"^#(?=TIDINGS_)", "", example.read_text("utf-8"), flags=re.M)
    dotenv = tmp_path / "uncommented.env"
    dotenv.write_text(uncommented, "utf-8")
    assert Settings(_env_file=dotenv) == Settings(_env_file=None)
    names = re.findall(r"^(TIDINGS_\w+)=", uncommented, re.M)
    assert names == [f"TIDINGS_{name.upper()}" for name in Settings.model_fields]


def test_addresses_of_redis_after_the_first_may_be_hosts_with_ports() -> None:
    urls = Settings(
        _env_file=None, redis_url="rediss://omar:x@a:1/?ssl_cert_reqs=none, b:2,unix:///r.sock"
    ).redis_urls
    assert urls == [
        "rediss://omar:x@a:1/?ssl_cert_reqs=none",
        "rediss://omar:x@b:2/?ssl_cert_reqs=none",
        "unix:///r.sock",
    ]
