"""The permissions, written a second time from the contract, independently of the server's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PUBLIC, PRIVATE, GROUP, DIRECT = ROOMS = ("public topic", "private topic", "group", "direct conversation")
INSIDE = ("member", "muted", "moderator", "owner")
OUTSIDE = ("stranger", "removed", "banned", "admin")
"""Administrators have no rights in rooms; they have actions of their own."""
KEYS = ("key-publish", "key-rooms", "key-read")
"""Keys with one scope each, whose users are in no room."""
CALLERS = (*INSIDE, *OUTSIDE, *KEYS)

MEMBERS = {"read", "send", "edit own", "delete own", "react", "type", "leave", "invite", "invite by link"}
MODERATORS = MEMBERS | {"delete any", "moderate", "set the title", "set the purpose", "set the picture", "see bans"}
MAY = {
    "member": MEMBERS,
    "muted": MEMBERS - {"send", "edit own", "react", "type"},
    "moderator": MODERATORS,
    "owner": MODERATORS | {"moderate moderators", "hand over", "choose who may write"},
}
IMPOSSIBLE = {
    PUBLIC: {"invite by link", "set the title"},
    PRIVATE: {"set the title"},
    GROUP: set(),
    DIRECT: {"invite", "invite by link", "leave"},
}
"""The rights that nobody has in a kind of room."""


@dataclass(frozen=True)
class Act:
    """One request: an action, its payload with the world's placeholders, and the right that it needs."""

    action: str
    right: str
    fields: dict[str, Any] = field(default_factory=dict)
    by: str = "room_id"
    """How it names the room: room_id, topic_name, message (own or theirs) or link."""

    @property
    def label(self) -> str:
        return f"{self.action} {self.fields or ''} ({self.right})"


def _on(action: str, right: str, user: str, **fields: Any) -> Act:
    return Act(action, right, {"username": user, **fields})


# Ordered so that a message is deleted last.
ACTS = (
    Act("history", "read"),
    Act("get_members", "read"),
    Act("get_receipts", "read"),
    Act("read", "read", {"seq": 0}),
    Act("mark_unread", "read", {"seq": 1}),
    Act("follow_thread", "read", by="theirs"),
    Act("set_preferences", "read", {"favourite": True}),
    Act("search", "read", {"query": "hola"}),
    Act("get_events", "read"),
    Act("message", "send", {"content": "x"}),
    Act("publish", "send", {"event": "tick", "data": [1]}),
    Act("publish", "send", {"event": "tick", "data": [1], "transient": True}),
    Act("typing", "type"),
    Act("append", "edit own", {"offset": 0, "text": "hola!"}, by="own"),
    Act("append", "nobody", {"offset": 0, "text": "hola!"}, by="theirs"),
    Act("stop", "react", by="theirs"),
    Act("finish", "edit own", by="own"),
    Act("finish", "nobody", by="theirs"),
    Act("edit", "edit own", {"content": "y"}, by="own"),
    Act("edit", "nobody", {"content": "y"}, by="theirs"),
    Act("react", "react", {"emoji": "👍"}, by="theirs"),
    Act("report", "read", {"reason": "an advertisement"}, by="theirs"),
    Act("delete", "delete own", by="own"),
    Act("delete", "delete any", by="theirs"),
    _on("invite", "invite", "guest"),
    _on("add_member", "invite", "guest"),
    Act("create_invitation_link", "invite by link"),
    Act("get_invitation_links", "invite by link"),
    Act("join_by_link", "join by link", by="link"),
    Act("delete_invitation_link", "link", by="link"),
    Act("preview_topic", "preview"),
    Act("subscribe", "join", by="topic_name"),
    Act("connect_to_room", "enter", by="topic_name"),
    Act("unsubscribe", "leave"),
    Act("set_title", "set the title", {"title": "x"}),
    Act("set_purpose", "set the purpose", {"purpose": "x"}),
    Act("set_picture", "set the picture", {"picture": None}),
    Act("set_posting", "choose who may write", {"posting": "members"}),
    Act("get_bans", "see bans"),
    Act("get_reports", "see bans"),
    *(
        act
        for user, right in (("target", "moderate"), ("deputy", "moderate moderators"), ("chief", "nobody"))
        for act in (
            _on("kick", right, user),
            _on("remove_member", right, user),
            _on("ban", right, user),
            _on("mute", right, user, duration=60),
            _on("set_role", right, user, role="member"),
        )
    ),
    _on("kick", "moderate outsiders", "guest"),
    _on("mute", "moderate outsiders", "guest", duration=60),
    _on("set_role", "moderate outsiders", "guest", role="member"),
    _on("unban", "moderate outsiders", "guest"),
    _on("ban", "moderate", "guest"),
    _on("unban", "moderate", "barred"),
    _on("set_role", "moderate", "target", role="moderator"),
    _on("set_role", "hand over", "target", role="owner"),
    Act("clear_pending", "pending"),
    Act("get_rooms", "see", by="after"),
    Act("delivered", "anybody", by="cursors"),
    Act("admin_create_webhook", "administrate", {"url": "https://hook.invalid/", "events": ["*"]}),
    Act("admin_create_key", "administrate", {"username": "tienda", "scopes": ["read"]}),
    Act("admin_replay_webhook", "administrate", {"webhook_id": "none", "after": 0}),
    Act("admin_delete_topic", "administrate"),
    Act("delete_room", "administrate"),
)
TABLE = {
    "read": ("history", "read"),
    "send": ("message", "send"),
    "edit": ("edit", "edit own"),
    "delete": ("delete", "delete own"),
    "delete any": ("delete", "delete any"),
    "react": ("react", "react"),
    "type": ("typing", "type"),
    "invite": ("invite", "invite"),
    "invite by link": ("create_invitation_link", "invite by link"),
    "join": ("subscribe", "join"),
    "leave": ("unsubscribe", "leave"),
    "set the title": ("set_title", "set the title"),
    "set the purpose": ("set_purpose", "set the purpose"),
    "set the picture": ("set_picture", "set the picture"),
    "choose who may write": ("set_posting", "choose who may write"),
    "kick": ("kick", "moderate"),
    "ban": ("ban", "moderate"),
    "mute": ("mute", "moderate"),
    "set a role": ("set_role", "moderate"),
}
"""The columns of the documented table: for each, the action and the right of the act that tests it."""
OF_SCOPE = {
    "publish": {"message", "publish", "typing", "edit", "delete", "react", "append", "stop", "finish"},
    "read": {"history", "get_events", "get_members", "get_receipts", "get_rooms", "delivered"} | {"preview_topic"},
    "rooms": {"invite", "add_member", "subscribe", "connect_to_room", "unsubscribe", "set_title", "set_posting"}
    | {
        "set_purpose",
        "set_picture",
        "kick",
        "remove_member",
        "ban",
        "unban",
        "mute",
        "set_role",
        "admin_delete_topic",
        "delete_room",
    },
}
"""The actions that a key may call, by its scope."""
WITHOUT_A_ROOM = {"create", "reset_password"}
"""Actions whose field names a new room, or no room."""


