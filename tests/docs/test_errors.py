"""Every error that docs/protocol.md lists for an action can be provoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from sqlalchemy.engine import Connection

from tests.permissions.rights import codes
from tests.support.client import REGISTRY, Client, Refused, connected
from tests.support.examples import example
from tests.support.node import PASSWORD, RunningNode, running_node
from tidings.actions.dispatch import Action
from tidings.actions.events import MAX_DEPTH
from tidings.contract.actions import MAX_CONTENT, MAX_GROUP, MAX_STREAM, RoomRef, SubjectInRoom
from tidings.contract.errors import ActionError, ErrorCode
from tidings.log.messages import MAX_EMOJIS
from tidings_db.queries import registration, users

NOTICIAS, SECRETO, ABIERTO = {"topic_name": "noticias"}, {"topic_name": "secreto"}, {"topic_name": "abierto"}
NOBODY, MYSELF, OMAR = {"username": "nobody"}, {"username": "diego"}, {"username": "omar"}
LONG = "x" * (MAX_CONTENT + 1)
DEEP = reduce(lambda inner, _: [inner], range(MAX_DEPTH), [])
DIRECT, SECRET, FULL = "<direct>", "<secreto>", "<full>"
OF_OMAR, OWN, DELETED, UNSEEN, REPORTED = "<of omar>", "<own>", "<deleted>", "<unseen>", "<reported>"
OWN_STREAM, LONGEST = "<own stream>", "<longest>"
FULL_OF_EMOJIS, BEFORE_MUTE, OWN_BEFORE_MUTE, TO_SATOSHI = "<emojis>", "<before>", "<own before>", "<to satoshi>"
INTO_CORRO, INTO_VEDADO, INTO_FULL = "<into corro>", "<into vedado>", "<into full>"
"""Placeholders of room ids, message ids and link codes, which `_set_up` creates."""
Refusals = dict[ErrorCode, list[dict[str, Any]]]

# All requests are diego's. He owns `abierto` (public) and `corro` (private). Of omar's topics, he is a member of
# `sala` (public), muted in `callada`, banned from `vedado` (private) and `prohibido` (public), and no member of
# `noticias` and `secreto`. He has a conversation with omar, and one with satoshi, who has blocked him and is banned
# from `corro`.
_OF_A_MODERATOR: Refusals = {ErrorCode.INVALID: [{"topic_name": "corro"} | MYSELF]}
_OF_MEMBERS = {ErrorCode.NOT_FOUND: [{"topic_name": "corro"} | OMAR]}

OWN_REASONS: dict[str, Refusals] = {
    "create": {ErrorCode.CONFLICT: [NOTICIAS, SECRETO, {"topic_name": "Omar"}]},
    "subscribe": {
        ErrorCode.FORBIDDEN: [{"topic_name": "prohibido"}],
        ErrorCode.NOT_FOUND: [SECRETO, {"topic_name": "nothing"}, {"topic_name": "vedado"}],
        ErrorCode.CONFLICT: [ABIERTO],
    },
    "connect_to_room": {
        ErrorCode.FORBIDDEN: [{"topic_name": "prohibido"}],
        ErrorCode.NOT_FOUND: [SECRETO, {"topic_name": "nothing"}],
    },
    "invite": {
        ErrorCode.FORBIDDEN: [
            NOTICIAS | {"username": "eva"},
            {"room_id": DIRECT, "username": "eva"},
            {"topic_name": "corro", "username": "satoshi"},
            {"room_id": FULL, "username": "satoshi"},
        ],
        ErrorCode.CONFLICT: [{"topic_name": "corro"} | MYSELF],
        ErrorCode.TOO_LARGE: [{"room_id": FULL, "username": "eva"}],
    },
    "message": {
        ErrorCode.INVALID: [ABIERTO | {"reply_to": "none"}, ABIERTO | {"thread": "none"}],
        ErrorCode.FORBIDDEN: [{"topic_name": "callada"}, {"username": "satoshi"}],
        ErrorCode.TOO_LARGE: [ABIERTO | {"content": LONG}, ABIERTO | {"content": "x", "data": {"x": LONG}}],
        ErrorCode.CONFLICT: [ABIERTO | {"content": "x", "client_id": "of an event"}],
    },
    "publish": {
        ErrorCode.INVALID: [ABIERTO | {"data": DEEP}],
        ErrorCode.FORBIDDEN: [{"topic_name": "callada"}, {"username": "satoshi"}],
        ErrorCode.TOO_LARGE: [ABIERTO | {"data": 4 * LONG}],
        ErrorCode.CONFLICT: [ABIERTO | {"client_id": "of a message"}],
    },
    "edit": {
        ErrorCode.INVALID: [{"message_id": OWN, "content": "", "data": None}],
        ErrorCode.FORBIDDEN: [{"message_id": OF_OMAR}, {"message_id": OWN_BEFORE_MUTE}, {"message_id": TO_SATOSHI}],
        ErrorCode.NOT_FOUND: [{"message_id": DELETED}],
        ErrorCode.TOO_LARGE: [{"message_id": OWN, "content": LONG}],
    },
    "append": {
        ErrorCode.FORBIDDEN: [{"message_id": OF_OMAR}, {"message_id": OWN_BEFORE_MUTE}, {"message_id": TO_SATOSHI}],
        ErrorCode.NOT_FOUND: [{"message_id": DELETED}],
        ErrorCode.CONFLICT: [{"message_id": OWN}, {"message_id": OWN_STREAM, "offset": 1}],
        ErrorCode.TOO_LARGE: [
            {"message_id": OWN_STREAM, "text": LONG},
            {"message_id": LONGEST, "offset": MAX_STREAM, "text": "x"},
        ],
    },
    "finish": {
        ErrorCode.FORBIDDEN: [{"message_id": OF_OMAR}, {"message_id": OWN_BEFORE_MUTE}, {"message_id": TO_SATOSHI}],
        ErrorCode.NOT_FOUND: [{"message_id": DELETED}],
        ErrorCode.CONFLICT: [{"message_id": OWN_STREAM, "offset": 1}],
        ErrorCode.TOO_LARGE: [{"message_id": OWN_STREAM, "content": 9 * LONG}],
    },
    "stop": {
        ErrorCode.FORBIDDEN: [{"message_id": BEFORE_MUTE}, {"message_id": TO_SATOSHI}],
        ErrorCode.NOT_FOUND: [{"message_id": DELETED}],
    },
    "delete": {ErrorCode.FORBIDDEN: [{"message_id": OF_OMAR}]},
    "react": {
        ErrorCode.FORBIDDEN: [{"message_id": BEFORE_MUTE}, {"message_id": TO_SATOSHI}],
        ErrorCode.NOT_FOUND: [{"message_id": DELETED}],
        ErrorCode.TOO_LARGE: [{"message_id": FULL_OF_EMOJIS}],
    },
    "report": {
        ErrorCode.INVALID: [{"message_id": OWN}, {"message_id": DELETED}],
        ErrorCode.CONFLICT: [{"message_id": REPORTED}],
    },
    "close_report": {ErrorCode.NOT_FOUND: [{"report_id": "none"}]},
    "search": {ErrorCode.INVALID: [{"query": "?!"}], ErrorCode.NOT_FOUND: [{"before": "none"}]},
    "typing": {ErrorCode.FORBIDDEN: [{"topic_name": "callada"}, {"username": "satoshi"}]},
    "get_rooms": {ErrorCode.NOT_FOUND: [{"after": SECRET}, {"after": "nothing"}]},
    "read": {ErrorCode.INVALID: [ABIERTO | {"seq": 1000}, ABIERTO | {"thread": "none"}]},
    "mark_unread": {ErrorCode.INVALID: [ABIERTO | {"seq": 1000}]},
    "set_preferences": {ErrorCode.INVALID: [ABIERTO | {"notify": None}]},
    "kick": _OF_A_MODERATOR | _OF_MEMBERS,
    "ban": _OF_A_MODERATOR,
    "unban": _OF_A_MODERATOR | _OF_MEMBERS,
    "mute": _OF_A_MODERATOR | _OF_MEMBERS,
    "set_role": _OF_A_MODERATOR | _OF_MEMBERS,
    "create_conversation": {
        ErrorCode.INVALID: [{"usernames": ["diego"]}],
        ErrorCode.NOT_FOUND: [{"usernames": ["omar", "nobody"]}],
        ErrorCode.FORBIDDEN: [{"usernames": ["ana"]}, {"usernames": ["omar", "satoshi"]}],
    },
    "join_by_link": {
        ErrorCode.FORBIDDEN: [{"code": INTO_VEDADO}],
        ErrorCode.NOT_FOUND: [{"code": "none"}],
        ErrorCode.CONFLICT: [{"code": INTO_CORRO}],
        ErrorCode.TOO_LARGE: [{"code": INTO_FULL}],
    },
    "delete_invitation_link": {ErrorCode.NOT_FOUND: [{"code": "none"}, {"code": INTO_VEDADO}]},
    "get_profile": {ErrorCode.NOT_FOUND: [NOBODY]},
    "echo": {ErrorCode.TOO_LARGE: [{"content": LONG}]},
    "echo_history": {ErrorCode.NOT_FOUND: [{"before": "nothing"}]},
    "get_pending": {ErrorCode.NOT_FOUND: [{"device": "none"}, {"after": SECRET}]},
    "clear_pending": {ErrorCode.NOT_FOUND: [{"device": "none"}, {"room_id": SECRET}, {"room_id": "nothing"}]},
    "block": {ErrorCode.INVALID: [MYSELF], ErrorCode.NOT_FOUND: [NOBODY]},
    "unblock": {ErrorCode.INVALID: [MYSELF], ErrorCode.NOT_FOUND: [NOBODY]},
    "revoke_session": {ErrorCode.NOT_FOUND: [{"session_id": "none"}]},
    "subscribe_push": {ErrorCode.INVALID: [{"endpoint": "http://push.invalid/"}], ErrorCode.TOO_LARGE: [{}]},
    "create_upload": {ErrorCode.TOO_LARGE: [{"size": 2**50}]},
    "delete_upload": {ErrorCode.NOT_FOUND: [{"file_id": "none"}]},
    "unsubscribe_push": {ErrorCode.NOT_FOUND: [{"subscription_id": "none"}]},
}
"""The refusals of each action that depend neither on its room or message reference nor on rights in the room.

