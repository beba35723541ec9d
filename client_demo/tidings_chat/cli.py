"""The command line: `tidings-chat --user omar`, and the same with a command for scripts."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from tidings_chat import render, scripts
from tidings_chat.account import PROGRAM, VERSION, Account, username_of
from tidings_chat.actions import ACTIONS
from tidings_chat.errors import Busy, message_of, reason_of
from tidings_chat.i18n import m, t
from tidings_chat.registry import run
from tidings_chat.rooms import title
from tidings_chat.state import State, default_directory, state_path
from tidings_client import Refused, StoreInUse, TidingsError, connect

_OF_ARGPARSE: Final = (
    m("usage: "),
    m("options"),
    m("positional arguments"),
    m("show this help message and exit"),
    m("%(prog)s: error: %(message)s\n"),
    m("argument %(argument_name)s: %(message)s"),
    m("the following arguments are required: %s"),
    m("unrecognized arguments: %s"),
    m("expected one argument"),
    m("invalid choice: %(value)r (choose from %(choices)s)"),
    m("invalid %(type)s value: %(value)r"),
    m("ambiguous option: %(option)s could match %(matches)s"),
)
argparse._ = t  # type: ignore[attr-defined]  # its own texts; gettext would look for them in a compiled file


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 done; 1 refused, unreachable or timed out (see stderr); 2 invalid command line."""
    args = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(args))
    except Refused as error:
        print(render.visible(f"{error.code}: {reason_of(error)}"), file=sys.stderr)
    except TidingsError as error:
        print(render.visible(message_of(error)), file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has ended: `tail noticias | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=t("A terminal client for Tidings. Without a command: chat."),
        epilog=t(
            "The password comes from --password, from TIDINGS_PASSWORD, or from a prompt. A ROOM is a topic, a user"
            " (for the direct conversation), or a room_id."
        ),
    )
    server = os.environ.get("TIDINGS_SERVER") or "http://127.0.0.1:8000"
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {VERSION}", help=t("show the version and exit")
    )
    parser.add_argument("--server", default=server, type=_server, help=t("default: TIDINGS_SERVER, or %(default)s"))
    parser.add_argument("--user")
    parser.add_argument("--password", help=t("other users of this machine can see it while the client runs"))
    parser.add_argument("--token", help=t("sign in with a token instead of a password"))
    parser.add_argument("--register", action="store_true", help=t("register the user if there is none"))
    parser.add_argument(
        "--device", default="terminal", help=t("default: %(default)s; one client at a time receives as it")
    )
    parser.add_argument("--state", type=Path, metavar=t("DIR"), help=t("default: $XDG_STATE_HOME/tidings"))
    parser.add_argument(
        "--no-bell",
        dest="bell",
        action="store_false",
        help=t("chat: do not ring for mentions and direct messages"),
    )
    commands = parser.add_subparsers(dest="command", metavar=t("COMMAND"), title=t("commands, for scripts"))

    send = commands.add_parser("send", help=t("send a message and wait for the acknowledgement"))
    send.add_argument("room", metavar=t("ROOM"))
    send.add_argument("text", metavar=t("TEXT"), nargs="?", default="", help=t("- reads standard input"))
    send.add_argument(
        "--file", type=Path, metavar=t("FILE"), action="append", default=[], help=t("attach a file; may be repeated")
    )
    send.add_argument("--reply-to", metavar=t("N"), help=t("reply to message N of the room; . is the last one"))
    send.add_argument("--client-id", help=t("two sends with the same ID take effect once"))
    send.add_argument("--timeout", type=float, default=30, help=t("seconds to keep trying; default: %(default)s"))
    send.add_argument("--json", action="store_true", help=t("print the message that the server stored"))

    tail = commands.add_parser("tail", help=t("print pending messages, then live ones; joins the topic"))
    tail.add_argument("room", metavar=t("ROOM"))
    tail.add_argument("--json", action="store_true", help=t("one JSON object per message"))
    tail.add_argument(
        "--changes", action="store_true", help=t("also edits, deletions and reactions, with their event names")
    )
    tail.add_argument("--events", action="store_true", help=t("also the events of applications"))
    tail.add_argument("--count", type=int, metavar=t("N"), help=t("end after N messages"))
    tail.add_argument(
        "--timeout", type=float, metavar=t("S"), help=t("end after S seconds, with status 1 before N messages")
    )

    rooms = commands.add_parser("rooms", help=t("list your rooms"))
    rooms.add_argument("--all", action="store_true", help=t("also list public topics that you are not a member of"))
    rooms.add_argument("--json", action="store_true")

    history = commands.add_parser("history", help=t("print the newest messages of a room"))
    history.add_argument("room", metavar=t("ROOM"))
    history.add_argument("--limit", type=int, default=50, help=t("1–200; default: %(default)s"))
    history.add_argument("--json", action="store_true")

    create = commands.add_parser("create", help=t("make a topic"))
    create.add_argument("topic", metavar=t("TOPIC"))
    create.add_argument("--private", action="store_true", help=t("only invited users may join"))

    join = commands.add_parser("join", help=t("become a member of a topic"))
    join.add_argument("topic", metavar=t("TOPIC"))

    for action in ACTIONS.commands.values():
        command = commands.add_parser(action.name, help=t(action.summary))
        command.usage = (
            f"%(prog)s [--json] {t('ROOM') + ' ' if action.needs_room else ''}{t(action.arguments)}".strip()
        )
        if action.needs_room:
            command.add_argument("room", metavar=t("ROOM"))
        command.add_argument("words", nargs="*", metavar=t(action.arguments) or "-")
        command.add_argument("--json", action="store_true", help=t("one JSON object per line"))
    return parser


def _server(url: str) -> str:
    url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(t("give it as http://host:port"))
    return url


async def _run(args: argparse.Namespace) -> int:
    user = args.user
    if args.token:
        user = await username_of(args.server, args.token)
    if not user:
        _usage(t("--user or --token is required"))
    path = state_path(args.state or default_directory(), args.server, user, args.device)
    device = args.device if args.command != "tail" else _tail_device(args.device)
    with State(path) as state:
        if args.token:
            state.put(token=args.token, expires_at=None)
        account = Account(args.server, state, user, args.password or os.environ.get("TIDINGS_PASSWORD"))
        try:
            await account.sign_in(lambda: _may_register(args, user), lambda: _ask_password(user))
            return await _command(args, account, state, device)
        except StoreInUse:
            raise Busy(
                t(
                    "another process receives as device {device}: choose another --device for this one",
                    device=repr(device),
                )
            ) from None
        finally:
            await account.close()


def _tail_device(device: str) -> str:
    """Tails have a device of their own, and so their own cursors: they take no messages from the chat."""
    name = f"{device} tail"
    return name if len(name) <= 64 else f"{hashlib.sha256(name.encode()).hexdigest()[:32]} tail"


async def _command(args: argparse.Namespace, account: Account, state: State, device: str) -> int:
    match args.command:
        case None:
            from tidings_chat.chat import Chat  # its imports are slow, and `send` does not need them
            from tidings_chat.chat_commands import ChatCommands

            store, token = await state.store("chat", device, has_outbox=True), account.fresh_token
            async with connect(account.server, token, store=store, device=device, wait=False) as client:
                await Chat(account, state, client, ChatCommands(), bell=args.bell).run()
        case "send":
            if not (args.text or args.file):
                _usage(t("the following arguments are required: %s") % t("TEXT"))
            text = sys.stdin.read().removesuffix("\n") if args.text == "-" else args.text
            reply_to = None
            if args.reply_to is not None:
                room = scripts.ScriptContext(account, device, args.room, as_json=False)
                reply_to = (await room.message(args.reply_to)).id
            message = await scripts.send(
                account,
                args.room,
                text,
                client_id=args.client_id,
                timeout=args.timeout,
                reply_to=reply_to,
                files=args.file,
            )
            if args.json:
                print(render.as_json(message))
        case "tail":
            from tidings_chat.tail import Tail

            tail = Tail(
                state, args.room, as_json=args.json, changes=args.changes, events=args.events, count=args.count
            )
            store = await state.store("tail", device)
            return 0 if await tail.run(account, store, device, args.timeout) else 1
        case "rooms":
            scripts.print_rooms(await scripts.rooms(account, everything=args.all), as_json=args.json)
        case "history":
            messages = await scripts.history(account, args.room, limit=args.limit)
            scripts.print_messages(messages, args.room, as_json=args.json)
        case "create":
            print(title(await scripts.create(account, args.topic, private=args.private)))
        case "join":
            print(title(await scripts.join(account, args.topic)))
        case name:
            action, rest = ACTIONS.commands[name], " ".join(args.words)
            if rest and not action.arguments:
                _usage(t("{command} takes no arguments", command=name))
            context = scripts.ScriptContext(
                account, device, args.room if action.needs_room else "", as_json=args.json
            )
            await run(action, context, rest)
    return 0


async def _ask_password(user: str) -> str | None:
    if not sys.stdin.isatty():
        return None
    return await asyncio.to_thread(getpass.getpass, t("Password of {user}:", user=user) + " ")


async def _may_register(args: argparse.Namespace, user: str) -> bool:
    if args.register or not sys.stdin.isatty():
        return bool(args.register)
    question = (
        t("Wrong password, or there is no {user} yet. Register {user} with this password? [y/N]", user=user) + " "
    )
    return (await asyncio.to_thread(input, question)).strip().casefold() in ("y", "yes", "s", "sí", "si")


def _usage(problem: str) -> NoReturn:
    print(f"{PROGRAM}: {problem}", file=sys.stderr)
    raise SystemExit(2)