def codes(action: str) -> set[str]:
    """The codes with which the action is refused to users, over all rooms."""
    users = (*INSIDE, *OUTSIDE)
    cells = [(act, room, caller) for act in ACTS if act.action == action for room in ROOMS for caller in users]
    return {expected(*cell) for cell in cells if exists(*cell)} - {"ok"}


def exists(act: Act, room: str, caller: str) -> bool:
    """Whether the cell exists: only topics have names, only private rooms links, and no one is above an owner."""
    if act.by in ("topic_name",) or act.right == "administrate":
        return room in (PUBLIC, PRIVATE)
    if act.by == "link":
        return room in (PRIVATE, GROUP)
    return not (act.fields.get("username") == "chief" and caller == "owner")


def expected(act: Act, room: str, caller: str) -> str:
    """`ok`, or the code of the refusal."""
    if act.right == "preview" and caller in (*INSIDE, *OUTSIDE, "key-read"):
        return "ok" if room == PUBLIC else "not_found"
    if caller in KEYS:
        scope = caller.removeprefix("key-")
        return _with_scope(act, room, scope) if act.action in OF_SCOPE[scope] else "forbidden"
    if act.right == "anybody":
        return "ok"
    if act.right == "administrate":
        return "ok" if caller == "admin" else "forbidden"
    if caller in INSIDE:
        return _inside(act, room, caller)
    if act.by in ("own", "theirs") or act.right in ("link", "pending"):
        return "not_found"  # an outsider may not know a message or link, in any room
    if act.right == "join by link":
        return "forbidden" if caller == "banned" else "ok"
    if room != PUBLIC:
        return "not_found"
    if act.right in ("join", "enter"):
        return "forbidden" if caller == "banned" else "ok"
    return "ok" if act.right == "see" else "forbidden"


def _with_scope(act: Act, room: str, scope: str) -> str:
    if act.right == "delete any":
        return "forbidden" if room == PUBLIC else "not_found"  # that is moderation, with another scope
    if act.right in ("see", "join", "enter", "leave"):  # as any user who is in no room
        if room != PUBLIC:
            return "not_found"
        return "forbidden" if act.right == "leave" else "ok"
    if scope == "rooms" and act.right != "administrate":
        if room == DIRECT or (act.right == "set the title" and room != GROUP):
            return "forbidden"
        if act.right == "moderate outsiders":
            return "not_found"
        return "forbidden" if act.action == "set_role" and act.fields["username"] == "chief" else "ok"
    return "forbidden" if act.right == "nobody" else "ok"


def _inside(act: Act, room: str, caller: str) -> str:
    if act.right in ("join", "join by link"):
        return "conflict"
    if act.right == "link":  # another member's
        return "ok" if caller in ("moderator", "owner") else "forbidden"
    if act.right in ("see", "enter", "pending"):
        return "ok"
    if act.right == "moderate outsiders" and caller in ("moderator", "owner") and room != DIRECT:
        return "not_found"  # members may know that the subject is not in the room
    role = "member" if room == DIRECT else caller  # both are members, and neither can mute the other
    return "ok" if act.right in MAY[role] - IMPOSSIBLE[room] else "forbidden"
