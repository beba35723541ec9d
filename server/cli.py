"""The `tidings` command."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError

from db.engine import Database, StoreUnavailable
from db.queries import users
from db.schema import SchemaUnknown, migrate, pending
from server import __version__, names
from server.auth import Auth, now_ms
from server.contract.errors import ActionError
from server.delivery.broker import MemoryBroker
from server.settings import MAX_TOKEN_MINUTES, Settings, SettingsError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidings", description="A message server where an acknowledged message arrives."
    )
    parser.add_argument("--version", action="version", version=f"tidings {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve until SIGTERM or SIGINT")
    serve.add_argument("--host", help="address to listen on (TIDINGS_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (TIDINGS_PORT)")
    serve.add_argument("--workers", type=int, default=1, help="server processes; more than one needs Redis")

    token = commands.add_parser("token", help="print a token, and how to use it; makes the user if need be")
    token.add_argument("username")
    token.add_argument("--minutes", type=_minutes, help="how long it is valid (TIDINGS_ACCESS_TOKEN_EXPIRE_MINUTES)")

    user = commands.add_parser("user", help="add, disable, enable, re-password a user, or make one an administrator")
    user_commands = user.add_subparsers(dest="user_command", required=True, metavar="COMMAND")
    for name, help_text in (
        ("add", "make a user"),
        ("disable", "withdraw a user's sessions and let them in no more"),
        ("enable", "let a disabled user in again"),
        ("admin", "make a user an administrator"),
        ("no-admin", "take that back"),
        ("passwd", "set a user's password and withdraw their sessions"),
    ):
        command = user_commands.add_parser(name, help=help_text)
        command.add_argument("username")
        if name in ("add", "passwd"):
            command.add_argument("--password-stdin", action="store_true", help="read it from standard input")

    commands.add_parser("migrate", help="bring the database to this version's tables")
    return parser


def _minutes(text: str) -> int:
    if not 1 <= (minutes := int(text)) <= MAX_TOKEN_MINUTES:
        raise argparse.ArgumentTypeError(f"from 1 to {MAX_TOKEN_MINUTES}")
    return minutes


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    given = {name: getattr(args, name, None) for name in ("host", "port")}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        _check_database_url(settings)
        status: int = _COMMANDS[args.command](settings, args)
        return status
    except ValidationError as error:
        for problem in error.errors():
            where = "_".join(["TIDINGS", *map(str, problem["loc"])]).upper() + ": " if problem["loc"] else ""
            _complain(where + problem["msg"].removeprefix("Value error, "))
    except StoreUnavailable as error:
        _complain(f"the database cannot be used now: {error}")
    except (SettingsError, SchemaUnknown, ActionError, OSError) as error:
        _complain(str(error))
    except KeyboardInterrupt:
        return 130
    return 1


def _complain(why: str) -> None:
    print(f"tidings: {why}", file=sys.stderr)


def _check_database_url(settings: Settings) -> None:
    try:
        Database(settings.database)
    except (ValueError, ArgumentError) as error:
        raise SettingsError(f"TIDINGS_DATABASE_URL: {error}") from None


def _serve(settings: Settings, args: argparse.Namespace) -> int:
    if args.workers != 1:
        raise SettingsError("more than one worker is more than one node: that needs TIDINGS_REDIS_URL and a broker")
    from server.app import create_app
    from server.logs import Logs
    from server.serving import run

    logs = Logs(settings.log_level)
    logs.take_over()
    try:
        import uvloop

        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        new_loop = None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run(create_app(settings, logs=logs)))
    return 0


def _migrate(settings: Settings, args: argparse.Namespace) -> int:
    settings.prepare_data_dir()
    for revision in migrate(settings.database) or ["nothing: the database is up to date"]:
        print(f"applied {revision}")
    return 0


def _token(settings: Settings, args: argparse.Namespace) -> int:
    async def make(database: Database, auth: Auth) -> None:
        token, _ = await auth.token_for(args.username, None if args.minutes is None else args.minutes * 60_000)
        print(token)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        where = f"[{host}]" if ":" in host else host
        # Standard output holds the token alone, for scripts.
        print(f"wscat -c ws://{where}:{settings.port}/{token}", file=sys.stderr)

    return _with_database(settings, make)


def _user(settings: Settings, args: argparse.Namespace) -> int:
    async def change(database: Database, auth: Auth) -> None:
        username = names.username(args.username)
        if args.user_command == "add":
            await _add_user(database, username, await auth.passwords.hash(_read_password(args)))
            print(f"{username} added")
            return
        user = await auth.user(username)
        if args.user_command in ("admin", "no-admin"):
            admin = args.user_command == "admin"
            await database.write(lambda conn: users.set_admin(conn, user.key, admin))
            print(f"{username} is {'an' if admin else 'no'} administrator")
        elif args.user_command in ("disable", "enable"):
            disabled = args.user_command == "disable"
            await auth.set_disabled(user, disabled)
            print(f"{username} {'disabled; sessions withdrawn' if disabled else 'enabled'}")
        else:
            hashed = await auth.passwords.hash(_read_password(args))

            def write(conn: Any) -> None:
                # First the user, which a login that is under way looks at: what it began is withdrawn below.
                users.set_password(conn, user.key, hashed)
                users.revoke_sessions_of(conn, user.key, now_ms())

            await database.write(write)
            print(f"{username} has a new password; sessions withdrawn")

    return _with_database(settings, change)


async def _add_user(database: Database, username: str, hashed: str) -> None:
    made = await database.write(lambda conn: users.add(conn, username, names.name_key(username), hashed, now_ms()))
    if made is None:
        raise SettingsError(f"the name {username} is taken")


def _read_password(args: argparse.Namespace) -> str:
    if args.password_stdin or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return getpass.getpass("Password: ")


def _with_database(settings: Settings, work: Callable[[Database, Auth], Awaitable[None]]) -> int:
    """Run a command on the database, beside a server that may be running on it."""

    async def go() -> None:
        database = Database(settings.database, settings.durability, checkpoints=False)
        auth = Auth(database, MemoryBroker(), token_minutes=settings.access_token_expire_minutes)
        await database.start()
        try:
            auth.sign_with(settings.signing_key())
            await work(database, auth)
        finally:
            auth.stop()
            await database.stop()

    if settings.database.startswith("sqlite"):
        settings.prepare_data_dir()
        if pending(settings.database):
            migrate(settings.database)
    elif pending(settings.database):
        raise SettingsError("the database needs migrations: run `tidings migrate`")
    asyncio.run(go())
    return 0


_COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "serve": _serve,
    "token": _token,
    "user": _user,
    "migrate": _migrate,
}
