"""The commands about other systems: their keys, what these did, and webhooks."""

from __future__ import annotations

import argparse
from typing import Any

from tidings.auth import keys
from tidings.auth.sessions import Auth
from tidings.auth.tokens import now_ms
from tidings.cli.database import check_data_dir, print_table, with_database
from tidings.contract.models import timestamp
from tidings.contract.permissions import KeyScope
from tidings.settings import Settings, SettingsError
from tidings_db.engine import Database
from tidings_db.queries import keys as key_queries
from tidings_db.queries import webhooks
from tidings_db.queries.webhooks import WebhookRow


def add_key_parser(commands: Any) -> None:
    key = commands.add_parser("key", help="let another system in, with a key that has scopes")
    key_commands = key.add_subparsers(dest="key_command", required=True, metavar="COMMAND")
    create = key_commands.add_parser("create", help="print a new key, this once; its name is shown as a user's")
    create.add_argument("name")
    create.add_argument(
        "--scope", action="append", required=True, choices=[*KeyScope], help="what it may do; repeatable"
    )
    create.add_argument("--room", help="its scopes hold only in this room: its id, or the name of a topic")
    key_commands.add_parser("list", help="list the keys, without the keys themselves")
    key_commands.add_parser("revoke", help="withdraw a key").add_argument("id")


def add_webhook_parser(commands: Any) -> None:
    webhook = commands.add_parser("webhook", help="send the events of rooms to an address of another system")
    webhook_commands = webhook.add_subparsers(dest="webhook_command", required=True, metavar="COMMAND")
    create = webhook_commands.add_parser("create", help="add one; prints its id, and its secret this once")
    create.add_argument("url")
    create.add_argument(
        "--event", action="append", required=True, metavar="NAME", help="such as message, or * for all; repeatable"
    )
    create.add_argument("--room", help="only of this room: its id, or the name of a topic")
    webhook_commands.add_parser("list", help="list them, without their secrets")
    for name, help_text in (
        ("test", "send an event webhook.test now, and print the answer's status"),
        ("replay", "send events again, and enable it"),
        ("enable", "continue it where it was"),
        ("delete", "delete it"),
    ):
        command = webhook_commands.add_parser(name, help=help_text)
        command.add_argument("id")
        if name == "replay":
            command.add_argument("--room", help="only of this room: its id, or the name of a topic")
            start = command.add_mutually_exclusive_group(required=True)
            start.add_argument("--after", type=int, metavar="SEQ", help="those after this seq of the room")
            start.add_argument("--since", metavar="TIME", help="those since this time (ISO 8601; UTC by default)")


def manage_keys(settings: Settings, args: argparse.Namespace) -> int:
    from tidings.webhooks.managing import find_room

    def create(conn: Any) -> str:
        room_key = find_room(conn, args.room, topic=True)
        return keys.create(conn, args.name, [KeyScope(scope) for scope in args.scope], room_key, now_ms())

    async def run(database: Database, _auth: Auth) -> None:
        if args.key_command == "create":
            print(await database.write(create))
        elif args.key_command == "revoke":
            row = await database.write(lambda conn: keys.revoke(conn, args.id, now_ms()))
            print(f"key {row.key_id} of {row.name} revoked")
        else:
            rows = [("id", "name", "scopes", "room", "created", "revoked")]
            for key in await database.read(key_queries.listed):
                revoked = "" if key.revoked_at is None else timestamp(key.revoked_at)
                rows.append((key.key_id, key.name, key.scopes, key.room_id or "", timestamp(key.created_at), revoked))
            print_table(rows)

    check_data_dir(settings)
    return with_database(settings, run)


def show_audit(settings: Settings, args: argparse.Namespace) -> int:
    async def run(database: Database, _auth: Auth) -> None:
        rows = [("time", "key", "as", "action", "request")]
        for entry in await database.read(lambda conn: key_queries.audited(conn, None, args.limit)):
            rows.append((timestamp(entry.at), entry.key_name, entry.username or "", entry.action, entry.request))
        print_table(rows)

    return with_database(settings, run)


def manage_webhooks(settings: Settings, args: argparse.Namespace) -> int:
    from tidings.webhooks import managing
    from tidings.webhooks.sending import Sender

    private = settings.webhook_private == "on"

    def change(conn: Any) -> str:
        command = args.webhook_command
        if command == "create":
            room_key = managing.find_room(conn, args.room, topic=True)
            new = managing.create(conn, args.url, args.event, room_key, private=private, now=now_ms())
            return f"id      {new.id}\nsecret  {new.secret}"
        if command == "replay":
            room_key = managing.find_room(conn, args.room, topic=True)
            managing.replay(conn, args.id, room_key, after=args.after, since=args.since)
            return f"webhook {args.id} sends again"
        (managing.delete if command == "delete" else managing.enable)(conn, args.id)
        return f"webhook {args.id} {command}d"

    async def run(database: Database, _auth: Auth) -> None:
        if args.webhook_command == "list":
            rows = [("id", "url", "events", "room", "state")]
            for webhook in await database.read(webhooks.listed):
                events = " ".join(sorted(webhook.events))
                rows.append((webhook.id, webhook.url, events, webhook.room_id or "", _state(webhook)))
            print_table(rows)
        elif args.webhook_command == "test":
            webhook = await database.read(lambda conn: managing.load(conn, args.id))
            sender = Sender(private=private)
            try:
                result = await sender.test(webhook.id, webhook.url, webhook.secret)
            finally:
                await sender.close()
            if not result.delivered:
                raise SettingsError(f"webhook {webhook.id}: {result.reason}")
            print(result.reason)
        else:
            print(await database.write(change))

    return with_database(settings, run)


def _state(webhook: WebhookRow) -> str:
    if webhook.disabled_at is not None:
        return f"disabled {timestamp(webhook.disabled_at)}: {webhook.disabled_reason}"
    return "" if webhook.failing_since is None else f"failing since {timestamp(webhook.failing_since)}"