`tests/permissions` provokes every refusal of `tests/permissions/rights.py`.
"""


def _by_reference(action: Action) -> Refusals:
    """Return the refusals that depend on the room or the message that the payload names."""
    fields = action.request.model_fields.keys()
    if issubclass(action.request, SubjectInRoom):
        not_found = [SECRETO | OMAR, {"topic_name": "corro"} | NOBODY]
        return {ErrorCode.NOT_FOUND: not_found, ErrorCode.FORBIDDEN: [NOTICIAS | OMAR]}
    if RoomRef.model_fields.keys() <= fields:
        return {ErrorCode.INVALID: [MYSELF], ErrorCode.NOT_FOUND: [SECRETO, NOBODY], ErrorCode.FORBIDDEN: [NOTICIAS]}
    if "message_id" in fields:
        return {ErrorCode.NOT_FOUND: [{"message_id": "none"}, {"message_id": UNSEEN}]}
    return {}


def _payloads(action: Action) -> Iterator[tuple[ErrorCode, dict[str, Any]]]:
    """Yield pairs of a code and a payload that is refused with it."""
    rest = example(action, without=("message_id", *RoomRef.model_fields))
    for refusals in (_by_reference(action), OWN_REASONS.get(action.name, {})):
        for code, payloads in refusals.items():
            for payload in payloads:
                yield code, rest | payload


# Requests of diego on a server where a user may be in one room, own one topic and one group, and make one link.
TOO_MANY: dict[str, dict[str, Any]] = {
    "create": {"topic_name": "nuevo"},
    "subscribe": NOTICIAS,
    "connect_to_room": NOTICIAS,
    "create_conversation": {"usernames": ["eva", "omar"]},
    "create_invitation_link": {"topic_name": "corro"},
    "message": {"username": "eva", "content": "x"},
    "publish": {"username": "eva", "event": "x", "data": 1},
}


async def test_every_documented_refusal_can_be_provoked(sqlite_url: str, tmp_path: Path) -> None:
    async with running_node(sqlite_url, tmp_path, rate_limits="on", rates="sends=600000/minute") as node:
        tokens = {name: await node.register(name) for name in ("omar", "diego", "satoshi", "ana", "eva")}
        async with connected(node.url, tokens["omar"]) as omar, connected(node.url, tokens["diego"]) as diego:
            async with connected(node.url, tokens["satoshi"]) as satoshi, connected(node.url, tokens["ana"]) as ana:
                ids = await _set_up(node, omar, diego, satoshi, ana)
            abierto = (await diego.ask("connect_to_room", topic_name="abierto"))["room"]
            further = [("delivered", ErrorCode.INVALID, {"cursors": {abierto["room_id"]: 1000}})]
            further += [("authenticate", *case) for case in await _tokens(node, tokens["omar"])]
            of_all = [(action.name, *case) for action in REGISTRY if action.live for case in _payloads(action)]
            provoked = {action.name: codes(action.name) for action in REGISTRY}
            for action, code, payload in of_all + further:
                payload = {field: ids.get(str(value), value) for field, value in payload.items()}
                assert await _refusal(diego, action, payload) == code, (action, payload)
                provoked[action].add(code)
        for action, refused in (await _over_http(node, tokens, ids)).items():
            provoked[action] |= refused
    small = "rooms=1,topics=1,groups=1,links=1"
    async with (
        running_node(sqlite_url, tmp_path, quotas=small, push="off") as node,
        connected(node.url, tokens["diego"]) as diego,
    ):
        assert await _refusal(diego, "subscribe_push", _subscription(0)) == ErrorCode.FORBIDDEN
        provoked["subscribe_push"].add(ErrorCode.FORBIDDEN)
        for action, payload in TOO_MANY.items():
            assert await _refusal(diego, action, payload) == ErrorCode.TOO_LARGE, action
            provoked[action].add(ErrorCode.TOO_LARGE)
    assert provoked == {action.name: set(action.refusals) for action in REGISTRY}


def _subscription(number: int) -> dict[str, Any]:
    """The payload of one of diego's subscriptions, to an endpoint of its own."""
    (subscribe,) = (action for action in REGISTRY if action.name == "subscribe_push")
    return example(subscribe) | {"endpoint": f"https://push.invalid/{number}"}


