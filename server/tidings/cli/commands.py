"""The `tidings` command."""

from __future__ import annotations

import argparse
import asyncio
import gc
import getpass
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError

from tidings import __version__
from tidings.auth import names
from tidings.auth.registration import RESET_S, create_link
from tidings.auth.sessions import Auth
from tidings.auth.tokens import fingerprint, now_ms
from tidings.cli.backup import add_backup_parsers, backup, move, restore
from tidings.cli.banner import url_of
from tidings.cli.database import check_data_dir, print_table, with_database
from tidings.cli.integrations import add_key_parser, add_webhook_parser, manage_keys, manage_webhooks, show_audit
from tidings.contract.errors import ActionError
from tidings.contract.models import timestamp
from tidings.log import epochs
from tidings.log.epochs import MARK_S
from tidings.settings import (
    FOREIGN_KEY,
    MAX_TOKEN_MINUTES,
    MIGRATIONS_NEEDED,
    Settings,
    SettingsError,
)
from tidings_db.engine import Database, StoreUnavailable
from tidings_db.names import username_key
from tidings_db.queries import nodes, users
from tidings_db.queries.nodes import NodeRow
from tidings_db.schema import SchemaUnknown, migrate, pending

if TYPE_CHECKING:
    from tidings.app import Application


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidings", description="A message server: once a message is acknowledged, everyone gets it."
    )
    parser.add_argument("--version", action="version", version=f"tidings {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    serve.add_argument("--host", help="address to listen on (TIDINGS_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on; 0: any free port (TIDINGS_PORT)")
    serve.add_argument(
        "--app", metavar="MODULE:ATTRIBUTE", help="serve your own application, created with create_app()"
    )
    serve.add_argument(
        "--workers", type=int, metavar="N", help="server processes; more than one needs PostgreSQL (TIDINGS_WORKERS)"
    )
    serve.add_argument("--worker", help=argparse.SUPPRESS)  # what `tidings.cluster.workers` gives to a worker

    token = commands.add_parser(
        "token", help="print a token, and a command that uses it; creates the user if necessary"
    )
    token.add_argument("username")
    token.add_argument("--minutes", type=_minutes, help="how long it is valid (TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES)")

    invite = commands.add_parser("invite", help="print a link for registration while it is by invitation")
    invite.add_argument("--days", type=_positive, default=7, metavar="N", help="how long it is valid (7)")
    invite.add_argument("--uses", type=_positive, default=1, metavar="N", help="how many users may register (1)")

    user = commands.add_parser(
        "user", help="list users, add, disable or enable one, set or reset a password, or make one an administrator"
    )
    user_commands = user.add_subparsers(dest="user_command", required=True, metavar="COMMAND")
    for name, help_text in (
        ("add", "create a user"),
        ("disable", "withdraw a user's sessions and refuse further sign-ins"),
        ("enable", "allow a disabled user to sign in again"),
        ("delete", "delete an account; a running server does it within minutes"),
        ("admin", "make a user an administrator"),
        ("no-admin", "make an administrator an ordinary user"),
        ("passwd", "set a user's password and withdraw their sessions"),
        ("reset", "print a link by which a user sets a new password, once, within 24 hours"),
    ):
        command = user_commands.add_parser(name, help=help_text)
        command.add_argument("username")
        if name == "delete":
            command.add_argument("--messages", action="store_true", help="delete the messages, too")
        if name in ("add", "passwd"):
            command.add_argument("--password-stdin", action="store_true", help="read it from standard input")
    listing = user_commands.add_parser("list", help="list the users, by username; keys are not among them")
    listing.add_argument("--json", action="store_true", help="one JSON object per line")

    commands.add_parser(
        "epoch",
        help="begin an epoch of the log, after restoring a backup: clients drop what the restored log does not have",
    )
    commands.add_parser("nodes", help="list the servers on a PostgreSQL database")
    commands.add_parser(
        "rekey",
        help="let servers on a PostgreSQL database start with this signing key in place of a lost or leaked one",
    )
    add_key_parser(commands)
    audit = commands.add_parser(
        "audit", help="list what administrators did, and keys to users and rooms, the newest first"
    )
    audit.add_argument("--limit", type=_positive, default=100, metavar="N", help="how many (100)")
    add_webhook_parser(commands)
    add_backup_parsers(commands)
    commands.add_parser("migrate", help="update the database to the tables of this version")
    return parser


def _minutes(text: str) -> int:
    if not 1 <= (minutes := int(text)) <= MAX_TOKEN_MINUTES:
        raise argparse.ArgumentTypeError(f"from 1 to {MAX_TOKEN_MINUTES}")
    return minutes


def _positive(text: str) -> int:
    if not 1 <= (number := int(text)) <= 3650:
        raise argparse.ArgumentTypeError("from 1 to 3650")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = _parser().parse_args(argv)
    os.umask(0o077)  # other users must not read messages and password hashes
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    options = {name: getattr(args, name, None) for name in ("host", "port", "workers")}
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
        _check_database_url(settings)
        status: int = _COMMANDS[args.command](settings, args)
        return status
    except ValidationError as error:
        for problem in error.errors():
            setting = "_".join(["TIDINGS", *map(str, problem["loc"])]).upper() + ": " if problem["loc"] else ""
            _print_error(setting + problem["msg"].removeprefix("Value error, "))
    except StoreUnavailable as error:
        _print_error(f"the database cannot be used now: {error}")
    except (SettingsError, SchemaUnknown, ActionError, OSError) as error:
        _print_error(str(error))
    except KeyboardInterrupt:
        return 130
    return 1


def _print_error(message: str) -> None:
    print(f"tidings: {message}", file=sys.stderr)


def _check_database_url(settings: Settings) -> None:
    try:
        Database(settings.database)
    except (ValueError, ArgumentError) as error:
        raise SettingsError(f"TIDINGS_DATABASE_URL: {error}") from None


def _serve(settings: Settings, args: argparse.Namespace) -> int:
    if settings.workers > 1 and args.worker is None:
        return _supervise(settings, args)
    gc.disable()  # until `tidings.cli.serving` has imported and frozen everything
    import uvloop

    from tidings.app import create_app
    from tidings.cli.serving import run
    from tidings.monitoring.logs import Logs

    worker = None
    if args.worker is not None:
        from tidings.cluster.worker import Worker

        worker = Worker.parse(args.worker)
    application = _application(args.app) if args.app else create_app(settings, logs=Logs(settings.log_level))
    application.node.logs.take_over()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(application, settings.host, settings.port, worker))
    return 0


def _supervise(settings: Settings, args: argparse.Namespace) -> int:
    """Serve with several workers, after the checks that all of them would make."""
    if settings.database.startswith("sqlite"):
        raise SettingsError(
            f"{settings.workers} workers need PostgreSQL, and TIDINGS_DATABASE_URL is not set to it: set it to"
            " postgresql+asyncpg://…, or TIDINGS_WORKERS to 1"
        )
    settings.signing_keys()
    if pending(settings.database):
        raise SettingsError(MIGRATIONS_NEEDED)
    from tidings.cluster.workers import WorkersFailed, supervise

    try:
        return supervise(settings, ["serve", *(("--app", args.app) if args.app else ())])
    except WorkersFailed as failure:
        _print_error(str(failure))
        return 1


def _application(name: str) -> Application:
    """Import the application `MODULE:ATTRIBUTE`; the working directory is searched too. Raises `SettingsError`."""
    from tidings.app import Application

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise SettingsError("--app: write MODULE:ATTRIBUTE, such as game:app")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the application imports a missing module
        raise SettingsError(f"--app: there is no module {module_name} in {os.getcwd()} or installed") from None
    application = getattr(module, attribute, None)
    if not isinstance(application, Application):
        raise SettingsError(
            f"--app: {name} is not what tidings.create_app() returns; an application into which it is mounted"
            " runs under uvicorn"
        )
    return application


def _migrate(settings: Settings, args: argparse.Namespace) -> int:
    settings.prepare_data_dir()
    for revision in migrate(settings.database) or ["nothing: the database is up to date"]:
        print(f"applied {revision}")
    return 0


def _token(settings: Settings, args: argparse.Namespace) -> int:
    async def make(database: Database, auth: Auth) -> None:
        fingerprints = [fingerprint(key) for key in settings.signing_keys()]
        if not database.is_sqlite and not await database.read(lambda conn: nodes.has_key(conn, fingerprints)):
            raise SettingsError(FOREIGN_KEY)
        token, _ = await auth.token_for(args.username, None if args.minutes is None else args.minutes * 60_000)
        print(token)
        # Standard output has only the token, for scripts.
        print(f"wscat -c {_local_url(settings).replace('http', 'ws', 1)}/{token}", file=sys.stderr)

    check_data_dir(settings)
    return with_database(settings, make)


def _local_url(settings: Settings) -> str:
    """Where this machine reaches the server."""
    try:
        url = settings.address_file.read_text("utf-8")
    except OSError:  # no server runs on this data directory
        url = url_of(settings.host, settings.port)
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _invite(settings: Settings, args: argparse.Namespace) -> int:
    async def make(database: Database, _auth: Auth) -> None:
        seconds = args.days * 86_400
        code, _ = await database.write(lambda conn: create_link(conn, None, seconds, args.uses))
        print(f"{settings.public_url or _local_url(settings)}/?invitation={code}")

    check_data_dir(settings)
    return with_database(settings, make)


def _user(settings: Settings, args: argparse.Namespace) -> int:
    async def change(database: Database, auth: Auth) -> None:
        if args.user_command == "add":
            username = names.username(args.username)
            await _add_user(database, username, await auth.passwords.hash(_read_password(args)))
            print(f"{username} added")
            return
        user = await auth.user(args.username)
        username = user.username
        if args.user_command in ("admin", "no-admin"):
            admin = args.user_command == "admin"
            await database.write(lambda conn: users.set_admin(conn, user.key, admin))
            print(f"{username} is {'an' if admin else 'no'} administrator")
        elif args.user_command == "delete":
            await auth.set_disabled(user, True, delete="delete" if args.messages else "keep")
            print(f"{username} is being deleted")
        elif args.user_command in ("disable", "enable"):
            disabled = args.user_command == "disable"
            await auth.set_disabled(user, disabled)
            print(f"{username} {'disabled; sessions withdrawn' if disabled else 'enabled'}")
        elif args.user_command == "reset":
            if user.disabled or user.service:
                raise SettingsError(f"{username} cannot sign in")
            code, _ = await database.write(
                partial(create_link, user_key=None, expires_in_s=RESET_S, resets_key=user.key)
            )
            print(f"{settings.public_url or _local_url(settings)}/?reset={code}")
        else:
            hashed = await auth.passwords.hash(_read_password(args))

            def write(conn: Any) -> None:
                # The password first: a concurrent login either notices the change, or its session is withdrawn below.
                users.set_password(conn, user.key, hashed)
                users.revoke_sessions_of(conn, user.key, now_ms())

            await database.write(write)
            print(f"{username} has a new password; sessions withdrawn")

    if args.user_command == "list":
        return with_database(settings, partial(_list_users, as_json=args.json))
    return with_database(settings, change)


async def _list_users(database: Database, _auth: Auth, *, as_json: bool) -> None:
    columns = ("username", "display_name", "created_at", "last_seen", "disabled", "admin")
    listed: list[tuple[Any, ...]] = []
    after: str | None = None
    while page := await database.read(partial(users.page, after=after, limit=500)):
        after = username_key(page[-1].username)
        for user in page:
            seen = None if user.last_seen is None else timestamp(user.last_seen)
            if not user.service:
                created = timestamp(user.created_at)
                listed.append((user.username, user.display_name, created, seen, user.disabled, user.admin))
    if as_json:
        for values in listed:
            print(orjson.dumps(dict(zip(columns, values, strict=True))).decode())
    else:
        shown: dict[Any, str] = {None: "-", True: "yes", False: "no"}
        header = [column.removesuffix("_at").replace("_", " ") for column in columns]
        print_table([header, *([str(shown.get(value, value)) for value in row] for row in listed)])


def _epoch(settings: Settings, _args: argparse.Namespace) -> int:
    async def begin(database: Database, _auth: Auth) -> None:
        epoch = await database.write(epochs.begin)
        print(f"epoch {epoch} of the log begins; a running server closes its connections within {MARK_S:.0f} s")

    return with_database(settings, begin)


def _nodes(settings: Settings, _args: argparse.Namespace) -> int:
    if settings.database.startswith("sqlite"):
        raise SettingsError("a SQLite database has one server; `tidings nodes` lists those on a PostgreSQL database")

    async def show(database: Database, _auth: Auth) -> None:
        rows = [("name", "id", "version", "started", "lease")]
        for node in await database.read(nodes.listed):
            rows.append((node.name, node.id, node.version, timestamp(node.started_at), _lease(node)))
        print_table(rows)

    return with_database(settings, show)


def _lease(node: NodeRow) -> str:
    if not node.live:
        return f"ended {timestamp(node.lease_until)}"
    return "leaving" if node.leaving else "live"


def _rekey(settings: Settings, _args: argparse.Namespace) -> int:
    if settings.database.startswith("sqlite"):
        raise SettingsError("the server on a SQLite database starts with any signing key")

    async def record(database: Database, _auth: Auth) -> None:
        signing = fingerprint(settings.signing_keys()[0])
        await database.write(lambda conn: nodes.set_key(conn, signing))
        print("servers start with this signing key from now on; restart those that run with another one")

    return with_database(settings, record)


async def _add_user(database: Database, username: str, hashed: str) -> None:
    added = await database.write(lambda conn: users.add(conn, username, hashed, now_ms()))
    if added is None:
        raise SettingsError(f"the name {username} is taken, or looks like a taken one")


def _read_password(args: argparse.Namespace) -> str:
    if args.password_stdin or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return getpass.getpass("Password: ")


_COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "serve": _serve,
    "token": _token,
    "invite": _invite,
    "key": manage_keys,
    "audit": show_audit,
    "epoch": _epoch,
    "nodes": _nodes,
    "rekey": _rekey,
    "user": _user,
    "webhook": manage_webhooks,
    "backup": backup,
    "restore": restore,
    "move": move,
    "migrate": _migrate,
}
