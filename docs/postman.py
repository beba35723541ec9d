"""Generates a Postman collection of the HTTP routes: `python -m docs.postman`, or `make postman`.

It is converted from the OpenAPI document, which is generated from the registry of actions. Its requests succeed in
their order on a fresh server. A single one works too: a request that needs a token signs in first, if there is none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import tidings.actions
from tidings.actions.dispatch import Registry
from tidings.gateways import openapi
from tidings.gateways.dialects.registry import token_field

ROOT: Final = Path(__file__).resolve().parent.parent
CONVERTER: Final = ROOT / "tests/js/node_modules/openapi-to-postmanv2/bin/openapi2postmanv2.js"
COLLECTION: Final = ROOT / "build/tidings.postman_collection.json"
ADDRESS: Final = "http://127.0.0.1:8000"
"""The initial value of `baseUrl`, a variable of the collection."""
_OPTIONS: Final = {
    "folderStrategy": "Tags",
    "parametersResolution": "Example",
    "enableOptionalParameters": "false",
    "includeAuthInfoInExample": "false",
}
_SIGN_IN: Final = """\
if (pm.request.auth?.type === "bearer" && !pm.variables.get("bearerToken")) {
  const post = (path, username, then) => pm.sendRequest({
    url: `${pm.variables.get("baseUrl")}/api/${path}`, method: "POST", header: { "Content-Type": "application/json" },
    body: { mode: "raw", raw: JSON.stringify({ username, password: "correct horse" }) },
  }, (error, answer) => then(answer));
  const keep = (answer) => pm.collectionVariables.set("bearerToken", answer.json().token);
  const user = pm.variables.get("username");
  post("register", "diego", () => post("register", "satoshi", () => post("register", user, (answer) =>
    answer.code === 201 ? keep(answer) : post("login", user, keep))));
}"""
"""Before each request: signs in as `username` if needed, and registers the other users of the examples."""
_FOLDERS: Final = (
    *("rooms", "messages", "files", "push", "streams", "events", "moderation", "reports", "pending", "search"),
    *("echo", "export", "admin", "server", "webhooks", "backends", "accounts"),
)
"""The order of the folders: `rooms` makes what others need, `accounts` ends the account. The dialects follow."""
_ORDER: Final = (
    *("register", "login", "refresh", "block", "get_blocks", "unblock", "get_sessions", "revoke_session"),
    *("create", "invite", "subscribe", "connect_to_room", "unsubscribe", "create_conversation", "set_title"),
    *("message", "history", "edit", "react", "read", "subscribe_push", "get_push", "unsubscribe_push"),
    *("mute", "set_role", "kick", "ban", "get_bans", "unban", "create_upload", "get_files", "delete_upload"),
)
"""The order within the folders. The others follow, then those of `_LAST`."""
_LAST: Final = ("delete", "change_password", "logout", "deactivate", "delete_account", "messenger_logout")
_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "create": {"is_private": True},
    "subscribe connect_to_room unsubscribe preview_topic": {"topic_name": "public"},
    "invite mute kick ban unban block unblock": {"username": "diego"},
    "set_role": {"username": "diego", "role": "moderator"},
    "create_conversation": {"usernames": ["diego", "satoshi"]},
    "set_title": {"room_id": "{{groupId}}", "topic_name": None},
    "add_member remove_member": {"room_id": "{{groupId}}", "username": "satoshi"},
    "join_by_link delete_invitation_link": {"code": "{{code}}"},
    "edit react delete append finish stop report follow_thread": {"message_id": "{{messageId}}"},
    "get_files": {"file_ids": ["{{fileId}}"]},
    "delete_upload": {"file_id": "{{fileId}}"},
    "get_previews": {"message_ids": ["{{messageId}}"]},
    "read mark_unread": {"seq": 1},
    "register login": {"username": "memoor"},
    "get_profile admin_disable_user admin_enable_user admin_get_sessions admin_reset_password": {"username": "diego"},
    "revoke_session": {"session_id": "{{sessionId}}"},
    "unsubscribe_push": {"subscription_id": "{{subscriptionId}}"},
    "channels_register channels_login": {"username": "ana"},
    "messenger_create_user messenger_login": {"Username": "eder"},
    "messenger_profile topics_token": {"Username": "diego", "username": "diego"},
    "messenger_create_conversation": {"Recipient": "diego"},
    "messenger_send": {"ConversationId": "{{ConversationId}}"},
    "messenger_edit": {"MessageId": "{{MessageId}}"},
    "messenger_delete": {"Id": "{{MessageId}}"},
    "messenger_messages": {"Id": "{{ConversationId}}"},
}
"""By operations: fields whose value differs from that in the OpenAPI document; None: left out."""
_KEPT: Final = {
    **dict.fromkeys(("register", "login", "refresh"), ("bearerToken", "token")),
    "create_conversation": ("groupId", "room_id"),
    "create_invitation_link": ("code", "code"),
    "message": ("messageId", "id"),
    "get_sessions": ("sessionId", "sessions.find((session) => !session.current)?.session_id"),
    "subscribe_push": ("subscriptionId", "subscription_id"),
    "create_upload": ("fileId", "id"),
    "messenger_create_conversation": ("ConversationId", "Data"),
    "messenger_send": ("MessageId", "Data"),
}
"""By operation: a variable for later requests, and its value in the answer."""
_KEEP: Final = 'if (pm.response.code < 300) pm.collectionVariables.set("{}", pm.response.json().{});'
_SIGNED_OUT: Final = ("logout", "deactivate", "messenger_logout")
_FORGET: Final = 'if (pm.response.code < 300) pm.collectionVariables.unset("bearerToken");'


def collection(node: str = "node") -> dict[str, Any]:
    """The collection (format 2.1); `node` is Node.js. Raises `CalledProcessError` if it cannot be converted."""
    openapi_document = openapi.document(Registry(tidings.actions), dev_tokens=True) | {"servers": [{"url": ADDRESS}]}
    options = ",".join(f"{name}={value}" for name, value in _OPTIONS.items())
    with TemporaryDirectory() as directory:
        source, target = Path(directory, "openapi.json"), Path(directory, "collection.json")
        source.write_text(json.dumps(openapi_document), "utf-8")
        command = [node, str(CONVERTER), "-s", str(source), "-o", str(target), "-O", options]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        converted: dict[str, Any] = json.loads(target.read_text("utf-8"))
    converted["variable"] += [{"key": "bearerToken", "value": ""}, {"key": "username", "value": "omar"}]
    converted["event"] = [_event("prerequest", _SIGN_IN)]
    for folder in converted["item"]:
        places = {}
        for item in folder["item"]:
            method, path = route(item)
            operation = openapi_document["paths"][path][method.lower()]
            _fill_in(item, operation)
            places[item["id"]] = _place(operation["operationId"])
        folder["item"].sort(key=lambda item, places=places: places[item["id"]])
    converted["item"].sort(key=lambda folder: [*_FOLDERS, folder["name"]].index(folder["name"]))
    return converted


def _place(name: str) -> int:
    return [*_ORDER, *({name} - {*_LAST}), *_LAST].index(name)


def _fill_in(item: dict[str, Any], operation: dict[str, Any]) -> None:
    """Give a request the values of its example, and the script that keeps what later requests need."""
    name, request = operation["operationId"], item["request"]
    values = next((values for names, values in _EXAMPLES.items() if name in names.split()), {})
    # A valid request needs only the parameters with an example.
    needed = {parameter["name"] for parameter in operation.get("parameters", ()) if "example" in parameter}
    for parameter in request["url"]["query"]:
        parameter["disabled"] = parameter["key"] not in needed
    for parameter in (*request["url"]["query"], *request["url"]["variable"]):
        parameter["value"] = values.get(parameter["key"], parameter["value"])
    if body := (request.get("body") or {}).get("raw"):
        in_body = {key: value for key, value in values.items() if key not in needed}
        fields = {key: value for key, value in (json.loads(body) | in_body).items() if value is not None}
        request["body"]["raw"] = json.dumps(fields, indent=2, ensure_ascii=False)
    variable, value = _KEPT.get(name) or ("bearerToken", token_field(name))
    scripts = [_KEEP.format(variable, value)] if value else [_FORGET] if name in _SIGNED_OUT else []
    item["event"] = [_event("test", script) for script in scripts]


def _event(listen: str, script: str) -> dict[str, Any]:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": script.splitlines()}}


def route(item: dict[str, Any]) -> tuple[str, str]:
    """Method and path of a request of the collection, as OpenAPI writes it."""
    parts = item["request"]["url"]["path"]
    path = "".join(f"/{{{part[1:]}}}" if part.startswith(":") else f"/{part}" for part in parts)
    # A parameter that is only part of a segment is a variable of the collection.
    return item["request"]["method"], path.replace("{{", "{").replace("}}", "}")


if __name__ == "__main__":
    try:
        text = json.dumps(collection(), indent=1, ensure_ascii=False)
    except subprocess.CalledProcessError as error:
        sys.exit(f"openapi-to-postmanv2 failed: {error.stdout}{error.stderr}")
    COLLECTION.parent.mkdir(exist_ok=True)
    COLLECTION.write_text(text + "\n", "utf-8")
    print(COLLECTION.relative_to(ROOT))