async def _set_up(node: RunningNode, omar: Client, diego: Client, satoshi: Client, ana: Client) -> dict[str, str]:
    """Create the rooms, messages and links; returns the value of each placeholder."""
    await omar.ask("create", NOTICIAS)
    ids = {SECRET: (await omar.ask("create", SECRETO | {"is_private": True}))["room_id"]}
    ids[UNSEEN] = (await omar.ask("message", SECRETO | {"content": "x"}))["id"]
    for name in ("sala", "callada", "prohibido"):
        await omar.ask("create", topic_name=name)
        await diego.ask("subscribe", topic_name=name)
    ids[OF_OMAR] = (await omar.ask("message", topic_name="sala", content="x"))["id"]
    ids[REPORTED] = (await omar.ask("message", topic_name="sala", content="x"))["id"]
    await diego.ask("report", message_id=ids[REPORTED], reason="x")
    ids[DELETED] = (await diego.ask("message", topic_name="sala", content="x"))["id"]
    await diego.ask("delete", message_id=ids[DELETED])
    await satoshi.ask("subscribe", topic_name="sala")
    ids[BEFORE_MUTE] = (await omar.ask("message", topic_name="callada", content="x"))["id"]
    ids[OWN_BEFORE_MUTE] = (await diego.ask("message", topic_name="callada", content="x"))["id"]
    await omar.ask("mute", topic_name="callada", username="diego")
    await omar.ask("create", topic_name="vedado", is_private=True)
    ids[INTO_VEDADO] = (await omar.ask("create_invitation_link", topic_name="vedado"))["code"]
    for name in ("prohibido", "vedado"):
        await omar.ask("ban", topic_name=name, username="diego")

    for number in range(20):
        await diego.ask("subscribe_push", _subscription(number))
    await diego.ask("create", ABIERTO)
    ids[OWN] = ids[FULL_OF_EMOJIS] = (await diego.ask("message", ABIERTO | {"content": "x"}))["id"]
    for name in (OWN_STREAM, LONGEST):
        ids[name] = (await diego.ask("message", ABIERTO | {"content": "", "stream": True}))["id"]
    for offset in range(0, MAX_STREAM, MAX_CONTENT):
        await diego.ask("append", message_id=ids[LONGEST], offset=offset, text="x" * MAX_CONTENT)
    for number in range(MAX_EMOJIS):
        await diego.ask("react", message_id=ids[FULL_OF_EMOJIS], emoji=f"e{number}")
    await diego.ask("message", ABIERTO | {"content": "x", "client_id": "of a message"})
    await diego.ask("publish", ABIERTO | {"event": "x", "data": 1, "client_id": "of an event"})
    await diego.ask("create", topic_name="corro", is_private=True)
    ids[INTO_CORRO] = (await diego.ask("create_invitation_link", topic_name="corro"))["code"]
    await diego.ask("ban", topic_name="corro", username="satoshi")
    ids[DIRECT] = (await diego.ask("message", username="omar", content="hola"))["room_id"]
    ids[TO_SATOSHI] = (await diego.ask("message", username="satoshi", content="hola"))["id"]
    for blocker in (satoshi, ana):
        await blocker.ask("block", MYSELF)

    many = [f"user{number}" for number in range(MAX_GROUP - 1)]

    def add_many(conn: Connection) -> None:
        for name in many:
            users.add(conn, name, None, 0)

    await node.node.database.write(add_many)
    ids[FULL] = (await omar.ask("create_conversation", usernames=[*many[1:], "diego"]))["room_id"]
    group = await omar.ask("create_conversation", usernames=many)
    ids[INTO_FULL] = (await omar.ask("create_invitation_link", room_id=group["room_id"]))["code"]
    return ids


async def _refusal(client: Client, action: str, payload: dict[str, Any]) -> str:
    try:
        await client.ask(action, payload)
    except Refused as refused:
        return refused.code
    return "ok"


async def _tokens(node: RunningNode, token_of_omar: str) -> list[tuple[ErrorCode, dict[str, Any]]]:
    """Tokens that `authenticate` refuses to diego."""
    revoked = await node.login("diego")
    claims = jwt.decode(revoked, options={"verify_signature": False})
    expired = jwt.encode(claims | {"exp": claims["iat"]}, node.node.settings.signing_keys()[0], algorithm="HS256")
    async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:
        await http.post("/api/logout", headers={"Authorization": f"Bearer {revoked}"})
    return [
        (ErrorCode.UNAUTHENTICATED, {"token": "not a token"}),
        (ErrorCode.TOKEN_EXPIRED, {"token": expired}),
        (ErrorCode.TOKEN_REVOKED, {"token": revoked}),
        (ErrorCode.FORBIDDEN, {"token": token_of_omar}),
    ]


async def _over_http(node: RunningNode, tokens: dict[str, str], ids: dict[str, str]) -> dict[str, set[ErrorCode]]:
    """The codes of the actions that only REST has, and of those that are rate-limited because of a password."""
    provoked: dict[str, set[ErrorCode]] = defaultdict(set)
    async with httpx.AsyncClient(base_url=node.url, timeout=30) as http:

        async def ask(action: str, path: str, caller: str | None = None, method: str = "POST", **body: Any) -> None:
            headers = {} if caller is None else {"Authorization": f"Bearer {tokens[caller]}"}
            answer = await http.request(method, path, headers=headers, json=body or None)
            if not answer.is_success:
                provoked[action].add(ErrorCode(answer.json()["code"]))

        omar = await node.node.auth.user("omar")
        await node.node.database.write(lambda conn: users.set_admin(conn, omar.key, True))
        await ask("admin_get_users", "/api/admin/users", "diego", "GET")
        await ask("admin_get_topics", "/api/admin/topics", "diego", "GET")
        await ask("admin_get_reports", "/api/admin/reports", "diego", "GET")
        for path in ("rooms", "health", "keys"):
            await ask(f"admin_get_{path}", f"/api/admin/{path}", "diego", "GET")
        for caller, user in (("diego", "omar"), ("omar", "nobody")):
            await ask("admin_get_sessions", f"/api/admin/users/{user}/sessions", caller, "GET")
            await ask("admin_revoke_key", "/api/admin/keys/none", caller, "DELETE")
        await ask("set_registration", "/api/admin/registration", "diego", "PUT", registration="open")
        for caller, name, where in (
            ("diego", "tienda", None),
            ("omar", "satoshi", None),
            ("omar", "the server", None),
            ("omar", "tienda", "none"),
        ):
            key = {"username": name, "scopes": ["read"]} | ({} if where is None else {"room_id": where})
            await ask("admin_create_key", "/api/admin/keys", caller, **key)
        await ask("reset_password", "/api/reset-password", code="none", new_password=PASSWORD)
        for caller, user in (("diego", "omar"), ("omar", "nobody"), ("omar", "omar")):
            await ask("admin_delete_user", f"/api/admin/users/{user}", caller, "DELETE")
        tienda = {
            "json": {"username": "tienda", "scopes": ["read"]},
            "headers": {"Authorization": f"Bearer {tokens['omar']}"},
        }
        assert (await http.post("/api/admin/keys", **tienda)).is_success
        for caller, user in (("diego", "omar"), ("omar", "nobody"), ("omar", "tienda")):
            await ask("admin_reset_password", f"/api/admin/users/{user}/reset-password", caller)
        for action, path in (("deactivate", "deactivate"), ("delete_account", "delete")):
            await ask(action, f"/api/me/{path}", "omar", password=PASSWORD)
        for caller, user in (("diego", "omar"), ("omar", "omar"), ("omar", "nobody")):
            await ask("admin_disable_user", f"/api/admin/users/{user}/disable", caller)
            await ask("admin_enable_user", f"/api/admin/users/{user}/enable", caller)
        await ask("create_registration_link", "/api/admin/registration-links", "diego", uses=1)
        await ask("get_registration_links", "/api/admin/registration-links", "diego", "GET")
        for caller in ("diego", "omar"):
            await ask("delete_registration_link", "/api/admin/registration-links/none", caller, "DELETE")
        for caller, room in (("diego", ids[SECRET]), ("omar", ids[DIRECT]), ("omar", "none")):
            await ask("admin_delete_topic", f"/api/admin/topics/{room}", caller, "DELETE")
        for caller, user in (("diego", "omar"), ("omar", "nobody")):
            await ask("create_token", f"/api/users/{user}/token", caller)
            await ask("end_sessions", f"/api/users/{user}/sessions", caller, "DELETE")
        for caller, user in (("diego", "omar"), ("omar", "noticias")):
            await ask("put_user", f"/api/users/{user}", caller, "PUT")
        await ask("get_audit", "/api/audit", "diego", "GET")
        for caller, room in (("diego", "none"), ("omar", "none")):
            await ask("delete_room", f"/api/rooms/{room}", caller, "DELETE")
        for room, user in (("none", "omar"), (ids[DIRECT], "omar"), (ids[FULL], "eva")):
            await ask("add_member", f"/api/rooms/{room}/members/{user}", "diego", "PUT")
        for room, user in (("none", "omar"), (ids[FULL], "eva")):
            await ask("remove_member", f"/api/rooms/{room}/members/{user}", "diego", "DELETE")
        await ask("remove_member", f"/api/rooms/{ids[FULL]}/members/omar", "omar", "DELETE")
        webhooks = "/api/admin/webhooks"
        await ask("admin_get_webhooks", webhooks, "diego", "GET")
        for caller, url, where in (
            ("diego", "https://hook.invalid/", "none"),
            ("omar", "ftp://hook.invalid/", "none"),
            ("omar", "https://hook.invalid/", "none"),
        ):
            room = {"room_id": where} if url.startswith("https:") else {}
            await ask("admin_create_webhook", webhooks, caller, url=url, events=["*"], **room)
        for caller in ("diego", "omar"):
            await ask("admin_delete_webhook", f"{webhooks}/none", caller, "DELETE")
            await ask("admin_enable_webhook", f"{webhooks}/none/enable", caller)
            await ask("admin_test_webhook", f"{webhooks}/none/test", caller)
            await ask("admin_replay_webhook", f"{webhooks}/none/replay", caller, after=0)
        new = {"url": "https://hook.invalid/", "events": ["*"]}
        made = await http.post(webhooks, json=new, headers={"Authorization": f"Bearer {tokens['omar']}"})
        await ask("admin_replay_webhook", f"{webhooks}/{made.json()['webhook_id']}/replay", "omar", after=0)

        for _ in range(11):
            await ask("change_password", "/api/me/password", "ana", password="wrong", new_password=PASSWORD)
            await ask("deactivate", "/api/me/deactivate", "ana", password="wrong")
            await ask("delete_account", "/api/me/delete", "ana", password="wrong")
        await ask("deactivate", "/api/me/deactivate", "satoshi", password="wrong")
        await ask("delete_account", "/api/me/delete", "satoshi", password="wrong")
        eva, auth = await node.node.auth.authenticate(tokens["eva"]), node.node.auth
        checked = await auth.check_password(eva, PASSWORD)
        await ask("change_password", "/api/me/password", "eva", password=PASSWORD, new_password="another password")
        with pytest.raises(ActionError) as refused:
            await auth.change_password(eva, checked, "a third password")
        provoked["change_password"].add(refused.value.code)

        await node.node.database.write(lambda conn: registration.set_mode(conn, "closed"))
        await ask("register", "/api/register", username="nuevo", password=PASSWORD)
        await ask("preview_topic", "/api/topic-preview?topic_name=noticias", method="GET")
        await node.node.database.write(lambda conn: registration.set_mode(conn, "open"))
        for action, password in (("login", "wrong password"), ("register", PASSWORD)):
            for _ in range(40):
                await ask(action, f"/api/{action}", username="satoshi", password=password)
    return dict(provoked)
